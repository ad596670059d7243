"""How hyperparameters are learned: the data, where searches start, and the best of these."""

import itertools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from numpyro.distributions import constraints

from ritz._errors import RitzError, positive, whole_number
from ritz._precision import doubled
from ritz.fit import fit as fit_
from ritz.gp._density import DENSITIES
from ritz.gp._inducing import greedy_variance
from ritz.gp._kernel import AbstractKernel
from ritz.gp._likelihood import AbstractLikelihood, likelihood_of
from ritz.gp._noise import Gaussian
from ritz.gp._rows import like, paired, table
from ritz.gp._stationary import matern
from ritz.solver import lbfgs
from ritz.target import from_log_density

# Up to so many rows the evidence is that of all of them; beyond, so many inducing inputs serve.
_ALL, _INDUCING = 1000, 256
_PREDICTED = 10_000  # up to so many normal outputs predictions are from all rows all the same
# Lengths and noises, in units of the first ones, among which a search starts.
_STARTS = tuple(itertools.product((1.0, 0.3, 3.0), (1.0, 0.5, 2.0)))
# Few rows may be told without noise where many are not.
_AGAIN = tuple((1.0, noise) for noise in (1.0, 3.0, 10.0, 30.0, 100.0))
# Rows of which hyperparameters are learned first, where there are inducing inputs, and then.
_FIRST, _THEN = 800, 10_000
_DRAWS = 1000  # for the mean of a posterior that does not have it as a number


class Trained(NamedTuple):
    """What rows have taught.

    Attributes:
        fit: of hyperparameters.
        data: what predictions look at.
        way: of inference.
        known: what must be known of outputs to read others.
        middle: taken from inputs.
        shift: taken from outputs.
        scale: that these were divided by.
    """

    fit: Any
    data: dict[str, Any]
    way: str
    known: Any
    middle: np.ndarray
    shift: float
    scale: float


def learn(gp: Any, x: Any, y: Any) -> Trained:
    """What rows teach; see `GP.fit`."""
    _check(gp)
    likelihood = likelihood_of(gp.likelihood)
    way = _way(gp, likelihood)
    rows = table(x)
    values, known = likelihood.outputs(y)
    paired(rows, values)
    many = _many(gp.inducing, len(rows))
    log_sd = positive("prior_sd", gp.prior_sd)
    kernel = _start(rows) if gp.kernel is None else gp.kernel
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        kernel, likelihood = doubled((kernel, likelihood))
    middle, shift, scale = kernel.middle(rows), 0.0, 1.0
    if likelihood.standardised:
        shift, scale = float(values.mean()), float(values.std())
    data: dict[str, Any] = {
        "x": jnp.asarray(rows - middle, float),
        "y": jnp.asarray((values - shift) / scale, float),
        "log_sd": jnp.asarray(log_sd, float),
    }
    own = likelihood.latents > 1 and likelihood.has_mean
    first: dict[str, Any] = {"kernel": (kernel,) * likelihood.latents if own else kernel}
    if jax.tree.leaves(likelihood):
        first["likelihood"] = likelihood
    else:
        data["likelihood"] = likelihood
    if likelihood.has_mean:
        first["mean"] = jnp.zeros(likelihood.latents)
    now = (first["kernel"], first.get("likelihood"))
    data["first"] = [jnp.log(v) for v in jax.tree.leaves(now)]
    if many is None:
        fit = _best(gp, way, first, data)
    else:
        # Inputs that suit a kernel far from the best one would hold the search back near to it.
        now = parts_at(_mode(gp, way, first, _some(data, _FIRST, gp.seed)))
        z = inducing_inputs(_one(now["kernel"]), data["x"], many, gp.seed)
        seen = _some(data, _THEN, gp.seed) | {"z": z}
        fit = _best(gp, way, {name: now[name] for name in first}, seen, _AGAIN)
        if gp.inducing is not None or way != "exact" or len(rows) > _PREDICTED:
            data["z"] = z
    return Trained(fit, data, way, known, middle, shift, scale)


def extended(trained: Trained, likelihood: AbstractLikelihood, x: Any, y: Any) -> Trained:
    """What more rows teach where hyperparameters, units and inducing inputs stay; `GP.update`."""
    rows = like(table(x, least=1), len(trained.middle))
    values = likelihood.outputs(y, trained.known)[0]
    paired(rows, values)
    more = (rows - trained.middle, (values - trained.shift) / trained.scale)
    old = (trained.data["x"], trained.data["y"])
    joined = [jnp.concatenate([a, jnp.asarray(b, a.dtype)]) for a, b in zip(old, more, strict=True)]
    return trained._replace(data=trained.data | {"x": joined[0], "y": joined[1]})


def parts_at(fit: Any) -> dict[str, Any]:
    """Hyperparameters at the mode, or at the posterior's mean of what is unconstrained."""
    q = paramax.unwrap(fit.q)
    keys = jax.random.split(jax.random.key(0), _DRAWS)
    centre = q.loc if hasattr(q, "loc") else jax.vmap(q.sample)(keys).mean(axis=0)
    return fit.target.pack(fit.target.constrain(centre))


