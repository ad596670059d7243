"""Targets from a log density: a function of any pytree."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints as nc
from numpyro.distributions.transforms import biject_to

from ritz._errors import RitzError
from ritz.target._base import AbstractTarget, Quantity, Site, check_values, float_dtype
from ritz.target._constraints import describe
from ritz.target._start import search


class LogDensityTarget(AbstractTarget):
    """An unnormalised log density of a pytree; made by `from_log_density`."""

    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    fn: Callable[..., Any] = eqx.field(static=True)
    transforms: tuple[Any, ...]
    treedef: Any = eqx.field(static=True)
    example: Float[Array, " d"]

    def log_density(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> Float[Array, ""]:
        return jnp.stack(list(self.terms(x, key, batch).values())).sum()

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        if batch is not None:
            raise RitzError(
                f"the log density {self.name!r} holds its own data and takes no batches; write the "
                "model with NumPyro to fit it in batches"
            )
        density = jnp.asarray(self.fn(self.pack(self.constrain(x))), float_dtype())
        return {self.name: density} | {
            f"{name}_log_det": value for name, value in self._log_dets(x).items()
        }

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.fn, "__name__", type(self.fn).__name__)

    def _log_dets(self, x: Array) -> dict[str, Array]:
        out = {}
        for site, transform in zip(self.sites, self.transforms, strict=True):
            free = site.take(x)
            if site.support != "real":
                out[site.name] = transform.log_abs_det_jacobian(free, transform(free)).sum()
        return out

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        pairs = zip(self.sites, self.transforms, strict=True)
        return {site.name: transform(site.take(x)) for site, transform in pairs}

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        check_values(self.sites, values)
        pairs = zip(self.sites, self.transforms, strict=True)
        parts = [jnp.ravel(t.inv(jnp.asarray(values[s.name], float_dtype()))) for s, t in pairs]
        return jnp.concatenate(parts)

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.asarray(sum(self._log_dets(x).values(), start=0.0), float_dtype())

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        strategies = (
            ("the example", 0.0, 1),
            ("a draw around the example", 1.0, 30),
        )

        def near(target: LogDensityTarget, spread: float, key: Array) -> Array:
            return target.example + spread * jax.random.normal(key, target.example.shape)

        return search(self, key, strategies, near)

    def pack(self, values: dict[str, Any]) -> Any:
        leaves = [values[site.name] for site in self.sites]
        return jax.tree.unflatten(self.treedef, leaves)

    def unpack(self, values: Any) -> dict[str, Any]:
        leaves, treedef = jax.tree.flatten(values)
        if treedef != self.treedef:
            raise RitzError(
                f"values arrived with structure {treedef}, expected that of the example: "
                f"{self.treedef}"
            )
        return {site.name: leaf for site, leaf in zip(self.sites, leaves, strict=True)}


def from_log_density(
    fn: Callable[..., Any], example: Any, constraints: Any = None
) -> LogDensityTarget:
    r"""The distribution whose unnormalised log density is `fn`.

    Args:
        fn: maps a pytree like `example` to a scalar :math:`\log\tilde p(\theta)`, without any
            Jacobian; data are closed over.
        example: a pytree of floating arrays: the shapes, and the starting point.
        constraints: a pytree like `example` whose leaves are constraints of
            `numpyro.distributions.constraints`; for a dict, only the constrained entries are
            needed. Unconstrained by default.

    Returns:
        the target.

    Raises:
        RitzError: for an example that is empty, not floating or outside its constraint, and
            where `fn` does not return a scalar.

    >>> import jax.numpy as jnp
    >>> from numpyro.distributions import constraints
    >>> gamma = lambda p: jnp.log(p["rate"]) - 2.0 * p["rate"]
    >>> from_log_density(gamma, {"rate": 1.0}, {"rate": constraints.positive}).dim
    1
    """
    paths, treedef = jax.tree.flatten_with_path(example)
    if not paths:
        raise RitzError("the example has no arrays; give one value of the parameters")
    wanted = _constraint_leaves(example, constraints)
    sites, transforms, parts, start = [], [], [], 0
    for (path, leaf), kind in zip(paths, wanted, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "theta"
        value = np.asarray(leaf)
        if value.dtype.kind not in "fiu":
            raise RitzError(f"example {name!r} has dtype {value.dtype}; expected real numbers")
        value = value.astype(float_dtype())
        transform = biject_to(kind)
        if not np.all(kind(value)):
            words = describe(kind)[0]
            raise RitzError(
                f"example {name!r} = {np.ravel(value)[:4]} is not in its support {words}"
            )
        free = np.asarray(transform.inv(jnp.asarray(value)))
        words, spec = describe(kind)
        dims = tuple(f"{name}_dim_{i}" for i in range(value.ndim))
        sites.append(Site(name, value.shape, free.shape, start, words, spec, dims))
        transforms.append(transform)
        parts.append(free.reshape(-1))
        start = sites[-1].stop
    target = LogDensityTarget(
        sites=tuple(sites),
        observed=(),
        deterministic=(),
        fn=fn,
        transforms=tuple(transforms),
        treedef=treedef,
        example=jnp.asarray(np.concatenate(parts), float_dtype()),
    )
    _check_scalar(target)
    return target


def _constraint_leaves(example: Any, constraints: Any) -> list[Any]:
    is_constraint = lambda leaf: leaf is None or isinstance(leaf, nc.Constraint)
    if constraints is None:
        constraints = jax.tree.map(lambda _: nc.real, example)
    elif isinstance(example, dict) and isinstance(constraints, dict):
        unknown = [name for name in constraints if name not in example]
        if unknown:
            raise RitzError(
                f"constraints name {', '.join(map(repr, unknown))}, which the example lacks; it "
                f"has {', '.join(map(repr, example))}"
            )
        constraints = {
            name: constraints.get(name, jax.tree.map(lambda _: nc.real, value))
            for name, value in example.items()
        }
    try:
        spread = jax.tree.map(lambda _, c: c, example, constraints, is_leaf=is_constraint)
    except ValueError as error:
        raise RitzError(f"constraints do not have the example's structure: {error}") from None
    leaves = jax.tree.leaves(spread, is_leaf=is_constraint)
    for leaf in leaves:
        if not isinstance(leaf, nc.Constraint):
            raise RitzError(
                f"a constraint arrived as {leaf!r}; expected one of "
                "numpyro.distributions.constraints"
            )
    return leaves


def _check_scalar(target: LogDensityTarget) -> None:
    values = jax.eval_shape(lambda: target.pack(target.constrain(target.example)))
    try:
        out = jax.eval_shape(target.fn, values)
    except Exception as error:
        reason = " ".join(str(error).split())[:240]
        raise RitzError(
            f"the log density {target.name!r} fails at its example: {reason}"
        ) from error
    if getattr(out, "shape", None) != ():
        shapes = jax.tree.map(lambda o: o.shape, out)
        raise RitzError(
            f"the log density {target.name!r} returned shape {shapes} at the example, expected one "
            "number: sum over the terms"
        )
