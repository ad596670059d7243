"""Conditional transport covers modes or seeks them, as its weight says, and keeps those of a grid.

Two couplings between samples and draws are softmaxes over mini-batches. The way from samples to
draws wants a draw near each sample, and spreads a model over all modes; the way back wants a sample
near each draw, and puts it on few. Their mixture is minimised without an adversary.
Where a generative adversarial network forgets modes, because its critic sees draws alone one by
one, the way from samples to draws misses each mode that no draw is near.

Paper: H. Zheng and M. Zhou, "Exploiting chain rule and Bayes' theorem to compare probability
distributions", NeurIPS 2021, arXiv:2012.14100. The baseline: I. Goodfellow et al., "Generative
adversarial nets", NeurIPS 2014, arXiv:1406.2661.

Scaled down: the paper's toys at about their size: a Gaussian fitted to 0.6 N(-5, 1) + 0.4 N(2, 1)
at weights 1 and 0, and 25 Gaussians of sd 0.1 on a grid of spacing 2, at weight 0.5. The cost is
the squared distance, as in the authors' code of their toys: with a critic the grid's draws stayed
spread over its square. The adversarial network has the same generator, a discriminator as large as
the navigator, the loss that does not saturate, and the same batches and steps. Each has the
learning rate, of three, that captures most modes on a seed which is not recorded.

Data: made here from the seed, 10,000 samples each.

Thresholds: the catalogue's. A mode is captured if at least 40 of 10,000 draws, a tenth of its
share, are within three sds of its centre. What seeks modes at weight 0 ends narrower than a mode:
nothing in the way back asks for more.

Wrong variant: each coupling is a softmax along the other's axis. The loss still falls, and at equal
weights nothing tells; but what should cover modes seeks them.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import numpy as np
import paramax

import ritz
from ritz.family import AbstractFamily, implicit
from ritz.objective import AbstractDirect
from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.transport import ConditionalTransport, conditional_transport

SEEDS = (0, 1, 2, 3, 4)
TUNED_ON = 1000
SAMPLES, DRAWS, ROWS = 10_000, 10_000, 256
STEPS = {"line": 2000, "grid": 4000}
RATE, RATES = 0.01, (0.0003, 0.001, 0.003)  # on the line; on the grid, to choose from
WIDTH, SD = 128, 0.1
CENTRES = np.stack(np.meshgrid(*2 * [np.arange(-4.0, 5.0, 2.0)]), axis=-1).reshape(-1, 2)


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def gaussian(target: Any, weight: float, steps: int, seed: int, objective: Any) -> Any:
    """A Gaussian fitted at a weight, by squared distances."""
    family = conditional_transport("full_rank", weight=weight, critic=False, rows=ROWS)
    return _fit(target, family, RATE, steps, seed, objective)


def network(target: Any, rate: float, steps: int, seed: int, objective: Any) -> Any:
    """A generator, at equal weights."""
    family = conditional_transport(generator, critic=False, width=WIDTH, rows=ROWS)
    return _fit(target, family, rate, steps, seed, objective)


def generator(target: Any, start: Any) -> Any:
    """Sixteen normals through a network, plus noise."""
    return implicit(target, start, latent=16, width=WIDTH, depth=2)


# -- the baseline: measured in the same run -------------------------------------------------------


class Adversary(AbstractFamily):
    """A generator and a discriminator."""

    capabilities = frozenset({"sample", "reparameterised"})
    base: AbstractFamily
    discriminator: eqx.nn.MLP
    scale: Any

    @property
    def dim(self) -> int:
        return self.base.dim

    @property
    def objective(self) -> "JensenShannon":
        return JensenShannon()

    def sample(self, key: Any) -> Any:
        return self.base.sample(key)


class JensenShannon(AbstractDirect):
    """The discriminator's cross entropy, and the generator's loss that does not saturate."""

    def loss(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        seen, drawn = jax.random.split(key)
        x = target.draw(seen, ROWS)
        y = jax.vmap(q.sample)(jax.random.split(drawn, ROWS))
        still = jax.lax.stop_gradient
        score = lambda network, v: jax.vmap(network)(v / q.scale)
        fixed = jax.tree.map(lambda v: still(v) if eqx.is_array(v) else v, q.discriminator)
        entropy = jax.nn.softplus(-score(q.discriminator, x)).mean()
        entropy += jax.nn.softplus(score(q.discriminator, still(y))).mean()
        return entropy + jax.nn.softplus(-score(fixed, y)).mean()


def with_adversary(target: Any, start: Any) -> Adversary:
    """The same generator, with a discriminator of the navigator's size."""
    scale: Any = paramax.non_trainable(target.samples.std())
    shape: Any = (2, "scalar", WIDTH, 2, jax.nn.leaky_relu)
    return Adversary(generator(target, start), eqx.nn.MLP(*shape, key=jax.random.key(1)), scale)


def adversarial(target: Any, rate: float, steps: int, seed: int, objective: Any = None) -> Any:
    """A generator against a discriminator."""
    return _fit(target, with_adversary, rate, steps, seed, objective)


# -- the wrong variant: what the checks must catch ------------------------------------------------


