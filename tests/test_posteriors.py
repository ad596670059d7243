"""The posteriordb models: exact densities, and NUTS against the reference moments."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import initialize_model, log_density, potential_energy
from posteriors import POSTERIORS, flatten, load_data, load_draws, models, reference, unflatten
from posteriors.densities import DENSITIES
from posteriors.make_reference import summary
from scipy.stats import norm

EIGHT_SCHOOLS = "eight_schools-eight_schools_noncentered"
RELATIVE = 1e-8

# Name -> whether NUTS adapts a dense mass matrix.
NUTS_RUNS = {
    "arK-arK": False,
    "earnings-log10earn_height": True,
    "earnings-logearn_interaction": True,
    "garch-garch11": False,
    "gp_pois_regr-gp_pois_regr": False,
    "hmm_example-hmm_example": False,
    "kidiq-kidscore_interaction": True,
    "kidiq-kidscore_momiq": True,
    "kidiq_with_mom_work-kidscore_interaction_c": False,
    "kilpisjarvi_mod-kilpisjarvi": True,
    "low_dim_gauss_mix-low_dim_gauss_mix": False,
    "mesquite-logmesquite_logvash": True,
    "nes1976-nes": True,
    "nes2000-nes": True,
    "sblrc-blr": False,
}


def disagreement(name: str, model: Callable[..., None], raw: dict[str, Any]) -> float:
    """How far (model - plain log density) is from a constant over the reference points.

    ``raw`` feeds the model only.  The range of the difference is given relative to the size of
    the log density.
    """
    posterior, known = POSTERIORS[name], load_data(name)
    data = posterior.data(raw)
    with jax.enable_x64(True):
        density = jax.jit(lambda sites: log_density(model, (), data, sites)[0])
        points = [
            posterior.latent(unflatten(name, draw), known) for draw in reference(name)["draws"]
        ]
        ours = np.array([float(density(point)) for point in points])
    plain = np.array([DENSITIES[name](point, known) for point in points])
    assert len(points) >= 20
    assert np.ptp(plain) > 0.5  # the points differ
    return float(np.ptp(ours - plain) / max(1.0, np.abs(ours).max()))


@pytest.mark.parametrize("name", POSTERIORS)
def test_model_has_the_stated_density(name: str) -> None:
    assert disagreement(name, POSTERIORS[name].model, load_data(name)) < RELATIVE


def _outcome(name: str) -> str:
    """A field of the data whose values are observed."""
    fields = list(inspect.signature(POSTERIORS[name].model).parameters)
    outcomes = ("y", "k", "earn", "kid_score", "weight", "partyid7", "C_hat")
    return next(field for field in outcomes if field in fields)


@pytest.mark.parametrize("name", POSTERIORS)
def test_one_changed_observation_is_seen(name: str) -> None:
    raw = load_data(name)
    values = np.array(raw[_outcome(name)])
    values.flat[-1] += 1 if values.dtype.kind == "i" else 0.01
    changed = raw | {_outcome(name): values.tolist()}
    assert disagreement(name, POSTERIORS[name].model, changed) > RELATIVE


def _wide_tau(*, y: Any, sigma: Any) -> None:
    """Eight schools with a wrong prior scale."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(6.0))
    eta = numpyro.sample("eta", dist.Normal(0.0, 1.0).expand(np.shape(y)).to_event(1))
    numpyro.sample("y", dist.Normal(mu + tau * eta, sigma).to_event(1), obs=jnp.asarray(y))


def _uneven_garch(**data: Any) -> None:
    """GARCH with beta1 ~ Uniform(0, 1 - alpha1), whose joint density is not flat."""
    with numpyro.handlers.trace() as trace:
        models.garch11(**data)
    numpyro.factor("uniform", -jnp.log(1.0 - trace["alpha1"]["value"]))


def _momiq_normal_sigma(*, kid_score: Any, mom_iq: Any) -> None:
    """kidscore_momiq with a half-normal instead of a half-Cauchy prior."""
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), (2,)))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.5))
    mean = beta[0] + beta[1] * jnp.asarray(mom_iq)
    numpyro.sample("y", dist.Normal(mean, sigma).to_event(1), obs=jnp.asarray(kid_score))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (EIGHT_SCHOOLS, _wide_tau),
        ("garch-garch11", _uneven_garch),
        ("kidiq-kidscore_momiq", _momiq_normal_sigma),
    ],
)
def test_wrong_prior_is_seen(name: str, wrong: Callable[..., None]) -> None:
    assert disagreement(name, wrong, load_data(name)) > 1e3 * RELATIVE


