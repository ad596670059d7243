"""What every target has: named sites over one unconstrained vector, and a log density."""

import abc
import dataclasses
import functools
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import RitzError
from ritz._mesh import place

# The term of a site's Jacobian is named after the site and this, which no site's name ends in.
LOG_DET = " log_det"
# The unconstrained value of a latent site is noted in a trace under its name and this.
FREE = " unconstrained"


@dataclasses.dataclass(frozen=True)
class Site:
    """One named latent array and its place in the unconstrained vector.

    Attributes:
        name: its name in the model.
        shape: shape in the model's own parameters.
        unconstrained_shape: shape before the transform.
        start: index of its first entry in the unconstrained vector.
        support: the support, in words.
        constraint: a specification that `ritz.target.constraint` reads back; None where the
            support depends on other sites or on data.
        dims: a name for each axis of `shape`.
    """

    name: str
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    start: int
    support: str
    constraint: tuple[Any, ...] | None
    dims: tuple[str, ...]

    @property
    def values(self) -> tuple[int, int] | None:
        """Of a discrete site that has coordinates of its own: its least and greatest value."""
        if self.constraint is None or self.constraint[0] != "integers":
            return None
        return self.constraint[1], self.constraint[2]

    @property
    def stop(self) -> int:
        """Index after its last entry in the unconstrained vector."""
        return self.start + math.prod(self.unconstrained_shape)

    def take(self, x: Array) -> Array:
        """Its part of an unconstrained vector, in its unconstrained shape."""
        return x[self.start : self.stop].reshape(self.unconstrained_shape)


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A named array that a model computes or observes: its shape and the names of its axes."""

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]


def no_batch(what: str, batch: Any) -> None:
    """Refuse a batch, for a target that holds its own data.

    Raises:
        RitzError: naming the target.
    """
    if batch is not None:
        raise RitzError(
            f"{what} holds its own data and takes no batches; write the model with NumPyro to fit "
            "it in batches"
        )


class AbstractTarget(eqx.Module):
    r"""An unnormalised log density :math:`\log\tilde p(\theta)`, seen from unconstrained space.

    A target owns a smooth map :math:`\theta = T(x)` from a vector
    :math:`x \in \mathbb{R}^d` to named values in the model's own parameters. Families live on
    :math:`x`, so that :math:`\log\tilde p` here includes the Jacobian:

    .. math:: \log\tilde p_x(x) = \log\tilde p(T(x)) + \log|\det \partial T/\partial x|.

    All methods take one point; batch them with `jax.vmap`.

    A target may have parameters of its own, such as the weights of a decoder: the floating arrays
    of the fields that `trainable` names, which a fit trains along with the family.

    Attributes:
        trainable: the names of these fields.
        in_batches: whether rows of data come to it in batches, and none are its own.
    """

    trainable: ClassVar[tuple[str, ...]] = ()
    in_batches: ClassVar[bool] = False
    sites: eqx.AbstractVar[tuple[Site, ...]]
    observed: eqx.AbstractVar[tuple[Quantity, ...]]
    deterministic: eqx.AbstractVar[tuple[Quantity, ...]]

    @property
    def dim(self) -> int:
        """d, the length of the unconstrained vector."""
        return self.sites[-1].stop

    @property
    def continuous_dim(self) -> int:
        """How many of them are continuous; those of discrete sites come after."""
        return next((site.start for site in self.sites if site.values is not None), self.dim)

    @property
    def params(self) -> PyTree:
        """What is trained of it: by field, its floating arrays; None where nothing is."""
        arrays = {name: _floating(getattr(self, name)) for name in self.trainable}
        return arrays if jax.tree.leaves(arrays) else None

    def with_params(self, params: PyTree) -> Any:
        """The same target with other values of `params`."""
        fields = [getattr(self, name) for name in self.trainable]
        new = [eqx.combine(params[n], v) for n, v in zip(self.trainable, fields, strict=True)]
        return eqx.tree_at(lambda t: [getattr(t, name) for name in self.trainable], self, new)

    @property
    def trained(self) -> dict[str, Array]:
        """The values of `params` in the model's own parameters, by name."""
        return named(self.params)

    @property
    def has_density(self) -> bool:
        """Whether `log_density` can be evaluated (a fit file's target cannot)."""
        return True

    @property
    def has_full_density(self) -> bool:
        """Whether `log_density` sees all the data when no batch is given."""
        return True

    @property
    def has_values(self) -> bool:
        """Whether all values at a point can be computed, those of deterministic sites too."""
        return True

    @property
    def has_transforms(self) -> bool:
        """Whether `constrain`, `unconstrain` and `log_det` can be evaluated."""
        return True

    @property
    def has_model(self) -> bool:
        """Whether it can predict its observed sites."""
        return False

    @property
    def can_simulate(self) -> bool:
        """Whether `simulate` can draw parameters and data together."""
        return False

    def simulate(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], Any]:
        """A draw of the unconstrained vector from the prior, and of data given it."""
        raise RitzError(
            f"a {type(self).__name__} cannot draw data; use a NumPyro model, or "
            "ritz.target.from_simulator"
        )

    def log_density(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> Float[Array, ""]:
        r""":math:`\log\tilde p_x(x)`.

        Args:
            x: unconstrained vector.
            key: draws the subsample where the model has subsampled plates; without it all the
                data are used.
            batch: data in place of the target's own; scaled to the whole.
        """
        return functools.reduce(jnp.add, self.terms(x, key, batch).values())

    @abc.abstractmethod
    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        """The summands of `log_density`, by name."""

    @abc.abstractmethod
    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        """Named values in the model's own parameters, deterministic ones included."""

    @abc.abstractmethod
    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        """The inverse of `constrain` on latent sites. Raises RitzError for a wrong shape."""

    @abc.abstractmethod
    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        r""":math:`\log|\det \partial T/\partial x|`."""

    @abc.abstractmethod
    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        """A point of finite log density and gradient, and how it was found.

        Raises:
            RitzError: if there is none, naming the site.
        """

    def at_random(self, q: Any, key: Key[Array, ""]) -> Any:
        """The family that a draw is from: q itself, where it is not one for each data set."""
        return q

    def doubts(self, fit: Any) -> list[str] | None:
        """What speaks against a fit, where the target has a rule of its own; None where not."""
        return None

    def measures(self, fit: Any) -> dict[str, tuple[Any, str]]:
        """What `Fit.diagnose` tells of a fit beside its own: by name, a value and a line."""
        return {}

    @property
    def rows(self) -> dict[str, Any]:
        """Arrays that may have a row for each observation, by name."""
        return {}

    def on(self, mesh: Any) -> Any:
        """The same target with its arrays on the devices of a mesh."""
        return place(self, mesh, rows=False)

    def pack(self, values: dict[str, Any]) -> Any:
        """The user's own structure (pytree) of named values."""
        return values

    def unpack(self, values: Any) -> Any:
        """The inverse of `pack`; `check_values` says whether its result is right."""
        return values

    def describe(self) -> str:
        """One line: how many sites and dimensions."""
        names = ", ".join(site.name for site in self.sites[:8])
        more = ", …" if len(self.sites) > 8 else ""
        return f"{self.dim} dimensions in {len(self.sites)} sites ({names}{more})"


def check_values(sites: tuple[Site, ...], values: Any, *, partial: bool = False) -> dict[str, Any]:
    """Named values whose names and shapes fit the sites.

    Raises:
        RitzError: for an unknown or missing name, or a shape that does not fit.
    """
    if not isinstance(values, dict):
        raise RitzError(
            f"values arrived as {type(values).__name__}, expected a dict of site names to arrays"
        )
    known = {site.name: site for site in sites}
    for name in values:
        if name not in known:
            raise RitzError(f"no latent site {name!r}: the target has {', '.join(known)}")
    if not partial:
        missing = [name for name in known if name not in values]
        if missing:
            raise RitzError(f"values lack the site(s) {', '.join(missing)}; give one for each")
    for name, value in values.items():
        try:
            shape = np.shape(value)
        except ValueError:
            raise RitzError(f"site {name!r}: the value given is a ragged list") from None
        if shape != known[name].shape:
            raise RitzError(
                f"site {name!r} has shape {known[name].shape}, but the value given has shape "
                f"{shape}"
            )
        dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
        if not jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.complexfloating):
            raise RitzError(f"site {name!r}: the value given has dtype {dtype}, expected numbers")
    return values


def _floating(part: PyTree) -> PyTree:
    frozen = lambda leaf: isinstance(leaf, paramax.NonTrainable)
    return eqx.filter(part, eqx.is_inexact_array, is_leaf=frozen)


def named(params: PyTree) -> dict[str, Array]:
    """The arrays of a target's `params`, by their place, such as `layers.0.bias`."""
    if params is not None and len(params) == 1:
        (params,) = params.values()
    leaves = jax.tree.leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {name or "theta": leaf for name, (_, leaf) in zip(names, leaves, strict=True)}


def float_dtype() -> Any:
    """The floating type that JAX uses now."""
    return jax.dtypes.canonicalize_dtype(float)


def term_name(name: str) -> str:
    """A term of the log density, in words."""
    if name.endswith(LOG_DET):
        return f"the Jacobian of site {name.removesuffix(LOG_DET)!r}"
    return f"the log density of site {name!r}"
