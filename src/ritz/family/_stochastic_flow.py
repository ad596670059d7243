"""Stochastic normalising flows: invertible layers with Markov steps between them."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, suggest, whole_number
from ritz.family._base import AbstractFamily
from ritz.family._markov import KERNELS, Path
from ritz.family._mean_field import LOG_2PI, MeanField, mean_field
from ritz.family._own_density import OwnDensity


class Choice(NamedTuple):
    """A Markov step's accepting or rejecting, and how the path stood before it.

    Attributes:
        log_prob: of what was chosen.
        log_weight: minus the log-weight of stopping there, on a path forward.
        log_q: the log density of starting there, on a path backward.
    """

    log_prob: Array
    log_weight: Array
    log_q: Array


class StochasticFlow(AbstractFamily):
    r"""Invertible layers and Markov steps on interpolated energies; see `stochastic_flow`.

    Attributes:
        reference: the Gaussian at the start, whose mean and scale standardise the target.
        layers: FlowJAX bijections of standardised positions, a block each along a first axis;
            None for none.
        log_step: log of the Markov steps' sizes, by block and coordinate.
        density: the target's log density.
        steps: Markov steps in a block.
        kernel: "langevin" or "metropolis".
        width: of the networks in the layers.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "sample_and_log_prob", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "stochastic_flow"
    reference: MeanField
    layers: Any
    log_step: Float[Array, "B d"]
    density: OwnDensity = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    kernel: str = eqx.field(static=True)
    width: int = eqx.field(static=True)

    @property
    def options(self) -> dict[str, Any]:
        return {
            "blocks": len(self.log_step),
            "steps": self.steps,
            "kernel": self.kernel,
            "width": self.width,
        }

    @property
    def dim(self) -> int:
        return self.reference.dim

    def for_target(self, target: Any) -> "StochasticFlow":
        return dataclasses.replace(self, density=OwnDensity("stochastic_flow", target))

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        first, walk = jax.random.split(key)
        like = self.reference.loc
        z = jax.random.normal(first, like.shape, like.dtype)

        def block(path: Path, at: Any) -> tuple[Path, Choice]:
            layer, rest = at
            path = path if layer is None else self.flow(layer, path)
            return self._mix(path, rest, 1.0)

        path, made = self._through(block, self._at(z, _standard(z)), walk, reverse=False)
        log_q = path.log_q + _credit(path.log_q - path.log_p, made.log_prob, made.log_weight)
        return self._place(path.z), log_q - self.reference.log_scale.sum()

    def log_prob_estimate(self, x: Float[Array, " d"], key: Key[Array, ""]) -> Float[Array, ""]:
        r"""The log of an unbiased estimate of :math:`q(x)`, from one path backward.

        Its mean over data is the maximum-likelihood objective of Wu, Köhler and Noé 2020
        (equation 12), which bounds the log likelihood from below.

        Args:
            x: a point.
            key: of the path.
        """

        def block(path: Path, at: Any) -> tuple[Path, Choice]:
            layer, rest = at
            path, made = self._mix(path, rest, -1.0)
            return path if layer is None else self.unflow(layer, path), made

        z = (x - self.reference.loc) * jnp.exp(-self.reference.log_scale)
        path = self._at(z, jnp.zeros_like(z[0]))
        path, made = self._through(block, path, key, reverse=True)
        log_q = path.log_q + _standard(path.z)
        log_q = log_q + _credit(log_q, made.log_prob, made.log_q)
        return log_q - self.reference.log_scale.sum()

    def _through(self, block: Any, path: Path, key: Array, reverse: bool) -> tuple[Path, Choice]:
        """All blocks, one after the other, compiled once."""
        count = len(self.log_step)
        weights = jnp.arange(1, count + 1, dtype=path.z.dtype) / count
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def one(path: Path, at: Any) -> tuple[Path, Choice]:
            arrays, *rest = at
            return block(path, (eqx.combine(arrays, static), rest))

        each = (arrays, self.log_step, weights, jax.random.split(key, count))
        return jax.lax.scan(one, path, each, reverse=reverse)

    def _mix(self, path: Path, at: Any, sign: float) -> tuple[Path, Choice]:
        """The Markov steps of a block; backward, their log ratios count the other way."""
        log_step, weight, key = at

        def one(path: Path, key: Array) -> tuple[Path, Choice]:
            new, ratio, log_prob = self.markov(path, weight, jnp.exp(log_step), key)
            done = Choice(log_prob, path.log_q - path.log_p, path.log_q + _standard(path.z))
            return new._replace(log_q=path.log_q + sign * ratio), done

        return jax.lax.scan(one, path, jax.random.split(key, self.steps))

    def flow(self, layer: Any, path: Path) -> Path:
        """An invertible layer: the density falls by its Jacobian."""
        z, log_det = layer.transform_and_log_det(path.z)
        return self._at(z, path.log_q - log_det)

    def unflow(self, layer: Any, path: Path) -> Path:
        """The inverse of an invertible layer, on a path backward."""
        z, log_det = layer.inverse_and_log_det(path.z)
        return self._at(z, path.log_q + log_det)

    def markov(
        self, path: Path, weight: Array, step: Array, key: Key[Array, ""]
    ) -> tuple[Path, Array, Array]:
        r"""A step on the energy :math:`u_\lambda`.

        Returns:
            where it leads, :math:`\log q(z \to z') - \log q(z' \to z)`, and the log
            probability of what was accepted or rejected on the way.
        """
        return KERNELS[self.kernel](self._at, path, weight, step, key)

    def _at(self, z: Array, log_q: Array) -> Path:
        if self.kernel == "metropolis":
            return Path(z, self._log_density(z), None, log_q)
        return Path(z, *jax.value_and_grad(self._log_density)(z), log_q)

    def _place(self, z: Array) -> Array:
        return self.reference.loc + jnp.exp(self.reference.log_scale) * z

    def _log_density(self, z: Array) -> Array:
        return self.density(self._place(z)) + self.reference.log_scale.sum()


