"""A Padé approximant and a Lyapunov solver give a matrix square root and its gradient quickly.

The square root of a positive definite matrix, scaled so that its eigenvalues lie below 1, is close
to a ratio of two polynomials: some products and one linear solve. Its gradient needs none of those
steps again: it solves a Lyapunov equation, by Newton-Schulz iterations for the sign of a block
matrix. The usual alternative, the coupled Newton-Schulz iteration differentiated step by step,
costs more for the same error. Both need matrix products rather than an eigendecomposition.

Paper: Y. Song, N. Sebe and W. Wang, "Fast differentiable matrix square root", ICLR 2022,
arXiv:2201.08663.

Scaled down: from the layers of vision networks on a GPU to the numerical claims behind them, on
batches of 32 matrices on a CPU. Beyond the paper, matrices are scaled by the smaller of two norms
(for the baseline too), and symmetry saves products in a Lyapunov step. On two CPU cores LAPACK's
eigendecomposition, with the Lyapunov equation solved in its basis, is exact and faster than either,
so `ritz.linalg.sqrtm` does that unless told otherwise; the figures record its time.

Data: covariances of 237 draws of 64 independent normals: condition numbers near 10.

Thresholds: the catalogue's. "Equal error" is taken strictly: degree 14 with 6 Lyapunov iterations
against 7 Newton-Schulz steps, whose root and gradient are both less accurate. Errors are the
largest in a batch, relative in Frobenius norm, against an eigendecomposition in float64. Times are
of root and gradient, compiled, in turn, and the ratio is the median over pairs, so that neighbours
on the machine slow both alike; LAPACK gets one thread, as with more they wait for one another.

Wrong variant: the gradient G A^(-1/2) / 2, made symmetric: the scalar rule, which holds only where
G and A commute. Its roots are right and its time short.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz import linalg
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS, BATCH, DIMENSION, DRAWS = tuple(range(10)), 32, 64, 237
PRECISE, TIMED = (16, 12), (14, 6)  # degree, Lyapunov iterations


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def pade(a: Any, degree: int, iterations: int, root: Callable[..., Any] = linalg.sqrtm) -> Any:
    """The root of each matrix, or its inverse, with a gradient of its own."""
    return root(a, "pade", degree=degree, lyapunov_steps=iterations)


# -- the baselines: measured in the same run ------------------------------------------------------


def newton_schulz(a: Any, steps: int) -> Any:
    """The coupled iteration for root and inverse root, to be differentiated as it stands."""
    rows, frobenius = jnp.abs(a).sum(-1).max(-1), jnp.sqrt((a * a).sum((-1, -2)))
    bound = jax.lax.stop_gradient(jnp.minimum(rows, frobenius))[..., None, None]
    a, identity = a / bound, jnp.eye(a.shape[-1])
    z = 1.5 * identity - 0.5 * a
    y = a @ z
    for _ in range(steps - 1):
        t = 1.5 * identity - 0.5 * z @ y
        y, z = y @ t, t @ z
    return jnp.sqrt(bound) * y


def eigen(a: Any, power: float = 0.5) -> Any:
    """The reference, differentiated through the eigendecomposition."""
    values, vectors = jnp.linalg.eigh(a)
    return (vectors * values[..., None, :] ** power) @ jnp.swapaxes(vectors, -1, -2)


# -- the wrong variant: what the checks must catch ------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def scalar_rule(a: Any, degree: int, iterations: int) -> Any:
    """The right root with the gradient of the scalar rule."""
    return pade(a, degree, iterations)


_backward = lambda m, n, a, g: (_symmetric(0.5 * g @ linalg.inv_sqrtm(a)),)
scalar_rule.defvjp(lambda a, m, n: (pade(a, m, n), a), _backward)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Errors of root and gradient, and times in turn."""
    from threadpoolctl import threadpool_limits

    jnp.linalg.eigh(jnp.eye(2))  # loads the LAPACK that gets one thread below
    method = scalar_rule if wrong else pade
    programs = {
        "reference": _both(eigen),
        "inverse reference": _both(lambda a: eigen(a, -0.5)),
        "degree 5": _both(lambda a: method(a, 5, 5)),
        "5 steps": _both(lambda a: newton_schulz(a, 5)),
        "precise": _both(lambda a: method(a, *PRECISE)),
        "inverse": _both(lambda a: pade(a, *PRECISE, linalg.inv_sqrtm)),
        "ours": _both(lambda a: method(a, *TIMED)),
        "Newton-Schulz": _both(lambda a: newton_schulz(a, 7)),
        "eigh": _both(linalg.sqrtm),
    }
    errors: Any = {name: [] for name in programs}
    times: Any = {"ours": [], "Newton-Schulz": [], "eigh": []}
    with jax.enable_x64(True), threadpool_limits(1):
        for seed in seeds:
            a, g = _matrices(seed, 4 if quick else BATCH)
            out = {name: program(a, g) for name, program in programs.items()}
            for name, found in out.items():
                exact = out["inverse reference" if "inverse" in name else "reference"]
                errors[name].append((_error(found[0], exact[0]), _error(found[1], exact[1])))
            for _ in range(2 if quick else 5):
                for name, taken in times.items():
                    began = time.perf_counter()
                    jax.block_until_ready(programs[name](a, g))
                    taken.append(time.perf_counter() - began)
        curves = {"errors": _errors_by_degree(a), "times": times}
    worst = {name: np.max(values, axis=0).tolist() for name, values in errors.items()}
    both = np.divide(errors["ours"], errors["Newton-Schulz"])
    share = np.divide(errors["degree 5"], errors["5 steps"])[:, 0]
    ratio = float(np.median(np.divide(times["ours"], times["Newton-Schulz"])))
    gradient, seven = "error of the gradient", "7 Newton-Schulz steps"
    checks = (
        Check("share of error, root", float(share.max()), "<=", 1.0, "degree 5 with 5 steps"),
        Check(gradient, worst["precise"][1], "<=", 1e-3, "degree 16, 12 iterations; eigh's"),
        Check(f"{gradient}, inverse", worst["inverse"][1], "<=", 1e-3, "the same"),
        Check("share of error, both", float(both.max()), "<=", 1.0, f"with {seven}"),
        Check("share of time", ratio, "<=", 0.8, f"root and gradient, with the same {seven}"),
    )
    figures = {f"ms, {name}": 1e3 * float(np.median(taken)) for name, taken in times.items()}
    figures |= {f"{gradient}, {name}": worst[name][1] for name in ("ours", "Newton-Schulz")}
    return Result(checks, seeds, figures, curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Error of the root by degree or steps, and times."""
    curves = result.curves
    with canvas(1, 2, size=(9.0, 3.2)) as (figure, (axes,)):
        for name, (x, y) in curves["errors"].items():
            axes[0].semilogy(x, y, marker="o", label=name)
        axes[0].set(title="root, condition 10", xlabel="degree, or steps", ylabel="relative error")
        axes[0].legend()
        names, taken = zip(*curves["times"].items(), strict=True)
        axes[1].boxplot(taken, tick_labels=names, showfliers=False)
        axes[1].set(title="root and gradient", ylabel="seconds a batch", ylim=(0.0, None))
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _matrices(seed: int, batch: int) -> tuple[Any, Any]:
    """A batch of covariances, and a gradient in each root."""
    rng = np.random.default_rng(seed)
    draws = rng.normal(size=(batch, DRAWS, DIMENSION))
    gradient = rng.normal(size=(batch, DIMENSION, DIMENSION))
    return jnp.asarray(np.swapaxes(draws, -1, -2) @ draws / DRAWS), jnp.asarray(gradient)


def _both(root: Callable[[Any], Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Roots and the gradients in the matrices, compiled."""

    @jax.jit
    def both(a: Any, g: Any) -> tuple[Any, Any]:
        value, pull = jax.vjp(root, a)
        return value, _symmetric(pull(g)[0])

    return both


def _errors_by_degree(a: Any) -> dict[str, Any]:
    """Errors of the root, by degree or steps."""
    sizes, exact = range(2, 17, 2), eigen(a)
    of = lambda root: (sizes, [_error(root(m), exact) for m in sizes])
    return {
        "Padé": of(lambda m: linalg.sqrtm(a, "pade", degree=m)),
        "Taylor": of(lambda m: linalg.sqrtm(a, "taylor", degree=m)),
        "Newton-Schulz": of(lambda m: newton_schulz(a, m)),
    }


def _error(found: Any, exact: Any) -> float:
    """The largest relative error in a batch."""
    size = lambda x: jnp.sqrt((x * x).sum((-1, -2)))
    return float((size(found - exact) / size(exact)).max())


def _symmetric(a: Any) -> Any:
    return 0.5 * (a + jnp.swapaxes(a, -1, -2))
