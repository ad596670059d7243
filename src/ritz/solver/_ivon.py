"""IVON: a mean-field Gaussian posterior from an optimiser's step."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.solver._base import AbstractSolver


class IVONState(NamedTuple):
    r"""What the next step needs besides the mean.

    Attributes:
        count: steps made.
        momentum: the average of gradients, biased towards zero at first.
        curvature: :math:`h + \delta`, positive; the posterior has variance
            :math:`1/(\lambda(h + \delta))`.
        first: the mean of the first curvature.
    """

    count: Int[Array, ""]
    momentum: PyTree
    curvature: PyTree
    first: Float[Array, ""]


class Rule(eqx.Module):
    """The numbers of `ivon`, and what follows from them; arrays, so that others compile nothing."""

    lr: Any  # a number, or a function of the steps made
    ess: Float[Array, ""]
    curvature: Float[Array, ""] | None  # the first h + delta
    weight_decay: Float[Array, ""]
    b1: Float[Array, ""]
    gain: Float[Array, ""]  # 1 - b2, which single precision would lose
    scale: Float[Array, ""]  # of the learning rate
    draws: int = eqx.field(static=True)

    def init(self, params: PyTree) -> IVONState:
        for leaf in jax.tree.leaves(params):
            if not eqx.is_inexact_array(leaf):
                raise RitzError(
                    f"ivon moves floating arrays, but a parameter is {leaf!r:.60}; keep those that "
                    "are with eqx.filter(model, eqx.is_inexact_array)"
                )
        first = 1.0 + self.weight_decay if self.curvature is None else self.curvature
        curvature = jax.tree.map(lambda m: jnp.full_like(m, first), params)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return IVONState(jnp.zeros((), int), zeros, curvature, jnp.asarray(first))

    def sd(self, state: IVONState) -> PyTree:
        return jax.tree.map(lambda a: jax.lax.rsqrt(self.ess.astype(a.dtype) * a), state.curvature)

    def sample(self, key: Key[Array, ""], params: PyTree, state: IVONState) -> PyTree:
        leaves, structure = jax.tree.flatten(params)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
        draw = lambda m, sd, key: m + sd * jax.random.normal(key, m.shape, m.dtype)
        return jax.tree.map(draw, params, self.sd(state), keys)

    def update(
        self, grads: PyTree, state: IVONState, params: PyTree, sampled: PyTree
    ) -> tuple[PyTree, IVONState]:
        count = state.count + 1
        lr: Any = self.lr(state.count) if callable(self.lr) else self.lr
        rate = lr * self.scale
        debias = -jnp.expm1(count * jnp.log(self.b1))

        def averaged(m: Any, over_draws: Any) -> Any:
            return over_draws.mean(axis=0) if over_draws.ndim > m.ndim else over_draws

        def curved(m: Any, a: Any, g: Any, x: Any) -> Any:
            found = averaged(m, g * (x - m)) * self.ess * a + self.weight_decay
            return (a * _growth(self.gain * (found / a - 1.0))).astype(a.dtype)

        def moved(m: Any, a: Any, average: Any) -> Any:
            return (-rate * (average / debias + self.weight_decay * m) / a).astype(m.dtype)

        mixed = lambda m, old, g: (self.b1 * old + (1.0 - self.b1) * averaged(m, g)).astype(m.dtype)
        momentum = jax.tree.map(mixed, params, state.momentum, grads)
        curvature = jax.tree.map(curved, params, state.curvature, grads, sampled)
        step = jax.tree.map(moved, params, curvature, momentum)
        return step, IVONState(count, momentum, curvature, state.first)

    def caution(self, state: IVONState) -> str | None:
        steps = int(state.count)
        weight = math.exp(steps * math.log1p(-float(self.gain)))
        leaves = [np.asarray(a, float) for a in jax.tree.leaves(state.curvature)]
        now = sum(a.sum() for a in leaves) / sum(a.size for a in leaves)
        kept = max(weight, weight * float(state.first) / now)
        if steps == 0 or kept < 0.5:
            return None
        return (
            f"ivon: after {steps} steps {kept:.0%} of the curvature is still its initial value, so "
            f"the variance is hardly learned; make more steps, or try b2={1 - 5 / (steps + 5):.3g} "
            "or another first curvature (hess_init, or the family's scale)"
        )


def _growth(r: Array) -> Array:
    """1 + r, and a term of second order that keeps it at 1/2 or more."""
    return 1.0 + r * (1.0 + 0.5 * r)


class IVON(optax.GradientTransformationExtraArgs):
    """An Optax transformation with a posterior; see `ivon`."""

    rule: Rule

    def __new__(cls, rule: Rule) -> "IVON":
        def update(
            updates: Any,
            state: Any,
            params: Any = None,
            *,
            sampled: PyTree = None,
            **other: Any,
        ) -> tuple[PyTree, IVONState]:
            if params is None or sampled is None:
                lacks = "params" if params is None else "sampled"
                raise RitzError(
                    f"ivon's update lacks {lacks}; call update(grads, state, params, "
                    "sampled=weights) with gradients taken at weights = sample(key, params, state)"
                )
            return rule.update(updates, state, params, sampled)

        self = super().__new__(cls, rule.init, update)
        self.rule = rule
        return self

    def sample(self, key: Key[Array, ""], params: PyTree, state: IVONState) -> PyTree:
        """Weights from the posterior: where to take a gradient, or to predict."""
        return self.rule.sample(key, params, state)

    def sd(self, state: IVONState) -> PyTree:
        """The posterior's standard deviations."""
        return self.rule.sd(state)

    def caution(self, state: IVONState) -> str | None:
        """A line where most of the curvature is still its initial value, else None."""
        return self.rule.caution(state)

    def solver(self) -> AbstractSolver:
        """The solver that Ritz runs."""
        from ritz.solver._ivon_solver import IVONSolver

        return IVONSolver(self.rule)


