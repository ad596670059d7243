"""A fit refined by the No-U-Turn sampler: from its draws, in coordinates that they whiten."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ritz import _posterior
from ritz._compile import compile
from ritz._draws import at_rows
from ritz._errors import RitzError
from ritz._whitened import moments, whitened
from ritz.target._centring import centred, hierarchical, in_coordinates

CHAINS, WARMUP = 4, 500
KEPT = _posterior.DRAWS // CHAINS
_ACCEPTANCE = 0.9
# Of chains that take more care: how often they accept, and which of their steps are kept.
_CAREFUL = 0.99, 3
_DENSE = 100  # dimensions up to which warm-up adapts a full mass matrix
# Vehtari et al. 2021: below these the chains agree well enough to be used; 100 draws a chain.
RHAT, ESS = 1.01, 100 * CHAINS
DIVERGENT = 0.001  # share of the transitions


class _Chains(NamedTuple):
    """Draws in the target's coordinates, chain by chain, and what they took."""

    x: np.ndarray
    diverged: int
    transitions: int
    gradients: int


def run(q: Any, target: Any, key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
    r"""Four chains on :math:`\tilde p(m + Lz)`, with m and :math:`LL^\top` of draws from q.

    Each starts from a draw of q resampled by its importance weights, adapts its step size and mass
    matrix for 500 steps, and keeps 1,000. Where something speaks against them, four others go on
    from their ends, whitened by their draws, with shorter steps, of which every third is kept, and
    with hierarchies non-centred; those that less speaks against are kept.

    Returns:
        what a fit stores, chain by chain, with the log-weights of q; and how many transitions
        `diverged`, of how many, how many `gradients` all took, and why there are `others` if so.
    """
    warm, walk, draws = jax.random.split(key, 3)
    proposed, order, center, factor = whitened(q, target, draws, "nuts")
    starts = proposed["x"][order[:CHAINS]]
    found = _chains(target, starts, (center, factor), (warm, walk), _ACCEPTANCE, 1)
    gradients, others = found.gradients, ""
    against = doubts(found.x, found.diverged, found.transitions)
    if against:
        apart = _non_centred(target)
        x = _moved(target, apart, found.x)
        warm, walk = jax.random.split(jax.random.fold_in(key, 1))
        ends = x.reshape(CHAINS, KEPT, -1)[:, -1]
        second = _chains(apart, ends, moments(x), (warm, walk), *_CAREFUL)
        gradients += second.gradients
        less = doubts(second.x, second.diverged, second.transitions)
        often = [chains.diverged / chains.transitions for chains in (second, found)]
        if (len(less), often[0]) < (len(against), often[1]):
            found = second._replace(x=_moved(apart, target, second.x))
            others = against[0]
    values = at_rows(lambda target, x, _: target.constrain(x), target, found.x, ())
    stored = {
        "values": {name: values[name] for name in proposed["values"]},
        "x": found.x,
        "log_weights": proposed["log_weights"],
    }
    counts = {"diverged": found.diverged, "transitions": found.transitions}
    return stored, counts | {"gradients": gradients, "others": others}


def _non_centred(target: Any) -> Any:
    names = hierarchical(target)
    zero = {s.name: jnp.zeros(s.unconstrained_shape) for s in target.sites if s.name in names}
    return centred(target, zero) if names else target


def _moved(old: Any, new: Any, x: np.ndarray) -> np.ndarray:
    if new is old:
        return x
    return at_rows(lambda pair, x, _: in_coordinates(pair[0], pair[1], x), (old, new), x, ())


def _chains(
    target: Any, starts: np.ndarray, where: Any, keys: Any, acceptance: float, thin: int
) -> _Chains:
    """Four chains in coordinates with a mean and a factor, one in `thin` steps of which is kept."""
    try:
        import blackjax
    except ImportError:
        raise RitzError(
            "refine('nuts') needs BlackJAX, which is not installed; pip install 'ritz[nuts]'"
        ) from None
    center, factor = where
    z = starts - center
    z = np.linalg.solve(factor, z.T).T if factor.ndim == 2 else z / factor

    def place(z: Array, center: Array, factor: Array) -> Float[Array, " d"]:
        return center + (factor @ z if factor.ndim == 2 else factor * z)

    def chain(target: Any, where: Any, z: Array, warm: Array, walk: Array) -> Any:
        density = lambda z: target.log_density(place(z, *where))
        adapt: Any = blackjax.window_adaptation(
            blackjax.nuts,
            density,
            is_mass_matrix_diagonal=target.dim > _DENSE,
            target_acceptance_rate=acceptance,
            adaptation_info_fn=lambda state, info, adaptation: info.num_integration_steps,
        )
        (state, tuned), spent = adapt.run(warm, z, num_steps=WARMUP)
        kernel: Any = blackjax.nuts(density, **tuned)

        def step(state: Any, key: Array) -> Any:
            state, info = kernel.step(key, state)
            return state, (info.is_divergent, info.num_integration_steps)

        def kept(state: Any, key: Array) -> Any:
            state, (diverged, steps) = jax.lax.scan(step, state, jax.random.split(key, thin))
            return state, (state.position, diverged.sum(), steps.sum())

        _, (z, diverged, steps) = jax.lax.scan(kept, state, jax.random.split(walk, KEPT))
        x = jax.vmap(lambda z: place(z, *where))(z)
        return x, diverged.sum(), steps.sum() + spent.sum()

    def all_chains(target: Any, where: Any, z: Array, warm: Array, walk: Array) -> Any:
        each = lambda row: chain(target, where, *row)
        keys = jax.random.split(warm, CHAINS), jax.random.split(walk, CHAINS)
        return jax.lax.map(each, (z, *keys))

    dtype = starts.dtype
    args = (target, tuple(jnp.asarray(v, dtype) for v in where), jnp.asarray(z, dtype), *keys)
    x, diverged, gradients = compile(all_chains, *args)(*args)
    x = np.asarray(x).reshape(-1, target.dim)
    return _Chains(x, int(diverged.sum()), CHAINS * KEPT * thin, int(gradients.sum()))


def rows(stored: dict[str, Any], n: int, key: jax.Array) -> dict[str, Any]:
    """n of the stored draws, in random order."""
    if n > _posterior.DRAWS:
        raise RitzError(
            f"{n} draws were asked for, but a fit refined by NUTS holds {_posterior.DRAWS}; ask "
            "for at most these"
        )
    order = np.asarray(jax.random.permutation(key, _posterior.DRAWS))[:n]
    return {
        "values": {name: value[order] for name, value in stored["values"].items()},
        "x": stored["x"][order],
        "log_weights": stored["log_weights"],
    }


def doubts(x: np.ndarray, diverged: int, transitions: int = CHAINS * KEPT) -> list[str]:
    """What speaks against the chains, a line each."""
    import arviz

    chains = arviz.convert_to_dataset({"x": x.reshape(CHAINS, KEPT, -1)})

    def of(found: Any) -> np.ndarray:
        return np.asarray(arviz.convert_to_dataset(found)["x"])

    rhat = float(of(arviz.rhat(chains)).max())
    sizes = [float(of(arviz.ess(chains, method=how)).min()) for how in ("bulk", "tail")]
    out = []
    if not rhat < RHAT:
        out.append(
            f"R-hat {rhat:.3f} is above {RHAT}: the {CHAINS} chains disagree; reparameterise the "
            "model"
        )
    if not min(sizes) > ESS:
        out.append(
            f"the chains are worth {min(sizes):,.0f} draws, fewer than {ESS}: they move too "
            "slowly; reparameterise the model"
        )
    if diverged > DIVERGENT * transitions:
        out.append(
            f"{diverged} of {transitions:,} NUTS transitions diverged: a narrow part of the "
            "posterior is missed; reparameterise the model"
        )
    return out
