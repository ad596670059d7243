"""What the named flows are put together from."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection, Affine, Chain, Scan, TriangularAffine
from flowjax.distributions import StandardNormal, Transformed
from flowjax.utils import get_ravelled_pytree_constructor
from jaxtyping import Array
from paramax import NonTrainable, Parameterize, non_trainable

from ritz._errors import RitzError, whole_number
from ritz.family._flow import Flow, make


def flow(name: str, bijection: AbstractBijection, start: Array, **options: Any) -> Flow:
    r"""The family of :math:`x = m + e^s \odot T(z)`, z standard normal.

    Args:
        name: of the registered builder.
        bijection: T.
        start: the initial m.
        **options: what the builder was told; `scale` is the initial :math:`e^s`. Where `whitened`
            is among them and true it is :math:`x = m + L\,T(z)`, and neither m nor L is trained.
    """
    if options.get("whitened"):
        whole = options["scale"] * jnp.eye(len(start), dtype=start.dtype)
        last = non_trainable(TriangularAffine(start, whole))
        base = StandardNormal(start.shape)
        return make(Transformed(base, Chain([bijection, last]).merge_chains()), name, options)
    log_scale = jnp.full_like(start, np.log(options["scale"]))
    place = eqx.tree_at(lambda a: a.scale, Affine(start), Parameterize(jnp.exp, log_scale))
    base = StandardNormal(start.shape)
    return make(Transformed(base, Chain([bijection, place]).merge_chains()), name, options)


def placed(q: Flow, loc: Array, scale_tril: Array) -> Flow:
    """A flow that was built with `whitened`, with another m and L."""
    last = non_trainable(TriangularAffine(loc, scale_tril))
    where = lambda distribution: distribution.bijection.bijections[-1]
    return make(eqx.tree_at(where, q.distribution, last), q.name, q.options)


def stack(layer: Callable[[Array], AbstractBijection], layers: int, seed: int) -> Scan:
    """Layers of equal structure, one after the other; compiled once, however many they are."""
    return drawn(lambda key: Scan(eqx.filter_vmap(layer)(jax.random.split(key, layers))), seed)


def key(seed: int) -> Array:
    """Of initial weights: of a kind whose draws compile in half the time of the usual one's."""
    return jax.random.key(seed, impl="rbg")


def drawn(make: Callable[[Array], Any], seed: int) -> Any:
    """What `make` builds from a key, compiled at once instead of in a hundred small pieces.

    Functions in it must not hold arrays of their own.
    """
    arrays = jax.jit(lambda key: eqx.filter(make(key), eqx.is_array))(key(seed))
    shapes = eqx.filter_eval_shape(make, key(seed))
    array = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    return eqx.combine(arrays, eqx.filter(shapes, array, inverse=True))


def conditioned(
    make: Callable[[Array], Any], layer: Callable[[Any], Any], transformer: Any, seed: int
) -> Any:
    """The same for layers whose networks give the parameters of a transformer.

    FlowJAX's function that takes them there holds the transformer's own as an array.
    """
    frozen = lambda leaf: isinstance(leaf, NonTrainable)
    function, _ = get_ravelled_pytree_constructor(
        transformer, filter_spec=eqx.is_inexact_array, is_leaf=frozen
    )
    where = lambda made: layer(made).transformer_constructor
    return eqx.tree_at(where, drawn(make, seed), function)


def zeroed(tree: Any, *where: Callable[[Any], Any]) -> Any:
    """With zeros for the arrays that are there."""
    for place in where:
        tree = eqx.tree_at(place, tree, replace_fn=jnp.zeros_like)
    return tree


def check_options(name: str, scale: Any, seed: Any, **counts: Any) -> None:
    """Refuse what no flow can be made with.

    Raises:
        RitzError: naming the option.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0.0 < scale < np.inf:
        raise RitzError(f"{name}: scale={scale!r} arrived, expected a positive number such as 0.1")
    whole_number(f"{name}: seed", seed, 0)
    for option, value in counts.items():
        whole_number(f"{name}: {option}", value, 1)


def check_dim(name: str, start: Array) -> None:
    """Refuse one dimension, where a coordinate has no other to depend on.

    Raises:
        RitzError: naming flows that serve.
    """
    if start.shape[0] < 2:
        raise RitzError(
            f"family {name!r} is a Gaussian in one dimension, as each coordinate is moved by the "
            "others; use family='spline' or 'bnaf'"
        )


def bisect(increasing: Callable[[Array], Array], lower: Array, upper: Array) -> Array:
    """The root of an increasing function, elementwise, to the last bit of the bracket's width."""
    halvings = jnp.finfo(lower.dtype).nmant + 4

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        above = increasing(middle) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = jax.lax.fori_loop(0, halvings, halve, (lower, upper))
    return 0.5 * (low + high)