def inducing_inputs(kernel: Any, x: Any, many: int, seed: Any) -> Any:
    """Rows by greedy variance."""
    return jnp.asarray(greedy_variance(kernel, np.asarray(x), many, seed), float)


def _check(gp: Any) -> None:
    if gp.kernel is not None and not isinstance(gp.kernel, AbstractKernel):
        raise RitzError(
            f"kernel arrived as {type(gp.kernel).__name__}, expected one of ritz.gp such as "
            "matern(2.5)"
        )
    if gp.hyperparameters not in ("mode", "posterior", "ep"):
        raise RitzError(
            f"hyperparameters={gp.hyperparameters!r} arrived, expected 'mode', 'posterior' or 'ep'"
        )
    if gp.inference not in (None, "variational", "laplace", "ep"):
        raise RitzError(
            f"inference={gp.inference!r} arrived, expected 'variational', 'laplace' or 'ep'"
        )


def _way(gp: Any, likelihood: AbstractLikelihood) -> str:
    """By which inference."""
    ep = gp.hyperparameters == "ep"
    if isinstance(likelihood, Gaussian):
        if gp.inference is not None or ep:
            raise RitzError(
                "with normal noise nothing is approximated; leave out inference, and use "
                "hyperparameters='mode' or 'posterior'"
            )
        return "exact"
    if likelihood.latents > 1 and (ep or gp.inference == "ep"):
        raise RitzError(
            f"expectation propagation is for one function, but {type(likelihood).__name__} has "
            f"{likelihood.latents}; use inference='variational'"
        )
    if ep and gp.inference not in (None, "variational"):
        raise RitzError(
            f"hyperparameters='ep' goes with variational sites, but inference={gp.inference!r} "
            "arrived; use hyperparameters='mode'"
        )
    return "variational, EP's evidence" if ep else gp.inference or "variational"


def _many(inducing: Any, n: int) -> int | None:
    if inducing is None:
        return None if n <= _ALL else _INDUCING
    many = whole_number("inducing", inducing, 1)
    if many > n:
        raise RitzError(f"inducing={many} arrived, but there are {n} rows; use at most {n}")
    return many


def _start(rows: np.ndarray) -> AbstractKernel:
    wide = np.where(rows.std(axis=0) > 0, rows.std(axis=0), 1.0)
    return matern(2.5, wide * math.sqrt(rows.shape[1]))


def _one(kernel: Any) -> Any:
    return kernel[0] if isinstance(kernel, tuple) else kernel


def _some(data: dict[str, Any], many: int, seed: Any) -> dict[str, Any]:
    """So many rows at most, whose hyperparameters are nearly those of all."""
    n = len(data["y"])
    if n <= many:
        return data
    chosen = np.random.default_rng(seed).permutation(n)[:many]
    return data | {"x": data["x"][chosen], "y": data["y"][chosen]}


def _best(
    gp: Any, way: str, first: dict[str, Any], data: dict[str, Any], starts: Any = _STARTS
) -> Any:
    """The mode, or the posterior where that is asked for."""
    if gp.hyperparameters == "posterior":
        return fit_(_target(way, first, data), seed=gp.seed, progress=gp.progress)
    return _mode(gp, way, first, data, starts)


def _mode(
    gp: Any, way: str, first: dict[str, Any], data: dict[str, Any], starts: Any = _STARTS
) -> Any:
    """A fit at the mode, from the best of some starts."""
    target = _target(way, first, data)
    init = _started(target, dict(target.unpack(first)), starts)
    shared = {"seed": gp.seed, "progress": gp.progress}
    return fit_(target, family="full_rank", solver=lbfgs(hessian=False), init=init, **shared)


def _target(way: str, first: dict[str, Any], data: dict[str, Any]) -> Any:
    supports = {n: constraints.real if n == "mean" else constraints.positive for n in first}
    return from_log_density(DENSITIES[way], first, supports, theta=paramax.NonTrainable(data))


def _started(target: Any, values: dict[str, Any], starts: Any) -> dict[str, Any]:
    """The values among some lengths and noises at which the density is largest."""
    lengths = [name for name in values if name.endswith("lengthscale")]
    noises = [name for name in values if name.endswith("noise")]
    tried = [
        values
        | {name: length * jnp.asarray(values[name]) for name in lengths}
        | {name: noise * jnp.asarray(values[name]) for name in noises}
        for length, noise in starts
        if (lengths or length == 1.0) and (noises or noise == 1.0)
    ]
    logs = np.asarray(_densities(target, jnp.stack([target.unconstrain(v) for v in tried])))
    return tried[int(np.nanargmax(np.where(np.isfinite(logs), logs, -np.inf)))]


@eqx.filter_jit
def _densities(target: Any, points: Any) -> Any:
    return jax.lax.map(target.log_density, points)
