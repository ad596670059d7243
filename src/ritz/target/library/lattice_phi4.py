"""A scalar field on a periodic square lattice with a quartic self-interaction, near criticality."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

SOURCE = "no data; critical point of Schaich and Loinaz (2009), arXiv:0902.0045"


def data() -> dict[str, Any]:
    """Return a lattice of side 16 at the infinite lattice's critical point for coupling 1.

    Returns:
        the model's arguments.

    >>> data()["side"]
    16
    """
    return {"side": 16, "mass_squared": -1.2725, "coupling": 1.0}


def action(
    phi: Float[Array, "*batch side side"], mass_squared: Any, coupling: Any
) -> Float[Array, "*batch"]:
    r"""The negative log density.

    .. math:: S(\varphi) = \sum_x \Bigl[\tfrac12 \sum_{\mu = 1}^2 (\varphi_{x+\mu} - \varphi_x)^2
              + \tfrac{m^2}{2} \varphi_x^2 + \tfrac{\lambda}{4} \varphi_x^4\Bigr].

    For :math:`m^2 < m_c^2(\lambda)` an infinite lattice is magnetised. Schaich and Loinaz find
    :math:`m_c^2 = -1.2725` at :math:`\lambda = 1`.

    Args:
        phi: fields, in the last two axes.
        mass_squared: m^2, which may be negative where the coupling is positive.
        coupling: lambda.

    Returns:
        S of each field.

    >>> float(action(jnp.ones((4, 4)), -1.0, 1.0))
    -4.0
    """
    slopes = sum(0.5 * (jnp.roll(phi, -1, axis) - phi) ** 2 for axis in (-1, -2))
    site = 0.5 * mass_squared * phi**2 + 0.25 * coupling * phi**4
    return (slopes + site).sum((-1, -2))


def model(side: int, mass_squared: float, coupling: float) -> None:
    """The field alone: nothing is observed.

    Args:
        side: sites along each axis.
        mass_squared: see `action`.
        coupling: see `action`.

    >>> from numpyro.handlers import seed, substitute, trace
    >>> given = substitute(model, {"phi": jnp.zeros((16, 16))})
    >>> list(trace(seed(given, 0)).get_trace(**data()))
    ['phi', 'action']
    """
    flat = dist.ImproperUniform(dist.constraints.real, (), (side, side))
    phi = jnp.asarray(numpyro.sample("phi", flat))
    numpyro.factor("action", -action(phi, mass_squared, coupling))


def sweep(
    key: Key[Array, ""], phi: Float[Array, "*batch side side"], mass_squared: Any, coupling: Any
) -> Float[Array, "*batch side side"]:
    """A Metropolis step of every site, those of one colour of the checkerboard at a time.

    Leaves exp(-S) invariant, but turns the sign of a magnetised field slowly: see `flip_clusters`.

    Args:
        key: of the proposals.
        phi: fields of even side.
        mass_squared: see `action`.
        coupling: see `action`.

    Returns:
        the next fields.

    >>> sweep(jax.random.key(0), jnp.zeros((4, 4)), 1.0, 1.0).shape
    (4, 4)
    """
    side = phi.shape[-1]
    colour = np.add.outer(np.arange(side), np.arange(side)) % 2
    site = lambda x: (2.0 + 0.5 * mass_squared) * x**2 + 0.25 * coupling * x**4
    for of in (0, 1):
        key, *keys = jax.random.split(key, 3)
        near = sum(jnp.roll(phi, by, axis) for by in (-1, 1) for axis in (-2, -1))
        tried = phi + 0.8 * jax.random.normal(keys[0], phi.shape)
        higher = site(tried) - site(phi) - (tried - phi) * near
        accepted = jnp.log(jax.random.uniform(keys[1], phi.shape)) < -higher
        phi = jnp.where(accepted & (colour == of), tried, phi)
    return phi


def flip_clusters(key: Key[Array, ""], phi: Float[Array, "side side"]) -> Float[Array, "side side"]:
    r"""A Swendsen-Wang update of the signs, with magnitudes held: exact at any mass and coupling.

    Neighbours of one sign are joined with probability
    :math:`1 - e^{-2\varphi_x\varphi_y}`, and each cluster flips with probability 1/2.

    Args:
        key: of the bonds and flips.
        phi: one field.

    Returns:
        the next field.

    Brower and Tamayo, "Embedded dynamics for phi^4 theory", 1989.

    >>> abs(flip_clusters(jax.random.key(0), jnp.ones((4, 4)))).min().item()
    1.0
    """
    keys = jax.random.split(key, 3)
    bonds = []
    for axis, of in ((-2, keys[0]), (-1, keys[1])):
        apart = jnp.exp(-2.0 * jnp.maximum(phi * jnp.roll(phi, -1, axis), 0.0))
        bonds.append((axis, jax.random.uniform(of, phi.shape) > apart))

    def spread(carry: Any) -> Any:
        old = new = carry[0]
        for axis, bond in bonds:
            new = jnp.where(bond, jnp.minimum(new, jnp.roll(new, -1, axis)), new)
            back = jnp.roll(bond, 1, axis)
            new = jnp.where(back, jnp.minimum(new, jnp.roll(new, 1, axis)), new)
        new = new.ravel()[new]  # a label is a site: take over the label that site has by now
        return new, (new != old).any()

    first = jnp.arange(phi.size).reshape(phi.shape)
    labels = jax.lax.while_loop(lambda carry: carry[1], spread, (first, True))[0]
    return jnp.where(jax.random.bernoulli(keys[2], shape=(phi.size,))[labels], phi, -phi)
