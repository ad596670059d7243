"""Fits refined by NUTS: exact posteriors, what such a fit answers, and the chains' verdict."""

import builtins
import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz import RitzError, _nuts, io
from ritz.target import from_log_density


def skew(x):
    """The logarithms of gamma variables of shapes 1 and 4, the second in tenths."""
    u = x * jnp.array([1.0, 10.0])
    return (jnp.array([1.0, 4.0]) * u - jnp.exp(u)).sum()


EXACT_MEAN = np.array([-0.577216, 1.256118 / 10])
EXACT_SD = np.array([1.282550, 0.532751 / 10])


def rough(**options):
    """A fit whose family cannot be right."""
    options = {"family": "mean_field", "solver": "adam", "steps": 400, "progress": False} | options
    return ritz.fit(from_log_density(skew, jnp.zeros(2)), **options)


@pytest.mark.parametrize("seed", [0, 1])
def test_exact_posterior(seed):
    better = rough(seed=seed).refine("nuts")
    x = np.asarray(better.sample(4000))
    assert better.status == "ok", better.reasons
    se = EXACT_SD / 400**0.5  # of the effective draws that the verdict asks for
    assert (np.abs(x.mean(axis=0) - EXACT_MEAN) < 3 * se).all()
    assert (np.abs(np.log(x.std(axis=0) / EXACT_SD)) < 0.15).all()


def test_chains_that_ignore_the_density_are_doubted():
    """Four samplers that never leave their starts, and four that walk slowly."""
    rng = np.random.default_rng(0)
    stuck = np.repeat(rng.normal(size=(4, 1, 2)), 1000, axis=1) + 1e-3 * rng.normal(
        size=(4, 1000, 2)
    )
    assert any("R-hat" in line for line in _nuts.doubts(stuck.reshape(-1, 2), 0))
    slow = np.zeros((4, 1000, 1))
    for t in range(1, 1000):
        slow[:, t] = 0.97 * slow[:, t - 1] + rng.normal(size=(4, 1))
    assert any("are worth" in line for line in _nuts.doubts(slow.reshape(-1, 1), 0))
    fine = rng.normal(size=(4000, 2))
    assert _nuts.doubts(fine, 4) == []
    assert "5 of 4,000 NUTS transitions diverged" in _nuts.doubts(fine, 5)[0]
    assert _nuts.doubts(fine, 5, 12_000) == []


def schools(y):
    """Centred, and with so little data that its neck is reached."""
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 1.5))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.Normal(theta, 10.0), obs=y)


def test_chains_that_diverge_are_followed_by_others():
    """Of a fit in centred coordinates; those of the others are not, and what is kept is."""
    y = np.array([3.0, -2.0, 1.0, 0.5, -1.0])
    target = ritz.target.from_numpyro(schools, (y,))
    fit = ritz.fit(target, family="full_rank", solver="natural_gradient", progress=False)
    better = fit.refine("nuts")
    assert better.info["nuts"]["others"]
    assert better.info["nuts"]["transitions"] == 12_000
    assert "non-centred and with shorter steps" in better.explain()
    assert not any("diverged" in line for line in better.reasons), better.reasons
    # By quadrature over log tau, given which each theta is normal and y_i ~ N(0, 100 + tau^2).
    s = np.linspace(-8.0, 8.0, 4001)
    tau2 = np.exp(2.0 * s)
    log_p = -0.5 * (s / 1.5) ** 2 - 0.5 * len(y) * np.log(100.0 + tau2)
    log_p -= 0.5 * (y**2).sum() / (100.0 + tau2)
    p = np.exp(log_p - log_p.max())
    below = np.cumsum(p) / p.sum()
    drawn = np.log(better.draws["tau"])
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        at = np.interp(share, below, s)
        assert abs((drawn < at).mean() - share) < 4.0 * (share * (1 - share) / 400) ** 0.5
    exact = (p @ (tau2 / (100.0 + tau2)) / p.sum()) * y
    theta = better.draws["theta"]
    assert (np.abs(theta.mean(axis=0) - exact) < 4.0 * theta.std(axis=0) / 400**0.5).all()


def test_other_chains_that_are_worse_are_not_kept(monkeypatch):
    """Ten divergences, and then chains that never move."""
    real, made = _nuts._chains, []

    def chains(target, starts, *rest):
        made.append(starts)
        if len(made) == 1:
            return real(target, starts, *rest)._replace(diverged=10)
        stuck = np.repeat(starts, 1000, axis=0)
        return _nuts._Chains(stuck, 0, 12_000, 5)

    monkeypatch.setattr(_nuts, "_chains", chains)
    better = rough().refine("nuts")
    assert len(made) == 2
    assert better.info["nuts"]["others"] == ""
    assert better.info["nuts"]["diverged"] == 10
    assert better.distinct > 3000
    assert "10 of 4,000 NUTS transitions diverged" in better.reasons[0]


def test_a_funnel_is_doubted():
    """Neal's, in eleven dimensions: its neck is missed, which the chains tell."""

    def funnel(x):
        return -0.5 * (x[0] / 3) ** 2 - 0.5 * (x[1:] ** 2).sum() * jnp.exp(-x[0]) - 5.0 * x[0]

    fit = ritz.fit(from_log_density(funnel, jnp.zeros(11)), family="mean_field", progress=False)
    assert fit.refine("nuts").status == "doubtful"


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    numpyro.deterministic("double", 2 * slope)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(slope * x, noise), obs=y)


def test_what_a_refined_fit_answers(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=40)
    data = {"x": x, "y": 3.0 * x + 0.5 * rng.normal(size=40)}
    fit = ritz.fit(line, data, progress=False).refine("nuts")
    assert fit.correction == "nuts"
    assert fit.status == "ok", fit.reasons
    assert fit.info["nuts"]["gradients"] > 4000
    assert "by NUTS, started from q" in repr(fit)
    assert "refined by NUTS, as asked for" in fit.explain()
    values = fit.sample(50)
    np.testing.assert_allclose(values["double"], 2 * values["slope"], rtol=1e-6)
    assert not np.array_equal(fit.sample(50, key=jax.random.key(1))["slope"], values["slope"])
    assert fit.predict(n=20)["y"].shape == (20, 40)
    with pytest.raises(RitzError, match="4001 draws were asked for, but a fit refined by NUTS"):
        fit.sample(4001)
    with pytest.raises(AttributeError, match="corrected by importance weights"):
        fit.log_prob(values)
    fit.save(tmp_path / "fit")
    for again in (ritz.load(tmp_path / "fit"), ritz.load(tmp_path / "fit", line, data)):
        assert (again.correction, again.status) == ("nuts", "ok")
        np.testing.assert_array_equal(again.draws["slope"], fit.draws["slope"])


def test_a_damaged_count_is_one_line(tmp_path):
    rough().refine("nuts").save(tmp_path / "fit")
    file = tmp_path / "fit" / "fit.json"
    meta = json.loads(file.read_text())
    meta["info"]["nuts"]["diverged"] = "none"
    file.write_text(json.dumps(io.signed(meta)))
    with pytest.raises(RitzError, match="damaged or not from Ritz"):
        ritz.load(tmp_path / "fit")


def test_bad_input(monkeypatch):
    fit = rough()
    with pytest.raises(RitzError, match="'hmc' arrived; choose from importance, flow, nuts"):
        fit.refine("hmc")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "blackjax":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RitzError, match=r"pip install 'ritz\[nuts\]'"):
        fit.refine("nuts")
