r"""Probabilities of discrete sites' values, and whether a fit's own are theirs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._compile import compile
from ritz._draws import at_rows
from ritz.target import AbstractTarget, Site

# How many densities the check of drawn sites evaluates at most, and at how many draws.
_EVALUATIONS, _DRAWS = 100_000, 500
# The most by which a probability may be off: a tenth of the sd of a choice that is rarely made.
OFF = 0.03


def of_values(target: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Posterior probabilities of each discrete site's values, averaged over draws.

    Args:
        target: a target with discrete sites.
        x: draws in unconstrained space, shape (S, d).

    Returns:
        by site, an array of its shape and a last axis over its values.
    """
    out = {}
    if target.plan is not None:
        one = lambda target, x, _: target.discrete_posterior(x)
        mean = lambda v: v.mean(axis=0, dtype=np.float64)
        parts = [
            jax.tree.map(mean, at_rows(one, target, rows, ())) for rows in np.array_split(x, 8)
        ]
        out = jax.tree.map(lambda *v: np.mean(v, axis=0), *parts)
    for site in drawn(target):
        out[site.name] = _frequencies(site, x).reshape(*site.shape, -1)
    return out


def drawn(target: AbstractTarget) -> list[Site]:
    """The discrete sites that have coordinates of their own."""
    return [site for site in target.sites if site.values is not None]


def doubts(target: AbstractTarget, x: np.ndarray) -> list[str]:
    r"""What speaks against a fit's probabilities of drawn discrete sites: a line, or none.

    Of the exact posterior, and of no other law in general,

    .. math:: q(z_i = k) = \mathbb{E}_q\, p(z_i = k \mid x_{-i}),

    where :math:`x_{-i}` is everything else. Draws from a family that has lost a value never
    show it; the conditional does.

    Args:
        target: names the sites.
        x: draws in unconstrained space, shape (S, d).
    """
    worst = (0.0, "")
    for site in drawn(target):
        mean, se = _conditional(target, site, x)
        own = _frequencies(site, x)
        noise = 4.0 * np.sqrt(se**2 + own * (1.0 - own) / len(x))
        excess = np.abs(mean - own) - noise
        if not excess.size or excess.max() <= max(OFF, worst[0]):
            continue
        i, k = np.unravel_index(np.argmax(excess), excess.shape)
        index = ",".join(map(str, np.unravel_index(i, site.shape)))
        label = f"{site.name}[{index}]" if index else site.name
        line = (
            f"q gives {label} = {site.values[0] + k} the probability {own[i, k]:.2g}, but given "  # pyright: ignore
            f"the rest of its draws it is {mean[i, k]:.2g}: independent choices do not fit here; "
            "sum it out, or relate the choices in a family of your own"
        )
        worst = (excess.max(), line)
    return [worst[1]] if worst[1] else []


def _frequencies(site: Site, x: np.ndarray) -> np.ndarray:
    """How often each coordinate has each value: (n, K)."""
    assert site.values is not None
    least, most = site.values
    own = np.round(x[:, site.start : site.stop])
    return np.stack([(own == v).mean(axis=0) for v in range(least, most + 1)], axis=-1)


def _conditional(
    target: AbstractTarget, site: Site, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each coordinate's probabilities given the others, and its standard error."""
    assert site.values is not None
    least, most = site.values
    n, k = site.stop - site.start, most - least + 1
    some = jnp.asarray(x[: int(np.clip(_EVALUATIONS // (n * k), 8, _DRAWS))])

    def of_draw(target: Any, x: Any) -> Any:
        def of_coordinate(i: Any) -> Any:
            values = jnp.arange(least, most + 1, dtype=x.dtype)
            log_p = jax.vmap(lambda v: target.log_density(x.at[i].set(v)))(values)
            return jax.nn.softmax(log_p)

        return jax.lax.map(of_coordinate, jnp.arange(site.start, site.stop))

    def moments(target: Any, some: Any) -> Any:
        p = jax.lax.map(lambda x: of_draw(target, x), some)
        return p.mean(axis=0), p.std(axis=0, ddof=1) / len(some) ** 0.5

    mean, se = compile(moments, target, some)(target, some)
    return np.asarray(mean), np.asarray(se)
