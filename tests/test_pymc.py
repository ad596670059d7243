"""Targets of PyMC models: their densities, Jacobians and maps are PyMC's own."""

import builtins
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ritz
from ritz import RitzError
from ritz.target import from_pymc

RNG = np.random.default_rng(0)
Y = RNG.normal(1.0, 2.0, size=8)
COUNTS = RNG.poisson(3.0, size=8)
GROUP = np.array([0, 0, 1, 1, 2, 2, 2, 0])


@pytest.fixture(scope="module")
def pm():
    """Here and not above, so that a run of other tests does not import it."""
    return pytest.importorskip("pymc")


def normal(pm, y=Y):
    """Conjugate: the posterior of mu is Normal(4 sum(y) / (1 + 4 n), 4 / (1 + 4 n))."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 2.0)
        pm.Normal("y", mu, 1.0, observed=y)
    return model


def hierarchy(pm):
    coords = {"unit": list("abc"), "row": np.arange(8) + 100}
    with pm.Model(coords=coords) as model:
        y = pm.Data("data", Y, dims="row")
        group = pm.Data("group", GROUP, dims="row")
        tau = pm.HalfNormal("tau", 1.0)
        theta = pm.Normal("theta", 0.0, tau, dims="unit")
        pm.Deterministic("spread", theta - theta.mean(), dims="unit")
        sigma = pm.Exponential("sigma", 1.0)
        pm.Normal("y", theta[group], sigma, observed=y, dims="row")
    return model


def supports(pm):
    with pm.Model() as model:
        low = pm.Uniform("low", 0.0, 3.0)
        between = pm.Uniform("between", low, 4.0)  # a bound that is another site
        pm.Beta("share", 2.0, 3.0)
        pm.TruncatedNormal("above", 0.0, 1.0, lower=-1.0)
        pm.TruncatedNormal("below", 0.0, 1.0, upper=2.0)
        pm.VonMises("angle", 0.0, 2.0)
        pm.Gamma("rate", 2.0, 1.0, shape=(2, 3))
        pm.Potential("pull", -((between - 2.0) ** 2))
    return model


def structured(pm):
    with pm.Model() as model:
        pm.Dirichlet("shares", np.array([1.0, 2.0, 3.0]))
        ordered = pm.distributions.transforms.ordered
        pm.Normal("cuts", 0.0, 1.0, shape=3, transform=ordered, initval=[-1.0, 0.0, 1.0])
        pm.LKJCholeskyCov("chol", n=3, eta=2.0, sd_dist=pm.Exponential.dist(1.0))
        pm.ZeroSumNormal("zero", 1.0, shape=4)
        covariance = np.eye(2) + 0.5
        pm.MvNormal("pair", np.zeros(2), covariance)
    return model


def counts(pm):
    with pm.Model() as model:
        weight = pm.Dirichlet("weight", np.ones(2))
        rate = pm.Gamma("rate", 2.0, 1.0, shape=2)
        parts = [pm.Poisson.dist(rate[0]), pm.Poisson.dist(rate[1])]
        pm.Mixture("y", weight, parts, observed=COUNTS)
    return model


def missing(pm):
    y = Y.copy()
    y[2] = np.nan
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 2.0)
        with pytest.warns(match="automatically imputed"):
            pm.Normal("y", mu, 1.0, observed=y)
    return model


MODELS = (normal, hierarchy, supports, structured, counts, missing)


def points(target, n=3):
    return jnp.asarray(0.7 * np.random.default_rng(1).normal(size=(n, target.dim)))


def reference(pm, model, target):
    """PyMC's own log density, with and without the Jacobian, at an unconstrained vector."""
    import pytensor

    with pytensor.config.change_flags(cxx="", linker="py"):
        both = [model.compile_logp(jacobian=j, mode="FAST_COMPILE") for j in (True, False)]
    inputs = [model.rvs_to_values[rv].name for rv in model.free_RVs]

    def at(x):
        free = [np.asarray(site.take(x), float) for site in target.sites]
        return [float(f(dict(zip(inputs, free, strict=True)))) for f in both]

    return at


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)
def test_density_and_jacobian_are_pymcs_own(pm, make):
    with jax.enable_x64(True):
        model = make(pm)
        target = from_pymc(model)
        exact = reference(pm, model, target)
        # PyMC folds the log-gammas in LKJ's constant in float32, or not: as its compiler says.
        close = 1e-7 if make is structured else 1e-10
        for x in points(target):
            whole, without = exact(x)
            terms = target.terms(x)
            np.testing.assert_allclose(target.log_density(x), whole, rtol=close)
            np.testing.assert_allclose(target.log_det(x), whole - without, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(sum(terms.values()), whole, rtol=close)
            values = target.constrain(x)
            back = target.unconstrain({s.name: values[s.name] for s in target.sites})
            np.testing.assert_allclose(back, x, rtol=1e-7, atol=1e-7)
            assert {s.name: s.shape for s in target.sites}.items() <= {
                n: v.shape for n, v in values.items()
            }.items()
        assert {v.name for v in model.free_RVs + model.observed_RVs} <= set(target.terms(x))
    target = from_pymc(model)
    low = target.log_density(jnp.asarray(x, jnp.float32))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, whole, rtol=1e-4)
    assert not jax.config.jax_enable_x64
    assert "device_count" not in os.environ.get("XLA_FLAGS", "")


def test_supports_are_said_where_numpyros_maps_are_the_same(pm):
    target = from_pymc(supports(pm))
    said = {site.name: site.support for site in target.sites}
    assert said == {
        "low": "interval(0, 3)",
        "between": "interval",
        "share": "unit interval",
        "above": "greater than(-1)",
        "below": "less than(2)",
        "angle": "circular",
        "rate": "positive",
    }
    assert {s.name for s in target.sites if s.constraint is None} == {"between", "angle"}
    cuts = from_pymc(structured(pm)).sites[1]
    assert (cuts.support, cuts.constraint) == ("ordered vector", ("ordered_vector",))


