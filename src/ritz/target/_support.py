"""Discrete latent sites: their finite supports, and their values by index."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._errors import RitzError
from ritz.target._laws import unwrapped

# The most joint values that are enumerated at once.
LIMIT = 4096


@dataclasses.dataclass(frozen=True)
class Discrete:
    """A latent site with finitely many values, which is summed out.

    Each of its elements takes one of K values. The elements along a plate are independent given
    everything outside the plate, so that they are summed one by one; elements along any other
    axis, and along a plate in `joint`, are enumerated together.

    Attributes:
        name: its name in the model.
        support: the K values of an element.
        shape: the shape of the array of elements.
        plates: each plate's name with its axis in `shape`, counted from the right.
        length: of a site in the body of a scan, the scan's length.
        joint: plates whose elements are enumerated together.
    """

    name: str
    support: tuple[int, ...]
    shape: tuple[int, ...]
    plates: tuple[tuple[str, int], ...]
    length: int | None = None
    joint: frozenset[str] = frozenset()

    @property
    def in_scan(self) -> bool:
        """Whether it is in the body of a scan."""
        return self.length is not None

    @property
    def local(self) -> tuple[str, ...]:
        """The plates along which its elements are summed one by one."""
        return tuple(name for name, _ in self.plates if name not in self.joint)

    @property
    def count(self) -> int:
        """V, how many joint values an index runs over."""
        return len(self.support) ** self._together()

    @property
    def combinations(self) -> str:
        """`count` in words, also where it is astronomical."""
        few = self._together() * math.log(len(self.support)) < 20.0
        return f"{self.count:,}" if few else f"{len(self.support)}^{self._together():,}"

    def _together(self) -> int:
        return math.prod(self.shape[axis] for axis in self._joint_axes())

    def _joint_axes(self) -> list[int]:
        local = [axis for name, axis in self.plates if name not in self.joint]
        return [axis for axis in range(-len(self.shape), 0) if axis not in local]

    def values(self, index: Any, shape: tuple[int, ...]) -> Any:
        """The site's value where its elements have given indices.

        Args:
            index: below `count`; a scalar, or an array over the axes of `shape` with ones for
                the axes that are enumerated together.
            shape: the shape of the array of elements in this run.

        Returns:
            an array of `shape`.
        """
        together = self._joint_axes()
        sizes = tuple(shape[axis] for axis in together)
        if sizes != tuple(self.shape[axis] for axis in together):
            raise RitzError(
                f"site {self.name!r} is enumerated jointly over {self.shape}, but here it has "
                f"shape {shape}; do not subsample its plate"
            )
        digits = jnp.asarray(self.digits())
        apart = tuple(1 if axis in together else shape[axis] for axis in range(-len(shape), 0))
        index = jnp.squeeze(jnp.broadcast_to(index, apart), axis=tuple(together))
        # Its axes are those that are apart, then those that go together.
        order = [axis for axis in range(-len(shape), 0) if axis not in together] + together
        placed = jnp.transpose(digits[index], np.argsort(order).tolist())
        return jnp.asarray(np.array(self.support))[placed]

    def digits(self) -> np.ndarray:
        """Which of the K values the elements that go together have at each index: (V, ...)."""
        sizes = [self.shape[axis] for axis in self._joint_axes()]
        each = np.arange(self.count)[:, None] // len(self.support) ** np.arange(math.prod(sizes))
        return (each % len(self.support)).reshape(self.count, *sizes)

    def by_element(self, table: Any) -> Any:
        """From probabilities of indices, (V, local plates...), to those of each element's values.

        Returns:
            an array of the site's shape, and a last axis over the K values.
        """
        together = self._joint_axes()
        order = [axis for axis in range(-len(self.shape), 0) if axis not in together] + together
        apart = tuple(self.shape[axis] for axis in order[: len(order) - len(together)])
        is_value = jax.nn.one_hot(self.digits(), len(self.support), dtype=table.dtype)
        each = jnp.tensordot(table.reshape(self.count, *apart), is_value, axes=(0, 0))
        return jnp.transpose(each, [*np.argsort(order).tolist(), len(order)])

    def words(self) -> str:
        """One line, such as `z: summed, 3 values, plate of 1000`."""
        parts = [f"{self.name}: summed, {len(self.support)} values"]
        parts += [f"scan of {self.length}"] * self.in_scan
        parts += [f"plate of {self.shape[axis]}" for n, axis in self.plates if n in self.local]
        if self._together() > 1:
            parts.append(f"{self._together()} elements jointly ({self.combinations} combinations)")
        return ", ".join(parts)


class TooMany(RitzError):
    """A sum over more combinations than are enumerated.

    Args:
        message: one line.
        site: the site's name.
    """

    def __init__(self, message: str, site: str) -> None:
        super().__init__(message)
        self.site = site


def discrete(msg: Any, length: int | None = None) -> Discrete:
    """What is known of a discrete latent site from its message.

    Raises:
        RitzError: if its support is not finite, or depends on traced values.
    """
    name, base = msg["name"], unwrapped(msg["fn"])
    what = f"site {name!r} is discrete ({type(base).__name__}) and not observed"
    if not getattr(base, "has_enumerate_support", False) or base.event_shape:
        raise RitzError(
            f"{what}; only finite supports are summed out or drawn: bound it (Categorical, "
            "Binomial), sum it out by hand in numpyro.factor, or pass its data"
        )
    try:
        with jax.ensure_compile_time_eval():
            support = np.ravel(base.enumerate_support(expand=False))
    except NotImplementedError as error:
        raise RitzError(
            f"{what}, and its values cannot be listed ({error}); give all its elements the same "
            "bounds, as Python integers, or pass its data"
        ) from None
    if len(support) > LIMIT:
        raise RitzError(f"{what}; it has {len(support):,} values, and at most {LIMIT:,} are summed")
    extra = len(msg["fn"].event_shape)
    plates = ((frame.name, frame.dim - extra) for frame in msg["cond_indep_stack"])
    return Discrete(
        name,
        tuple(map(int, support)),
        elements(msg),
        tuple(sorted(plates, key=lambda plate: plate[1])),
        length,
    )


def elements(msg: Any) -> tuple[int, ...]:
    """The shape of a site's array of elements."""
    return (*msg["kwargs"]["sample_shape"], *msg["fn"].shape())


def first(msg: Any) -> Any:
    """A discrete site's first value, at each of its elements."""
    site = discrete(msg)
    return jnp.full(site.shape, site.support[0])


def moving_support(name: str, discrete: str) -> RitzError:
    """The error of a site whose support depends on a site that is summed out."""
    return RitzError(
        f"the support of site {name!r} depends on the discrete site {discrete!r}, so that its "
        "values cannot outlive the sum; give it bounds that do not, or pass data"
    )
