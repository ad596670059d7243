"""Regression against dense formulas, scikit-learn and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

import ritz
from ritz.gp import GP, greedy_variance, matern, rbf
from ritz.gp._evidence import collapsed, exact, predicted
from ritz.gp._factor import factor
from ritz.gp._stationary import Stationary

RNG = np.random.default_rng(0)
X = np.sort(RNG.uniform(0.0, 6.0, size=(30, 1)), axis=0)
Y = np.sin(X[:, 0]) + 0.2 * RNG.normal(size=30)
NEW = np.linspace(-1.0, 7.0, 9)[:, None]


KERNEL, NOISE, MEAN = matern(1.5, 0.8, 1.2), 0.3, 0.1


def seen(y=Y, z=None, noise=NOISE):
    x, off = jnp.asarray(X, float), jnp.asarray(y, float) - MEAN
    noise = jnp.asarray(noise, float)
    return exact(KERNEL, noise, x, off) if z is None else collapsed(KERNEL, noise, x, off, z)


def at(told, joint=False):
    return predicted(KERNEL, MEAN, told, jnp.asarray(NEW, float), joint=joint)


def dense(noise=0.3):
    k = 1.2 * sk.Matern(0.8, nu=1.5)
    return k(X, X) + noise**2 * np.eye(len(X)), k(NEW, X), k(NEW, NEW)


def test_the_evidence_is_the_density_of_the_data():
    found = seen().log_evidence
    covariance = dense()[0]
    wanted = multivariate_normal.logpdf(Y, np.full(len(Y), 0.1), covariance)
    assert float(found) == pytest.approx(wanted, abs=2e-3)


def test_predictions_are_the_conditional_normal():
    covariance, across, there = dense()
    wanted = 0.1 + across @ np.linalg.solve(covariance, Y - 0.1)
    left = there - across @ np.linalg.solve(covariance, across.T)
    mean, cov = at(seen(), joint=True)
    np.testing.assert_allclose(mean, wanted, atol=1e-3)
    np.testing.assert_allclose(cov, left, atol=1e-3)
    var = at(seen())[1]
    np.testing.assert_allclose(var, np.diag(left), atol=1e-3)


def test_inducing_inputs_at_all_rows_give_the_evidence_and_fewer_less():
    whole = float(seen().log_evidence)
    z = jnp.asarray(X, float)
    at_all = seen(z=z)
    assert float(at_all.log_evidence) == pytest.approx(whole, abs=0.02)
    mean, var = at(at_all)
    mine = at(seen())
    np.testing.assert_allclose(mean, mine[0], atol=2e-3)
    np.testing.assert_allclose(var, mine[1], atol=2e-3)
    bounds = [float(seen(z=z[::step]).log_evidence) for step in (2, 10)]
    assert whole > bounds[0] > bounds[1]


def test_without_the_trace_it_would_be_no_bound():
    """The wrong variant: what the bound is where variance that is lost costs nothing."""
    quiet = MEAN + 0.1 * RNG.normal(size=30)
    x = jnp.asarray(X, float)
    z = x[::10]
    bound = seen(quiet, z)
    a = jax.scipy.linalg.solve_triangular(bound.lower, KERNEL.matrix(z, x), lower=True)
    lost = 0.5 * float(KERNEL.diagonal(x).sum() - (a**2).sum()) / NOISE**2
    whole = float(seen(quiet).log_evidence)
    assert float(bound.log_evidence) < whole < float(bound.log_evidence) + lost


def test_slopes_by_hand_are_those_of_differences():
    """First and second derivatives of the evidence and of its bound, in all they depend on."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        x, y = jnp.asarray(rng.normal(size=(25, 2))), jnp.asarray(rng.normal(size=25))

        def value(p):
            kernel, z = Stationary(p[:2], p[2], "2.5"), p[5:].reshape(-1, 2)
            given = (kernel, p[3], x, y - p[4])
            return (collapsed(*given, z) if len(z) else exact(*given)).log_evidence

        for inputs in (0, 6):
            free = 0.9 + 0.1 * rng.normal(size=2 * inputs)
            at = jnp.concatenate([jnp.asarray([0.7, 1.3, 1.1, 0.4, 0.2]), jnp.asarray(free)])
            found, slope = jax.jit(value), jax.jit(jax.grad(value))
            bend = jax.jit(lambda p, v: jax.jvp(jax.grad(value), (p,), (v,))[1])
            along = jnp.asarray(rng.normal(size=len(at)))
            step = 1e-5 * along
            wanted = (found(at + step) - found(at - step)) / 2e-5
            assert float(slope(at) @ along) == pytest.approx(float(wanted), rel=1e-5)
            wanted = (slope(at + step) - slope(at - step)) / 2e-5
            np.testing.assert_allclose(bend(at, along), wanted, rtol=1e-3, atol=1e-3)


