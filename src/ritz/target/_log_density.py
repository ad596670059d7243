"""Targets from a log density: a function of any pytree."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key, PyTree
from numpyro.distributions import constraints as nc
from numpyro.distributions.transforms import biject_to

from ritz._errors import RitzError
from ritz.target._base import (
    LOG_DET,
    AbstractTarget,
    Quantity,
    Site,
    check_values,
    float_dtype,
    no_batch,
)
from ritz.target._constraints import describe
from ritz.target._parameters import trainable
from ritz.target._start import search


class LogDensityTarget(AbstractTarget):
    """An unnormalised log density of a pytree; made by `from_log_density`.

    Attributes:
        theta: what is trained of it, if anything; the second argument of its function.
    """

    trainable: ClassVar[tuple[str, ...]] = ("theta",)
    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    fn: Callable[..., Any] = eqx.field(static=True)
    transforms: tuple[Any, ...]
    treedef: Any = eqx.field(static=True)
    # Functions among the example's leaves (the activations of a network), by position.
    fixed: tuple[tuple[int, Any], ...] = eqx.field(static=True)
    example: Float[Array, " d"]
    theta: PyTree = None

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        no_batch(f"the log density {self.name!r}", batch)
        density = jnp.asarray(self.of(self.pack(self.constrain(x))), float_dtype())
        return {self.name: density} | {
            name + LOG_DET: value for name, value in self._log_dets(x).items()
        }

    def of(self, values: Any) -> Any:
        """The function's answer, at values in the user's own structure."""
        return (
            self.fn(values) if self.theta is None else self.fn(values, paramax.unwrap(self.theta))
        )

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
        for position, leaf in self.fixed:  # ascending
            leaves.insert(position, leaf)
        return jax.tree.unflatten(self.treedef, leaves)

    def unpack(self, values: Any) -> Any:
        names = [site.name for site in self.sites]
        leaves, treedef = jax.tree.flatten(values, is_leaf=lambda v: isinstance(v, list))
        if treedef != self.treedef:
            if isinstance(values, dict) and set(values) <= set(names):
                return values  # some of the sites, by name
            leaves, treedef = jax.tree.flatten(values)
        if treedef != self.treedef:
            raise RitzError(
                f"values arrived with structure {treedef}, expected that of the example: "
                f"{self.treedef}"
            )
        at = {position for position, _ in self.fixed}
        free = [leaf for i, leaf in enumerate(leaves) if i not in at]
        return dict(zip(names, free, strict=True))


def from_log_density(
    fn: Callable[..., Any], example: Any, constraints: Any = None, *, theta: Any = None
) -> LogDensityTarget:
    r"""The distribution whose unnormalised log density is `fn`.

    Args:
        fn: maps a pytree like `example` to a scalar :math:`\log\tilde p(\theta)`, without any
            Jacobian; data are closed over.
        example: a pytree of numbers and arrays, such as a dict, a tuple or an Equinox module: the
            shapes, and the starting point. Whole numbers become floating ones; functions in it
            stay as they are.
        constraints: constraints of `numpyro.distributions.constraints` laid out like `example`.
            One constraint in place of a part of the example holds for every array in that part;
            what has none, or None, is unconstrained. A dict needs only the constrained entries.
        theta: a pytree that `fn` takes as a second argument, such as an Equinox module. A fit
            trains its floating arrays (`paramax.NonTrainable` keeps one as it is) along with the
            family, and its `target.theta` holds the trained ones.

    Returns:
        the target. Its sites are named after their place in the example, as in `layers.0.bias`.

    Raises:
        RitzError: for an example that is empty, not numbers or outside its constraint, a theta
            without floating numbers, and where `fn` fails or does not return one real number.

    >>> import jax.numpy as jnp
    >>> from numpyro.distributions import constraints
    >>> gamma = lambda p: jnp.log(p["rate"]) - 2.0 * p["rate"]
    >>> from_log_density(gamma, {"rate": 1.0}, {"rate": constraints.positive}).dim
    1

    The evidence of one number y = 2 under a Normal(0, sqrt(1 + s^2)) is largest at s^2 = 3:

    >>> import ritz
    >>> def joint(z, log_s):  # z ~ Normal(0, s), y ~ Normal(z, 1)
    ...     return -0.5 * (z**2 * jnp.exp(-2 * log_s) + (2.0 - z) ** 2) - log_s
    >>> fit = ritz.fit(from_log_density(joint, 0.0, theta=0.0), steps=3000, progress=False)
    >>> bool(abs(jnp.exp(2 * fit.target.theta) - 3.0) < 0.2)
    True
    """
    if not callable(fn):
        raise RitzError(f"the log density is a {type(fn).__name__}; expected a function")
    paths, treedef = jax.tree.flatten_with_path(example)
    wanted = _spread(example, constraints, "the example")
    names = _names([path for path, _ in paths])
    sites, transforms, parts, fixed, start = [], [], [], [], 0
    for i, ((_, leaf), name, kind) in enumerate(zip(paths, names, wanted, strict=True)):
        if callable(leaf) and not hasattr(leaf, "dtype"):
            fixed.append((i, leaf))
            continue
        value = _number(name, leaf)
        words, spec = describe(kind)
        transform, free = _inverse(name, value, kind, words)
        dims = tuple(f"{name}_dim_{axis}" for axis in range(value.ndim))
        sites.append(Site(name, value.shape, free.shape, start, words, spec, dims))
        transforms.append(transform)
        parts.append(free.reshape(-1))
        start = sites[-1].stop
    if not sites:
        raise RitzError("the example has no arrays; give one value of the parameters")
    target = LogDensityTarget(
        sites=tuple(sites),
        observed=(),
        deterministic=(),
        fn=fn,
        transforms=tuple(transforms),
        treedef=treedef,
        fixed=tuple(fixed),
        example=jnp.asarray(np.concatenate(parts), float_dtype()),
        theta=None if theta is None else trainable(theta),
    )
    _check_scalar(target)
    return target


def _names(paths: list[Any]) -> list[str]:
    """A name for each leaf: its path with dots, or in full where dots do not tell leaves apart."""
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "theta" for path in paths]
    return names if len(set(names)) == len(names) else list(map(jax.tree_util.keystr, paths))


def _number(name: str, leaf: Any) -> np.ndarray:
    value = np.asarray(leaf)
    if value.dtype.kind not in "fiu" and not jnp.issubdtype(value.dtype, jnp.floating):
        raise RitzError(f"example {name!r} has dtype {value.dtype}; expected real numbers")
    value = value.astype(float_dtype())
    if not np.isfinite(value).all():
        raise RitzError(f"example {name!r} holds {value[~np.isfinite(value)][0]}; give numbers")
    return value


def _inverse(name: str, value: np.ndarray, kind: Any, words: str) -> tuple[Any, np.ndarray]:
    """A part of the example's transform, and its unconstrained value."""
    if value.ndim < kind.event_dim:
        raise RitzError(
            f"example {name!r} has shape {value.shape}, but its constraint, {words}, is on arrays "
            f"of {kind.event_dim} axes or more"
        )
    try:
        transform = biject_to(kind)
    except NotImplementedError:
        raise RitzError(
            f"the constraint of {name!r}, {words}, has no map from the reals; use another one"
        ) from None
    free = np.asarray(transform.inv(jnp.asarray(value)))
    if not np.all(kind(value)) or not np.isfinite(free).all():
        raise RitzError(
            f"example {name!r} = {np.ravel(value)[:4]} is not inside its support {words}"
        )
    return transform, free


