"""Two regressions bridge any two densities, by an ODE with a likelihood or an SDE that corrects it.

A path x_t = (1-t) x0 + t x1 + gamma(t) z joins draws of two densities. The mean of its rate given
x_t is the velocity b of an ODE that moves one density to the other and gives the density of what it
moves; the mean of z gives the score, and with it SDEs of any diffusion with the same laws. Both are
least-squares regressions. Where the learnt fields are a little wrong, the ODE keeps the error and
the SDE forgets it.

Paper: M. Albergo, N. Boffi and E. Vanden-Eijnden, "Stochastic interpolants: a unifying framework
for flows and diffusions", arXiv:2303.08797, 2023 (theorem 2.6, sections 2.4, 3.2 and 6.1).

Scaled down: Gaussian mixtures of 3 and 4 components in 2 and 16 dimensions, whose velocity and
score at every time are known; networks of three layers, and 6,000 steps. The paper's own examples
of this kind are mixtures too, up to 128 dimensions, with larger networks. Their option to optimise
the path is not run.

Data: made here from the seed: 100,000 draws of the target's mixture. Another 36,000 choose the
diffusion, and another 96,000 of each sampler and of the target compare the two, as many of each
component.

Thresholds: the catalogue's. The error of a field is E|learnt - exact|^2 / E|exact|^2 over draws of
x_t, at each of 19 times from 0.05 to 0.95; the check takes the largest, of both fields, dimensions
and all seeds. The SDE's and the ODE's energy distances are means over seeds, from the same draws of
the base and against the same draws of the target. Unbiased estimates of a distance near zero can be
negative, so that their difference is taken and not their ratio; both are about 1e-4, and those of
exact draws vary by 1e-5.

Wrong variant: the velocity regresses on the interpolation's rate alone, without the noise's.
Its draws find the right modes.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax

import ritz
from ritz.family import FullRank, Mixture
from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.transport import Interpolant, brownian, interpolant, linear
from ritz.transport._ode import solve

SEEDS = (0, 1, 2)
DIMENSIONS = (2, 16)
STEPS, LR = 6000, 0.004
WIDTH = {2: 64, 16: 128}
TIMES = np.linspace(0.05, 0.95, 19)
DATA, VALID, DRAWS, LIKELIHOODS = 100_000, 36_000, 96_000, 1000
DIFFUSIONS, WALK = (0.25, 0.5, 1.0), 100
PATH = linear(gamma=brownian())


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def fit_bridge(
    base: Mixture, x1: np.ndarray, seed: int, steps: int, kind: Any = Interpolant
) -> Any:
    """The interpolant between a mixture and samples, with both fields learnt."""
    build = interpolant(base=base, path=PATH, width=WIDTH[x1.shape[1]], rows=256)

    def family(target: Any, start: Any) -> Interpolant:
        q = build(target, start)
        return kind(**{f.name: getattr(q, f.name) for f in dataclasses.fields(q)})

    target = ritz.target.from_samples(x1)
    fit = ritz.fit(target, family=family, steps=steps, lr=LR, seed=seed, progress=False)
    return paramax.unwrap(fit.q)


# -- the wrong variant: what the checks must catch ------------------------------------------------


class WithoutNoiseRate(Interpolant):
    """The velocity without the mean of gamma' z, which belongs to it."""

    def rate(self, t: Any, x0: Any, x1: Any, z: Any) -> Any:
        return super().rate(t, x0, x1, jnp.zeros_like(z))


# -- the baseline: the fields in closed form ------------------------------------------------------


def exact_fields(base: Mixture, target: Mixture, t: Any, x: Any) -> tuple[Any, Any]:
    """Velocity and E[z | x] at a place: pairs of components are jointly Gaussian with x_t."""
    (a, b, c), (da, db, dc) = PATH.at(t), PATH.rates(t)
    (w0, m0, c0), (w1, m1, c1) = _moments(base), _moments(target)
    eye = jnp.eye(len(x))
    mean = a * m0[:, None] + b * m1
    spread = a**2 * c0[:, None] + b**2 * c1 + c**2 * eye
    moving = a * da * c0[:, None] + b * db * c1 + c * dc * eye
    solved = jnp.linalg.solve(spread, (x - mean)[..., None])[..., 0]
    log_p = -0.5 * ((x - mean) * solved).sum(-1) - 0.5 * jnp.linalg.slogdet(spread)[1]
    share = jax.nn.softmax((jnp.log(w0[:, None] * w1) + log_p).ravel()).reshape(log_p.shape)
    flow = da * m0[:, None] + db * m1 + jnp.einsum("ijkl,ijl->ijk", moving, solved)
    return jnp.einsum("ij,ijk->k", share, flow), c * jnp.einsum("ij,ijk->k", share, solved)


