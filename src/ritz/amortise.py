"""`ritz.amortise`: one network for the posterior of every data set of a model."""

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ritz._amortised import Amortised
from ritz._compile import compile, spent
from ritz._errors import RitzError, whole_number
from ritz._models import make_target
from ritz._parts import as_key
from ritz.estimator import pathwise
from ritz.family import AbstractAmortised, amortised
from ritz.family._amortised import by_name
from ritz.objective import Problem, amortised_forward_kl
from ritz.solver import adam, optax_solver, run
from ritz.target import NumPyroTarget, SimulatedTarget
from ritz.target import _simulated as simulation
from ritz.target._numpyro import split_batch

# Pairs that say how large parameters and data are.
_LOOKED_AT = 2000
_FEW = 0.01  # the share of pairs with an inf or nan that are left out without a word


def amortise(
    model: Any,
    data: Any = None,
    *,
    inputs: Any = None,
    least_rows: Any = None,
    encoder: Any = None,
    components: Any = 4,
    steps: Any = 5000,
    lr: Any = 2e-3,
    draws: Any = 128,
    seed: Any = 0,
    callbacks: Any = (),
    progress: bool | float | None = None,
    strict: bool = False,
) -> Amortised:
    r"""Learn the posterior of every data set that a model can make.

    .. math:: \min_\lambda\; -\mathbb{E}_{\theta \sim p(\theta),\, y \sim p(y \mid \theta)}
        \log q_\lambda(\theta \mid y),

    with q a mixture of Gaussians whose numbers a network reads off y. The model is simulated anew
    at each step; afterwards a posterior costs one pass of the network. Where rows of data may
    change places, which is tried, the network is blind to their order (deep sets); else it is a
    perceptron.

    Args:
        model: a NumPyro model, or `ritz.target.from_simulator(...)`.
        data: for a model, an example of its arguments, as `ritz.fit` takes them: the shapes, and
            the values of inputs (arguments that are not observed). With `least_rows`, as many
            rows as a data set will ever have.
        inputs: a function from a key to the model's arguments in place of the example's, of the
            same shapes (what it gives for observed ones is not used), to train at many inputs.
        least_rows: how few of the example's rows a data set may have; by default all are there.
        encoder: an Equinox module from data (a dict of arrays by observed site; for a simulator,
            its data) to a vector of features, in place of those above; or a finished
            `ritz.family.AbstractAmortised`.
        components: of the mixture.
        steps: of Adam.
        lr: its first learning rate.
        draws: simulated data sets a step.
        seed: an integer or a JAX key.
        callbacks: as for `ritz.fit`.
        progress: as for `ritz.fit`.
        strict: as for `ritz.fit`.

    Returns:
        an `Amortised`.

    Raises:
        RitzError: for bad input, for a model with discrete latent sites that are drawn, and where
            simulated data are not finite.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("rows", len(y)):
    ...         numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> posteriors = amortise(model, (np.zeros(3),), steps=500, components=1)
    >>> posterior = posteriors.fit((np.array([1.0, 2.0, 0.0]),))
    >>> bool(abs(posterior.mean()["mu"] - 0.75) < 0.2)
    True
    """
    began, spent_before = time.perf_counter(), spent()
    for name, value in (("components", components), ("draws", draws), ("steps", steps)):
        whole_number(name, value, 1)
    start_key, run_key, fit_key, row_key = jax.random.split(as_key(seed), 4)
    target, alike = _joint(model, data, inputs, least_rows, row_key)
    q = _family(target, encoder, alike, components, start_key)
    problem = Problem(target, q, amortised_forward_kl(draws), pathwise())
    result = run(
        problem,
        _clipped(adam(lr, steps)),
        steps,
        run_key,
        callbacks=callbacks,
        progress=progress,
        strict=strict,
    )
    fitted: Any = problem.family_at(result.state.params)
    model_name = getattr(model, "__name__", type(model).__name__)
    info = {
        "model": model_name,
        "family": "amortised",
        "encoder": type(getattr(q, "encoder", q)).__name__,
        "objective": type(problem.objective).__name__,
        "solver": f"adam (lr {lr:g}, falling)",
        "inputs": bool(
            isinstance(target.base, NumPyroTarget) and simulation.inputs_of(target.base)
        ),
        "start": "networks at random",
        "steps": result.steps,
        "evaluations": 0.0,
        "compile_seconds": spent() - spent_before,
        "run_seconds": result.run_seconds,
        "total_seconds": time.perf_counter() - began,
        "compiled": result.compiled,
        "dtype": str(np.dtype(jax.dtypes.canonicalize_dtype(float))),
        "versions": {n: importlib.metadata.version(n) for n in ("ritz", "jax", "numpyro")},
    }
    return Amortised(
        q=fitted,
        target=target,
        history=result.history,
        stop_reason=result.stop_reason,
        message=result.message,
        key=fit_key,
        info=info,
        least_rows=least_rows,
        free_inputs=inputs is not None,
    )


