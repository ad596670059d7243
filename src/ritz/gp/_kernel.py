"""What every covariance function has, and how they are put together."""

import abc
from typing import Any

import equinox as eqx
import jax
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

    def middle(self, x: np.ndarray) -> np.ndarray:
        """What is taken from rows before they are seen, so that their offset costs no digits."""
        return x.mean(axis=0)

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

    def middle(self, x: np.ndarray) -> np.ndarray:
        return self.first.middle(x)


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

    def middle(self, x: np.ndarray) -> np.ndarray:
        return self.first.middle(x)


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

    def middle(self, x: np.ndarray) -> np.ndarray:
        return self.of.middle(x)


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


class Difference(AbstractKernel):
    """See `difference`.

    Attributes:
        of: the kernel of one.
    """

    of: AbstractKernel

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        (a, b), (c, d) = _halves(x), _halves(z)
        k = self.of.matrix
        return k(a, c) - k(a, d) - k(b, c) + k(b, d)

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        a, b = _halves(x)
        one = lambda a, b: self.of.matrix(a[None], b[None])[0, 0]
        return self.of.diagonal(a) + self.of.diagonal(b) - 2.0 * jax.vmap(one)(a, b)

    def middle(self, x: np.ndarray) -> np.ndarray:
        return np.tile(np.concatenate(_halves(x)).mean(axis=0), 2)


def difference(kernel: Any) -> Difference:
    r"""Of :math:`u(a) - u(b)` for rows that hold a and b side by side, u having the kernel.

    Args:
        kernel: of u.

    Raises:
        RitzError: for no kernel; when it is used, for an odd number of columns.

    >>> from ritz.gp import rbf
    >>> difference(rbf()).diagonal(jnp.array([[1.0, 1.0], [0.0, 9.0]])).tolist()
    [0.0, 2.0]
    """
    return Difference(_kernel(kernel))


def _halves(x: Any) -> Any:
    if x.shape[1] % 2:
        raise RitzError(
            f"difference: inputs with {x.shape[1]} columns arrived; expected those of one and then "
            "those of the other, an even number"
        )
    return x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]


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
