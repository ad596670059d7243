"""Averaging one ergodic map's pushforwards tends to the target as their number grows.

A normalising flow is as good as its training; a mixed flow has next to nothing to train. Its map T
nearly preserves the target: leapfrog steps of Hamiltonian dynamics without Metropolis correction,
then a deterministic refreshment of the momentum and a shift of a pseudotime. T^n applied to a
reference is no nearer to the target for any n, but the average over n is, by ergodicity, and the
inverse orbit gives its density. Draws, density and ELBO are exact, and the error falls with the
length N of the flow, as in MCMC.

Paper: Z. Xu, N. Chen and T. Campbell, "MixFlows: principled variational inference via mixed flows",
ICML 2023, arXiv:2205.07475.

Scaled down: the paper's banana, cross and warped Gaussian, in two dimensions as there; 32 orbits a
seed. The reference is a mean-field fit for banana and warped. For the cross that fit covers one
bar only, and N(0, 0.25 I) is taken. The leapfrog step is the better of two by the ELBO; larger ones
gain a little more but make T too chaotic to be inverted. Planar and RealNVP flows of ten and eight
layers are trained on the ELBO. NUTS is BlackJAX's, adapted for 300 steps that are not counted.

Data: none; the targets are normalised, their quantiles are from exact draws.

Thresholds: the catalogue's. Total variation is of the augmented space, and averaged over the
targets for the ratio of N = 1000 to N = 10. The banana's own ratio, which is recorded, misses it
(0.57 in trials): its reference lies on one arm, and an orbit comes back some fifty times in a
thousand. "Within error" is three standard errors. The inversion error is the median over 200
starts: chaos makes it vary by ten orders of magnitude, and starts near a saddle are lost.

Wrong variant: the refreshment's Jacobian is left out of the density.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

import ritz
from ritz.family import MixFlow, mean_field, mixflow
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = tuple(range(5))
LENGTHS = (10, 100, 1000)
ORBITS = 32
LAYERS = {"planar": 10, "RealNVP": 8}
PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Leapfrog steps, and the step sizes to choose from.
SETTINGS = {"banana": (10, (0.2, 0.25)), "cross": (5, (0.1, 0.2)), "warped": (15, (0.05, 0.1))}


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def fit_mixflow(name: str, target: Any, seed: int, length: int) -> MixFlow:
    """A mixed flow: its reference first, then its step size."""
    leapfrog, sizes = SETTINGS[name]
    if name == "cross":
        reference = mean_field(target, jnp.zeros(2), scale=0.5)
    else:
        reference = ritz.fit(target, family="mean_field", steps=2000, seed=seed, progress=False).q
    family = lambda target, start: mixflow(target, start, length, leapfrog, reference)
    solver = ritz.solver.mixflow(train=0, candidates=sizes)
    return ritz.fit(target, family=family, solver=solver, seed=seed, progress=False).q  # pyright: ignore


@eqx.filter_jit
def orbits(q: MixFlow, keys: Any) -> Any:
    """Points of orbits and their log-weights."""
    return jax.vmap(q.trajectory)(keys)


@eqx.filter_jit
def inversion_error(q: MixFlow, keys: Any) -> Any:
    """How far a hundred applications and a hundred inverse ones lead from a start."""

    def one(key: Any) -> Any:
        start = q.start(key)
        far = jax.lax.fori_loop(0, 100, lambda _, s: q.forward(s), start)
        back = jax.lax.fori_loop(0, 100, lambda _, s: q.backward(s), far)
        error = jnp.abs(jnp.stack([back.z - start.z, back.momentum - start.momentum]))
        return error.max()

    return jax.vmap(one)(keys)


# -- the baselines: measured in the same run ------------------------------------------------------


def fit_flow(target: Any, kind: str, seed: int, steps: int) -> float:
    """The total variation of a trained planar or RealNVP flow."""
    build = ritz.family.planar if kind == "planar" else ritz.family.coupling
    family = lambda t, start: build(t, start, 1.0, layers=LAYERS[kind], seed=seed)
    fit = ritz.fit(
        target, family=family, steps=steps, draws=32, lr=0.005, seed=seed, progress=False
    )
    return _total_variation(fit.log_weights(20_000))


@eqx.filter_jit
def nuts(target: Any, starts: Any, key: Any, budget: int) -> Any:
    """Draws of NUTS chains, and for each whether its chain was within the budget of gradients."""
    import blackjax

    def chain(start: Any, key: Any) -> Any:
        warm_key, key = jax.random.split(key)
        warm: Any = blackjax.window_adaptation(blackjax.nuts, target.log_density)
        (state, tuned), _ = warm.run(warm_key, start, num_steps=300)
        kernel: Any = blackjax.nuts(target.log_density, **tuned)

        def step(carry: Any, key: Any) -> Any:
            state, spent = carry
            state, info = kernel.step(key, state)
            spent = spent + info.num_integration_steps
            return (state, spent), (state.position, spent <= budget)

        # A draw takes three gradients or more, but for rare turns at once.
        keys = jax.random.split(key, budget // 3)
        return jax.lax.scan(step, (state, 0), keys)[1]

    return jax.vmap(chain)(starts, jax.random.split(key, len(starts)))


# -- the wrong variant: what the checks must catch ------------------------------------------------


class WithoutRefreshJacobian(MixFlow):
    """The refreshment counts as if it preserved volume."""

    def forward(self, at: Any) -> Any:
        return super().forward(at)._replace(log_det=at.log_det)

    def backward(self, at: Any) -> Any:
        return super().backward(at)._replace(log_det=at.log_det)


# -- the experiment -------------------------------------------------------------------------------


def _rise(elbo: np.ndarray) -> np.ndarray:
    """How much the ELBO grows with N, in standard errors over the seeds; of one seed as it is."""
    step = np.diff(elbo.mean(0))
    if len(elbo) == 1:
        return step
    variance = elbo.var(0, ddof=1)
    return step / np.sqrt((variance[1:] + variance[:-1]) / len(elbo))


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Three targets: total variation and ELBO by length, quantiles, and the inverse."""
    lengths = LENGTHS[:2] if quick else LENGTHS
    longest, training = lengths[-1], 400 if quick else 4000
    found: dict[str, Any] = {}
    with jax.enable_x64(True):
        for name, density in TARGETS.items():
            target = ritz.target.from_log_density(density, jnp.full(2, 0.1))
            exact, sd = _exact(name)
            rows = [_one(name, target, seed, lengths, wrong, training, exact, sd) for seed in seeds]
            found[name] = {k: np.array([row[k] for row in rows]) for k in rows[0]}
    mean = lambda what: {name: f[what].mean(0) for name, f in found.items()}
    variation, rise = mean("variation"), mean("elbo")
    ratios = {name: v[-1] / v[0] for name, v in variation.items()}
    total = np.sum(list(variation.values()), axis=0)
    rises = {name: _rise(f["elbo"]) for name, f in found.items()}
    flows = {name: f["planar"].mean() for name, f in found.items() if name != "banana"}
    errors = [float(np.mean([f[who] for f in found.values()])) for who in ("ours", "nuts")]
    planar = float(max(variation[name][-1] / flows[name] for name in flows))
    least = float(min(v.min() for v in rises.values()))
    lost = float(max(np.median(f["inverse"]) for f in found.values()))
    share = f"total variation at N = {longest} as a share of N = 10"
    checks = (
        Check(share, float(total[-1] / total[0]), "<=", 0.5, "averaged over the targets"),
        Check("share of a planar flow's", planar, "<=", 1.0, "the larger of cross and warped"),
        Check("least rise of the ELBO with N, in standard errors", least, ">=", -3.0, "by target"),
        Check(
            "quantile error, share of NUTS's", errors[0] / errors[1], "<=", 1.5, "equal gradients"
        ),
        Check(
            "error of the inverse after 100 applications", lost, "<=", 1e-3, "median over starts"
        ),
    )
    figures = {}
    for name, f in found.items():
        figures |= {f"{name}: ratio": float(ratios[name])}
        figures |= {f"{name}: variation": float(variation[name][-1])}
        figures |= {f"{name}: planar": float(f["planar"].mean())}
        figures |= {f"{name}: RealNVP": float(f["realnvp"].mean())}
        figures |= {f"{name}: ELBO": float(rise[name][-1])}
    return Result(checks, seeds, figures, {"lengths": lengths, "found": found})


