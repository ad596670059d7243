"""A problem: what a solver is asked to solve, and the oracles it may call."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._compile import compile
from ritz._errors import RitzError
from ritz.estimator import AbstractEstimator
from ritz.family import AbstractFamily, Finite, lacking, registered
from ritz.objective._base import AbstractDirect, AbstractObjective, subsample_key
from ritz.program import Nested, check_nested
from ritz.target import AbstractTarget, float_dtype, term_name


class Both(NamedTuple):
    """The parameters of a problem whose target has some of its own.

    Attributes:
        family: those of the family.
        target: those of the target.
    """

    family: PyTree
    target: PyTree


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
        needs = self.objective.needs
        lacks = lacking(needs, self.family.capabilities)
        if lacks:
            known = registered().items()
            fits = [n for n, r in known if not lacking(needs, r.capabilities)]
            raise RitzError(
                f"{type(self.objective).__name__} needs a family with {', '.join(lacks)}, which "
                f"{type(self.family).__name__} lacks; one that works: {(fits or ['none'])[0]}"
            )
        q = self.family
        if isinstance(q, Nested):
            check_nested(q, self.estimator)
        elif isinstance(self.objective, AbstractDirect):
            pass
        elif self._has_gradient and needs & {"sample", "sample_and_log_prob"}:
            self.estimator.check(q.choices if isinstance(q, Finite) else q)
        self.objective.check(self.estimator)
        if self.trains_target and not self.objective.trains_target:
            raise RitzError(
                f"{type(self.objective).__name__} bounds no evidence from below, so that it cannot "
                f"train the target's own parameters ({', '.join(list(self.target.trained)[:4])}); "
                "use negative_elbo(), iwae() or wake_sleep()"
            )
        own = jax.tree.leaves(q, is_leaf=lambda v: isinstance(v, AbstractTarget))
        if self.trains_target and any(isinstance(v, AbstractTarget) for v in own):
            raise RitzError(
                f"the {type(q).__name__} holds a target, whose own parameters would stay as they "
                "are; use its proposal as the family, with iwae(K), which is the same bound"
            )

    @property
    def trains_target(self) -> bool:
        """Whether the target has parameters of its own."""
        return self.target.params is not None

    @property
    def oracles(self) -> frozenset[str]:
        """Which oracles a solver may call on it."""
        names = {"loss", "grad"} if self._has_gradient else set()
        if self.target.has_density:
            if not self.trains_target:  # which moves: these two are those of the target at first
                names |= {"score_at", "hvp_at"}
            if not lacking({"sample_and_log_prob"}, self.family.capabilities):
                names |= {"log_weights"}
        return frozenset(names)

    def refuses(self, oracle: str) -> str | None:
        """Why an oracle that follows from the density cannot be had after all, if it cannot.

        A log density may have a gradient and no second derivative: that of a rule written by
        hand, or of a computation on the host. This takes an abstract evaluation to find out.
        """
        if oracle != "hvp_at" or not self.target.has_full_density:
            return None
        x = jax.ShapeDtypeStruct((self.target.dim,), float_dtype())
        try:
            jax.eval_shape(lambda x, v: self.hvp_at(x, v), x, x)
        except Exception as error:  # whatever the user's rule raises
            line = " ".join(str(error).split())
            return f"{type(error).__name__}: {line if len(line) < 120 else line[:119] + '…'}"
        return None

    @property
    def _has_gradient(self) -> bool:
        """Whether any estimator could serve; a chaotic flow's own solver does without."""
        q = self.family
        if isinstance(self.objective, AbstractDirect):
            return True
        return q.composed or bool({"reparameterised", "log_prob", "condition"} & q.capabilities)

    @property
    def points(self) -> int | None:
        """How many points of the target one gradient of the loss looks at, where it is known."""
        q = self.family
        if isinstance(self.objective, AbstractDirect):
            return self.objective.points
        times = self.estimator.evaluations(q.choices if isinstance(q, Finite) else q)
        own = self.objective.points
        return None if own is None or times is None else own * times * q.looks

    @property
    def revises(self) -> bool:
        """Whether the objective sets some parameters itself."""
        return self.objective.revises

    def revise(self, params: PyTree, key: Key[Array, ""], batch: Any = None) -> PyTree:
        """Parameters with those that the objective sets itself; see `AbstractObjective`."""
        if not self.revises:
            return params
        q, target = self.family_at(params), self.target_at(params)
        q, target = self.objective.revise(q, target, key, batch)
        own = self._partition(q)[0]
        return Both(own, target.params) if self.trains_target else own

    @property
    def params(self) -> PyTree:
        """The initial trainable parameters: the family's floating arrays.

        With those of the target, `Both`, where it has some.
        """
        own = self._partition(self.family)[0]
        return Both(own, self.target.params) if self.trains_target else own

    def _partition(self, q: AbstractFamily) -> tuple[PyTree, PyTree]:
        frozen = lambda leaf: isinstance(leaf, paramax.NonTrainable | AbstractTarget)
        return eqx.partition(q, eqx.is_inexact_array, is_leaf=frozen)

    def family_at(self, params: PyTree) -> AbstractFamily:
        """The family with these parameters."""
        own = params.family if isinstance(params, Both) else params
        return eqx.combine(own, self._partition(self.family)[1])

    def target_at(self, params: PyTree) -> AbstractTarget:
        """The target with these parameters."""
        return self.target.with_params(params.target) if isinstance(params, Both) else self.target

    def at(self, step: Any) -> "Problem":
        """The problem at a step of the run, for an objective that changes with it."""
        objective = self.objective.at(step)
        if objective is self.objective:
            return self
        return dataclasses.replace(self, objective=objective)

    def loss(
        self, params: PyTree, key: Key[Array, ""], batch: Any = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss and the figures to record; see `AbstractObjective`."""
        q = paramax.unwrap(self.family_at(params))
        return self.objective(q, self.target_at(params), self.estimator, key, batch)

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
        target = self.target_at(params)
        return xs, jax.lax.map(target.log_density, xs, batch_size=64) - log_q

    def explain(self, state: Any, key: Key[Array, ""], batch: Any = None) -> str:
        """Which term of the loss, or of its gradient, is not finite at a solver's state."""

        if isinstance(self.objective, AbstractDirect):
            args = (self, state.params, key, batch)
            grads = compile(lambda problem, *rest: problem.grad(*rest)[0], *args)(*args)
            return _of_gradient(self.objective, jax.tree.map(np.asarray, grads))

        def parts(self: Problem, params: PyTree, key: Array, batch: Any) -> Any:
            q, target = paramax.unwrap(self.family_at(params)), self.target_at(params)
            keys = self.objective.keys(key)
            draws = jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys)  # of the first choice
            see = lambda x, k: target.terms(x, subsample_key(k), batch)
            slope = lambda x, k: jax.grad(target.log_density)(x, subsample_key(k), batch)
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
        return _of_gradient(self.objective, grads)


def _of_gradient(objective: AbstractObjective, grads: PyTree) -> str:
    if not all(np.isfinite(g).all() for g in jax.tree.leaves(grads)):
        return f"the gradient of {type(objective).__name__} is not finite"
    return "the parameters became too large; try a smaller learning rate"
