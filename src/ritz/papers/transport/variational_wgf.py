"""A map against a critic makes JKO steps without Jacobians, as exactly as log-determinants do.

A JKO step of size a moves P_k to the minimiser of KL(P || target) + W2(P, P_k)^2 / (2 a). The
divergence is the maximum over a critic h of E_P[log(h G / target)] + 1 - E_G[h], where G is a
Gaussian with the moments of P_k, so that P has to be drawn from only: any network can be the map.
The other way makes the map the gradient of a convex network, and takes the log-determinant of its
Hessian at each particle.

Paper: J. Fan, Q. Zhang, A. Taghvaei and Y. Chen, "Variational Wasserstein gradient flow", ICML
2022, arXiv:2112.02424. The baseline: P. Mokrov, A. Korotin, L. Li, A. Genevay, J. Solomon and
E. Burnaev, "Large-scale Wasserstein gradient flows", NeurIPS 2021, arXiv:2106.00736.

Scaled down: Gaussians in 2 and 8 dimensions and 4 steps; a mixture of 5 in 10 dimensions and 6
steps (the paper: 10 in up to 128, and 40 steps); two hidden layers. Both methods have the same
steps, start, batches and updates in the mixture, and each step starts from the last one's map.
Learning rates: 0.005 for the one, steadier than 0.01 on seeds 100 to 102 and level with it on the
recorded ones; the best of 0.005, 0.03, 0.05 and 0.1 on all three for the other. Seconds are those
of one step at 32 dimensions, compilation left out.

Data: made here from the seed. The Ornstein-Uhlenbeck process starts from the standard normal;
eigenvalues of the target's covariance are between 0.5 and 2, its mean is of length 2 sqrt(d).
Means of the mixture are uniform in [-3, 3]^10; it starts from a normal of sd 3.

Thresholds: the catalogue's. Exact iterates solve a quadratic for each eigen-direction. Errors are
relative, in the norm of a mean and the Frobenius norm of a covariance, from 100,000 particles; the
check takes the largest of steps, dimensions and seeds. Energy distances are unbiased and averaged
over seeds.

Wrong variant: the cost without its half, |x - T(x)|^2 / a, which is half the step.
"""

import functools
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from scipy.spatial.distance import cdist

import ritz
from ritz.family import AbstractFamily, full_rank
from ritz.objective import AbstractDirect
from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.transport import jko, wasserstein_flow

SEEDS = (0, 1, 2)
DIMENSIONS, STEPS, A = (2, 8), 4, 0.5  # of the process
MIXED, LONG, WIDE = 10, 6, 32  # dimensions and steps of the mixture, dimensions that are timed
SPREAD, COMPONENTS = 3.0, 5
INNER, ROWS, WIDTH, LR = 500, 1024, 16, 0.01  # of the process
UPDATES, SEEN, UNITS = 300, 256, 64  # of the mixture, for both methods
RATE, THEIRS = 0.005, 0.03  # their learning rates there
PARTICLES, COMPARED = 100_000, 5_000


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def variational(target: Any, base: Any, a: float, steps: int, seed: int, **options: Any) -> Any:
    """JKO steps by a map and a critic."""
    solver = jko(a, **options)
    family = wasserstein_flow(steps, base, width=options["width"])
    steps *= solver.inner
    return ritz.fit(target, family=family, solver=solver, steps=steps, seed=seed, progress=False)


# -- the baseline: measured in the same run -------------------------------------------------------