def _spread(example: Any, wanted: Any, where: str) -> list[Any]:
    """A constraint for each leaf of the example."""
    if wanted is None or isinstance(wanted, nc.Constraint):
        kind = nc.real if wanted is None else wanted
        return [kind for _ in jax.tree.leaves(example)]
    if isinstance(example, dict) and isinstance(wanted, dict):
        unknown = [name for name in wanted if name not in example]
        if unknown:
            raise RitzError(
                f"constraints name {', '.join(map(repr, unknown))}, which {where} lacks; it has "
                f"{', '.join(map(repr, example))}"
            )
        wanted = {name: wanted.get(name) for name in example}
    kinds, outer = _children(wanted)
    parts, shape = _children(example)
    if outer != shape or not parts:
        raise RitzError(
            f"constraints of {where} arrived as {type(wanted).__name__}; expected one of "
            "numpyro.distributions.constraints, or the structure of the example"
        )
    inner = where if where != "the example" else "its part"
    return [kind for part, k in zip(parts, kinds, strict=True) for kind in _spread(part, k, inner)]


def _children(node: Any) -> tuple[list[Any], Any]:
    """A pytree's direct children and its outermost structure; none for a leaf."""
    children, outer = jax.tree.flatten(node, is_leaf=lambda v: v is not node)
    if len(children) == 1 and children[0] is node:
        return [], None
    return children, outer


def _check_scalar(target: LogDensityTarget) -> None:
    try:
        out = jax.eval_shape(lambda x: target.of(target.pack(target.constrain(x))), target.example)
    except Exception as error:
        reason = " ".join(str(error).split())[:240]
        raise RitzError(
            f"the log density {target.name!r} fails at its example: {reason}"
        ) from error
    shapes = [getattr(leaf, "shape", None) for leaf in jax.tree.leaves(out)]
    if shapes != [()] or jax.tree.structure(out) != jax.tree.structure(0.0):
        said = f"shape {shapes[0]}" if len(shapes) == 1 else type(out).__name__
        raise RitzError(
            f"the log density {target.name!r} returned {said} at the example, expected one "
            "number: sum over the terms"
        )
    if jnp.issubdtype(out.dtype, jnp.complexfloating):
        raise RitzError(
            f"the log density {target.name!r} returned a complex number; take its real part"
        )
