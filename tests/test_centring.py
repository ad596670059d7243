"""Hierarchies in other coordinates: the same posterior, and where the default moves to."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ritz
from ritz import RitzError, _automatic, _runs
from ritz._conditionals import Conditionals
from ritz.target import from_numpyro, library
from ritz.target._centring import centred, chosen, hierarchical, moved


def groups(y=None, sd=1.0):
    """Sites in a plate, as an event, positive, heavy-tailed, and step by step."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("groups", 4):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        rate = numpyro.sample("rate", dist.LogNormal(0.3, tau))
    event = numpyro.sample("event", dist.StudentT(5.0, mu, tau).expand([3]).to_event(1))
    numpyro.sample("alone", dist.Normal(0.0, 1.0))

    def step(h, _):
        h = numpyro.sample("h", dist.Normal(0.9 * h, tau))
        return h, h

    _, path = scan(step, 0.0, None, length=5)
    total = theta.sum() + rate.sum() + event.sum() + path.sum()
    numpyro.sample("y", dist.Normal(total, sd), obs=y)


NAMES = ("theta", "rate", "event", "h")


def shares(target, value):
    return {s.name: jnp.full(s.unconstrained_shape, value) for s in target.sites if s.name in NAMES}


def test_hierarchical_sites_are_found():
    target = from_numpyro(groups, (jnp.array(1.0),))
    assert set(hierarchical(target)) == set(NAMES)
    assert hierarchical(ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.ones(2))) == ()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_the_density_is_that_of_the_map(value):
    """By the Jacobian of the whole map, by automatic differentiation; and there and back."""
    with jax.enable_x64(True):
        target = from_numpyro(groups, (jnp.array(1.0),))
        other = centred(target, shares(target, value))
        z = jnp.asarray(np.random.default_rng(0).normal(size=target.dim))
        to = lambda z: target.unconstrain(other.constrain(z))
        x = to(z)
        log_det = jnp.linalg.slogdet(jax.jacobian(to)(z))[1]
        exact = target.log_density(x) + log_det
        np.testing.assert_allclose(other.log_density(z), exact, rtol=1e-10)
        np.testing.assert_allclose(moved(target, other, x), z, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(other.log_det(z), target.log_det(x) + log_det, rtol=1e-9)
        if value == 1.0:
            np.testing.assert_allclose(z, x, rtol=1e-9)
        else:  # without the Jacobian it is another density
            assert abs(log_det) > 0.1


def normals(sd, y=None):
    """Normal groups seen with known errors: the share that data say is known."""
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 0.5))
    with numpyro.plate("groups", len(sd)):
        theta = numpyro.sample("theta", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.Normal(theta, sd), obs=y)


def test_how_far_to_centre_is_what_data_say():
    sd = jnp.array([0.01, 0.5, 1.0, 2.0, 100.0])
    target = from_numpyro(normals, (sd,), {"y": jnp.zeros(5)})
    x = target.unconstrain({"tau": 2.0, "theta": jnp.zeros(5)})
    share = chosen(target, ("theta",), x)["theta"]
    np.testing.assert_allclose(share, 4.0 / (4.0 + sd**2), rtol=2e-3, atol=1e-6)


def funnel(d):
    def model():
        v = numpyro.sample("v", dist.Normal(0.0, 3.0))
        with numpyro.plate("dims", d - 1):
            numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2.0)))

    return model


@pytest.mark.parametrize("d", [2, 10, 100])
def test_a_funnel_that_is_written_as_a_model_is_exact(d):
    """In its own coordinates it is a Gaussian; as a plain log density it is not, and is told."""
    fit = ritz.fit(funnel(d))
    assert fit.khat < 0.3
    assert abs(fit.mean()["v"]) < 0.3
    assert abs(fit.sd()["v"] / 3.0 - 1.0) < 0.1
    assert "x in coordinates of its own, as far as data say: non-centred" in fit.explain()
    # The sd of x is exp(9/4): of a log-normal scale, which few draws far out decide.
    assert fit.status == "doubtful"
    assert "rests on a few draws" in fit.reasons[0]


