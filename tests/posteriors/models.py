"""The posteriordb posteriors as NumPyro models.

Every function states one posterior in the form that the table in the README gives: data come in
as keyword arguments under posteriordb's names, sizes come from the shapes, and the sites (sampled
or deterministic) carry the names of the reference draws.  A flat prior is an
``ImproperUniform``.  Arguments with a default are constants of the model, not data.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from numpyro.distributions import constraints

from .odes import rk4, subdivide


def _flat(name: str, *shape: int, support: constraints.Constraint = constraints.real) -> jax.Array:
    """A site whose density is 1 on its support."""
    return numpyro.sample(name, dist.ImproperUniform(support, (), shape))


def _regression(design: jax.Array, beta: jax.Array, sigma: jax.Array, y: ArrayLike) -> None:
    """Independent normal observations around ``design @ beta``."""
    with numpyro.plate("N", design.shape[0]):
        numpyro.sample("y", dist.Normal(design @ beta, sigma), obs=y)


def _columns(*columns: ArrayLike) -> jax.Array:
    """A design matrix: an intercept, then the given columns."""
    arrays = [jnp.asarray(c, dtype=float) for c in columns]
    return jnp.stack([jnp.ones_like(arrays[0]), *arrays], axis=-1)


def ark(*, y: ArrayLike, K: int = 5) -> None:
    """Autoregression of order K (``arK-arK``)."""
    y = jnp.asarray(y)
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([K]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    n = y.shape[0]
    lags = jnp.stack([y[K - k : n - k] for k in range(1, K + 1)], axis=-1)
    with numpyro.plate("T", n - K):
        numpyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y[K:])


def log10earn_height(*, earn: ArrayLike, height: ArrayLike) -> None:
    """Log (base 10) earnings on height (``earnings-log10earn_height``)."""
    beta = _flat("beta", 2)
    sigma = _flat("sigma", support=constraints.positive)
    _regression(_columns(height), beta, sigma, jnp.log10(earn))


def logearn_interaction(*, earn: ArrayLike, height: ArrayLike, male: ArrayLike) -> None:
    """Log earnings on height, sex and their product (``earnings-logearn_interaction``)."""
    beta = _flat("beta", 4)
    sigma = _flat("sigma", support=constraints.positive)
    design = _columns(height, male, jnp.asarray(height) * jnp.asarray(male))
    _regression(design, beta, sigma, jnp.log(earn))


def eight_schools(*, y: ArrayLike, sigma: ArrayLike) -> None:
    """Eight schools, non-centred: theta is deterministic in eta."""
    y = jnp.asarray(y, dtype=float)
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    eta = numpyro.sample("eta", dist.Normal(0.0, 1.0).expand(y.shape).to_event(1))
    theta = numpyro.deterministic("theta", mu + tau * eta)
    with numpyro.plate("J", y.shape[0]):
        numpyro.sample("y", dist.Normal(theta, jnp.asarray(sigma, dtype=float)), obs=y)


def garch11(*, y: ArrayLike, sigma1: ArrayLike) -> None:
    """GARCH(1, 1), flat where the process is stationary: beta1's support ends at 1 - alpha1.

    A uniform's height there is 1 / (1 - alpha1), which the factor undoes.  An ``ImproperUniform``
    on that interval has the same density, but NumPyro 0.22 does not see that its support depends
    on another site, and NUTS then returns beta1 scaled by the interval of the first draw.
    """
    y = jnp.asarray(y)
    mu = _flat("mu")
    alpha0 = _flat("alpha0", support=constraints.positive)
    alpha1 = _flat("alpha1", support=constraints.unit_interval)
    beta1 = numpyro.sample("beta1", dist.Uniform(0.0, 1.0 - alpha1))
    numpyro.factor("beta1_flat", jnp.log1p(-alpha1))

    def step(variance: jax.Array, residual: jax.Array) -> tuple[jax.Array, jax.Array]:
        variance = alpha0 + alpha1 * residual**2 + beta1 * variance
        return variance, variance

    first = jnp.full_like(alpha0, jnp.square(sigma1))
    later = jax.lax.scan(step, first, y[:-1] - mu)[1]
    scale = jnp.sqrt(jnp.concatenate([first[None], later]))
    with numpyro.plate("T", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def gp_pois_regr(*, x: ArrayLike, k: ArrayLike) -> None:
    """Poisson counts with a Gaussian-process log rate, whitened: f is deterministic in f_tilde."""
    x = jnp.asarray(x, dtype=float)
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    f_tilde = numpyro.sample("f_tilde", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1))
    gap = (x[:, None] - x[None, :]) / rho
    covariance = alpha**2 * jnp.exp(-0.5 * gap**2) + 1e-10 * jnp.eye(x.shape[0])
    f = numpyro.deterministic("f", jnp.linalg.cholesky(covariance) @ f_tilde)
    with numpyro.plate("N", x.shape[0]):
        numpyro.sample("k", dist.Poisson(jnp.exp(f)), obs=k)


def hmm_example(*, y: ArrayLike) -> None:
    """Two-state hidden Markov model, the states summed out by the forward recursion."""
    y = jnp.asarray(y)
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    mu = _flat("mu", 2, support=constraints.positive_ordered_vector)
    numpyro.factor("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu).sum())
    log_rows = jnp.log(jnp.stack([theta1, theta2]))
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])

    def step(forward: jax.Array, log_e: jax.Array) -> tuple[jax.Array, None]:
        return logsumexp(forward[:, None] + log_rows, axis=0) + log_e, None

    forward = jax.lax.scan(step, emission[0], emission[1:])[0]
    numpyro.factor("y", logsumexp(forward))


def lotka_volterra(*, ts: ArrayLike, y_init: ArrayLike, y: ArrayLike, pieces: int = 64) -> None:
    """Lynx and hares with lognormal errors; the log populations are integrated.

    With 64 steps a year the log density is within 1e-7 of an adaptive solver's on the reference
    draws; 16 leave about 1e-5 and cost a quarter.
    """
    y = jnp.asarray(y)
    center = jnp.array([1.0, 0.05, 1.0, 0.05])
    spread = jnp.array([0.5, 0.05, 0.5, 0.05])
    theta = numpyro.sample("theta", dist.TruncatedNormal(center, spread, low=0.0).to_event(1))
    z_init = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))
    alpha, beta, gamma, delta = theta

    def field(_: jax.Array, log_z: jax.Array) -> jax.Array:
        prey, predator = jnp.exp(log_z)
        return jnp.stack([alpha - beta * predator, delta * prey - gamma])

    times = jnp.concatenate([jnp.zeros(1), jnp.asarray(ts, dtype=float)])
    nodes = jnp.concatenate([times[:1], subdivide(times, pieces)])
    log_z = rk4(field, jnp.log(z_init), nodes)[pieces - 1 :: pieces]
    start = dist.LogNormal(jnp.log(z_init), sigma).to_event(1)
    numpyro.sample("y_init", start, obs=jnp.asarray(y_init, dtype=float))
    with numpyro.plate("N", y.shape[0]):
        numpyro.sample("y", dist.LogNormal(log_z, sigma).to_event(1), obs=y)


def kidscore_momiq(*, kid_score: ArrayLike, mom_iq: ArrayLike) -> None:
    """A child's test score on the mother's (``kidiq-kidscore_momiq``)."""
    beta = _flat("beta", 2)
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    _regression(_columns(mom_iq), beta, sigma, jnp.asarray(kid_score))


def kidscore_interaction(*, kid_score: ArrayLike, mom_hs: ArrayLike, mom_iq: ArrayLike) -> None:
    """A child's score on mother's schooling, score and their product."""
    hs, iq = jnp.asarray(mom_hs), jnp.asarray(mom_iq)
    beta = _flat("beta", 4)
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    _regression(_columns(hs, iq, hs * iq), beta, sigma, jnp.asarray(kid_score))


def kidscore_interaction_c(*, kid_score: ArrayLike, mom_hs: ArrayLike, mom_iq: ArrayLike) -> None:
    """As ``kidscore_interaction`` with both predictors centred and sigma flat."""
    hs, iq = jnp.asarray(mom_hs, dtype=float), jnp.asarray(mom_iq)
    hs, iq = hs - hs.mean(), iq - iq.mean()
    beta = _flat("beta", 4)
    sigma = _flat("sigma", support=constraints.positive)
    _regression(_columns(hs, iq, hs * iq), beta, sigma, jnp.asarray(kid_score))


def kilpisjarvi(
    *,
    x: ArrayLike,
    y: ArrayLike,
    pmualpha: ArrayLike,
    psalpha: ArrayLike,
    pmubeta: ArrayLike,
    psbeta: ArrayLike,
) -> None:
    """Summer temperature on the year; priors come with the data."""
    x = jnp.asarray(x, dtype=float)
    alpha = numpyro.sample("alpha", dist.Normal(pmualpha, psalpha))
    beta = numpyro.sample("beta", dist.Normal(pmubeta, psbeta))
    sigma = _flat("sigma", support=constraints.positive)
    with numpyro.plate("N", x.shape[0]):
        numpyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=jnp.asarray(y))


def low_dim_gauss_mix(*, y: ArrayLike) -> None:
    """Mixture of two normals with ordered means."""
    y = jnp.asarray(y)
    mu = _flat("mu", 2, support=constraints.ordered_vector)
    numpyro.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = dist.Categorical(probs=jnp.stack([theta, 1.0 - theta]))
    with numpyro.plate("N", y.shape[0]):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def logmesquite_logvash(
    *,
    weight: ArrayLike,
    diam1: ArrayLike,
    diam2: ArrayLike,
    canopy_height: ArrayLike,
    total_height: ArrayLike,
    group: ArrayLike,
) -> None:
    """Log leaf weight of mesquite bushes on log volume, area, shape, height and group."""
    wide, narrow, canopy = jnp.log(diam1), jnp.log(diam2), jnp.log(canopy_height)
    area = wide + narrow
    design = _columns(area + canopy, area, wide - narrow, jnp.log(total_height), group)
    beta = _flat("beta", 6)
    sigma = _flat("sigma", support=constraints.positive)
    _regression(design, beta, sigma, jnp.log(weight))


def nes(
    *,
    partyid7: ArrayLike,
    real_ideo: ArrayLike,
    race_adj: ArrayLike,
    age_discrete: ArrayLike,
    educ1: ArrayLike,
    gender: ArrayLike,
    income: ArrayLike,
) -> None:
    """Party identification in the National Election Study of one year."""
    age = jnp.asarray(age_discrete)
    ages = [age == level for level in (2, 3, 4)]
    beta = _flat("beta", 9)
    sigma = _flat("sigma", support=constraints.positive)
    design = _columns(real_ideo, race_adj, *ages, educ1, gender, income)
    _regression(design, beta, sigma, jnp.asarray(partyid7))


def one_comp_mm_elim_abs(
    *,
    t0: ArrayLike,
    D: ArrayLike,
    V: ArrayLike,
    times: ArrayLike,
    C_hat: ArrayLike,
    first: int = 128,
    pieces: int = 16,
) -> None:
    """One compartment, first-order absorption, Michaelis-Menten elimination.

    The concentration leaves 0 at ``t0`` through a layer as thin as K_m, so that the steps of the
    first interval (``first`` of them) grow with the fourth power; each later one has ``pieces``.
    """
    k_a = numpyro.sample("k_a", dist.HalfCauchy(1.0))
    K_m = numpyro.sample("K_m", dist.HalfCauchy(1.0))
    V_m = numpyro.sample("V_m", dist.HalfCauchy(1.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(1.0))

    def field(t: jax.Array, c: jax.Array) -> jax.Array:
        c = jnp.maximum(c, 0.0)  # keeps the field bounded if a step is too long
        return k_a * D / V * jnp.exp(-k_a * t) - V_m / V * c / (K_m + c)

    times = jnp.asarray(times)
    graded = t0 + (times[0] - t0) * (jnp.arange(first + 1) / first) ** 4
    nodes = jnp.concatenate([graded, subdivide(times, pieces)])
    c = rk4(field, jnp.zeros_like(k_a), nodes)[first - 1 :: pieces]
    log_c = jnp.log(jnp.maximum(c, jnp.finfo(c.dtype).tiny))
    with numpyro.plate("N_t", times.shape[0]):
        numpyro.sample("C_hat", dist.LogNormal(log_c, sigma), obs=jnp.asarray(C_hat))


def blr(*, X: ArrayLike, y: ArrayLike) -> None:
    """Linear regression with normal priors (``sblrc-blr``)."""
    X = jnp.asarray(X)
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    _regression(X, beta, sigma, jnp.asarray(y))