def _one(
    name: str, target: Any, seed: int, lengths: Any, wrong: bool, training: int, exact: Any, sd: Any
) -> dict[str, Any]:
    """One target and seed."""
    q = fit_mixflow(name, target, seed, lengths[-1])
    if wrong:
        q = WithoutRefreshJacobian(**{f.name: getattr(q, f.name) for f in dataclasses.fields(q)})
    variation, elbo = [], []
    points: Any = None
    for i, length in enumerate(lengths):
        cut = dataclasses.replace(q, length=length)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), i), ORBITS)
        points, log_w = orbits(cut, keys)
        variation.append(_total_variation(log_w))
        elbo.append(float(log_w.mean()))
    budget = lengths[-1] * q.leapfrog
    starts = q.reference.loc + jnp.exp(q.reference.log_scale) * jax.random.normal(
        jax.random.key(seed), (ORBITS, 2)
    )
    draws, within = nuts(target, starts, jax.random.key(seed), budget)
    wide = lambda x: np.quantile(np.asarray(x).reshape(-1, 2), PROBABILITIES, axis=0)
    error = lambda x: float(np.abs((wide(x) - exact) / sd).mean())
    keys = jax.random.split(jax.random.key(seed), 200)
    return {
        "variation": variation,
        "elbo": elbo,
        "ours": error(points),
        "nuts": error(np.asarray(draws)[np.asarray(within)]),
        "inverse": np.asarray(inversion_error(q, keys)),
        "planar": fit_flow(target, "planar", seed, training),
        "realnvp": fit_flow(target, "RealNVP", seed, training),
    }


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Total variation by length, with the flows' as lines across."""
    lengths, found = result.curves["lengths"], result.curves["found"]
    with canvas(1, len(found), size=(9.0, 3.0)) as (figure, axes):
        for ax, (name, f) in zip(axes[0], found.items(), strict=True):
            ax.loglog(lengths, f["variation"].T, "o-", color="C0", alpha=0.5)
            ax.axhline(f["planar"].mean(), color="C1", label="planar")
            ax.axhline(f["realnvp"].mean(), color="C2", label="RealNVP")
            ax.set(xlabel="N", ylabel="total variation", title=name)
        axes[0, 0].legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _total_variation(log_w: Any) -> float:
    return float(0.5 * jnp.abs(1.0 - jnp.exp(log_w)).mean())