def field_errors(q: Interpolant, base: Mixture, target: Mixture, key: Any) -> np.ndarray:
    """The relative mean squared errors of velocity and denoiser, by time."""

    def one(t: Any, key: Any) -> Any:
        first, second, third = jax.random.split(key, 3)
        z = jax.random.normal(third, (base.dim,))
        x = q.place(t, base.sample(first), target.sample(second), z)
        exact, learnt = exact_fields(base, target, t, x), (q.flow(t, x), q.noise(t, x))
        squares = lambda v: jnp.stack([(u**2).sum() for u in v])
        return squares([f - g for f, g in zip(learnt, exact, strict=True)]), squares(exact)

    keys = jax.random.split(key, 2000)
    at = jax.jit(jax.vmap(one, (None, 0)))
    ratios = [
        (lambda off, size: off.mean(0) / size.mean(0))(*at(jnp.asarray(t, jnp.float32), keys))
        for t in TIMES
    ]
    return np.asarray(ratios)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Fields, likelihoods and draws of learnt interpolants against the exact ones."""
    steps, few = (STEPS // 20, 16) if quick else (STEPS, 1)
    kind = WithoutNoiseRate if wrong else Interpolant
    errors: dict[int, list[np.ndarray]] = {d: [] for d in DIMENSIONS}
    gaps: dict[int, list[float]] = {d: [] for d in DIMENSIONS}
    energies, chosen, shown = [], [], {}
    for seed in seeds:
        for d in DIMENSIONS:
            keys = jax.random.split(jax.random.key(1_000_000 + seed), 8)
            base, target = _mixture(d, 3, 2 * seed), _mixture(d, 4, 2 * seed + 1)
            x1 = _draw(target.sample, keys[0], DATA)
            q = fit_bridge(base, x1, seed, steps, kind)
            errors[d].append(field_errors(q, base, target, keys[1]))
            fresh = jnp.asarray(_draw(target.sample, keys[2], LIKELIHOODS))
            exact = jax.jit(jax.vmap(target.log_prob))(fresh)
            gaps[d].append(float((exact - jax.jit(jax.vmap(q.log_prob))(fresh)).mean()))
            if d == DIMENSIONS[-1]:
                best, found = _compare(q, base, target, keys[3], few)
                energies.append(found)
                chosen.append(best)
            elif not shown:
                shown = {"target": fresh, "ode": _draw(q.sample, keys[7], LIKELIHOODS)}
                shown["sde"] = _draw(q.sample_sde, keys[7], LIKELIHOODS)
    by_sampler = np.mean(energies, axis=0)
    checks = (
        Check(
            name="largest relative error of a field",
            value=float(max(np.max(e) for e in errors.values())),
            direction="<=",
            threshold=0.1,
            compared="learnt velocity and denoiser with the exact ones, over 19 times",
        ),
        Check(
            name="largest mean log density lost",
            value=float(max(np.max(g) for g in gaps.values())),
            direction="<=",
            threshold=0.15,
            compared="exact less ODE log density of fresh draws of the target, in nats",
        ),
        Check(
            name="SDE's energy distance less the ODE's",
            value=float(by_sampler[0] - by_sampler[1]),
            direction="<=",
            threshold=0.0,
            compared="16 dimensions, the SDE with the diffusion that a validation set chose",
        ),
    )
    figures = {"energy: SDE": float(by_sampler[0]), "energy: ODE": float(by_sampler[1])}
    figures["smallest diffusion chosen"] = float(min(chosen))
    for d in DIMENSIONS:
        figures[f"error of the velocity, d={d}"] = float(np.max(np.asarray(errors[d])[..., 0]))
        figures[f"error of the denoiser, d={d}"] = float(np.max(np.asarray(errors[d])[..., 1]))
        figures[f"log density lost, d={d}"] = float(np.max(gaps[d]))
    curves = {f"errors {d}": np.mean(errors[d], axis=0) for d in DIMENSIONS}
    return Result(checks, seeds, figures, {**curves, **shown})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Draws in two dimensions, and the fields' errors over time."""
    with canvas(1, 3, size=(10.0, 3.2)) as (figure, axes):
        for ax, name, title in zip(axes[0], ("ode", "sde"), ("ODE", "SDE"), strict=False):
            ax.plot(*np.asarray(result.curves["target"]).T, ".", ms=3, color="0.7", label="target")
            ax.plot(*np.asarray(result.curves[name]).T, ".", ms=3, label=title)
            ax.legend()
        ax = axes[0, 2]
        for d in DIMENSIONS:
            for k, name in enumerate(("velocity", "denoiser")):
                ax.plot(TIMES, result.curves[f"errors {d}"][:, k], label=f"{name}, d = {d}")
        ax.axhline(0.1, color="black", lw=1.0)
        ax.set(xlabel="t", ylabel="relative squared error", yscale="log")
        ax.legend(fontsize=7)
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _mixture(d: int, components: int, seed: int) -> Mixture:
    """Equal weights, means at random of length about 3, covariances with eigenvalues 0.4 to 1.2."""
    rng = np.random.default_rng([d, seed])
    means = 3.0 * rng.normal(size=(components, d)) / np.sqrt(d)
    turns = np.linalg.qr(rng.normal(size=(components, d, d)))[0]
    spread = turns * rng.uniform(0.4, 1.2, (components, 1, d)) @ turns.swapaxes(1, 2)
    root = np.linalg.cholesky(spread)
    sd = np.diagonal(root, axis1=1, axis2=2)
    arrays = (means, np.log(sd), root / sd[:, :, None])
    parts = FullRank(*(jnp.asarray(v, jnp.float32) for v in arrays))
    return Mixture(jnp.zeros(components), parts, "full_rank")


