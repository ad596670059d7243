"""Structured stochastic gradient MCMC: Langevin dynamics on an energy without some dependencies."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.objective import subsample_key
from ritz.particle._frame import as_metric
from ritz.particle._langevin import Langevin, LangevinState, positive

# Earlier iterates that other groups' values are drawn from, and the steps between them.
_MEMORY, _EVERY = 20, 10


class Structured(Langevin):
    """See `structured_langevin`.

    Attributes:
        groups: of each coordinate, which group it is in.
        share: of the groups that a step takes from earlier iterates; None for each on its own.
        partners: other groups' values that a force is averaged over.
    """

    groups: tuple[int, ...] = eqx.field(static=True)
    share: Float[Array, ""] | None
    partners: int = eqx.field(static=True)

    def force(
        self, problem: Any, state: LangevinState, key: Key[Array, ""], batch: Any
    ) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        x = state.params.points
        n, d = x.shape
        if len(self.groups) != d:
            raise RitzError(
                f"structured_langevin: groups of {len(self.groups)} coordinates arrived, but the "
                f"target has {d}"
            )
        which, masks, data = jax.random.split(key, 3)
        group = jnp.asarray(self.groups)
        count = int(max(self.groups)) + 1
        one = lambda x: problem.score_at(x, subsample_key(data), batch)
        # Any particle, at any time that is kept: a draw of the law of the others.
        seen = jnp.clip(state.made // self.every, 1, self.keep)
        times = jax.random.randint(which, (self.partners, n), 0, seen)
        who = jax.random.randint(jax.random.fold_in(which, 1), (self.partners, n), 0, n)
        earlier = state.kept[times, who]
        if self.share is None:
            of_group = lambda g: jnp.where(group == g, x[None], earlier)
            mixed = jax.vmap(of_group)(jnp.arange(count))  # (groups, partners, n, d)
            values, scores = jax.vmap(jax.vmap(jax.vmap(one)))(mixed)
            own = group == jnp.arange(count)[:, None]
            force = (scores.mean(axis=1) * own[:, None]).sum(axis=0)
        else:
            kept = jax.random.bernoulli(masks, 1.0 - self.share, (self.partners, n, count))
            stays = kept[..., group]
            values, scores = jax.vmap(jax.vmap(one))(jnp.where(stays, x[None], earlier))
            # A group's force is that at points where it is its own value, as often as it is.
            force = (scores * stays).mean(axis=0) / (1.0 - self.share).astype(x.dtype)
        return state.frame.pull(force), {"loss": -values.mean()}

    def evaluations(self, problem: Any, state: LangevinState, steps: int) -> float | None:
        each = self.partners * (1 if self.share is not None else max(self.groups) + 1)
        return float(state.cost) * each


def structured_langevin(
    groups: Any,
    step_size: Any = 0.05,
    *,
    dropout: Any = None,
    partners: Any = 1,
    friction: Any = None,
    keep: Any = _MEMORY,
    every: Any = _EVERY,
) -> Structured:
    r"""Langevin dynamics whose groups of coordinates do not depend on one another.

    The law that it approximates is :math:`\prod_g q_g(x_g)`, with

    .. math:: -\log q_g(x_g) = \mathbb{E}_{x_{\neg g} \sim q}\, [-\log\tilde p(x_g, x_{\neg g})],

    the structured mean-field optimum, without any parametric form of the parts: the force on each
    group is the gradient of the log density where all others have the values of earlier iterates.
    With `dropout` (S_d-SGMCMC) groups are replaced so at random with that share, all at once: one
    gradient a step, and part of the dependence stays.

    Alexos, Boyd and Mandt, "Structured stochastic gradient MCMC", 2022, equations 6 and 10.

    Args:
        groups: which group each unconstrained coordinate is in, whole numbers from 0.
        step_size: h.
        dropout: the share, between 0 and 1; None for a gradient for each group.
        partners: earlier iterates that a force is averaged over.
        friction: see `langevin`; with batches of data, structured SGHMC.
        keep: snapshots that values of others are drawn from, and that make the answer.
        every: steps between them.

    Raises:
        RitzError: for groups that are not numbered from 0, a share outside (0, 1), and numbers
            that are not positive.

    >>> import jax.numpy as jnp, ritz
    >>> precision = jnp.linalg.inv(jnp.array([[1.0, 0.8], [0.8, 1.0]]))
    >>> target = ritz.target.from_log_density(lambda x: -0.5 * x @ precision @ x, jnp.zeros(2))
    >>> solver = structured_langevin([0, 1], 0.02, keep=50)
    >>> family = ritz.particle.particles(200, spread=1.0)
    >>> fit = ritz.fit(target, family=family, solver=solver, steps=1000, progress=False)
    >>> bool(abs(fit.cov()[0, 1]) < 0.06), bool(abs(fit.cov()[0, 0] - 0.36) < 0.06)
    (True, True)
    """
    name = "structured_langevin"
    numbers = np.asarray(groups)
    right = numbers.ndim == 1 and numbers.size and numbers.dtype.kind in "iu"
    if not right or sorted(set(numbers.tolist())) != list(range(int(numbers.max()) + 1)):
        raise RitzError(
            f"{name}: groups={groups!r} arrived, expected a group for each coordinate, numbered "
            "from 0"
        )
    if dropout is not None and not (isinstance(dropout, float) and 0.0 < dropout < 1.0):
        raise RitzError(f"{name}: dropout={dropout!r} arrived, expected a share between 0 and 1")
    for what, value in (("partners", partners), ("keep", keep), ("every", every)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RitzError(f"{name}: {what}={value!r} arrived, expected a positive whole number")
    return Structured(
        positive(name, "step_size", step_size),
        jnp.asarray(1.0),
        None if friction is None else positive(name, "friction", friction),
        as_metric(name, None),
        keep,
        every,
        False,
        tuple(int(g) for g in numbers),
        None if dropout is None else jnp.asarray(dropout),
        partners,
    )