def _banana(x: Any) -> Any:
    bent = x[1] - 0.1 * x[0] ** 2 + 10.0
    return -0.5 * (x[0] ** 2 / 100.0 + bent**2) - jnp.log(20.0 * jnp.pi)


_BARS = np.array([[0.0, 2.0], [-2.0, 0.0], [2.0, 0.0], [0.0, -2.0]])
_WIDTHS = np.array([[0.15, 1.0], [1.0, 0.15], [1.0, 0.15], [0.15, 1.0]])


def _cross(x: Any) -> Any:
    each = -0.5 * (((x - _BARS) / _WIDTHS) ** 2).sum(1)
    return logsumexp(each) - jnp.log(4.0 * 0.15 * 2.0 * jnp.pi)


def _warped(x: Any) -> Any:
    radius = jnp.sqrt((x**2).sum() + 1e-30)
    angle = jnp.arctan2(x[1], x[0]) + 0.5 * radius
    y = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle) / 0.12])
    return -0.5 * y @ y - jnp.log(0.12 * 2.0 * jnp.pi)


TARGETS = {"banana": _banana, "cross": _cross, "warped": _warped}


def _exact(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Marginal quantiles and standard deviations, from a million exact draws."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(1_000_000, 2))
    if name == "banana":
        x = np.stack([10.0 * y[:, 0], y[:, 1] + 10.0 * y[:, 0] ** 2 - 10.0], 1)
    elif name == "cross":
        bar = rng.integers(4, size=len(y))
        x = _BARS[bar] + _WIDTHS[bar] * y
    else:
        y[:, 1] *= 0.12
        radius = np.hypot(*y.T)
        angle = np.arctan2(y[:, 1], y[:, 0]) - 0.5 * radius
        x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.quantile(x, PROBABILITIES, axis=0), x.std(0)
