"""From a PyMC model to its target."""

import functools
import os
import re
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints as nc

from ritz._errors import RitzError, listed
from ritz.target._base import LOG_DET, Quantity, Site, float_dtype
from ritz.target._constraints import describe
from ritz.target._pymc import PyMCTarget, quietly


def from_pymc(model: Any) -> PyMCTarget:
    r"""The posterior of a PyMC model (`pip install 'ritz[pymc]'`).

    Each free random variable is a site, in the model's own parameters; its unconstrained value is
    that of PyMC's own transform, so that

    .. math:: \log\tilde p_x(x) = \log p(y, T(x)) + \log|\det \partial T/\partial x|

    is `model.logp()`, which PyTensor compiles to JAX. Deterministic variables come with the draws,
    and axes are named and labelled after the model's dims and coords. `ritz.fit` takes a model as
    it is, too. JAX's precision stays what it is, though PyTensor asks for float64: in float32 the
    model is computed in float32.

    Draws of the data are PyMC's: `pm.sample_posterior_predictive(fit.to_arviz(), model=model)`.

    Args:
        model: a `pymc.Model`, its data in it. What `pm.set_data` changes later is not seen.

    Returns:
        the target.

    Raises:
        RitzError: where PyMC is not installed, for what is no PyMC model, one with discrete free
            variables, minibatches or operations that PyTensor cannot compile to JAX.

    Salvatier, Wiecki and Fonnesbeck, "Probabilistic programming in Python using PyMC3", 2016.

    >>> import numpy as np, pymc as pm, ritz
    >>> with pm.Model(coords={"unit": ["a", "b", "c"]}) as model:
    ...     scale = pm.HalfNormal("scale", 1.0)
    ...     effect = pm.Normal("effect", 0.0, scale, dims="unit")
    ...     _ = pm.Normal("y", effect, 1.0, observed=np.array([0.5, -1.0, 2.0]), dims="unit")
    >>> target = ritz.target.from_pymc(model)
    >>> print(target.describe())
    4 dimensions in 2 sites (scale, effect)
    >>> target.sites[0].support, target.sites[1].dims
    ('positive', ('unit',))
    """
    try:
        import pymc as pm
    except ImportError:
        raise RitzError(
            "from_pymc needs PyMC, which is not installed; pip install 'ritz[pymc]'"
        ) from None
    if not isinstance(model, pm.Model):
        raise RitzError(f"from_pymc: a {type(model).__name__} arrived, expected a pymc.Model")
    if not model.free_RVs:
        raise RitzError("the PyMC model has no free random variable: nothing to infer")
    discrete = [rv.name for rv in model.free_RVs if np.dtype(rv.dtype).kind != "f"]
    if discrete:
        raise RitzError(
            f"the PyMC model has discrete free variables ({listed(discrete)}); marginalise them in "
            "the model (pm.Mixture, say), or write it with NumPyro, where Ritz sums them out"
        )
    try:
        return _target(model)
    except RitzError:
        raise
    except Exception as error:  # whatever PyTensor raises for what it cannot compile
        reason = " ".join(str(error).split())[:240]
        raise RitzError(
            f"the PyMC model cannot be compiled to JAX: {type(error).__name__}: {reason}"
        ) from error


def is_pymc(model: Any) -> bool:
    """Whether it is a PyMC model; PyMC is not imported to tell."""
    pymc = sys.modules.get("pymc")
    return pymc is not None and isinstance(model, getattr(pymc, "Model", ()))


def _target(model: Any) -> PyMCTarget:
    from pytensor.graph.replace import graph_replace

    free = model.free_RVs
    inputs = [model.rvs_to_values[rv] for rv in free]
    transforms = [model.rvs_to_transforms[rv] for rv in free]
    moved = [(rv, t) for rv, t in zip(free, transforms, strict=True) if t is not None]
    scored = [*free, *model.observed_RVs, *model.potentials]
    summands = model.logp(vars=scored, jacobian=False, sum=False)
    summands += model.replace_rvs_by_values(
        [t.log_jac_det(model.rvs_to_values[rv], *rv.owner.inputs) for rv, t in moved]
    )
    named = [*free, *model.deterministics]
    values = _jax_function(inputs, model.replace_rvs_by_values(named))
    # A bound may be another site: its value is given with the others.
    given = {rv: rv.type(name=rv.name) for rv in free}
    pairs = zip(free, transforms, strict=True)
    back = [given[rv] if t is None else t.forward(given[rv], *rv.owner.inputs) for rv, t in pairs]
    inverse = _jax_function([*given.values()], graph_replace(back, given, strict=False))

    start = _initial(model, inputs)
    shapes = [out.shape for out in jax.eval_shape(lambda v: quietly(values, v), start)]
    sites, at = [], 0
    for rv, transform, x, shape in zip(free, transforms, start, shapes, strict=False):
        words, spec = _support(rv, transform)
        sites.append(Site(rv.name, shape, x.shape, at, words, spec, _dims(model, rv.name, shape)))
        at = sites[-1].stop
    computed = zip(model.deterministics, shapes[len(free) :], strict=True)
    observed = [(rv, _data_shape(model.rvs_to_values[rv])) for rv in model.observed_RVs]
    return PyMCTarget(
        sites=tuple(sites),
        observed=tuple(_quantity(model, rv.name, shape) for rv, shape in observed),
        deterministic=tuple(_quantity(model, v.name, shape) for v, shape in computed),
        density=_jax_function(inputs, summands),
        values=values,
        inverse=inverse,
        names=(*(v.name for v in scored), *(rv.name + LOG_DET for rv, _ in moved)),
        coords=_labels(model),
        initial=jnp.concatenate([jnp.ravel(v) for v in start]),
    )


