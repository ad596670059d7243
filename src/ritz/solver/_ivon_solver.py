"""IVON in Ritz's loop: on a posterior, and on a loss of weights."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
import paramax
from jaxtyping import Array, Key, PyTree

from ritz._errors import RitzError
from ritz.family import MeanField
from ritz.objective import NegativeELBO, Problem
from ritz.solver._base import AbstractSolver
from ritz.solver._ivon import IVONState, Rule


class IVONSolverState(NamedTuple):
    """The mean of the weights, or the mean-field Gaussian of a posterior, and IVON's state."""

    params: PyTree
    opt: IVONState


class IVONSolver(AbstractSolver):
    """IVON in Ritz's loop; see `ivon`."""

    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    rule: Rule

    def init(self, problem: Any, key: Key[Array, ""]) -> IVONSolverState:
        if not isinstance(problem, Problem):
            return IVONSolverState(problem.params, self.rule.init(problem.params))
        _check(problem)
        q = paramax.unwrap(problem.family_at(problem.params))
        opt = self.rule.init(q.loc)
        if self.rule.curvature is None:
            curvature = jnp.exp(-2.0 * q.log_scale) / self.rule.ess
            opt = opt._replace(curvature=curvature, first=curvature.mean())
        return IVONSolverState(self._family(q.loc, opt), opt)

    def step(
        self, problem: Any, state: IVONSolverState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[IVONSolverState, dict[str, Array]]:
        draw_key, data_key = jax.random.split(key)
        whole = isinstance(problem, Problem)
        mean: Any = state.params.loc if whole else state.params
        sample = lambda key: self.rule.sample(key, mean, state.opt)
        if whole:
            at = lambda x: self._of_posterior(problem, x, data_key, batch)
        else:
            at = lambda x: problem.grad(x, data_key, batch)
        if self.rule.draws == 1:
            sampled = sample(draw_key)
            grads, info = at(sampled)
        else:
            sampled = jax.vmap(sample)(jax.random.split(draw_key, self.rule.draws))
            grads, info = jax.vmap(at)(sampled)
            info = {name: values.mean(axis=0) for name, values in info.items()}
        if whole:
            info = {"loss": info["loss"] - state.params.entropy()}
        step, opt = self.rule.update(grads, state.opt, mean, sampled)
        mean = optax.apply_updates(mean, step)
        return IVONSolverState(self._family(mean, opt) if whole else mean, opt), info

    def caution(self, state: IVONSolverState) -> str | None:
        return self.rule.caution(state.opt)

    def _of_posterior(self, problem: Any, x: Array, key: Any, batch: Any) -> tuple[Array, Any]:
        """The gradient without the prior that `weight_decay` stands for, and the energy."""
        value, score = problem.score_at(x, key, batch)
        return -score / self.rule.ess - self.rule.weight_decay * x, {"loss": -value}

    def _family(self, mean: Array, opt: IVONState) -> MeanField:
        return MeanField(mean, -0.5 * jnp.log(self.rule.ess.astype(mean.dtype) * opt.curvature))


def _check(problem: Any) -> None:
    if type(problem.family) is not MeanField or len(jax.tree.leaves(problem.params)) != 2:
        raise RitzError(
            "ivon moves all of independent Gaussians, but the family is "
            f"{type(problem.family).__name__}; use family='mean_field'"
        )
    if not isinstance(problem.objective, NegativeELBO):
        raise RitzError(
            f"ivon minimises the negative ELBO, but the objective is "
            f"{type(problem.objective).__name__}; use ritz.objective.negative_elbo()"
        )
