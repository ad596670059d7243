"""What targets that are known by draws have in common."""

from typing import Any, ClassVar

from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.target._base import AbstractTarget, Quantity, Site


class AbstractWithoutDensity(AbstractTarget):
    """A target with the parameters and transforms of another one, and no density.

    Attributes:
        base: that other one.
        instead: what is told who asks for a density.
    """

    instead: ClassVar[str]
    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    base: AbstractTarget

    @property
    def has_density(self) -> bool:
        return False

    @property
    def has_full_density(self) -> bool:
        return False

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        return self.base.constrain(x)

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        return self.base.unconstrain(values)

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.base.log_det(x)

    def pack(self, values: dict[str, Any]) -> Any:
        return self.base.pack(values)

    def unpack(self, values: Any) -> Any:
        return self.base.unpack(values)

    def log_density(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> Float[Array, ""]:
        raise RitzError(self.instead)

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        raise RitzError(self.instead)
