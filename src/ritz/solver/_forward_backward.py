"""Gaussian variational inference by steps in the Bures–Wasserstein space."""

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import RitzError
from ritz.family import FullRank
from ritz.objective import NegativeELBO
from ritz.solver._base import AbstractSolver


class Expected(NamedTuple):
    r"""What a step must know of the target.

    Attributes:
        log_density: :math:`\mathbb{E}_q \log\tilde p(x)`.
        score: :math:`\mathbb{E}_q \nabla\log\tilde p(x)`.
        hessian: :math:`\mathbb{E}_q \nabla^2\log\tilde p(x)`.
        error: the standard error of the first; None where it is not known.
    """

    log_density: Float[Array, ""]
    score: Float[Array, " d"]
    hessian: Float[Array, "d d"]
    error: Float[Array, ""] | None = None


class GaussianState(NamedTuple):
    """The Gaussian so far: the arrays of a `FullRank`."""

    params: PyTree


class AbstractBuresWasserstein(AbstractSolver):
    """A step of the mean along the expected score, and one of the covariance.

    Attributes:
        step_size: h.
        expectation: `(problem, q, key, batch) -> Expected`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at", "hvp_at"})
    step_size: Float[Array, ""]
    expectation: Callable[..., Expected]

    @abc.abstractmethod
    def factor(
        self, step_size: Float[Array, ""], curvature: Float[Array, "d d"], tril: Float[Array, "d d"]
    ) -> Float[Array, "d d"]:
        r"""Any F with :math:`FF^\top` the next covariance.

        Args:
            step_size: h.
            curvature: :math:`-\mathbb{E}\nabla^2\log\tilde p`.
            tril: the Cholesky factor of the covariance.
        """

    def init(self, problem: Any, key: Key[Array, ""]) -> GaussianState:
        name = type(self).__name__
        if not isinstance(problem.family, FullRank):
            raise RitzError(
                f"{name} moves the mean and covariance of a full-rank Gaussian, but the family is "
                f"{type(problem.family).__name__}; use family='full_rank'"
            )
        if len(jax.tree.leaves(problem.params)) != 3:
            raise RitzError(
                f"{name} moves all of a full-rank Gaussian, but part of this one is frozen; use "
                "ritz.solver.adam() to train the rest"
            )
        if not isinstance(problem.objective, NegativeELBO):
            raise RitzError(
                f"{name} minimises the negative ELBO, but the objective is "
                f"{type(problem.objective).__name__}; use ritz.objective.negative_elbo()"
            )
        return GaussianState(problem.params)

    def step(
        self, problem: Any, state: GaussianState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[GaussianState, dict[str, Array]]:
        q = paramax.unwrap(problem.family_at(state.params))
        expected = self.expectation(problem, q, key, batch)
        h = self.step_size.astype(q.loc.dtype)
        factor = self.factor(h, -expected.hessian, q.scale_tril)
        # F' = QR, so that FF' = R'R: the next Cholesky factor without forming the covariance.
        lower = jnp.linalg.qr(factor.T, mode="r").T
        diagonal = jnp.diagonal(lower)
        lower = lower * jnp.sign(diagonal)
        moved = FullRank(
            loc=q.loc + h * expected.score,
            log_scale=jnp.log(jnp.abs(diagonal)),
            lower=jnp.tril(lower / jnp.abs(diagonal)[:, None], -1),
        )
        info = {"loss": -expected.log_density - q.entropy()}
        if expected.error is not None:
            info["loss_se"] = expected.error
        return GaussianState(moved), info