def _jax_function(inputs: list[Any], outputs: list[Any]) -> Callable[..., Any]:
    """A PyTensor graph as a JAX function; shared variables become constants."""
    with warnings.catch_warnings():
        # Of checks of parameters, which a traced program cannot make.
        warnings.filterwarnings("ignore", "Skipping .* Op", UserWarning)
        # Of its C code, which is not used here.
        warnings.filterwarnings("ignore", "PyTensor could not link to a BLAS", UserWarning)
        return _compiler()(inputs=inputs, outputs=outputs)


@functools.cache
def _compiler() -> Callable[..., Any]:
    """PyMC's compiler to JAX.

    The import of its module changes JAX's precision and XLA's flags for the whole process; both
    are put back. A thread of its own sees the precision of the process, not that of a `with` block.
    """

    def imported() -> Callable[..., Any]:
        x64, flags = jax.config.jax_enable_x64, os.environ.get("XLA_FLAGS")  # pyright: ignore
        try:
            from pymc.sampling.jax import get_jaxified_graph
        finally:
            jax.config.update("jax_enable_x64", x64)
            os.environ.pop("XLA_FLAGS", None)
            os.environ |= {} if flags is None else {"XLA_FLAGS": flags}
        return get_jaxified_graph

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(imported).result()


def _initial(model: Any, inputs: list[Any]) -> list[jax.Array]:
    """Where the model says that it starts, unconstrained; computed without compiling C."""
    from pytensor.configdefaults import config

    with config.change_flags(cxx="", linker="py"):
        point = model.initial_point(random_seed=0)
    return [jnp.asarray(point[value.name], float_dtype()) for value in inputs]


def _data_shape(value: Any) -> tuple[int, ...]:
    """Of the data at an observed variable: a constant, a container, or what is computed of one."""
    if hasattr(value, "get_value"):
        return np.shape(value.get_value(borrow=True))
    if hasattr(value, "data"):
        return np.shape(value.data)
    found = _jax_function([], [value])
    return jax.eval_shape(lambda: quietly(found, [])[0]).shape


def _support(rv: Any, transform: Any) -> tuple[str, tuple[Any, ...] | None]:
    """In words, and as a specification where NumPyro's map to it is the same as PyMC's."""
    from pymc.distributions import transforms as kinds

    if transform is None:
        return describe(nc.real)
    if transform is kinds.log:
        return describe(nc.positive)
    if transform is kinds.logodds:
        return describe(nc.unit_interval)
    if transform is kinds.ordered:
        return describe(nc.ordered_vector)
    if isinstance(transform, kinds.Interval):
        bounds: list[Any] = list(transform.args_fn(*rv.owner.inputs))
        bounds = [getattr(bound, "data", bound) for bound in bounds]
        if all(b is None or isinstance(b, float | int | np.ndarray | np.generic) for b in bounds):
            low, high = (b if b is None or np.isfinite(b).all() else None for b in bounds)
            if low is None:
                return describe(nc.real if high is None else nc.less_than(high))
            return describe(nc.greater_than(low) if high is None else nc.interval(low, high))
    name = type(transform).__name__.removesuffix("Transform")
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower(), None


def _quantity(model: Any, name: str, shape: tuple[int, ...]) -> Quantity:
    return Quantity(name, shape, _dims(model, name, shape))


def _labels(model: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Its coords, as Python values: arrays are no static part of a target."""
    import pandas as pd

    known = [(name, labels) for name, labels in model.coords.items() if labels is not None]
    return tuple((name, tuple(pd.Index(labels).tolist())) for name, labels in known)


def _dims(model: Any, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The names of its axes: the model's where it has some."""
    own = model.named_vars_to_dims.get(name) or (None,) * len(shape)
    return tuple(dim or f"{name}_dim_{axis}" for axis, dim in enumerate(own))
