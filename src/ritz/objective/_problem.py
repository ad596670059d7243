"""A problem: what a solver is asked to solve, and the oracles it may call."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._compile import compile
from ritz._errors import RitzError
from ritz.estimator import AbstractEstimator
from ritz.family import AbstractFamily, Finite, registered
from ritz.objective._base import AbstractObjective, subsample_key
from ritz.target import AbstractTarget, term_name


class Problem(eqx.Module):
    """Target, family, objective and estimator, and the oracles that follow from them.

    Attributes:
        target: what is approximated.
        family: the trial set, at its initial parameters.
        objective: the loss.
        estimator: how its gradient is estimated.
    """

    target: AbstractTarget
    family: AbstractFamily
    objective: AbstractObjective
    estimator: AbstractEstimator

    def __check_init__(self) -> None:
        lacking = sorted(self.objective.needs - self.family.capabilities)
        if lacking:
            known = registered().items()
            fits = [n for n, r in known if self.objective.needs <= r.kind.capabilities]
            raise RitzError(
                f"{type(self.objective).__name__} needs a family with {', '.join(lacking)}, which "
                f"{type(self.family).__name__} lacks; one that works: {(fits or ['none'])[0]}"
            )
        q = self.family
        self.estimator.check(q.choices if isinstance(q, Finite) else q)
        self.objective.check(self.estimator)

    @property
    def oracles(self) -> frozenset[str]:
        """Which oracles a solver may call on it."""
        names = {"loss", "grad"}
        if self.target.has_density:
            names |= {"score_at", "hvp_at"}
            if {"sample", "log_prob"} <= self.family.capabilities:
                names |= {"log_weights"}
        return frozenset(names)

    @property
    def params(self) -> PyTree:
        """The initial trainable parameters: the family's floating arrays."""
        return self._partition()[0]

    def _partition(self) -> tuple[PyTree, PyTree]:
        frozen = lambda leaf: isinstance(leaf, paramax.NonTrainable)
        return eqx.partition(self.family, eqx.is_inexact_array, is_leaf=frozen)

    def family_at(self, params: PyTree) -> AbstractFamily:
        """The family with these parameters."""
        return eqx.combine(params, self._partition()[1])

    def loss(
        self, params: PyTree, key: Key[Array, ""], batch: Any = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss and the figures to record; see `AbstractObjective`."""
        q = paramax.unwrap(self.family_at(params))
        return self.objective(q, self.target, self.estimator, key, batch)

    def grad(
        self, params: PyTree, key: Key[Array, ""], batch: Any = None
    ) -> tuple[PyTree, dict[str, Float[Array, ""]]]:
        """The estimated gradient of the loss and the figures to record."""
        return jax.grad(self.loss, has_aux=True)(params, key, batch)

    def score_at(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> tuple[Float[Array, ""], Float[Array, " d"]]:
        r""":math:`\log\tilde p(x)` and its gradient."""
        return jax.value_and_grad(self.target.log_density)(x, key, batch)

    def hvp_at(
        self,
        x: Float[Array, " d"],
        v: Float[Array, " d"],
        key: Key[Array, ""] | None = None,
        batch: Any = None,
    ) -> Float[Array, " d"]:
        r""":math:`\nabla^2\log\tilde p(x)\,v`, by forward over reverse."""
        score = jax.grad(lambda x: self.target.log_density(x, key, batch))
        return jax.jvp(score, (x,), (v,))[1]

    def log_weights(
        self, params: PyTree, keys: Key[Array, " n"]
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        r"""Draws :math:`x_k \sim q` and :math:`\log\tilde p(x_k) - \log q(x_k)`."""
        q = paramax.unwrap(self.family_at(params))
        xs, log_q = jax.vmap(q.sample_and_log_prob)(keys)
        return xs, jax.lax.map(self.target.log_density, xs, batch_size=64) - log_q

    def explain(self, state: Any, key: Key[Array, ""], batch: Any = None) -> str:
        """Which term of the loss, or of its gradient, is not finite at a solver's state."""

        def parts(self: Problem, params: PyTree, key: Array, batch: Any) -> Any:
            q = paramax.unwrap(self.family_at(params))
            keys = self.objective.keys(key)
            draws = jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys)  # of the first choice
            see = lambda x, k: self.target.terms(x, subsample_key(k), batch)
            slope = lambda x, k: jax.grad(self.target.log_density)(x, subsample_key(k), batch)
            xs = jax.vmap(q.sample)(draws)
            grads = self.grad(params, key, batch)[0]
            return jax.vmap(see)(xs, keys), jax.vmap(slope)(xs, keys), grads

        args = (self, state.params, key, batch)
        terms, slopes, grads = jax.tree.map(np.asarray, compile(parts, *args)(*args))
        for name, values in terms.items():
            bad = values[~np.isfinite(values)]
            if bad.size:
                return f"{term_name(name)} is {bad[0]:g}"
        for site in self.target.sites:
            if not np.isfinite(slopes[:, site.start : site.stop]).all():
                return f"the gradient of the log density in site {site.name!r} is not finite"
        if not all(np.isfinite(g).all() for g in jax.tree.leaves(grads)):
            return f"the gradient of {type(self.objective).__name__} is not finite"
        return "the parameters became too large; try a smaller learning rate"