class ConvexMap(AbstractFamily):
    """Particles moved by the gradient of an input-convex network and a quadratic."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample"})
    pool: Any
    root: Any
    slope: Any
    inputs: Any
    hidden: Any
    last: Any
    a: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return len(self.slope)

    @property
    def objective(self) -> "LogDeterminant":
        return LogDeterminant()

    def potential(self, x: Any) -> Any:
        positive = lambda w: jax.nn.softplus(w) / w.shape[-1]
        first, second = (layer(x) for layer in self.inputs)
        z = jax.nn.softplus(second + positive(self.hidden) @ jax.nn.softplus(first))
        return positive(self.last) @ z + 0.5 * ((self.root @ x) ** 2).sum() + self.slope @ x

    def move(self, x: Any) -> Any:
        return jax.grad(self.potential)(x)

    def sample(self, key: Any) -> Any:
        pool = paramax.unwrap(self.pool)
        return paramax.unwrap(self).move(pool[jax.random.randint(key, (), 0, len(pool))])


class LogDeterminant(AbstractDirect):
    """What a JKO step minimises, by the change of variables."""

    def loss(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        x = q.pool[jax.random.randint(key, (q.rows,), 0, len(q.pool))]

        def one(x: Any) -> Any:
            y, grown = q.move(x), jnp.linalg.slogdet(jax.hessian(q.potential)(x))[1]
            return ((y - x) ** 2).sum() / (2.0 * q.a) - target.log_density(y) - grown

        return jax.vmap(one)(x).mean()


def convex(target: Any, x: Any, a: float, steps: int, seed: int, **options: Any) -> Any:
    """Particles after JKO steps by log-determinants, and the seconds of all."""
    d, units, seconds, q = x.shape[1], options["width"], 0.0, None
    for k in range(steps):

        def family(target: Any, start: Any, x: Any = x, q: Any = q) -> ConvexMap:
            one, two, three = jax.random.split(jax.random.key(4), 3)
            layers = tuple(eqx.nn.Linear(d, units, key=key) for key in (one, two))
            hidden, pool = jax.random.normal(three, (units, units)), paramax.non_trainable(x)
            new = (jnp.eye(d), jnp.zeros(d), layers, hidden - 2.0, jnp.full(units, -2.0))
            kept = new if q is None else (q.root, q.slope, q.inputs, q.hidden, q.last)
            return ConvexMap(pool, *kept, a, options["rows"])

        settings: Any = {"steps": options["inner"], "lr": options["lr"], "progress": False}
        fit = ritz.fit(target, family=family, seed=seed + 1000 * k, **settings)
        q, seconds = fit.q, seconds + fit.info["run_seconds"]
        x = jax.jit(jax.vmap(paramax.unwrap(q).move))(x)
    return x, seconds


# -- the wrong variant: what the checks must catch ------------------------------------------------


def without_half(target: Any, base: Any, a: float, steps: int, seed: int, **options: Any) -> Any:
    """Steps whose cost of moving is the squared distance over a."""
    return variational(target, base, 0.5 * a, steps, seed, **options)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Gaussian iterates, a mixture, and seconds."""
    made, short = without_half if wrong else variational, 20 if quick else 1
    settings = {"inner": INNER // short, "rows": ROWS, "width": WIDTH, "lr": LR}
    errors = np.zeros((len(DIMENSIONS), len(seeds), STEPS, 2))
    for i, d in enumerate(DIMENSIONS[:1] if quick else DIMENSIONS):
        for j, seed in enumerate(seeds):
            mean, cov = _gaussian(np.random.default_rng((seed, d)), d)
            fit = made(_normal(mean, cov), None, A, STEPS, seed, **settings)
            look = jax.jit(jax.vmap(fit.q.sample_at, (0, None)))
            keys = jax.random.split(jax.random.key(1_000_000 + seed), PARTICLES // short)
            for k, (m, c) in enumerate(exact_iterates(mean, cov, A, STEPS)):
                x = np.asarray(look(keys, jnp.asarray(k + 1)), float)
                found = ((x.mean(0), m), (np.cov(x.T), c))
                errors[i, j, k] = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in found]
    energies, shown = [], {}
    for seed in seeds:
        target, draw = _mixture(seed, MIXED)
        steps, options = (LONG, _options(1)) if not quick else (2, _options(30))
        base = full_rank(None, jnp.zeros(MIXED), SPREAD)
        fit = made(target, base, A, steps, seed, **options)
        keys = jax.random.split(jax.random.key(2_000_000 + seed), COMPARED)
        x, fresh = np.asarray(jax.jit(jax.vmap(fit.q.sample))(keys)), draw(COMPARED)
        other = _baseline(seed, steps, quick)[:COMPARED]
        begun = SPREAD * np.random.default_rng((seed, 2)).normal(size=fresh.shape)
        energies.append([energy(v, fresh) for v in (x, other, begun)])
        shown = shown or {"target": fresh, "map and critic": x, "convex": other}
    (mine, other, begun), (ours, theirs) = np.mean(energies, axis=0), _seconds(made, quick)
    checks = (
        Check(
            name="largest relative error of an iterate's mean or covariance",
            value=float(errors.max()),
            direction="<=",
            threshold=0.05,
            compared="with exact Gaussian JKO iterates, all steps, d = 2 and 8, all seeds",
        ),
        Check(
            name="energy distance as a share of the log-determinants'",
            value=float(mine / other),
            direction="<=",
            threshold=1.1,
            compared="10-D mixture after the last step, means over seeds",
        ),
        Check(
            name="seconds of a step as a share of the log-determinants'",
            value=ours / theirs,
            direction="<=",
            threshold=0.5,
            compared="32 dimensions, as many updates and rows",
        ),
    )
    figures = {
        "energy distance: map and critic": float(mine),
        "energy distance: start": float(begun),
    }
    figures |= {"energy distance: log-determinants": float(other), "seconds of a step": ours}
    figures |= {"seconds of a step: log-determinants": theirs}
    for i, d in enumerate(DIMENSIONS):
        for n, name in enumerate(("mean", "covariance")):
            figures[f"error of the {name}, d = {d}"] = float(errors[i, ..., n].max())
    return Result(checks, seeds, figures, {"errors": errors, **shown})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Errors of the Gaussian iterates, and two coordinates of the mixture's particles."""
    with canvas(1, 3, size=(10.0, 3.3)) as (figure, axes):
        ax, errors = axes[0, 0], result.curves["errors"].max(axis=1)
        for i, d in enumerate(DIMENSIONS):
            for n, name in enumerate(("mean", "covariance")):
                ax.plot(np.arange(1, STEPS + 1), errors[i, :, n], "o-", label=f"{name}, d = {d}")
        ax.axhline(0.05, color="black", lw=1.0)
        ax.set(xlabel="step", ylabel="relative error, worst of seeds", xticks=range(1, STEPS + 1))
        ax.legend()
        for ax, name in zip(axes[0, 1:], ("map and critic", "convex"), strict=True):
            ax.plot(*result.curves["target"][:400, :2].T, ".", ms=2, color="0.7", label="target")
            ax.plot(*result.curves[name][:400, :2].T, ".", ms=2, label=name)
            ax.set(title="mixture, two of ten coordinates", xlim=(-7, 7), ylim=(-7, 7))
            ax.legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def exact_iterates(mean: np.ndarray, cov: np.ndarray, a: float, steps: int) -> Any:
    """JKO iterates from N(0, 1): m' = m + a (b - m') / v, and s' = s + a (1 / s' - s' / v)."""
    v, turn = np.linalg.eigh(cov)
    b, m, s, c = turn.T @ mean, np.zeros(len(v)), np.ones(len(v)), 1.0 + a / v
    for _ in range(steps):
        m, s = (m + a * b / v) / c, (s + np.sqrt(s**2 + 4.0 * a * c)) / (2.0 * c)
        yield turn @ m, (turn * s**2) @ turn.T


def energy(x: np.ndarray, y: np.ndarray) -> float:
    """The energy distance, unbiased."""
    within = [cdist(v, v).sum() / (len(v) * (len(v) - 1)) for v in (x, y)]
    return float(2.0 * cdist(x, y).mean() - sum(within))


def _gaussian(rng: np.random.Generator, d: int) -> tuple[np.ndarray, np.ndarray]:
    turn, _ = np.linalg.qr(rng.normal(size=(d, d)))
    mean = rng.normal(size=d)
    mean *= 2.0 * np.sqrt(d) / np.linalg.norm(mean)
    return mean, (turn * rng.uniform(0.5, 2.0, d)) @ turn.T


def _normal(mean: np.ndarray, cov: np.ndarray) -> Any:
    m, precision = jnp.asarray(mean), jnp.asarray(np.linalg.inv(cov))
    log_density = lambda x: -0.5 * (x - m) @ precision @ (x - m)
    return ritz.target.from_log_density(log_density, jnp.zeros(len(mean)))


def _options(short: int) -> dict[str, Any]:
    return {"inner": UPDATES // short, "rows": SEEN, "width": UNITS, "lr": RATE}


def _mixture(seed: int, d: int) -> tuple[Any, Any]:
    """A mixture of unit normals, and a function that draws from it."""
    means = np.random.default_rng((seed, d)).uniform(-SPREAD, SPREAD, (COMPONENTS, d))
    centres = jnp.asarray(means)
    log_density = lambda x: jax.nn.logsumexp(-0.5 * ((x - centres) ** 2).sum(1))

    def draw(n: int) -> np.ndarray:
        rng = np.random.default_rng((seed, d, 1))
        return means[rng.integers(COMPONENTS, size=n)] + rng.normal(size=(n, d))

    return ritz.target.from_log_density(log_density, jnp.zeros(d)), draw


@functools.cache
def _baseline(seed: int, steps: int, quick: bool) -> np.ndarray:
    """The same for the wrong variant."""
    x = SPREAD * np.random.default_rng((seed, 3)).normal(size=(20_000, MIXED))
    options = _options(30 if quick else 1) | {"lr": THEIRS}
    target = _mixture(seed, MIXED)[0]
    return np.asarray(convex(target, jnp.asarray(x), A, steps, seed, **options)[0])


def _seconds(made: Any, quick: bool) -> tuple[float, float]:
    """Of one step of each."""
    d, options = (MIXED, _options(30)) if quick else (WIDE, _options(10))
    target, base = _mixture(0, d)[0], full_rank(None, jnp.zeros(d), SPREAD)
    ours = made(target, base, A, 2, 0, **options).info["run_seconds"] / 2
    x = SPREAD * jax.random.normal(jax.random.key(5), (20_000, d))
    return ours, convex(target, x, A, 2, 0, **options)[1] / 2
