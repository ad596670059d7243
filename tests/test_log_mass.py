"""Log masses of coins, where NumPyro's derivative is wrong: at a logit of 0."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz._log_mass import log_prob
from ritz.diagnose import check_unbiased
from ritz.estimator import enumerate_support, measure_valued, rebar, relax, score
from ritz.objective import expectation, sample

FORMS = {
    "bare": lambda logits: dist.Bernoulli(logits=logits),
    "expanded": lambda logits: dist.Bernoulli(logits=logits[0]).expand([3]),
    "one event": lambda logits: dist.Bernoulli(logits=logits).to_event(1),
    "masked": lambda logits: dist.Bernoulli(logits=logits).mask(jnp.array([True, False, True])),
    "expanded event": lambda logits: dist.Bernoulli(logits=logits).to_event(1).expand([2]),
}


@pytest.mark.parametrize("form", FORMS)
def test_values_are_numpyros(form):
    q = FORMS[form](jnp.array([-40.0, 0.3, 90.0]))
    x = q.sample(jax.random.key(0))
    np.testing.assert_array_equal(log_prob(q, x), q.log_prob(x))
    with pytest.warns(UserWarning, match="Out-of-support"):
        np.testing.assert_array_equal(log_prob(q, x + 2), q.log_prob(x + 2))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("logit", [0.0, -0.0, 1e-3, -2.0, 100.0])
def test_derivatives(logit, dtype):
    logit, one = jnp.asarray(logit, dtype), jnp.ones((), dtype)
    of = lambda x: jax.grad(lambda t: log_prob(dist.Bernoulli(logits=t), x))(logit)
    tolerance = 4.0 * float(jnp.finfo(dtype).eps)
    for x in (0.0, 1.0):
        assert float(of(x)) == pytest.approx(x - float(jax.nn.sigmoid(logit)), abs=tolerance)
    numpyros = jax.grad(lambda t: dist.Bernoulli(logits=t).log_prob(one))(logit)
    assert (float(numpyros) != pytest.approx(float(of(1.0)), abs=0.1)) == (logit == 0)


@pytest.mark.parametrize(
    "how",
    [
        enumerate_support(),
        score(),
        score(draws=3),
        measure_valued(),
        rebar(0.5, 0.7),
        relax(lambda z: jnp.tanh(z).sum()),
    ],
    ids=lambda how: type(how).__name__,
)
def test_estimators_where_parameters_start(how):
    program = lambda t: (sample(dist.Bernoulli(logits=t), how) * 1.0 - 0.3) ** 2
    exact = lambda t: 0.09 + 0.4 * jax.nn.sigmoid(t)
    found = check_unbiased(program, 0.0, exact=exact)
    assert found, str(found)


def test_a_log_mass_that_is_wrong_at_0_is_rejected(monkeypatch):
    monkeypatch.setattr("ritz._log_mass.log_prob", lambda q, x: q.log_prob(x))
    program = lambda t: sample(dist.Bernoulli(logits=t), enumerate_support()) * 1.0
    assert float(expectation(program).grad(jax.random.key(0), 0.0)) == 0.5
    assert not check_unbiased(program, 0.0, exact=jax.nn.sigmoid)


def test_the_density_of_a_logistic_regression_at_0():
    x, y = np.array([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]]), np.array([1, 0, 1])

    def model():
        w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        with numpyro.plate("rows", 3):
            numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    slope = jax.grad(ritz.target.from_numpyro(model).log_density)(jnp.zeros(2))
    np.testing.assert_allclose(slope, x.T @ (y - 0.5), rtol=1e-6)