def _standard(z: Array) -> Array:
    """Log density of a standard normal."""
    return -0.5 * (z @ z) - 0.5 * len(z) * LOG_2PI


def _credit(total: Array, log_prob: Array, baseline: Array) -> Array:
    """0, whose derivative is that of the choices' probabilities: a score-function term."""
    gain = jax.lax.stop_gradient(total - baseline)
    return (gain * (log_prob - jax.lax.stop_gradient(log_prob))).sum()


def stochastic_flow(
    target: Any,
    start: Float[Array, " d"],
    blocks: Any = 3,
    steps: Any = 5,
    kernel: Any = "langevin",
    width: Any = 32,
    scale: float = 0.1,
) -> StochasticFlow:
    r"""Blocks of an invertible layer and Markov steps, on energies from the reference's to p's.

    A block is two affine coupling layers (RealNVP), which together change every coordinate, and a
    few Markov steps on :math:`u_\lambda = (1-\lambda) u_0 - \lambda\log\tilde p`, where
    :math:`\lambda` rises to 1 with the block. The log-weight of a path,

    .. math:: \log\tilde p(x_T) - \log q_0(x_0) + \sum_t \Delta S_t, \qquad
        \Delta S_t = \log|\det J_t| \text{ or }
        \log\frac{\tilde q_t(x_{t+1} \to x_t)}{q_t(x_t \to x_{t+1})},

    has :math:`\mathbb{E}\,e^{\log w} = Z`, without marginalising over the noise; its mean is the
    negative of the path-space KL divergence, which trains everything, up to log Z. Wu, Köhler and
    Noé 2020, "Stochastic normalizing flows" (sections 3 and 4). "langevin" steps are
    differentiable. Of "metropolis" steps (which need no gradient to draw) the acceptances are not:
    a score-function term makes the gradient right, which the paper leaves out; it is right for
    objectives that are linear in log q, as the ELBO is.

    Args:
        target: the target that it is for.
        start: unconstrained point, the reference's initial mean.
        blocks: how many blocks.
        steps: Markov steps in a block; 0 makes it a coupling flow.
        kernel: "langevin" (gradients, no correction) or "metropolis" (random walk).
        width: of the coupling layers' networks; 0 for no layers, which leaves a chain of Markov
            steps.
        scale: initial standard deviation of the reference.

    Returns:
        a `StochasticFlow`.

    Raises:
        RitzError: for a target without log density on all the data, a wrong number, or another
            kernel.

    >>> import jax.numpy as jnp
    >>> from ritz.target import from_log_density
    >>> target = from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    >>> stochastic_flow(target, jnp.zeros(2), blocks=2).log_step.shape
    (2, 2)
    """
    for name, value, least in (("blocks", blocks, 1), ("steps", steps, 0), ("width", width, 0)):
        whole_number(name, value, least)
    if kernel not in KERNELS:
        raise RitzError(f"stochastic_flow: no kernel {kernel!r}; {suggest(str(kernel), KERNELS)}")
    d = start.shape[0]
    size = {"langevin": 0.01, "metropolis": 0.5}[kernel]
    return StochasticFlow(
        reference=mean_field(target, start, scale),
        layers=None if width == 0 else _couplings(d, int(blocks), int(width)),
        log_step=jnp.full((int(blocks), d), math.log(size), start.dtype),
        density=OwnDensity("stochastic_flow", target),
        steps=int(steps),
        kernel=kernel,
        width=int(width),
    )


def _couplings(d: int, blocks: int, width: int) -> Any:
    """Stacked bijections; of one coordinate, which cannot be split, affine ones."""
    from flowjax import bijections as flows

    def block(key: Key[Array, ""]) -> Any:
        if d == 1:
            return flows.Affine(jnp.zeros(1), jnp.ones(1))
        parts = []
        for own in jax.random.split(key):
            coupling = flows.Coupling(
                own,
                transformer=flows.Affine(),
                untransformed_dim=d // 2,
                dim=d,
                nn_width=width,
                nn_depth=2,
                nn_activation=jax.nn.tanh,
            )
            # The identity at first, so that training begins from the Markov steps alone.
            last = lambda c: (c.conditioner.layers[-1].weight, c.conditioner.layers[-1].bias)
            coupling = eqx.tree_at(last, coupling, tuple(map(jnp.zeros_like, last(coupling))))
            parts += [coupling, flows.Flip((d,))]
        return flows.Chain(parts)

    return eqx.filter_vmap(block)(jax.random.split(jax.random.key(0), blocks))