def ivon(
    lr: float | int | Callable[[Array], Any],
    ess: float | int = 1.0,
    *,
    hess_init: float | int | None = None,
    weight_decay: float | int = 0.0,
    b1: float | int = 0.9,
    b2: float | int = 0.999,
    draws: int = 1,
    rescale_lr: bool = False,
) -> IVON:
    r"""Improved variational online Newton: variational learning at the cost of Adam.

    Finds the mean and variance of independent Gaussians nearest to the posterior
    :math:`\propto e^{-\lambda \ell(\theta)}\,\mathcal{N}(\theta \mid 0, 1/(\lambda\delta))` from
    gradients of the loss :math:`\ell`, a mean over data, at one draw of the weights a step:

    .. math:: \theta &\sim \mathcal{N}(m, \sigma^2), \quad \sigma^2 = 1/(\lambda (h + \delta)),
              \quad \hat g = \nabla\ell(\theta), \quad \hat h = \hat g\,(\theta - m)/\sigma^2 \\
              g &\leftarrow \beta_1 g + (1-\beta_1)\hat g, \\
              h &\leftarrow h + (1-\beta_2)(\hat h - h)
                + \tfrac12 (1-\beta_2)^2 (\hat h - h)^2/(h + \delta), \\
              m &\leftarrow m - \alpha\,(g/(1-\beta_1^t) + \delta m)/(h + \delta).

    The last term of h is of second order and keeps :math:`h + \delta` positive. It makes h too
    large by a share of about :math:`\tfrac12(1-\beta_2)` times the variance of
    :math:`\hat h/(h+\delta)`.

    In an Optax loop the gradient is taken where `sample` says, and `update` is told::

        weights = optimiser.sample(key, params, state)
        grads = jax.grad(loss)(weights, batch)
        updates, state = optimiser.update(grads, state, params, sampled=weights)

    Where `weights` and `grads` have an axis of draws in front, their average counts. In
    `ritz.fit` with family "mean_field", and in `ritz.solver.run` on a problem with `params` and
    `grad`, this is done for you. A target of `ritz.fit` has its prior inside: there `ess` is a
    unit of h alone, the first variance is the family's unless `hess_init` is given, and
    `weight_decay` says which part of the target is known to be a Gaussian prior, so that its
    curvature need not be estimated.

    A step of :math:`\alpha = 1` is Newton's. For neural networks: `ess` the number of rows;
    :math:`\alpha` with a falling schedule as large as is stable, and `hess_init` between 0.01 and
    1. The curvature forgets its first value by :math:`\beta_2^t`, so that it is learned with `b2`
    about 1 - 5/steps; a larger one holds the noise near that of `hess_init`, as is usual for
    networks, and Ritz warns of it.

    Args:
        lr: :math:`\alpha`, or an Optax schedule.
        ess: the effective sample size :math:`\lambda`: rows, over the temperature if that is not 1.
        hess_init: the first h; 1 if not given.
        weight_decay: :math:`\delta`, the prior's precision over `ess`.
        b1: :math:`\beta_1`.
        b2: :math:`\beta_2`.
        draws: of the weights, a step, in Ritz's loop.
        rescale_lr: multiply `lr` by `hess_init + weight_decay`, so that the first steps are
            gradient descent's of that rate.

    Returns:
        an Optax transformation with `sample(key, params, state)`, `sd(state)` and
        `caution(state)`.

    Raises:
        RitzError: for a number out of its range; when it runs, for another family or objective.

    Shen, Daheim, Cong, Nickl, Marconi, Bazan, Yokota, Gurevych, Cremers, Khan and Möllenhoff,
    "Variational learning is effective for large deep networks", 2024 (algorithm 1). The term that
    keeps h positive: Lin, Schmidt and Khan, 2020.

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x**2).sum(), jnp.ones(50))
    >>> fit = ritz.fit(target, family="mean_field", solver=ivon(0.1, b2=0.99), steps=2000)
    >>> bool(abs(jnp.exp(fit.q.log_scale).mean() - 0.5) < 0.02)
    True
    """
    _in_range("ess", ess, 0.0, math.inf)
    _in_range("b1", b1, 0.0, 1.0, low_included=True)
    _in_range("b2", b2, 0.0, 1.0)
    _in_range("weight_decay", weight_decay, 0.0, math.inf, low_included=True)
    if not callable(lr):
        _in_range("lr", lr, 0.0, math.inf)
    if hess_init is not None:
        _in_range("hess_init", hess_init, -weight_decay, math.inf)
    whole_number("draws", draws, 1)
    first = (1.0 if hess_init is None else hess_init) + weight_decay
    number = lambda value: jnp.asarray(float(value))
    return IVON(
        Rule(
            lr if callable(lr) else number(lr),
            number(ess),
            None if hess_init is None else number(first),
            number(weight_decay),
            number(b1),
            number(1.0 - b2),
            number(first if rescale_lr else 1.0),
            draws,
        )
    )


def _in_range(
    name: str, value: Any, low: float, high: float, *, low_included: bool = False
) -> None:
    """Refuse a number outside (low, high)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (low < value < high or (low_included and value == low)):
        return
    above = "at least" if low_included else "above"
    below = f" and below {high:g}" if high < math.inf else ", and finite"
    raise RitzError(f"ivon: {name}={value!r} arrived, expected a number {above} {low:g}{below}")