def test_a_funnel_that_is_left_as_it_is_written_is_not_right(monkeypatch):
    """Nor is it found to be a Gaussian given each v."""
    monkeypatch.setattr(_runs, "hierarchical", lambda _: ())
    monkeypatch.setattr(_automatic, "conditionals", lambda *_: Conditionals(None, 0.0, []))
    fit = ritz.fit(funnel(10))
    assert fit.status == "doubtful"
    assert abs(np.log(fit.sd()["v"] / 3.0)) > 0.1 or abs(fit.mean()["v"]) > 0.3
    assert fit.khat > 0.5


def test_where_a_move_raises_the_loss_it_is_taken_back(monkeypatch):
    """Coordinates that are half wrong each time: those of the first run stay."""
    first, calls = _runs.chosen, []

    def worse(target, names, x):
        calls.append(x)
        share = first(target, names, x)
        return share if len(calls) == 1 else {n: 1.0 - v for n, v in share.items()}

    monkeypatch.setattr(_runs, "chosen", worse)
    packaged = library.get("poisson_counties")
    fit = ritz.fit(packaged.model, packaged.data())
    population = packaged.data()["population"]
    share = np.asarray(fit.target.centring["rate"])
    assert len(calls) >= 2
    assert share[population.argmax()] > share[population.argmin()]


def test_an_interrupted_search_goes_on_in_the_same_coordinates(tmp_path):
    packaged = library.get("eight_schools_centered")
    whole = ritz.fit(packaged.model, packaged.data())
    calls = []

    def stop(state, steps, info):
        calls.append(steps)
        if len(calls) == 2:
            raise KeyboardInterrupt

    path = tmp_path / "kept"
    kept = {"checkpoint": path, "checkpoint_every": 0}
    fit = ritz.fit(packaged.model, packaged.data(), callbacks=[stop], **kept)
    assert fit.stop_reason == "interrupted"
    again = ritz.resume(path, packaged.model, packaged.data())
    np.testing.assert_array_equal(again.draws["theta"], whole.draws["theta"])


def test_a_saved_fit_needs_the_hierarchy_that_it_is_of(tmp_path):
    packaged = library.get("eight_schools_centered")
    path = ritz.fit(packaged.model, packaged.data()).save(tmp_path / "fit")

    def flat(sigma, y=None):
        numpyro.sample("mu", dist.Normal(0.0, 5.0))
        numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", len(sigma)):
            theta = numpyro.sample("theta", dist.Normal(0.0, 5.0))
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    with pytest.raises(RitzError, match="coordinates of its own for theta"):
        ritz.load(path, flat, packaged.data())


def test_eight_schools_as_it_is_written():
    """Both forms have one posterior; the centred one is moved away from its funnel."""

    centred, apart = (
        ritz.fit(p.model, p.data())
        for p in map(library.get, ("eight_schools_centered", "eight_schools"))
    )
    assert centred.status == "ok"
    for name in ("mu", "tau", "theta"):
        off = np.abs(centred.mean()[name] - apart.mean()[name]) / apart.sd()[name]
        assert off.max() < 0.1
        assert np.abs(np.log(centred.sd()[name] / apart.sd()[name])).max() < 0.2


def test_counties_are_centred_as_far_as_each_one_knows(tmp_path):
    """303 dimensions; saved and read with and without the model, and gone on from."""
    packaged = library.get("poisson_counties")
    fit = ritz.fit(packaged.model, packaged.data())
    assert fit.status == "ok"
    share = np.asarray(fit.target.centring["rate"])
    population = packaged.data()["population"]
    assert share[population.argmax()] > 0.9 > 0.2 > share[population.argmin()]
    path = fit.save(tmp_path / "fit")
    again = ritz.load(path, packaged.model, packaged.data())
    np.testing.assert_array_equal(again.sample(10)["rate"], fit.sample(10)["rate"])
    np.testing.assert_array_equal(ritz.load(path).mean()["rate"], fit.mean()["rate"])
    further = ritz.fit(packaged.model, packaged.data(), init=fit)
    assert further.status == "ok"


def test_it_can_be_refined_by_nuts():
    packaged = library.get("eight_schools_centered")
    fit = ritz.fit(packaged.model, packaged.data()).refine("nuts")
    assert fit.info["nuts"]["diverged"] <= 4
    assert abs(fit.mean()["tau"] - 3.6) < 0.4
