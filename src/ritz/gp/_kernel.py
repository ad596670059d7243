"""What every covariance function has, and how they are put together."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ritz._errors import RitzError


class AbstractKernel(eqx.Module):
    r"""A covariance function :math:`k(x, z)` of rows of numbers.

    Every floating array of a kernel is a positive hyperparameter. Sums and products of kernels are
    kernels, and so is one times a positive number, which is fixed.

    >>> from ritz.gp import matern, periodic
    >>> (matern(2.5) + 0.5 * periodic()).matrix(jnp.zeros((3, 1)), jnp.ones((2, 1))).shape
    (3, 2)
    """

    @abc.abstractmethod
    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """k of each row of x and each of z."""

    @abc.abstractmethod
    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """k of each row and itself."""

    def __add__(self, other: Any) -> "AbstractKernel":
        return Sum(self, _kernel(other))

    def __mul__(self, other: Any) -> "AbstractKernel":
        if isinstance(other, AbstractKernel):
            return Product(self, other)
        return Scaled(self, _factor(other))

    __rmul__ = __mul__


class Sum(AbstractKernel):
    """Of independent functions, added.

    Attributes:
        first: of one.
        second: of the other.
    """

    first: AbstractKernel
    second: AbstractKernel

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.first.matrix(x, z) + self.second.matrix(x, z)

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return self.first.diagonal(x) + self.second.diagonal(x)


class Product(AbstractKernel):
    """Of one kernel and another.

    Attributes:
        first: one.
        second: the other.
    """

    first: AbstractKernel
    second: AbstractKernel

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.first.matrix(x, z) * self.second.matrix(x, z)

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return self.first.diagonal(x) * self.second.diagonal(x)


class Scaled(AbstractKernel):
    """A kernel times a number.

    Attributes:
        of: the kernel.
        factor: the number, which is not learned.
    """

    of: AbstractKernel
    factor: float = eqx.field(static=True)

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.factor * self.of.matrix(x, z)

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return self.factor * self.of.diagonal(x)


class Selected(AbstractKernel):
    """See `on`.

    Attributes:
        of: the kernel of the columns.
        columns: which.
    """

    of: AbstractKernel
    columns: tuple[int, ...] = eqx.field(static=True)

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.of.matrix(self._of(x), self._of(z))

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return self.of.diagonal(self._of(x))

    def _of(self, x: Float[Array, "n d"]) -> Float[Array, "n c"]:
        if max(self.columns) >= x.shape[1]:
            raise RitzError(
                f"on: column {max(self.columns)} of inputs with {x.shape[1]} columns arrived; "
                f"expected one from 0 to {x.shape[1] - 1}"
            )
        return x[:, list(self.columns)]


def on(kernel: Any, *columns: Any) -> Selected:
    """A kernel of some columns alone.

    Args:
        kernel: of these.
        columns: their numbers, from 0.

    Raises:
        RitzError: for no kernel, no column or one below 0; when it is used, for one that is not
            there.

    >>> from ritz.gp import rbf
    >>> on(rbf(), 1).matrix(jnp.array([[0.0, 1.0]]), jnp.array([[5.0, 1.0]])).tolist()
    [[1.0]]
    """
    whole = all(isinstance(c, int | np.integer) and c >= 0 for c in columns)
    if not columns or not whole:
        raise RitzError(f"on: columns {columns} arrived, expected whole numbers from 0 up")
    return Selected(_kernel(kernel), tuple(int(c) for c in columns))


def _kernel(value: Any) -> AbstractKernel:
    if not isinstance(value, AbstractKernel):
        raise RitzError(
            f"a kernel arrived as {type(value).__name__}, expected one of ritz.gp such as "
            "matern(2.5)"
        )
    return value


def _factor(value: Any) -> float:
    known = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not known or not 0 < value < np.inf:
        raise RitzError(
            f"a kernel times {value!r} arrived, expected a positive number or another kernel"
        )
    return float(value)


def positives(name: str, value: Any, axes: tuple[int, ...] = (0, 1)) -> Float[Array, "..."]:
    """A positive number or array of these, with one of some numbers of axes.

    Raises:
        RitzError: for anything else.
    """
    try:
        found = np.asarray(value, float)
    except (TypeError, ValueError):
        raise RitzError(f"{name}={value!r} arrived, expected positive numbers") from None
    if found.ndim not in axes or not found.size or not np.all((found > 0) & np.isfinite(found)):
        raise RitzError(
            f"{name}={value!r} arrived, expected positive numbers in an array of "
            f"{' or '.join(map(str, axes))} axes"
        )
    return jnp.asarray(found, float)
