"""Networks from noise to a point: what an implicit sampler is made of."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class NetworkGenerator(eqx.Module):
    r"""A perceptron beside an affine map, :math:`g(z) = a + Wz + h(z)`.

    Attributes:
        loc: a.
        linear: W.
        network: h.
    """

    loc: Float[Array, " d"]
    linear: Float[Array, "d m"]
    network: eqx.nn.MLP

    @classmethod
    def around(
        cls, start: Float[Array, " d"], latent: int, width: int, depth: int, scale: float
    ) -> "NetworkGenerator":
        """A new one, whose draws have about the sd `scale` around a point."""
        d, dtype = start.shape[0], start.dtype
        # One start for all: a family is a function of its options alone, as saved fits need.
        network = eqx.nn.MLP(latent, d, width, depth, jnp.tanh, dtype=dtype, key=jax.random.key(0))
        last = lambda network: (network.layers[-1].weight, network.layers[-1].bias)
        network = eqx.tree_at(last, network, replace_fn=lambda v: 0.1 * scale * v)
        return cls(
            start, scale * jax.nn.one_hot(jnp.arange(d) % latent, latent, dtype=dtype), network
        )

    @property
    def latent(self) -> int:
        """m, the length of z."""
        return self.linear.shape[1]

    @property
    def width(self) -> int:
        """Of the hidden layers."""
        return self.network.width_size

    @property
    def depth(self) -> int:
        """How many hidden layers there are."""
        return self.network.depth

    def __call__(self, z: Float[Array, " m"]) -> Float[Array, " d"]:
        return self.loc + self.linear @ z + self.network(z)


class MatrixGenerator(eqx.Module):
    r"""Products of matrices: :math:`H_{l+1} = \tanh(A_l H_l B_l + C_l)`, at last without tanh.

    z is laid out as a matrix, as square as its length allows, and x as one of about
    :math:`\sqrt d \times \sqrt d`, of which the last row need not be full. The last C is a whole
    vector of d numbers.

    Attributes:
        left: the A, from z's side to x's.
        right: the B.
        shift: the C.
        loc: the last C.
    """

    left: tuple[Float[Array, "_ _"], ...]
    right: tuple[Float[Array, "_ _"], ...]
    shift: tuple[Float[Array, "w w"], ...]
    loc: Float[Array, " d"]

    @classmethod
    def around(
        cls, start: Float[Array, " d"], latent: int, width: int, depth: int, scale: float
    ) -> "MatrixGenerator":
        """A new one, whose draws have about the sd `scale` around a point."""
        d, dtype = start.shape[0], start.dtype
        rows = math.isqrt(d - 1) + 1
        first = next(n for n in range(math.isqrt(latent), 0, -1) if latent % n == 0)
        sides = [(first, latent // first), *[(width, width)] * depth, (rows, -(-d // rows))]
        keys = jax.random.split(jax.random.key(0), (depth + 1, 2))
        left, right = [], []
        for (a, b), (c, e), (one, two) in zip(sides[:-1], sides[1:], keys, strict=True):
            # Entries of A H B keep the size of those of H, about one.
            left.append(jax.random.normal(one, (c, a), dtype) / a**0.5)
            right.append(jax.random.normal(two, (b, e), dtype) / b**0.5)
        right[-1] = scale * right[-1]
        shift = [jnp.zeros((width, width), dtype)] * depth
        return cls(tuple(left), tuple(right), tuple(shift), start)

    @property
    def latent(self) -> int:
        """m, the length of z."""
        return self.left[0].shape[1] * self.right[0].shape[0]

    @property
    def width(self) -> int:
        """The sides of the hidden matrices."""
        return self.left[0].shape[0]

    @property
    def depth(self) -> int:
        """How many hidden matrices there are."""
        return len(self.shift)

    def __call__(self, z: Float[Array, " m"]) -> Float[Array, " d"]:
        h = z.reshape(self.left[0].shape[1], self.right[0].shape[0])
        for a, b, c in zip(self.left, self.right, self.shift, strict=False):
            h = jnp.tanh(a @ h @ b + c)
        return self.loc + (self.left[-1] @ h @ self.right[-1]).reshape(-1)[: self.loc.shape[0]]