def test_hyperparameters_are_scikit_learns_where_priors_are_wide():
    gp = GP(matern(2.5), prior_sd=50.0, progress=False).fit(X, Y)
    kernel = sk.ConstantKernel() * sk.Matern(nu=2.5) + sk.WhiteKernel()
    theirs = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=3).fit(X, Y)
    best = theirs.log_marginal_likelihood_value_ - len(Y) * np.log(Y.std())
    assert gp.log_evidence() > best - 0.01  # it has a mean beside, and may be higher
    mean, sd = gp.predict(NEW, return_std=True, noisy=True)
    wanted, wide = theirs.predict(NEW, return_std=True)
    np.testing.assert_allclose(mean, wanted, atol=0.05)
    np.testing.assert_allclose(sd, wide, rtol=0.1)
    new = np.cos(NEW[:, 0])
    np.testing.assert_allclose(gp.log_density(NEW, new), norm.logpdf(new, mean, sd), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_units_do_not_matter(scale):
    plain = GP(progress=False).fit(X, Y)
    other = GP(progress=False).fit(1e4 + 10.0 * X, 3.0 * scale + scale * Y)
    mean, sd = plain.predict(NEW, return_std=True)
    theirs, wide = other.predict(1e4 + 10.0 * NEW, return_std=True)
    np.testing.assert_allclose((theirs - 3.0 * scale) / scale, mean, atol=5e-3)
    np.testing.assert_allclose(wide / scale, sd, rtol=0.02)
    shift = len(Y) * np.log(scale)
    assert other.log_evidence() + shift == pytest.approx(plain.log_evidence(), abs=0.02)


def test_rows_that_are_the_same_do_no_harm():
    x = np.concatenate([X, X + 1e-9, X])
    gp = GP(rbf(2.0), progress=False).fit(x, np.concatenate([Y, Y, Y]))
    mean, sd = gp.predict(NEW, return_std=True)
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()
    assert "was added to variances" in gp.explain()


def test_a_factor_of_what_has_none_says_what_was_added():
    k = jnp.ones((5, 5))
    lower, jitter = factor(k)
    np.testing.assert_allclose(lower @ lower.T, k + jitter * jnp.eye(5), atol=1e-6)
    assert 0.0 < float(jitter) < 1e-3
    assert not jnp.isfinite(factor(jnp.array([[1.0, 0.0], [0.0, -9.0]]))[0]).all()


def test_greedy_rows_are_those_of_the_largest_variance_given_the_others():
    x = np.random.default_rng(1).normal(size=(60, 2))
    k = np.asarray(sk.RBF(0.7)(x), float)
    taken = []
    for _ in range(8):
        rows = k[:, taken]
        given = rows @ np.linalg.solve(k[np.ix_(taken, taken)], rows.T) if taken else 0.0 * k
        taken.append(int(np.argmax(np.diag(k - given))))
    np.testing.assert_allclose(greedy_variance(rbf(0.7), x, 8), x[taken], rtol=1e-6)
    assert len(greedy_variance(rbf(0.7), np.repeat(x[:4], 5, axis=0), 10)) == 4


def test_draws_go_together():
    gp = GP(progress=False).fit(X, Y)
    draws = gp.sample(NEW, 4000, seed=1)
    mean, sd = gp.predict(NEW, return_std=True)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5.0 * sd / np.sqrt(4000) + 1e-3)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.08)
    near = gp.sample(np.array([[8.0], [8.001]]), 500)
    assert np.abs(near[:, 0] - near[:, 1]).max() < 0.1 * near.std()