def test_a_saved_target_maps_as_pymc_does(pm, tmp_path):
    with pm.Model() as model:
        pm.Uniform("low", 0.0, 3.0)
        pm.Beta("share", 2.0, 3.0)
        pm.TruncatedNormal("above", 0.0, 1.0, lower=-1.0)
        pm.TruncatedNormal("below", 0.0, 1.0, upper=2.0)
        pm.Gamma("rate", 2.0, 1.0, shape=2)
        ordered = pm.distributions.transforms.ordered
        pm.Normal("cuts", 0.0, 1.0, shape=3, transform=ordered, initval=[-1.0, 0.0, 1.0])
    fit = ritz.fit(model, family="mean_field", steps=10, progress=False)
    fit.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit")
    x = points(fit.target, 1)[0]
    for name, value in fit.target.constrain(x).items():
        np.testing.assert_allclose(again.target.constrain(x)[name], value, rtol=2e-5)
    np.testing.assert_allclose(again.target.log_det(x), fit.target.log_det(x), rtol=1e-4)
    for name, value in fit.draws.items():
        np.testing.assert_array_equal(again.draws[name], value)
    whole = ritz.load(tmp_path / "fit", model)
    np.testing.assert_allclose(whole.target.log_density(x), fit.target.log_density(x), rtol=1e-5)


def test_fit_of_a_conjugate_model_is_exact_and_other_data_compile_nothing(pm):
    precision = 0.25 + len(Y)
    for shift, compiled in ((0.0, None), (1.0, False)):
        fit = ritz.fit(normal(pm, Y + shift), progress=False)
        assert fit.status == "ok"
        exact = (Y + shift).sum() / precision
        assert abs(fit.mean()["mu"] - exact) < 0.1 * precision**-0.5
        assert abs(np.log(fit.sd()["mu"] * precision**0.5)) < 0.1
        log_z = -0.5 * (
            len(Y) * np.log(2 * np.pi)
            + np.log(1 + 4.0 * len(Y))
            + ((Y + shift) ** 2).sum()
            - precision * exact**2
        )
        assert abs(fit.log_evidence.value - log_z) < 0.02
        assert compiled is None or fit.info["compiled"] is compiled
    assert not hasattr(fit, "predict")


def test_axes_have_the_names_and_labels_of_the_model(pm):
    model = hierarchy(pm)
    target = from_pymc(model)
    assert {s.name: s.dims for s in target.sites} == {"tau": (), "theta": ("unit",), "sigma": ()}
    assert [(q.name, q.shape, q.dims) for q in target.observed] == [("y", (8,), ("row",))]
    assert [q.name for q in target.deterministic] == ["spread"]
    fit = ritz.fit(target, family="mean_field", steps=50, progress=False)
    posterior = fit.to_arviz().posterior
    assert list(posterior["theta"].coords["unit"].values) == ["a", "b", "c"]
    assert posterior["spread"].dims == ("chain", "draw", "unit")
    theta = posterior["theta"]
    np.testing.assert_allclose(posterior["spread"], theta - theta.mean("unit"), atol=1e-5)
    own = fit.to_arviz({"unit": ["x", "y", "z"]}).posterior
    assert list(own["theta"].coords["unit"].values) == ["x", "y", "z"]
    assert ritz.check(model).ok
    assert {row["name"]: row["kind"] for row in ritz.check(model).rows}["y"] == "observed"


def test_a_checkpoint_goes_on_with_the_same_model_only(pm, tmp_path):
    settings = {"family": "mean_field", "steps": 40, "progress": False}
    fit = ritz.fit(normal(pm), checkpoint=tmp_path / "run", **settings)
    again = ritz.resume(tmp_path / "run", normal(pm))
    assert again.mean() == fit.mean()
    with pytest.raises(RitzError, match="other"):
        ritz.resume(tmp_path / "run", normal(pm, Y + 1.0))


def test_discrete_latents_cryptic_or_silent__pymc_2907(pm):
    with pm.Model() as model:
        which = pm.Bernoulli("which", 0.5)
        pm.Normal("y", which, 1.0, observed=Y)
    with pytest.raises(RitzError, match=r"discrete free variables \(which\); marginalise them"):
        ritz.fit(model)


def test_bad_input(pm, monkeypatch):
    with pytest.raises(RitzError, match=r"a function arrived, expected a pymc\.Model"):
        from_pymc(normal)
    with pm.Model() as empty:
        pm.Normal("y", 0.0, 1.0, observed=Y)
    with pytest.raises(RitzError, match="no free random variable"):
        from_pymc(empty)
    model = normal(pm)
    with pytest.raises(RitzError, match=r"holds its own; give it other data with pm\.set_data"):
        ritz.fit(model, (Y,))
    target = from_pymc(model)
    with pytest.raises(RitzError, match="takes no batches"):
        target.log_density(jnp.zeros(1), batch=(Y,))
    with pytest.raises(RitzError, match="no latent site 'nu'"):
        target.unconstrain({"nu": 0.0})
    with pm.Model() as batched:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu, 1.0, observed=pm.Minibatch(Y, batch_size=4), total_size=8)
    with pytest.raises(RitzError, match=r"cannot be compiled to JAX: ValueError: .*safely"):
        from_pymc(batched)
    with pm.Model() as outside:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Potential("hole", mu * np.nan)
    assert "hole" in str(ritz.check(outside))
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pymc":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RitzError, match=r"pip install 'ritz\[pymc\]'"):
        from_pymc(model)
