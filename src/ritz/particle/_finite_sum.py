"""Entropy-regularised risks of a law of parameters, seen through a sum over examples."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ritz._errors import RitzError


class Gibbs(NamedTuple):
    """A proximal Gibbs measure on nodes.

    Attributes:
        masses: of the nodes, which sum to one.
        log_normaliser: of the density with respect to the nodes' volumes.
    """

    masses: Float[Array, " m"]
    log_normaliser: Float[Array, ""]


class FiniteSum(eqx.Module):
    """See `finite_sum`.

    Attributes:
        feature: h, from a parameter and an input to one number.
        loss: from a prediction and an output to one number, convex in the prediction.
        inputs: x.
        outputs: y.
        decay: lambda'.
        entropy: lambda.
        dim: of a parameter.
    """

    feature: Callable[..., Any] = eqx.field(static=True)
    loss: Callable[..., Any] = eqx.field(static=True)
    inputs: Any
    outputs: Float[Array, " n"]
    decay: Float[Array, ""]
    entropy: Float[Array, ""]
    dim: int = eqx.field(static=True)

    def features(self, theta: Float[Array, " d"]) -> Array:
        """h of one parameter at all inputs."""
        return jax.vmap(lambda x: self.feature(theta, x))(self.inputs)

    def losses(self, predictions: Float[Array, " n"]) -> Float[Array, " n"]:
        """Of all examples."""
        return jax.vmap(self.loss)(predictions, self.outputs)

    def duals(self, predictions: Float[Array, " n"]) -> Float[Array, " n"]:
        """The derivative of each loss in its prediction: one number an example."""
        return jax.vmap(jax.grad(self.loss))(predictions, self.outputs)

    def risk(self, predictions: Float[Array, " n"], square: Float[Array, ""]) -> Float[Array, ""]:
        r"""The objective without its entropy, of predictions and the mean of
        :math:`|\theta|^2`."""
        return self.losses(predictions).mean() + self.decay * square

    def log_gibbs(self, theta: Float[Array, " d"], duals: Float[Array, " n"]) -> Float[Array, ""]:
        r""":math:`-\frac1\lambda\bigl(\frac1n\sum_i g_i h_\theta(x_i)
        + \lambda'|\theta|^2\bigr)`."""
        return -(duals @ self.features(theta) / len(duals) + self.decay * theta @ theta) / (
            self.entropy
        )

    def gibbs(
        self,
        duals: Float[Array, " n"],
        table: Float[Array, "m n"],
        nodes: Float[Array, "m d"],
        volume: Float[Array, ""],
    ) -> Gibbs:
        """The proximal Gibbs measure on equal cells around nodes; `table` holds their features."""
        potential = table @ duals / len(duals) + self.decay * (nodes**2).sum(axis=1)
        log_p = -potential / self.entropy
        log_normaliser = jax.nn.logsumexp(log_p) + jnp.log(volume)
        return Gibbs(jax.nn.softmax(log_p), log_normaliser)

    def dual(
        self, predictions: Float[Array, " n"], log_normaliser: Float[Array, ""]
    ) -> Float[Array, ""]:
        r"""The dual objective at the duals of predictions,
        :math:`-\frac1n\sum_i\ell_i^*(g_i) - \lambda\log Z(g)`.

        By Fenchel's equality :math:`\ell_i^*(g_i) = g_i z_i - \ell_i(z_i)` there.
        """
        g = self.duals(predictions)
        conjugate = g * predictions - self.losses(predictions)
        return -conjugate.mean() - self.entropy * log_normaliser

    def bregman(
        self, gibbs: Float[Array, " n"], predictions: Float[Array, " n"]
    ) -> Float[Array, ""]:
        r"""The duality gap of the Gibbs measure of predictions z, from its own z':

        .. math:: \frac1n\sum_i \ell_i(z'_i) - \ell_i(z_i) - g_i\,(z'_i - z_i).

        Its entropy holds :math:`\log Z`, and the dual the same with the other sign.
        """
        g = self.duals(predictions)
        near = self.losses(predictions) + g * (gibbs - predictions)
        return (self.losses(gibbs) - near).mean()


def squared_error(prediction: Any, output: Any) -> Any:
    r""":math:`\tfrac12 (z - y)^2`."""
    return 0.5 * (prediction - output) ** 2


def logistic(prediction: Any, output: Any) -> Any:
    r""":math:`\log(1 + e^{-yz})` of labels -1 and 1."""
    return jax.nn.softplus(-output * prediction)


_LOSSES = {"squared": squared_error, "logistic": logistic}


def finite_sum(
    feature: Callable[..., Any],
    inputs: Any,
    outputs: Any,
    *,
    dim: Any,
    loss: Any = "squared",
    decay: Any = 0.01,
    entropy: Any = 0.01,
) -> FiniteSum:
    r"""The entropy-regularised risk of a law of parameters: a mean-field network's.

    .. math:: \mathcal L(\mu) = \frac1n\sum_i \ell\Bigl(\int h_\theta(x_i)\,\mu(d\theta),
        y_i\Bigr) + \lambda' \int|\theta|^2 d\mu + \lambda\int\mu\log\mu.

    It is convex in :math:`\mu`, and its dual has one number :math:`g_i` an example: the derivative
    of that example's loss. `fictitious_play` minimises it in `ritz.solver.run`.

    Nitanda, Oko, Suzuki and Wu, "Primal and dual analysis of entropic fictitious play for
    finite-sum problems", 2023, arXiv:2303.02957.

    Args:
        feature: h, from a parameter of shape (d,) and an input to one number.
        inputs: x, an array whose first axis is that of examples.
        outputs: y, of shape (n,).
        dim: d.
        loss: "squared", "logistic", or a function of a prediction and an output, convex in the
            prediction.
        decay: lambda', above zero, so that Gibbs measures exist where h is bounded.
        entropy: lambda, above zero.

    Raises:
        RitzError: for examples that do not pair up or are not finite, an unknown loss, or a
            regularisation that is not positive.

    >>> import jax.numpy as jnp
    >>> x = jnp.linspace(-1.0, 1.0, 8)
    >>> problem = finite_sum(lambda theta, x: jnp.tanh(theta[0] * x), x, jnp.sin(x), dim=1)
    >>> problem.duals(jnp.zeros(8)).shape
    (8,)
    """
    x, y = np.asarray(inputs), np.asarray(outputs)
    if y.ndim != 1 or x.ndim < 1 or len(x) != len(y) or len(y) == 0:
        raise RitzError(
            f"finite_sum: inputs of shape {x.shape} and outputs of shape {y.shape} arrived, "
            "expected (n, ...) and (n,)"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise RitzError("finite_sum: inputs or outputs are not finite; leave those rows out")
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise RitzError(f"finite_sum: dim={dim!r} arrived, expected a whole number from 1 up")
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise RitzError(f"finite_sum: loss={loss!r} arrived, expected 'squared' or 'logistic'")
        if loss == "logistic" and not (np.abs(y) == 1).all():
            raise RitzError("finite_sum: the logistic loss takes outputs -1 and 1; map them")
        loss = _LOSSES[loss]
    for name, value in (("decay", decay), ("entropy", entropy)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0.0 < value < math.inf:
            raise RitzError(f"finite_sum: {name}={value!r} arrived, expected a positive number")
    as_float = lambda v: jnp.asarray(v, jnp.result_type(float))
    problem = FiniteSum(
        feature, loss, as_float(x), as_float(y), as_float(decay), as_float(entropy), dim
    )
    shape = jax.eval_shape(problem.features, jnp.zeros(dim))
    if shape.shape != y.shape:
        raise RitzError(
            f"finite_sum: the feature gave shape {shape.shape[1:]} for one parameter and one "
            "input, expected one number, of shape ()"
        )
    return problem


def as_finite_sum(problem: Any) -> FiniteSum:
    """The problem, if it is one of a finite sum.

    Raises:
        RitzError: where it is another one.
    """
    if not isinstance(problem, FiniteSum):
        raise RitzError(
            f"fictitious play minimises a ritz.particle.finite_sum(), but the problem is a "
            f"{type(problem).__name__}"
        )
    return problem
