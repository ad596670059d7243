"""Control variates from Stein's identity, in a kernel's span."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, register
from ritz.estimator._gaussian import needs_gaussian, pushed


class KernelControlVariates(AbstractEstimator):
    """See `kernel_control_variates`."""

    needs: ClassVar[frozenset[str]] = frozenset({"slope"})
    stacked: ClassVar[bool] = True
    cost: ClassVar[str] = "K"
    draws: int = eqx.field(static=True)
    length: float | None = eqx.field(static=True)
    ridge: float = eqx.field(static=True)

    def check(self, q: Any) -> None:
        needs_gaussian(self, q)

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        shape, push = pushed(q)
        batch, d = law.batch_shape(q), math.prod(law.event_shape(q))
        noise = jax.random.normal(key, (self.draws, *shape), law.value(q).dtype)
        points = noise.reshape(self.draws, math.prod(batch), d)
        weight = jax.vmap(self.weights, in_axes=1, out_axes=1)(points)
        return Draw(jax.vmap(push)(noise), {"weight": weight.reshape(self.draws, *batch)})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        return (notes["weight"] * f).sum(0)

    def weights(self, z: Float[Array, "K d"]) -> Float[Array, " K"]:
        """What draws of noise count: each half corrects the other, with what it can predict."""
        length = self.length or 1.0 + z.shape[1] ** 0.5
        half = self.draws // 2
        kernel = stein_kernel(z, length)
        one = self._half(kernel, half)
        two = self._half(jnp.roll(kernel, (-half, -half), (0, 1)), self.draws - half)
        return 0.5 * (one + jnp.roll(two, half))

    def _half(self, kernel: Array, half: int) -> Array:
        """Weights of the mean over the later ones, less the fit of the earlier ones there."""
        held = self.draws - half
        gram = kernel[:half, :half]
        gram = gram + self.ridge * jnp.trace(gram) / half * jnp.eye(half, dtype=gram.dtype)
        across = kernel[:half, half:].mean(1)
        ones = jnp.ones(half, gram.dtype)
        v, u = solved(gram, jnp.stack([across, ones], 1)).T
        fitted = v.sum() * u / u.sum() - v
        return jnp.concatenate([fitted, jnp.full(held, 1 / held, gram.dtype)])


def solved(matrix: Float[Array, "n n"], right: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """The solution for a small positive definite matrix, by Gauss-Jordan elimination.

    Many such systems are solved at once: elimination is arithmetic that XLA batches, where calls
    of LAPACK from several places of one program were seen to wait for each other for ever.
    """

    def step(i: Any, rows: Array) -> Array:
        pivot = rows[i] / rows[i, i]
        return (rows - rows[:, i, None] * pivot).at[i].set(pivot)

    n = matrix.shape[0]
    return jax.lax.fori_loop(0, n, step, jnp.concatenate([matrix, right], 1))[:, n:]


def stein_kernel(z: Float[Array, "K d"], length: float) -> Float[Array, "K K"]:
    r"""The Stein kernel of a standard normal, whose mean over either argument is 0.

    .. math:: k_0(z, z') = \big(d/\ell^2 - r^2 (1/\ell^4 + 1/\ell^2) + z \cdot z'\big)
        e^{-r^2 / 2\ell^2}, \qquad r = |z - z'|.
    """
    d, inverse = z.shape[1], 1 / length**2
    inner = z @ z.T
    square = jnp.diag(inner)
    r2 = jnp.maximum(square[:, None] + square[None, :] - 2 * inner, 0.0)
    return (d * inverse - r2 * inverse * (1 + inverse) + inner) * jnp.exp(-0.5 * inverse * r2)


def kernel_control_variates(
    draws: int = 16, length: float | None = None, ridge: float = 1e-4
) -> KernelControlVariates:
    r"""The pathwise gradient on K draws, less what a kernel method predicts from half of them.

    .. math:: \frac{1}{|B|} \sum_{b \in B} \big(f(x_b) - \hat f_A(x_b)\big) + \hat c_A, \qquad
        \hat f_A(x) = \hat c_A + \sum_{a \in A} \beta_a k_0(x, x_a),

    averaged over both ways to call the halves A and B. The mean of :math:`k_0(\cdot, x_a)` is
    zero by Stein's identity, so held-out draws keep value and gradient unbiased for any kernel.
    The estimate is linear in f, with weights that depend on the noise alone. It pays where f is
    smooth and an element has few numbers. In a plate each element has weights of its own, and
    where a program mixes elements their weights are averaged, which corrects less.

    Oates, Girolami and Chopin 2017 (equations 7 and 10, theorem 1).

    Args:
        draws: K, at least 4.
        length: the length of the Gaussian kernel on standardised noise; by default
            :math:`1 + \sqrt d` for elements of d numbers.
        ridge: added to the diagonal of the kernel's matrix, relative to its mean.

    Returns:
        the estimator.

    Raises:
        RitzError: for fewer than four draws, or a length or ridge that is not positive.

    >>> kernel_control_variates(32).draws
    32
    """
    whole_number("draws", draws, 4)
    for name, value in (("length", length), ("ridge", ridge)):
        if value is not None and not value > 0:
            raise RitzError(f"{name}={value!r} arrived, expected a positive number")
    return KernelControlVariates(draws, length, ridge)


register("kernel_control_variates", lambda: kernel_control_variates(8), "Gaussians")