def test_dependent_support_of_garch() -> None:
    """Potential and constrained values by NumPyro, with the logit's Jacobian written out."""
    name = "garch-garch11"
    raw = load_data(name)
    data = POSTERIORS[name].data(raw)
    with jax.enable_x64(True):
        energy = jax.jit(lambda u: potential_energy(models.garch11, (), data, u))
        info = initialize_model(jax.random.key(0), models.garch11, model_kwargs=data)
        constrain = jax.jit(info.postprocess_fn)
        for draw in reference(name)["draws"]:
            sites = unflatten(name, draw)
            a0, a1, b1 = (float(sites[key]) for key in ("alpha0", "alpha1", "beta1"))
            top = 1.0 - a1
            log_det = np.log(a0) + np.log(a1 * (1 - a1)) + np.log(b1 * (top - b1) / top)
            free = {
                "mu": sites["mu"],
                "alpha0": np.log(a0),
                "alpha1": np.log(a1 / (1 - a1)),
                "beta1": np.log(b1 / (top - b1)),
            }
            expected = DENSITIES[name](sites, raw) + log_det
            assert float(energy(free)) == pytest.approx(-expected, rel=1e-10)
            for key, value in constrain(free).items():
                np.testing.assert_allclose(value, sites[key], rtol=1e-10)


@pytest.mark.parametrize("name", POSTERIORS)
def test_sites_follow_the_reference_names(name: str) -> None:
    known = reference(name)
    posterior, raw = POSTERIORS[name], load_data(name)
    assert posterior.name == name
    sites = unflatten(name, known["mean"])
    assert tuple(sites) == posterior.sites
    np.testing.assert_array_equal(flatten(name, sites, batch_ndim=0), known["mean"])
    point = posterior.latent(sites, raw)
    data = posterior.data(raw)
    sampled = set()

    def replay(values: dict[str, Any]) -> dict[str, Any]:
        _, trace = log_density(posterior.model, (), data, values)
        latent = [k for k, s in trace.items() if s["type"] == "sample" and not s["is_observed"]]
        sampled.update(latent)
        return {key: trace[key]["value"] for key in sites}

    with jax.enable_x64(True):
        values = jax.jit(replay)(point)
    assert sampled == set(point)
    for key, value in sites.items():  # deterministic ones come out of the sampled ones
        np.testing.assert_allclose(values[key], value, rtol=1e-6)


def test_reference_moments_are_those_of_the_draws() -> None:
    try:
        every = {name: load_draws(name) for name in POSTERIORS}
    except FileNotFoundError as reason:
        pytest.skip(str(reason))
    for name, (names, draws) in every.items():
        known = reference(name)
        assert names == known["names"]
        for key, values in summary(draws).items():
            np.testing.assert_allclose(known[key], values, rtol=1e-6, err_msg=name)


def run_nuts(name: str, *, dense: bool, seed: int = 0) -> tuple[np.ndarray, int]:
    """Four chains of 1,000 draws after 1,000 of warm-up in float64; and the divergences."""
    posterior = POSTERIORS[name]
    data = posterior.data(load_data(name))
    with jax.enable_x64(True):
        kernel = NUTS(posterior.model, dense_mass=dense, target_accept_prob=0.9)
        mcmc = MCMC(
            kernel,
            num_warmup=1000,
            num_samples=1000,
            num_chains=4,
            chain_method="sequential",
            progress_bar=False,
        )
        mcmc.run(jax.random.key(seed), **data)
        divergences = int(mcmc.get_extra_fields()["diverging"].sum())
        return flatten(name, mcmc.get_samples(group_by_chain=True)), divergences


def z_scores(name: str, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Errors of means and sds in combined Monte Carlo standard errors, and their bound.

    The bound is 4 for one parameter; for d of them the level of 4 is divided by d.
    """
    known, ours = reference(name), summary(draws)
    mean = (ours["mean"] - known["mean"]) / np.hypot(ours["mcse_mean"], known["mcse_mean"])
    sd = (ours["sd"] - known["sd"]) / np.hypot(ours["mcse_sd"], known["mcse_sd"])
    return mean, sd, float(norm.isf(norm.sf(4.0) / len(mean)))


def _check_nuts(name: str, *, dense: bool) -> None:
    draws, divergences = run_nuts(name, dense=dense)
    assert divergences <= 20
    assert split_gelman_rubin(draws).max() < 1.02
    assert effective_sample_size(draws).min() > 400  # so that the standard errors are small
    mean, sd, bound = z_scores(name, draws)
    assert np.abs(mean).max() < bound
    assert np.abs(sd).max() < bound


def test_nuts_reproduces_eight_schools() -> None:
    _check_nuts(EIGHT_SCHOOLS, dense=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NUTS_RUNS)
def test_nuts_reproduces_the_reference(name: str) -> None:
    _check_nuts(name, dense=NUTS_RUNS[name])
