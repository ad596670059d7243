"""A Schrödinger bridge whose paths are reflected generates inside the domain, and nothing outside.

Two drifts lead from a base to data and back, and are trained in turn, each along paths of the
other. Every step that would leave the domain is mirrored at its boundary, in training as in
generation. What is generated is then as near to data as that of a bridge without boundary whose
samples are projected afterwards. The first turn alone, a diffusion model with a reflected
reference, is not: that does not get from the data to the base in the time there is.

Paper: W. Deng, Y. Chen, N. Yang, H. Du, Q. Feng and R. Chen, "Reflected Schrödinger bridge for
constrained generative modeling", UAI 2024, arXiv:2401.03228.

Scaled down: a checkerboard of cells of 0.5 in the unit disc and in a flower of five petals inside
of it; a reference of variance 0.06, 40 steps, five turns of 500 updates, networks of three layers
of 64 that see waves of the coordinates. The base is uniform in the domain shrunk to 0.7 of its
size, so that the ends are not alike: from all of the disc, with a variance of 0.03 and 1,000
updates, the first iterate was 0.027 away and the bridge 0.022 (seed 0), a share of 0.81. The drifts
have no normal part at the boundary (Neumann's condition), and the divergence is exact. The paper's
images in a cube are not run.

Data: made here from the seed, 40,000 for training and as many held out.

Thresholds: the catalogue's, for the worse domain; distances and leaks are means over seeds. Sliced
distances are over 50 directions, between 40,000 samples and those held out; two sets of data are
0.006 apart. The unconstrained bridge is the same code with the same budget and no domain; the first
iterate has all the updates that the forward drift has in the bridge.

Wrong variant: the loss forgets the drift of the paths that it sees, u . v. In the first turn that
is zero; later each drift inverts a reference that is not there.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ritz
from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.transport import ReflectedBridge, domain, ipf, reflected_bridge

SEEDS = (0, 1, 2)
DATA, HELD = 40_000, 40_000
SHRUNK = 0.7  # the base, against the domain
EPSILON, STEPS, TURNS, INNER, LR = 0.06, 40, 5, 500, 0.005
DIRECTIONS = np.stack([f(np.arange(50) * np.pi / 50) for f in (np.cos, np.sin)])


def disc(x: Any) -> Any:
    """Of radius one."""
    return jnp.sqrt((x**2).sum() + 1e-12) - 1.0


def flower(x: Any) -> Any:
    """Of five petals, in the unit disc."""
    return disc(x) + 1.0 - (1.0 + 0.25 * jnp.cos(5.0 * jnp.arctan2(x[1], x[0]))) / 1.25


DOMAINS = {"disc": domain(disc), "flower": domain(flower)}


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def generated(
    data: Any, inside: Any, turns: int, inner: int, seed: int, kind: Any = ReflectedBridge
) -> np.ndarray:
    """Samples of a bridge from the base to the data."""
    builder = reflected_bridge(data["base"], inside, epsilon=EPSILON, steps=STEPS)

    def family(target: Any, start: Any) -> ReflectedBridge:
        return kind(**vars(builder(target, start)))

    settings: dict[str, Any] = {"steps": turns * inner, "seed": seed, "progress": False}
    target = ritz.target.from_samples(data["train"])
    fit = ritz.fit(target, family=family, solver=ipf(inner=inner, lr=LR), **settings)
    keys = jax.random.split(jax.random.key(1_000_000 + seed), len(data["held"]))
    return np.asarray(jax.jit(jax.vmap(fit.q.sample))(keys))


# -- the baselines: measured in the same run ------------------------------------------------------


@functools.cache
def _baselines(name: str, seed: int, quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a bridge without domain, and of the first iterate; also for the wrong variant."""
    data, inner = _data(name, seed, quick), INNER // 20 if quick else INNER
    free = generated(data, None, TURNS, inner, seed)
    return free, generated(data, DOMAINS[name], 1, inner * (TURNS + 1) // 2, seed)


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Forgetful(ReflectedBridge):
    """Each drift is trained as if paths had none."""

    def half(self, side: Any, at: Any) -> Any:
        return super().half(side, at._replace(drift=jnp.zeros_like(at.drift)))


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Both domains: what leaks, and how far from data samples are."""
    kind, inner = Forgetful if wrong else ReflectedBridge, INNER // 20 if quick else INNER
    names = ("reflected", "projected", "first iterate")
    outside, leaks = np.zeros((2, len(DOMAINS), len(seeds)))
    distances, shown = np.zeros((3, len(DOMAINS), len(seeds))), {}
    for i, (name, inside) in enumerate(DOMAINS.items()):
        for j, seed in enumerate(seeds):
            data = _data(name, seed, quick)
            mine = generated(data, inside, TURNS, inner, seed, kind)
            free, first = _baselines(name, seed, quick)
            outside[i, j], leaks[i, j] = (1.0 - _inside(name, x).mean() for x in (mine, free))
            projected = np.asarray(jax.jit(jax.vmap(inside.project))(jnp.asarray(free)))
            samples = (mine, projected, first)
            distances[:, i, j] = [sliced(x, data["held"]) for x in samples]
            if j == 0:
                shown[name] = {"reflected": mine, "free": free, "first": first}
    by_domain = distances.mean(-1)
    checks = (
        Check(
            name="share of samples outside of the domain",
            value=float(outside.max()),
            direction="<=",
            threshold=0.0,
            compared="reflected bridge, the largest of domains and seeds",
        ),
        Check(
            name="share that a bridge without domain leaks",
            value=float(leaks.mean(-1).min()),
            direction=">=",
            threshold=0.01,
            compared="mean over seeds, the smaller of two domains",
        ),
        Check(
            name="sliced W2 as a share of the projected bridge's",
            value=float((by_domain[0] / by_domain[1]).max()),
            direction="<=",
            threshold=1.1,
            compared="to held-out data, means over seeds, the worse domain",
        ),
        Check(
            name="sliced W2 as a share of the first iterate's",
            value=float((by_domain[0] / by_domain[2]).max()),
            direction="<=",
            threshold=0.8,
            compared="to held-out data, means over seeds, the worse domain",
        ),
    )
    figures = {}
    for i, name in enumerate(DOMAINS):
        figures[f"leaks of the {name}"] = float(leaks[i].mean())
        for n, of in enumerate(names):
            figures[f"sliced W2 in the {name}, {of}"] = float(by_domain[n, i])
    return Result(checks, seeds, figures, {"shown": shown})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Samples in both domains; what is outside is marked."""
    titles = {"reflected": "reflected", "free": "no domain", "first": "first iterate"}
    with canvas(2, 3, size=(9.0, 6.0)) as (figure, axes):
        for row, (name, samples) in zip(axes, result.curves["shown"].items(), strict=True):
            for ax, (of, title) in zip(row, titles.items(), strict=True):
                x = samples[of][:2000]
                within = _inside(name, x)
                ax.plot(*x[within].T, ".", ms=1.0, color="#0072B2")
                ax.plot(*x[~within].T, ".", ms=3.0, color="#D55E00")
                ax.set(title=f"{title}, {name}", aspect="equal", xticks=(), yticks=())
                ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
    return figure


# -- what the parts above need --------------------------------------------------------------------


def sliced(x: np.ndarray, y: np.ndarray) -> float:
    """The sliced Wasserstein distance of as many samples of each."""
    apart = np.sort(x @ DIRECTIONS, axis=0) - np.sort(y @ DIRECTIONS, axis=0)
    return float(np.sqrt((apart**2).mean()))


def _inside(name: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(DOMAINS[name].inside))(jnp.asarray(x, jnp.float32)))


@functools.cache
def _data(name: str, seed: int, quick: bool) -> dict[str, np.ndarray]:
    """Uniform samples of the shrunk domain, and of the checkerboard's black cells in it."""
    rng, short = np.random.default_rng(seed), 20 if quick else 1

    def drawn(n: int, black: bool) -> np.ndarray:
        x = rng.uniform(-1.0, 1.0, (6 * n, 2)).astype(np.float32)
        kept = _inside(name, x)
        if black:
            kept = kept & (np.floor(2.0 * x).sum(1) % 2 == 0)
        return x[kept][:n]

    sizes = {"base": (DATA, False), "train": (DATA, True), "held": (HELD, True)}
    found = {key: drawn(n // short, black) for key, (n, black) in sizes.items()}
    return found | {"base": SHRUNK * found["base"]}
