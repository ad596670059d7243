"""What a fit file keeps of a target: its sites and transforms, without data or density."""

from typing import Any, ClassVar, NoReturn

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.target._base import AbstractTarget, Quantity, Site, check_values, float_dtype
from ritz.target._constraints import bijection, constraint


class SavedTarget(AbstractTarget):
    """The sites of a target that was read from a file; made by `ritz.load`."""

    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    # Parameters of its own: as they were trained, and in the model's own space, by name.
    trainable: ClassVar[tuple[str, ...]] = ("theta",)
    theta: tuple[Array, ...] = ()
    values: dict[str, Array] = eqx.field(default_factory=dict)

    @property
    def trained(self) -> dict[str, Array]:
        return self.values

    @property
    def has_density(self) -> bool:
        return False

    @property
    def has_full_density(self) -> bool:
        return False

    @property
    def has_values(self) -> bool:
        return False

    @property
    def has_transforms(self) -> bool:
        return all(site.constraint is not None for site in self.sites)

    def _transforms(self) -> list[tuple[Site, Any]]:
        pairs = [(site, site.constraint) for site in self.sites]
        return [(site, bijection(constraint(spec))) for site, spec in pairs if spec is not None]

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        return {site.name: t(site.take(x)) for site, t in self._transforms()}

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        check_values(self.sites, values)
        parts = [
            jnp.ravel(t.inv(jnp.asarray(values[s.name], float_dtype())))
            for s, t in self._transforms()
        ]
        return jnp.concatenate(parts)

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        frees = [(site.take(x), t) for site, t in self._transforms()]
        return jnp.stack([t.log_abs_det_jacobian(free, t(free)).sum() for free, t in frees]).sum()

    def log_density(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> Float[Array, ""]:
        _needs_model()

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        _needs_model()

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        _needs_model()


def _needs_model() -> NoReturn:
    raise RitzError("this fit was loaded without its model; use ritz.load(path, model, data)")