def _moments(mixture: Mixture) -> tuple[Any, Any, Any]:
    mixture = paramax.unwrap(mixture)
    parts: Any = mixture.parts
    roots = jax.vmap(lambda part: part.scale_tril)(parts)
    return mixture.weights, parts.loc, roots @ roots.swapaxes(1, 2)


def _draw(sample: Any, key: Any, n: int) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(sample))(jax.random.split(key, n)))


def _compare(q: Interpolant, base: Mixture, target: Mixture, key: Any, few: int) -> Any:
    """The diffusion that a validation set chooses, and the energy distances of SDE and ODE."""

    def moved(key: Any, n: int, diffusion: float | None) -> np.ndarray:
        first, walk = jax.random.split(key)
        x0 = _strata(base, first, n)
        if diffusion is None:
            return np.asarray(_flowed(q, x0))
        return np.asarray(_walked(q, x0, jax.random.split(walk, n), jnp.float32(diffusion)))

    valid, choose, held, last = jax.random.split(key, 4)
    seen = _strata(target, valid, VALID // few)
    tried = [_energy(moved(choose, VALID // few, c), seen) for c in DIFFUSIONS]
    best = DIFFUSIONS[int(np.argmin(tried))]
    fresh = _strata(target, held, DRAWS // few)
    return best, [_energy(moved(last, DRAWS // few, c), fresh) for c in (best, None)]


@eqx.filter_jit
def _flowed(q: Interpolant, x0: Any) -> Any:
    return jax.lax.map(lambda x: solve(q.flow, x, 0.0, 1.0), x0, batch_size=4000)


@eqx.filter_jit
def _walked(q: Interpolant, x0: Any, keys: Any, diffusion: Any) -> Any:
    walk = lambda at: q.walk(at[0], at[1], diffusion, WALK)
    return jax.lax.map(walk, (x0, keys), batch_size=4000)


def _strata(mixture: Mixture, key: Any, n: int) -> Any:
    """As many draws of each component, so that their shares bring no noise."""
    each = jax.vmap(mixture.sample_each)(jax.random.split(key, n // mixture.components))
    return each.reshape(-1, mixture.dim)


@jax.jit
def _apart(x: Any, y: Any) -> Any:
    def rows(x: Any) -> Any:
        squares = (x**2).sum(-1)[:, None] + (y**2).sum(-1) - 2.0 * x @ y.T
        return jnp.sqrt(jnp.maximum(squares, 0.0)).mean()

    return jax.lax.map(rows, x.reshape(-1, 500, x.shape[1])).mean()


def _energy(x: np.ndarray, y: np.ndarray) -> float:
    """The energy distance, without the bias of pairs of a point with itself."""
    own = lambda v: float(_apart(v, v)) * len(v) / (len(v) - 1)
    return 2.0 * float(_apart(x, y)) - own(x) - own(y)
