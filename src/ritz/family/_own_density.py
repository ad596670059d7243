"""A target's log density inside a family whose draws are made with it."""

from typing import Any

from jaxtyping import Array, Float

from ritz._errors import RitzError


class OwnDensity:
    """A target's log density as a static part of a family.

    Static, because its data are neither trained nor saved with the family's parameters. Programs
    are found again all the same: the arrays that one closes over become its arguments. Two are
    equal where they are of the same target.

    Attributes:
        name: of the family.
        target: the target.
    """

    def __init__(self, name: str, target: Any) -> None:
        """The log density of a target, for a family of this name.

        Raises:
            RitzError: where the target has none on all the data, or has discrete coordinates.
        """
        needs = f"{name} makes its draws with the target's log density on all the data, but "
        if target is None:
            raise RitzError(f"{needs}no target arrived; give {name}(target, start)")
        if target.has_density and not target.has_full_density:
            raise RitzError(f"{needs}these come in batches; use family='full_rank' or 'mean_field'")
        if target.continuous_dim < target.dim:
            raise RitzError(f"{needs}it has discrete coordinates; use fit(..., discrete='summed')")
        self.name, self.target = name, target

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.target.log_density(x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnDensity) and self.target is other.target

    def __hash__(self) -> int:
        return hash((OwnDensity, id(self.target)))

    def __repr__(self) -> str:
        return "OwnDensity()"
