"""Float64 where float32 spoils a log density."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz import _automatic
from ritz._precision import rounding
from ritz.target import from_log_density

LARGE = 1e8  # whose neighbours in float32 are eight apart


def rough(x):
    """A normal law with mean (1, 2) and sds (1, 3), behind a large constant."""
    z = (x - jnp.array([1.0, 2.0])) / jnp.array([1.0, 3.0])
    large = LARGE + 0.0 * x[0]  # no constant, which the compiler would take out
    return (large - 0.5 * z @ z) - large


X = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)


def test_rounding_is_told_where_it_spoils_and_only_there() -> None:
    told = rounding(from_log_density(rough, jnp.zeros(2)), X)
    assert told is not None
    assert "moves the log density by" in told
    assert rounding(from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2)), X) is None

    def singular(x):  # in float32 the matrix has no Cholesky factor
        return jnp.linalg.cholesky(jnp.ones((2, 2)) + 1e-9 * jnp.eye(2))[0, 0] * (-0.5 * x @ x)

    told = rounding(from_log_density(singular, jnp.zeros(2)), X)
    assert told is not None
    assert "no number at 100% of the draws" in told
    # A density that float64 does not hold either is not for it to mend.
    assert rounding(from_log_density(lambda x: jnp.nan * x @ x, jnp.zeros(2)), X) is None
    with jax.enable_x64(True):
        assert rounding(from_log_density(rough, jnp.zeros(2)), X.astype(float)) is None


def test_a_fit_that_float32_spoils_is_made_in_float64(tmp_path, monkeypatch) -> None:
    target = from_log_density(rough, jnp.zeros(2))
    fit = ritz.fit(target, progress=False)
    assert fit.status == "ok"
    assert fit.info["dtype"] == "float64"
    assert fit.explain().startswith("in float64, as in float32 rounding moves")
    assert not jax.config.jax_enable_x64  # pyright: ignore
    x = fit.sample(4000)
    assert x.dtype == np.float64
    np.testing.assert_allclose(x.mean(axis=0), [1.0, 2.0], atol=0.15)
    np.testing.assert_allclose(x.std(axis=0), [1.0, 3.0], rtol=0.05)
    exact = np.log(2 * np.pi * 3.0)
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(exact, abs=0.02)
    assert fit.diagnose().status == "ok"
    # It is the same when it is read again, which in float32 it would not be.
    fit.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit", target)
    np.testing.assert_array_equal(again.mean(), fit.mean())
    np.testing.assert_array_equal(again.log_weights(50), fit.log_weights(50))
    # Left in float32 it is wrong, and weights do not tell.
    monkeypatch.setattr(_automatic, "rounded", lambda q, target, key: None)
    left = ritz.fit(target, progress=False)
    assert left.info["dtype"] == "float32"
    assert left.sd()[0] > 1.3


def test_a_model_with_data_is_too_and_predicts() -> None:
    def model(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        large = LARGE + 0.0 * slope
        numpyro.factor("large", (large + 3.0 * slope) - large - 3.0 * slope)
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

    x = np.linspace(-1.0, 1.0, 20)
    y = 0.5 * x + np.random.default_rng(0).normal(size=20)
    fit = ritz.fit(model, {"x": x, "y": y}, progress=False)
    precision = 1.0 + (x**2).sum()
    assert fit.info["dtype"] == "float64"
    assert fit.status == "ok"
    assert fit.mean()["slope"] == pytest.approx((x * y).sum() / precision, abs=0.02)
    assert fit.sd()["slope"] == pytest.approx(precision**-0.5, rel=0.05)
    drawn = fit.predict({"x": np.ones(3)}, n=20)["y"]
    assert drawn.shape == (20, 3)
    assert np.isfinite(drawn).all()


def test_what_is_no_number_away_from_the_mode_is_mended_too() -> None:
    """A factor that exists in float64 everywhere, in float32 near the mode only."""

    def density(x):
        close = 1.0 - 1e-9 * x[0] ** 2 - 2e-9
        off = 1.0 - close**2  # about 4e-9, which float32 has as zero
        return -0.5 * x @ x + 0.0 * jnp.log(jnp.where(x[0] > 1.5, off - 1e-12, 1.0))

    fit = ritz.fit(from_log_density(density, jnp.zeros(2)), progress=False)
    assert fit.info["dtype"] == "float64"
    assert "no number at" in fit.explain()
    assert fit.status == "ok"
    np.testing.assert_allclose(fit.sd(), 1.0, rtol=0.06)


def test_a_budget_is_kept_to() -> None:
    fit = ritz.fit(
        from_log_density(rough, jnp.zeros(2)), budget={"evaluations": 3000}, progress=False
    )
    assert fit.info["dtype"] == "float32"
    assert fit.status == "doubtful"
    assert "use jax.config.update('jax_enable_x64', True), or no budget" in fit.reasons[0]


def test_it_is_resumed_to_the_same_bits(tmp_path) -> None:
    target = from_log_density(rough, jnp.zeros(2))
    fit = ritz.fit(target, checkpoint=tmp_path / "kept", progress=False)
    again = ritz.resume(tmp_path / "kept", target, progress=False)
    assert again.info["dtype"] == "float64"
    np.testing.assert_array_equal(again.sample(10), fit.sample(10))
    assert again.explain() == fit.explain()
