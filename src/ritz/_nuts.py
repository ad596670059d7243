"""A fit refined by the No-U-Turn sampler: from its draws, in coordinates that they whiten."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ritz import _posterior
from ritz._compile import compile
from ritz._draws import at_rows
from ritz._errors import RitzError
from ritz._whitened import whitened

CHAINS, WARMUP = 4, 500
KEPT = _posterior.DRAWS // CHAINS
_ACCEPTANCE = 0.9
_DENSE = 100  # dimensions up to which warm-up adapts a full mass matrix
# Vehtari et al. 2021: below these the chains agree well enough to be used; 100 draws a chain.
RHAT, ESS = 1.01, 100 * CHAINS
DIVERGENT = 0.001  # share of the kept transitions


def run(q: Any, target: Any, key: jax.Array) -> tuple[dict[str, Any], dict[str, int]]:
    r"""Four chains on :math:`\tilde p(m + Lz)`, with m and :math:`LL^\top` of draws from q.

    Each starts from a draw of q resampled by its importance weights, adapts its step size and mass
    matrix for 500 steps, and keeps 1,000.

    Returns:
        what a fit stores, chain by chain, with the log-weights of q; and how many transitions
        `diverged` and how many `gradients` all took.
    """
    try:
        import blackjax
    except ImportError:
        raise RitzError(
            "refine('nuts') needs BlackJAX, which is not installed; pip install 'ritz[nuts]'"
        ) from None
    warm, walk, draws = jax.random.split(key, 3)
    proposed, order, center, factor = whitened(q, target, draws, "nuts")
    starts = proposed["x"][order[:CHAINS]]
    z = np.linalg.solve(factor, (starts - center).T).T if factor.ndim == 2 else None
    z = (starts - center) / factor if z is None else z

    def place(z: Array, center: Array, factor: Array) -> Float[Array, " d"]:
        return center + (factor @ z if factor.ndim == 2 else factor * z)

    def chain(target: Any, where: Any, z: Array, warm: Array, walk: Array) -> Any:
        density = lambda z: target.log_density(place(z, *where))
        adapt: Any = blackjax.window_adaptation(
            blackjax.nuts,
            density,
            is_mass_matrix_diagonal=target.dim > _DENSE,
            target_acceptance_rate=_ACCEPTANCE,
            adaptation_info_fn=lambda state, info, adaptation: info.num_integration_steps,
        )
        (state, tuned), spent = adapt.run(warm, z, num_steps=WARMUP)
        kernel: Any = blackjax.nuts(density, **tuned)

        def step(state: Any, key: Array) -> Any:
            state, info = kernel.step(key, state)
            return state, (state.position, info.is_divergent, info.num_integration_steps)

        _, (z, diverged, steps) = jax.lax.scan(step, state, jax.random.split(walk, KEPT))
        x = jax.vmap(lambda z: place(z, *where))(z)
        return x, diverged.sum(), steps.sum() + spent.sum()

    def all_chains(target: Any, where: Any, z: Array, warm: Array, walk: Array) -> Any:
        each = lambda row: chain(target, where, *row)
        keys = jax.random.split(warm, CHAINS), jax.random.split(walk, CHAINS)
        return jax.lax.map(each, (z, *keys))

    dtype = proposed["x"].dtype
    where = jnp.asarray(center, dtype), jnp.asarray(factor, dtype)
    args = (target, where, jnp.asarray(z, dtype), warm, walk)
    x, diverged, gradients = compile(all_chains, *args)(*args)
    x = np.asarray(x).reshape(-1, target.dim)
    values = at_rows(lambda target, x, _: target.constrain(x), target, x, ())
    stored = {
        "values": {name: values[name] for name in proposed["values"]},
        "x": x,
        "log_weights": proposed["log_weights"],
    }
    return stored, {"diverged": int(diverged.sum()), "gradients": int(gradients.sum())}


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


def doubts(x: np.ndarray, diverged: int) -> list[str]:
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
    if diverged > DIVERGENT * CHAINS * KEPT:
        out.append(
            f"{diverged} of {CHAINS * KEPT:,} NUTS transitions diverged: a narrow part of the "
            "posterior is missed; reparameterise the model"
        )
    return out