def _joint(
    model: Any, data: Any, inputs: Any, least_rows: Any, key: jax.Array
) -> tuple[SimulatedTarget, bool]:
    """The law to draw from, and whether its data are a set of rows."""
    if isinstance(model, SimulatedTarget):
        if data is not None or inputs is not None or least_rows is not None:
            raise RitzError(
                "a simulator draws its own data: data, inputs and least_rows are for NumPyro "
                "models; let the simulator draw the inputs and return them with its data"
            )
        return model, False
    target = make_target(model, data)
    if not isinstance(target, NumPyroTarget):
        raise RitzError(
            f"amortise draws data from its model, which a {type(target).__name__} cannot; give a "
            "NumPyro model, or ritz.target.from_simulator(simulate, log_density)"
        )
    if target.continuous_dim != target.dim:
        site = target.sites[-1].name
        raise RitzError(f"site {site!r} is discrete and drawn; amortise takes it summed out only")
    if not target.observed:
        raise RitzError("the model has no observed site, so there are no data to learn from")
    if set(simulation.inputs_of(target)) & set(simulation.observed_of(target)):
        raise RitzError(
            "the model computes what it observes from the observed values themselves, so that it "
            "cannot be simulated; draw one observation from the last, with numpyro's scan"
        )
    alike = simulation.exchangeable(target, key)
    if least_rows is not None:
        whole_number("least_rows", least_rows, 1)
        if not alike or least_rows > target.observed[0].shape[0]:
            raise RitzError(
                f"least_rows={least_rows} arrived, but the rows of these data cannot change places "
                "or are fewer; it is for rows that are independent given the parameters"
            )
    return simulation.simulated(target, _arguments(target, inputs), least_rows), alike


def _arguments(target: NumPyroTarget, inputs: Any) -> Callable[..., Any] | None:
    """From a key to a model's arguments, positional and by name, or None."""
    if inputs is None:
        return None
    if not callable(inputs):
        raise RitzError(f"inputs arrived as {type(inputs).__name__}, expected a function of a key")

    def drawn(key: Any) -> Any:
        return jax.tree.map(jnp.asarray, split_batch(inputs(key)))

    shapes = jax.eval_shape(drawn, jax.random.key(0))
    expected = (target.args, target.kwargs)
    shape_of = lambda tree: jax.tree.map(jnp.shape, tree)
    if shape_of(shapes) != shape_of(expected):
        raise RitzError(
            f"inputs drew arguments of shapes {shape_of(shapes)}, but the example has "
            f"{shape_of(expected)}"
        )
    return drawn


def _family(
    target: SimulatedTarget, encoder: Any, alike: bool, components: int, key: jax.Array
) -> AbstractAmortised:
    """The family at its start: parameters and data on the scale of simulated ones."""
    look, network = jax.random.split(key)
    draw = lambda target, key: jax.vmap(target.simulate)(jax.random.split(key, _LOOKED_AT))
    x, data = compile(draw, target, look)(target, look)
    fine = np.isfinite(np.asarray(x)).all(1)
    for name, value in by_name(data).items():
        each = np.isfinite(np.asarray(value, float).reshape(_LOOKED_AT, -1)).all(1)
        fine &= each
        if each.mean() < 1.0 - _FEW:
            raise RitzError(
                f"simulated data {name!r} hold inf or nan in {1.0 - each.mean():.0%} of draws from "
                "the prior; choose a narrower prior"
            )
    if fine.mean() < 1.0 - _FEW:
        raise RitzError("parameters drawn from the prior are not finite; choose a narrower prior")
    if isinstance(encoder, AbstractAmortised):
        if encoder.dim != target.dim:
            raise RitzError(
                f"the encoder is a family of {encoder.dim} dimensions, but there are {target.dim}"
            )
        return encoder
    if encoder is not None and not isinstance(encoder, eqx.Module):
        raise RitzError(
            f"encoder arrived as {type(encoder).__name__}, expected an Equinox module from data to "
            "a vector of features"
        )
    kept = np.flatnonzero(fine)
    x, data = jax.tree.map(lambda v: v[kept], (x, data))
    low, high = jnp.quantile(x, jnp.array([0.16, 0.84]), 0)
    scale = jnp.where(high > low, 0.5 * (high - low), 1.0)
    return amortised(data, x.mean(0), scale, alike, network, encoder=encoder, components=components)


def _clipped(solver: Any) -> Any:
    """Adam on gradients of length one at most: data far out must not throw the network away."""
    import optax

    return optax_solver(optax.chain(optax.clip_by_global_norm(1.0), solver.transformation))
