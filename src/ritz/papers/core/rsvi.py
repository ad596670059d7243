"""What a rejection sampler accepts can be reparameterised, and little is left to correct.

A Gamma draw is a smooth function of the noise that Marsaglia and Tsang's sampler accepts. The law
of accepted noise depends on the shape, so the pathwise gradient needs a correction, the score of
that law; but nearly everything is accepted, so the correction is small. Drawing from a shape raised
by B, with B uniforms to come back, makes it smaller yet. Beta and Dirichlet follow from Gammas.

Paper: C. Naesseth, F. Ruiz, S. Linderman and D. Blei, "Reparameterization gradients through
acceptance-rejection sampling algorithms", AISTATS 2017, arXiv:1610.05683. G-REP: F. Ruiz, M.
Titsias and D. Blei, "The generalized reparameterization gradient", NeurIPS 2016, arXiv:1610.02287.

Scaled down: conjugate models, where the gradient of the ELBO is known: it is the reason for the
check, not a saving. Entropies are exact, as in the paper, so that only the expected log joint is
estimated. The gradient is in the logarithm of the shape.

Data: counts made here from each seed. Gamma-Poisson: 20 counts of rate 0.5 or less, with prior
Gamma(1, 1); q has the right rate and each shape of a grid from 1 to 10. Dirichlet-multinomial: 12
trials over three outcomes, prior Dirichlet(1); q has concentrations from 1 to 3.

Thresholds: the catalogue's, for the worst shape each. Distances in standard errors, of 1e5 draws,
are the largest over models, shapes and B. Without the correction, at B = 0, each of the shapes 1
and 1.5 is asked to be 5 off.

Wrong variant: the correction is left out, at every B.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import digamma, polygamma

from ritz.estimator import AbstractEstimator, Draw, Rejection, detached, rejection, score
from ritz.objective import expectation, sample
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1)
SHAPES = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
AUGMENTATIONS = (0, 1, 5)
DRAWS = 100_000


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def gamma_poisson(log_shape: Any, data: Any, how: Any) -> Any:
    """The expected log joint of counts with a common rate, up to a constant."""
    counts, rate = data
    z = sample(dist.Gamma(jnp.exp(log_shape), rate), how)
    return counts.sum() * jnp.log(z) - (len(counts) + 1.0) * z


def dirichlet_multinomial(log_shape: Any, counts: Any, how: Any) -> Any:
    """The expected log joint of outcomes with unknown probabilities, up to a constant."""
    p = sample(dist.Dirichlet(jnp.exp(log_shape)), how)
    return (counts * jnp.log(p)).sum()


# -- the baseline: measured in the same run -------------------------------------------------------


class GeneralisedReparameterisation(AbstractEstimator):
    """Ruiz et al.: log z standardised by its mean and sd, and the score of what is left."""

    def draw(self, q: Any, key: Any) -> Draw:
        a, b = q.concentration, q.rate
        held = jax.lax.stop_gradient((a, b))
        log_z = jnp.log(dist.Gamma(*held).sample(key))
        mean, sd = lambda a, b: digamma(a) - jnp.log(b), lambda a: jnp.sqrt(polygamma(1, a))
        noise = (log_z - mean(*held)) / sd(held[0])
        log_x = mean(a, b) + sd(a) * noise
        log_pi = dist.Gamma(a, b).log_prob(jnp.exp(log_x)) + log_x + jnp.log(sd(a))
        return Draw(jnp.exp(log_x), {"log_pi": log_pi})

    def combine(self, f: Any, notes: Any) -> Any:
        return f + f * detached(notes["log_pi"])


# -- the wrong variant: what the checks must catch ------------------------------------------------


class WithoutCorrection(Rejection):
    """Differentiates through accepted noise as if its law were fixed."""

    def combine(self, f: Any, notes: Any) -> Any:
        return f


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Gradients of two conjugate models against exact ones, and their variances."""
    n = DRAWS // 20 if quick else DRAWS
    make = (lambda b: WithoutCorrection(b)) if wrong else rejection
    plain, grep = score(), GeneralisedReparameterisation()
    far, without, variance = [], [], {"score function": [], "G-REP": []}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        counts = jnp.asarray(rng.poisson(rng.uniform(0.2, 0.5), 20), float)
        data = (counts, jnp.asarray(21.0))
        trials = jnp.asarray(rng.multinomial(12, rng.dirichlet(np.ones(3))), float)
        concentrations = jnp.log(jnp.asarray(rng.uniform(1.0, 3.0, (2, 3))))
        shapes = jnp.log(jnp.asarray(SHAPES))
        known = jax.vmap(jax.grad(_gamma_poisson), (0, None))(shapes, data)
        others = jax.vmap(jax.grad(_dirichlet_multinomial), (0, None))(concentrations, trials)
        for b in AUGMENTATIONS:
            mean, var = _moments(gamma_poisson, shapes, data, make(b), n, seed)
            far.append(_distance(mean, var, known, n))
            variance.setdefault(f"B = {b}", []).append(var)
            mean, var = _moments(dirichlet_multinomial, concentrations, trials, make(b), n, seed)
            far.append(_distance(mean, var, others, n))
            correction = _moments(gamma_poisson, shapes, data, make(b), n, seed, correction=True)
            variance.setdefault(f"correction, B = {b}", []).append(correction[1])
        for name, how in (("score function", plain), ("G-REP", grep)):
            variance[name].append(_moments(gamma_poisson, shapes, data, how, n, seed)[1])
        off, var = _moments(gamma_poisson, shapes, data, WithoutCorrection(0), n, seed)
        without.append(np.abs(off - np.asarray(known))[:2] / np.sqrt(var[:2] / n))
    total = {name: np.mean(rows, axis=0) for name, rows in variance.items()}
    ours, low, high = total["B = 1"], slice(0, 3), slice(3, None)
    share = lambda name, part: float((ours[part] / total[name][part]).max())
    falls = [float(total[f"correction, B = {b}"].sum()) for b in AUGMENTATIONS]
    growth = max(falls[1] / falls[0], falls[2] / falls[1]) if falls[0] > 0.0 else float("nan")
    limit, what = max(map(float, far)), "standard errors from exact"
    checks = (
        Check(what, limit, "<=", 4.0, "gradients at B = 0, 1, 5, the largest"),
        Check(f"{what}, no correction", float(np.min(without)), ">=", 5.0, "shapes 1, 1.5, B = 0"),
        Check("variance over score's", share("score function", slice(None)), "<=", 0.15, "B = 1"),
        Check("variance over G-REP's, to 2", share("G-REP", low), "<=", 0.8, "B = 1, each shape"),
        Check(
            "variance over G-REP's, to 10", share("G-REP", high), "<=", 0.95, "B = 1, each shape"
        ),
        Check("growth of the correction", growth, "<=", 1.0, "its variance from B to the next"),
    )
    pairs = zip(AUGMENTATIONS, falls, strict=True)
    figures = {f"variance of the correction, B = {b}": v for b, v in pairs}
    return Result(checks, seeds, figures, total)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Variances by shape: of the gradient, and of the correction."""
    with canvas(1, 2, size=(9.0, 3.4)) as (figure, (axes,)):
        for mark, name in zip("osx^", ("score function", "G-REP", "B = 0", "B = 1"), strict=True):
            label = name if name[0] != "B" else f"rejection, {name}"
            axes[0].loglog(SHAPES, result.curves[name], marker=mark, mfc="none", label=label)
        for mark, b in zip("os^", AUGMENTATIONS, strict=True):
            values = result.curves[f"correction, B = {b}"]
            axes[1].loglog(SHAPES, values, marker=mark, mfc="none", label=f"B = {b}")
        axes[0].set(title="Gamma-Poisson", xlabel="shape", ylabel="variance of the gradient")
        axes[1].set(title="correction", xlabel="shape", ylabel="its variance")
        _ = [ax.legend() for ax in axes]
    return figure


# -- what the parts above need --------------------------------------------------------------------


class CorrectionAlone(AbstractEstimator):
    """The correction term of an estimator, without its pathwise part."""

    of: AbstractEstimator

    def draw(self, q: Any, key: Any) -> Draw:
        x, notes = self.of.draw(q, key)
        return Draw(jax.lax.stop_gradient(x), notes)

    def combine(self, f: Any, notes: Any) -> Any:
        return f * detached(notes["log_pi"])


def _gamma_poisson(log_shape: Any, data: Any) -> Any:
    counts, rate = data
    a = jnp.exp(log_shape)
    return counts.sum() * (digamma(a) - jnp.log(rate)) - (len(counts) + 1.0) * a / rate


def _dirichlet_multinomial(log_shape: Any, counts: Any) -> Any:
    a = jnp.exp(log_shape)
    return (counts * (digamma(a) - digamma(a.sum()))).sum()


def _moments(
    program: Any,
    log_shapes: Any,
    data: Any,
    how: Any,
    n: int,
    seed: int,
    correction: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of gradients, for each row of shapes."""
    how = CorrectionAlone(how) if correction else how
    wanted = expectation(lambda s: program(s, data, how))
    each = jax.vmap(lambda key: jax.vmap(lambda s: wanted.grad(key, s))(log_shapes))
    keys = jax.random.split(jax.random.key(seed), n)
    grads = np.asarray(jax.jit(each)(keys), float)
    return grads.mean(0), grads.var(0)


def _distance(mean: np.ndarray, variance: np.ndarray, known: Any, n: int) -> float:
    return float((np.abs(mean - np.asarray(known)) / np.sqrt(variance / n)).max())
