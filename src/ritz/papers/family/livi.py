"""A neural sampler, trained by its linearisation's entropy, finds shapes that no Gaussian has.

The sampler is x = g(z) + sigma * eps with normal z and eps and a network g. Its density is an
integral, but around each z it is almost that of the Gaussian with covariance J J' + sigma^2, where
J is the derivative of g, and the entropy of that is half a log determinant. For large networks each
singular value in it is replaced by the smallest, which some products with J find. Nothing
adversarial is needed, and curved, multimodal and correlated posteriors come out.

Paper: A. Uppal, K. Stensbo-Smidt, W. Boomsma and J. Frellsen, "Implicit variational inference for
high-dimensional posteriors", NeurIPS 2023, arXiv:2310.06643.

Scaled down: two targets in 2 dimensions, whose divergences a grid tells, and a Bayesian network of
one hidden layer with few units, which NUTS can sample; the paper has image classifiers with
millions of weights. The architecture for these, products of matrices, is checked at 100,000
dimensions in tests/test_implicit.py. Unlike in the paper sigma is learned, one for each coordinate.

Data: made here from the seed: 20 noisy values of a bump on [-2, 2], which two units can draw. Units
are put in the order of their output weights, of which one is positive and one negative.

Thresholds: the catalogue's. The density of a sampler on the grid is a sum over a fine grid of z.
The predictive variance is that of the network's output on [-3, 3], and the error the mean absolute
difference from NUTS. "Bound below" is the share of draws, of all trained samplers, at which the
bound by the smallest singular value is not above the log determinant's entropy, asked to be 1.

The network has no more units than the curve needs. With three to eight, or with a gap in the
inputs, the posterior of the curve itself has several modes, of which the sampler, as all that
minimise KL(q || p), finds one: its variance error was then 0.48 to 1.04 of mean field's.

Wrong variant: log det(J J' + sigma), where sigma stands in the place of its square.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

import ritz
from ritz.family import Implicit, implicit
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2)
UNITS, NOISE, ROWS = 2, 0.2, 20
STEPS, LR = 8000, 0.005
BNN_STEPS, BNN_LR = 6000, 0.005
GRID = np.linspace(-3.0, 3.0, 61)
LAYERS = ("w1", "b1", "w2")


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def sampler(target: Any, start: Any) -> Implicit:
    """The family; `ritz.fit` trains it by `ritz.objective.linearised_elbo()`."""
    return implicit(target, start)


def fit(model: Any, data: Any, family: Any, steps: int, lr: float, seed: int) -> ritz.Fit:
    """A fit of any family."""
    return ritz.fit(model, data, family=family, steps=steps, lr=lr, seed=seed, progress=False)


# -- the wrong variant: what the checks must catch ------------------------------------------------


class WithoutSquare(Implicit):
    """The entropy with sigma in the place of its square."""

    def linearised_entropy(self, z: Any, key: Any, bound: Any = "log_det") -> Any:
        q = Implicit(self.generator, 0.5 * self.log_noise, self.latents)
        return q.linearised_entropy(z, key, bound)


def wrong_sampler(target: Any, start: Any) -> Implicit:
    """The same family with a wrong entropy."""
    q = implicit(target, start)
    return WithoutSquare(q.generator, q.log_noise, q.latents)


# -- the experiment -------------------------------------------------------------------------------


def banana(x: Any) -> Any:
    """A normal that is bent along a parabola."""
    return -0.125 * x[0] ** 2 - 2.0 * (x[1] - 0.5 * (x[0] ** 2 - 4.0)) ** 2


def bimodal(x: Any) -> Any:
    """Two round normals."""
    return jnp.logaddexp(-((x - 1.75) ** 2).sum(), -((x + 1.75) ** 2).sum())


TARGETS = {"banana": banana, "bimodal": bimodal}


def network(x: Any, y: Any = None) -> None:
    """One hidden layer."""
    unit = lambda name, scale: numpyro.sample(
        name, dist.Normal(0.0, scale).expand([UNITS]).to_event(1)
    )
    w1, b1, w2 = unit("w1", 1.5), unit("b1", 1.5), unit("w2", 1.5)
    with numpyro.plate("rows", len(x)):
        mean = jnp.tanh(x[:, None] * w1 + b1) @ w2
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Divergences on grids, exactness for an affine g, and a network against NUTS."""
    family = wrong_sampler if wrong else sampler
    share = 10 if quick else 1
    kl: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {"sampler": [], "mean field": []}
    off: dict[str, list[float]] = {"sampler": [], "mean field": []}
    below, affine, curves = [], [], {}
    for seed in seeds:
        for name, density in TARGETS.items():
            target = ritz.target.from_log_density(density, jnp.zeros(2))
            ours = fit(target, None, family, STEPS // share, LR, seed).q
            gauss = fit(target, None, "full_rank", STEPS // share, 0.02, seed).q
            curves[name], p = _on_grid(ours, density)
            kl.setdefault(name, []).append(_kl(curves[name], p))
            kl.setdefault(f"{name}, full rank", []).append(_kl(_gaussian(gauss), p))
            below.append(_below(ours))
        affine.append(_affine_error(family, seed))
        data = _data(seed)
        reference = _nuts(data, seed, share)
        trained = fit(network, data, family, BNN_STEPS // share, BNN_LR, seed)
        plain = fit(network, data, "mean_field", BNN_STEPS // share, 0.01, seed)
        below.append(_below(trained.q))
        variance, correlation = _output(reference).var(0), _correlation(reference)
        curves |= {"NUTS": variance, "data": data}
        for name, draws in (("sampler", trained.draws), ("mean field", plain.draws)):
            curves[name] = _output(draws).var(0)
            errors[name].append(float(np.abs(curves[name] - variance).mean()))
            off[name].append(abs(_correlation(draws) - correlation))
    mean = {name: float(np.mean(values)) for name, values in kl.items()}
    ratio = lambda name: mean[name] / mean[f"{name}, full rank"]
    compare = lambda each: float(np.mean(each["sampler"]) / np.mean(each["mean field"]))
    checks = (
        Check("banana: KL over full rank's", ratio("banana"), "<=", 0.5, "on a grid"),
        Check("bimodal: KL over full rank's", ratio("bimodal"), "<=", 0.5, "on a grid"),
        Check("affine g: error of the entropy", max(affine), "<=", 1e-3, "with the exact one"),
        Check("share of draws with the bound below", float(np.min(below)), ">=", 1.0,
              "smallest singular value with log determinant"),
        Check("variance error over mean field's", compare(errors), "<=", 0.6,
              "mean absolute error of the output's variance, reference NUTS"),
        Check("correlation error over mean field's", compare(off), "<=", 1.0,
              "mean absolute correlation across layers, distance from NUTS"),
    )  # fmt: skip
    figures = {f"KL, {name}": value for name, value in mean.items()}
    figures |= {f"variance error, {name}": float(np.mean(v)) for name, v in errors.items()}
    figures |= {f"correlation error, {name}": float(np.mean(v)) for name, v in off.items()}
    return Result(checks, seeds, figures, curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """The densities of two samplers, and predictive sds."""
    with canvas(1, 3, size=(11.0, 3.4)) as (figure, (axes,)):
        for ax, name in zip(axes, TARGETS, strict=False):
            x, y = _axes()
            ax.contourf(x, y, result.curves[name].T, levels=12, cmap="Blues")
            ax.set(title=f"{name}: the sampler", xlim=(-6.0, 6.0), ylim=(-5.0, 10.0))
        for name in ("NUTS", "sampler", "mean field"):
            axes[2].plot(GRID, np.sqrt(result.curves[name]), label=name)
        axes[2].plot(result.curves["data"][0], np.zeros(len(result.curves["data"][0])), "k|")
        axes[2].set(title="network", xlabel="x", ylabel="sd of the output")
        axes[2].legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _axes() -> tuple[np.ndarray, np.ndarray]:
    return np.linspace(-9.0, 9.0, 601), np.linspace(-6.0, 22.0, 701)


def _on_grid(q: Any, density: Any) -> tuple[np.ndarray, np.ndarray]:
    """The density of a sampler and of its target on the grid."""
    x, y = _axes()
    at = np.linspace(-5.0, 5.0, 251)
    z = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    weight = np.exp(-0.5 * (z**2).sum(1))
    centre = np.asarray(jax.vmap(q.generator)(jnp.asarray(z, jnp.float32)), float)
    sigma = np.exp(np.asarray(q.log_noise, float))
    kernel = lambda axis, i: np.exp(-0.5 * ((axis[:, None] - centre[:, i]) / sigma[i]) ** 2).astype(
        np.float32
    )
    found = (kernel(x, 0) * (weight / weight.sum()).astype(np.float32)) @ kernel(y, 1).T
    points = jnp.stack(jnp.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    log_p = np.asarray(jax.jit(jax.vmap(density))(points), float).reshape(found.shape)
    return _normal(found.astype(float)), _normal(np.exp(log_p))


def _normal(density: np.ndarray) -> np.ndarray:
    x, y = _axes()
    return density / (density.sum() * (x[1] - x[0]) * (y[1] - y[0]))


def _gaussian(q: Any) -> np.ndarray:
    x, y = _axes()
    points = jnp.stack(jnp.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    log_q = np.asarray(jax.vmap(q.log_prob)(points), float)
    return _normal(np.exp(log_q).reshape(len(x), len(y)))


def _kl(q: np.ndarray, p: np.ndarray) -> float:
    x, y = _axes()
    there = q > 0.0
    terms = q[there] * (np.log(q[there]) - np.log(np.maximum(p[there], 1e-300)))
    return float(terms.sum() * (x[1] - x[0]) * (y[1] - y[0]))


def _below(q: Any) -> float:
    """The share of draws whose bound is not above, up to rounding."""
    keys = jax.random.split(jax.random.key(3), 500)
    of = lambda bound: jax.vmap(lambda k: q.sample_and_linearised_entropy(k, bound)[1])(keys)
    exact, bound = map(
        np.asarray, jax.jit(lambda: (of("log_det"), of("smallest_singular_value")))()
    )
    return float((bound <= exact + 1e-4).mean())


def _affine_error(family: Any, seed: int) -> float:
    """How far the entropy of a sampler without a network is from that of its Gaussian."""
    rng = np.random.default_rng(seed)
    linear, noise = rng.normal(size=(10, 10)), rng.uniform(-2.0, 0.0, 10)
    q = family(None, jnp.zeros(10))
    last = lambda q: (q.generator.network.layers[-1].weight, q.generator.network.layers[-1].bias)
    q = eqx.tree_at(last, q, replace_fn=jnp.zeros_like)
    parts = (jnp.asarray(linear, jnp.float32), jnp.asarray(noise, jnp.float32))
    q = eqx.tree_at(lambda q: (q.generator.linear, q.log_noise), q, parts)
    covariance = linear @ linear.T + np.diag(np.exp(2.0 * noise))
    exact = 0.5 * np.linalg.slogdet(2.0 * np.pi * np.e * covariance)[1]
    return abs(float(q.sample_and_linearised_entropy(jax.random.key(seed))[1]) - exact)


def _data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-2.0, 2.0, ROWS))
    bump = np.tanh(1.5 * (x + 1.0)) - np.tanh(1.5 * (x - 1.0))
    return x, bump + NOISE * rng.normal(size=ROWS)


def _nuts(data: Any, seed: int, share: int) -> dict[str, np.ndarray]:
    run = MCMC(
        NUTS(network, max_tree_depth=8),
        num_warmup=500 // share,
        num_samples=1000 // share,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    run.run(jax.random.key(seed), *data)
    return jax.tree.map(np.asarray, run.get_samples())


def _output(draws: dict[str, np.ndarray]) -> np.ndarray:
    """The network's output on the grid, one row a draw."""
    w1, b1, w2 = (np.asarray(draws[name], float) for name in LAYERS)
    return (np.tanh(GRID[:, None] * w1[:, None] + b1[:, None]) @ w2[:, :, None])[..., 0]


def _correlation(draws: dict[str, np.ndarray]) -> float:
    """Mean absolute correlation across layers; units have positive w1, in the order of w2."""
    w1, b1, w2 = (np.asarray(draws[name], float) for name in LAYERS)
    sign = np.where(w1 < 0.0, -1.0, 1.0)
    order = np.argsort(w2 * sign, 1)
    w1, b1, w2 = (np.take_along_axis(v * sign, order, 1) for v in (w1, b1, w2))
    every = np.corrcoef(np.concatenate([w1, b1, w2], 1).T)
    return float(np.abs(every[: 2 * UNITS, 2 * UNITS :]).mean())