def test_full_bayes_is_the_average_over_hyperparameters():
    """Against a grid over the length, the variance and the noise, with the mean integrated too."""
    x, y = X[::3], Y[::3]
    gp = GP(rbf(), hyperparameters="posterior", progress=False).fit(x, y)
    target = gp.fit_.target
    axes = [np.linspace(-3.5, 2.5, 13), np.linspace(-2.0, 4.5, 13), np.linspace(-4.0, 1.0, 13)]
    grid = np.stack(np.meshgrid(*axes, np.linspace(-3.0, 3.0, 13), indexing="ij"), -1)
    points = jnp.asarray(grid.reshape(-1, 4), float)
    names = [site.name for site in target.sites]
    order = [
        ["kernel.lengthscale", "kernel.variance", "likelihood.noise", "mean"].index(n)
        for n in names
    ]
    with jax.enable_x64(True):  # as the target was made
        density = jax.jit(lambda p: jax.lax.map(target.log_density, p, batch_size=512))
        logs = np.asarray(density(jnp.asarray(np.asarray(points, float)[:, order])), float)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = (weights[:, None] * np.asarray(points)).sum(axis=0)
    sd = np.sqrt((weights[:, None] * (np.asarray(points) - mean) ** 2).sum(axis=0))
    draws = gp.fit_.sample(4000)
    pair = (draws["kernel"].lengthscale, draws["likelihood"].noise)
    found = np.stack([np.log(v).reshape(-1) for v in pair])
    assert np.all(np.abs(found.mean(axis=1) - mean[[0, 2]]) < 0.2 * sd[[0, 2]])
    assert np.all(np.abs(np.log(found.std(axis=1) / sd[[0, 2]])) < 0.25)
    assert gp.log_density(NEW, np.sin(NEW[:, 0])).shape == (9,)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: GP().fit(X, Y[:5]), "30 rows and y 5 values"),
        (lambda: GP().fit(X, np.ones(30)), "y is 1 in every row"),
        (lambda: GP().fit(np.where(X > 5, np.nan, X), Y), "x holds nan"),
        (lambda: GP().fit(X, np.where(Y > 0.9, np.inf, Y)), "y holds inf"),
        (lambda: GP().fit([["a"], ["b"]], [1.0, 2.0]), "holds no numbers"),
        (lambda: GP().fit(X, ["a"] * 30), "for labels give a likelihood"),
        (lambda: GP("rbf").fit(X, Y), "kernel arrived as str"),
        (lambda: GP(inducing=40).fit(X, Y), "inducing=40"),
        (lambda: GP(hyperparameters="mcmc").fit(X, Y), "'mcmc'"),
        (lambda: GP(prior_sd=0).fit(X, Y), "prior_sd=0"),
        (lambda: GP().fit(X[:1], Y[:1]), "at least 2 rows"),
        (lambda: GP().predict(X), "has not been trained"),
    ],
)
def test_bad_input_is_told_in_a_line(call, said):
    with pytest.raises(ritz.RitzError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("inducing", [None, 8])
def test_rows_that_arrive_later_count_as_much(inducing):
    gp = GP(rbf(), inducing=inducing, progress=False).fit(X[::2], Y[::2])
    early = gp.predict(NEW)
    kernel, noise, mean = gp.kernel_, gp.noise_, float(gp._parts["mean"][0])
    gp.update(X[1::2], Y[1::2])
    x = np.concatenate([X[::2], X[1::2]])
    y = np.concatenate([Y[::2], Y[1::2]])
    shift, scale = Y[::2].mean(), Y[::2].std()
    with jax.enable_x64(True):
        given = (kernel, jnp.asarray(noise / scale), jnp.asarray(x - X[::2].mean()))
        off = jnp.asarray((y - shift) / scale - mean)
        z = None if inducing is None else gp._trained.data["z"]
        told = exact(*given, off) if z is None else collapsed(*given, off, z)
        wanted = predicted(kernel, mean, told, jnp.asarray(NEW - X[::2].mean()))[0]
        np.testing.assert_allclose(gp.predict(NEW), shift + scale * wanted, atol=1e-8)
    assert np.abs(gp.predict(NEW) - early).max() > 1e-3
    assert "30 rows" in gp.explain()
    with pytest.raises(ritz.RitzError, match="2 columns arrived, expected 1"):
        gp.update(np.zeros((1, 2)), [0.0])


def test_other_columns_than_in_training_are_told():
    gp = GP(inducing=5, progress=False).fit(X, Y)
    with pytest.raises(ritz.RitzError, match="3 columns arrived, expected 1"):
        gp.predict(np.zeros((2, 3)))
    assert "5 inducing inputs" in gp.explain()
    assert gp.score(X, Y) > 0.5
