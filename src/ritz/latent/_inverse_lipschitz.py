r"""Decoders that keep latents apart: gradients of convex networks, joined by an isometry."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, not_negative, whole_number
from ritz.latent._networks import Builder, Shape

# Of the rows of the first weights, so that a map is not nearly constant at first.
_LONGER = 2.0


class InputConvex(eqx.Module):
    """A convex function of a vector: weights between layers are positive, activations rise.

    Attributes:
        affine: of the vector, to each hidden layer and to the value.
        raw: whose softplus are the weights between layers.
    """

    affine: tuple[eqx.nn.Linear, ...]
    raw: tuple[Float[Array, "_ _"], ...]

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        # From the left: of many rows side by side this is one product in the order of memory.
        affine = lambda layer: x @ layer.weight.T + layer.bias
        seen = [affine(layer) for layer in self.affine]
        h = jax.nn.softplus(seen[0])
        for raw, more in zip(self.raw[:-1], seen[1:-1], strict=True):
            h = jax.nn.softplus(h @ jax.nn.softplus(raw).T + more)
        return (h @ jax.nn.softplus(self.raw[-1]).T + seen[-1])[0]


class BrenierMap(eqx.Module):
    r"""The gradient of a convex function, :math:`\nabla g(x) + l x`.

    Attributes:
        potential: g.
        least: l.
    """

    potential: InputConvex
    least: Any

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return jax.grad(self.potential)(x) + paramax.unwrap(self.least) * x


class Brenier(eqx.Module):
    """See `brenier`.

    Attributes:
        inner: of the latents.
        columns: whose orthonormal basis embeds.
        outer: of what is embedded.
        shape: of the output.
    """

    inner: BrenierMap
    columns: Float[Array, "n d"]
    outer: BrenierMap
    shape: Shape = eqx.field(static=True)

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        basis = jnp.linalg.qr(self.columns)[0]  # of many rows side by side, once
        return self.outer(basis @ self.inner(z.reshape(-1))).reshape(self.shape)


def brenier(*hidden: Any, inverse_lipschitz: Any = 1.0) -> Builder:
    r"""A decoder that moves by L times what its latents move at least.

    .. math:: f = \nabla\big(g_2 + \tfrac l2|\cdot|^2\big) \circ E \circ
        \nabla\big(g_1 + \tfrac l2|\cdot|^2\big), \quad l = \sqrt L, \qquad
        |f(z) - f(z')| \ge L\,|z - z'|,

    with input-convex networks g (Amos, Xu and Kolter 2017), whose gradients are Brenier maps, and
    an embedding E by an orthonormal basis that is trained. The larger L, the further posteriors are
    from the prior: latents cannot collapse. Kinoshita, Oono, Fukumizu, Yoshida and Maeda,
    "Controlling posterior collapse by an inverse Lipschitz constraint on the decoder network",
    2023, section 4.

    Args:
        hidden: widths of each convex network's layers.
        inverse_lipschitz: L, in units of the decoder's output. A `gaussian` multiplies that by the
            sd of its data, so that it is L / sd for an L in units of these.

    Raises:
        RitzError: for no width, or one below one; for an L below zero; from the builder, for
            outputs of fewer numbers than there are latents.

    >>> net = brenier(16, inverse_lipschitz=2.0)((3,), (4, 4), jax.random.key(0))
    >>> float(jnp.linalg.norm(net(jnp.ones(3)) - net(jnp.zeros(3)))) >= 2.0 * 3**0.5
    True
    """
    if not hidden:
        raise RitzError("brenier: no width arrived, expected one at least, as in brenier(64)")
    for width in hidden:
        whole_number("brenier", width, 1)
    level = not_negative("brenier: inverse_lipschitz", inverse_lipschitz)

    def build(given: Shape, wanted: Shape, key: Key[Array, ""]) -> Brenier:
        low, high = math.prod(given), math.prod(wanted)
        if low > high:
            raise RitzError(
                f"brenier: {low} latents do not fit into {high} values without loss; use "
                f"latent={high} or fewer"
            )
        one, two, three = jax.random.split(key, 3)
        least = paramax.NonTrainable(jnp.sqrt(jnp.asarray(float(level))))
        columns = jax.random.normal(two, (high, low)) / high
        maps = [BrenierMap(_convex(n, hidden, k), least) for n, k in ((low, one), (high, three))]
        return Brenier(maps[0], columns, maps[1], wanted)

    return build


def _convex(n: int, hidden: Any, key: Key[Array, ""]) -> InputConvex:
    """One of n inputs."""
    sizes = [*map(int, hidden), 1]
    some, rest = (jax.random.split(k, len(sizes)) for k in jax.random.split(key))
    affine = tuple(eqx.nn.Linear(n, m, key=k) for m, k in zip(sizes, some, strict=True))
    # The last weights are about 1, and those before of a mean of what they add up.
    longer = lambda layer: eqx.tree_at(lambda v: v.weight, layer, _LONGER * layer.weight)
    start = lambda a, b, k: jax.random.uniform(k, (b, a), maxval=2.0 / (1 if b == 1 else a))
    pairs = zip(sizes[:-1], sizes[1:], rest[1:], strict=True)
    raw = tuple(jnp.log(jnp.expm1(start(a, b, k))) for a, b, k in pairs)
    return InputConvex((*map(longer, affine[:-1]), affine[-1]), raw)