class OtherAxis(ConditionalTransport):
    """Couplings that are normalised along the other's axis."""

    def couplings(self, apart: Any) -> Any:
        forward, backward = jax.nn.softmax(-apart, axis=0), jax.nn.softmax(-apart, axis=1)
        return forward, backward


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Sds at both weights, and modes of the grid."""
    objective = OtherAxis() if wrong else None
    steps = {k: v // 20 if quick else v for k, v in STEPS.items()}
    rates = RATES[-1:] if quick else RATES
    rate = _rate(network, steps["grid"], rates), _rate(adversarial, steps["grid"], rates)
    sds = np.zeros((2, len(seeds)))
    modes = np.zeros((2, len(seeds)))
    shown: dict[str, Any] = {}
    for j, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        side = rng.uniform(size=SAMPLES) < 0.6
        line = np.where(side, -5.0, 2.0) + rng.normal(size=SAMPLES)
        target = ritz.target.from_samples(line[:, None])
        for i, weight in enumerate((1.0, 0.0)):
            x = _draws(gaussian(target, weight, steps["line"], seed, objective), seed)
            sds[i, j] = x.std()
            shown[f"weight {weight:g}"] = x[:, 0]
        target = _grid(seed)
        shown["line"] = line
        ours = network(target, rate[0], steps["grid"], seed, objective)
        shown["conditional transport"] = _draws(ours, seed)
        shown["adversarial network"] = _baseline(seed, rate[1], steps["grid"])
        for i, name in enumerate(("conditional transport", "adversarial network")):
            modes[i, j] = _captured(shown[name])
    checks = (
        Check(
            name="sd at the covering weight over that at the seeking one",
            value=float((sds[0] / sds[1]).mean()),
            direction=">=",
            threshold=2.0,
            compared="one Gaussian fitted to two modes at weights 1 and 0, mean over seeds",
        ),
        Check(
            name="modes more than the adversarial network's",
            value=float((modes[0] - modes[1]).mean()),
            direction=">=",
            threshold=2.0,
            compared="of 25, the same generator, batches and steps, tuned rates; mean over seeds",
        ),
    )
    figures = {
        "sd, covering": float(sds[0].mean()),
        "sd, seeking": float(sds[1].mean()),
        "modes, conditional transport": float(modes[0].mean()),
        "modes, adversarial network": float(modes[1].mean()),
        "rate, conditional transport": rate[0],
        "rate, adversarial network": rate[1],
    }
    return Result(checks, seeds, figures, shown)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Two modes and both Gaussians, and the grid's draws."""
    curves = result.curves
    with canvas(1, 3, size=(10.0, 3.3)) as (figure, axes):
        bins = np.linspace(-12.0, 9.0, 85)
        for name in ("line", "weight 1", "weight 0"):
            label = "samples" if name == "line" else name
            kind = "stepfilled" if name == "line" else "step"
            axes[0, 0].hist(curves[name], bins, density=True, histtype=kind, label=label)
        axes[0, 0].set(ylim=(0.0, 0.6), xlabel="x")
        axes[0, 0].legend()
        for ax, name in zip(
            axes[0, 1:], ("conditional transport", "adversarial network"), strict=True
        ):
            ax.plot(*CENTRES.T, "+", color="black", ms=4)
            ax.plot(*curves[name][:3000].T, ".", ms=1.5)
            ax.set(title=name, xlim=(-5.5, 5.5), ylim=(-5.5, 5.5), aspect="equal")
    return figure


# -- what the parts above need --------------------------------------------------------------------


@functools.cache
def _grid(seed: int) -> Any:
    rng = np.random.default_rng((seed, 1))
    grid = CENTRES[rng.integers(len(CENTRES), size=SAMPLES)]
    return ritz.target.from_samples(grid + SD * rng.normal(size=grid.shape))


@functools.cache
def _baseline(seed: int, rate: float, steps: int) -> np.ndarray:
    """The same for the wrong variant."""
    return _draws(adversarial(_grid(seed), rate, steps, seed), seed)


@functools.cache
def _rate(method: Any, steps: int, rates: tuple[float, ...]) -> float:
    """The rate that captures most modes on the seed for tuning."""
    grid = _grid(TUNED_ON)
    found = [
        _captured(_draws(method(grid, rate, steps, TUNED_ON, None), TUNED_ON)) for rate in rates
    ]
    return rates[int(np.argmax(found))]


def _fit(target: Any, family: Any, rate: float, steps: int, seed: int, objective: Any) -> Any:
    return ritz.fit(
        target,
        family=family,
        objective=objective,
        steps=steps,
        lr=rate,
        seed=seed,
        progress=False,
    )


def _draws(fit: Any, seed: int) -> np.ndarray:
    keys = jax.random.split(jax.random.key(1_000_000 + seed), DRAWS)
    return np.asarray(jax.jit(jax.vmap(paramax.unwrap(fit.q).sample))(keys), float)


def _captured(x: np.ndarray) -> int:
    near = ((x[:, None] - CENTRES) ** 2).sum(-1) < (3.0 * SD) ** 2
    return int((near.sum(0) >= 0.1 * len(x) / len(CENTRES)).sum())
