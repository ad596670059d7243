"""Differentiable annealed importance sampling, as a family."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family._base import AbstractFamily, lacking
from ritz.family._mean_field import mean_field
from ritz.family._own_density import OwnDensity


class Path(NamedTuple):
    """A point of a path, and the log ratio of its backward and forward probabilities so far."""

    x: Float[Array, " d"]
    momentum: Float[Array, " d"]
    log_ratio: Float[Array, ""]


class Annealed(AbstractFamily):
    r"""Uncorrected Hamiltonian transitions from a reference to the target; see `annealed`.

    Attributes:
        reference: :math:`q_0`.
        log_step: log of the leapfrog steps :math:`\epsilon`, a coordinate each.
        bridges: logits of the increments of the inverse temperatures, a transition each.
        persistence: logit of the share :math:`\eta` of the momentum that a refreshment keeps.
        density: the target's log density.
        leapfrog: leapfrog steps in a transition.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "sample_and_log_prob", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "annealed"
    reference: AbstractFamily
    log_step: Float[Array, " d"]
    bridges: Float[Array, " K"]
    persistence: Float[Array, ""]
    density: OwnDensity = eqx.field(static=True)
    leapfrog: int = eqx.field(static=True)

    @property
    def options(self) -> dict[str, Any]:
        return {"bridges": len(self.bridges), "leapfrog": self.leapfrog}

    @property
    def dim(self) -> int:
        return self.reference.dim

    def for_target(self, target: Any) -> "Annealed":
        return dataclasses.replace(self, density=OwnDensity("annealed", target))

    @property
    def betas(self) -> Float[Array, " K"]:
        """The inverse temperatures of the transitions, the last of them 1."""
        return jnp.cumsum(jax.nn.softmax(self.bridges))

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.sample_and_log_prob(key)[0]

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        first, start, walk = jax.random.split(key, 3)
        x, log_q = self.reference.sample_and_log_prob(first)
        momentum = jax.random.normal(start, x.shape, x.dtype)

        def move(path: Path, at: tuple[Array, Array]) -> tuple[Path, None]:
            key, beta = at
            return self.transition(path, beta, jax.random.normal(key, x.shape, x.dtype)), None

        keys = jax.random.split(walk, len(self.bridges))
        path = Path(x, momentum, jnp.zeros_like(log_q))
        path, _ = jax.lax.scan(move, path, (keys, self.betas))
        return path.x, log_q - path.log_ratio

    def transition(self, path: Path, beta: Float[Array, ""], noise: Float[Array, " d"]) -> Path:
        r"""Partial momentum refreshment, then leapfrog steps on a bridging density.

        The refreshment :math:`\rho \to \tilde\rho` is reversible under a standard normal, and the
        leapfrog steps :math:`\tilde\rho \to \rho'` invert by a change of sign, so that backward
        over forward is :math:`\mathcal{N}(\rho)/\mathcal{N}(\tilde\rho)`; with the momenta's own
        densities at both ends of the path this telescopes to
        :math:`\sum_k \log\mathcal{N}(\rho'_k) - \log\mathcal{N}(\tilde\rho_k)`.
        """
        keep = jax.nn.sigmoid(self.persistence)
        fresh = keep * path.momentum + jnp.sqrt(1.0 - keep**2) * noise
        x, momentum = self._leap(path.x, fresh, beta)
        return Path(x, momentum, path.log_ratio + 0.5 * (fresh @ fresh - momentum @ momentum))

    def _leap(self, x: Array, momentum: Array, beta: Array) -> tuple[Array, Array]:
        step = jnp.exp(self.log_step)

        def bridge(x: Array) -> Array:
            return (1.0 - beta) * self.reference.log_prob(x) + beta * self.density(x)

        score = jax.grad(bridge)

        def one(at: Any, _: None) -> tuple[Any, None]:
            x, momentum, force = at
            momentum = momentum + 0.5 * step * force
            x = x + step * momentum
            force = score(x)
            return (x, momentum + 0.5 * step * force, force), None

        x, momentum, _ = jax.lax.scan(one, (x, momentum, score(x)), None, self.leapfrog)[0]
        return x, momentum


def annealed(
    target: Any,
    start: Float[Array, " d"],
    bridges: Any = 8,
    leapfrog: Any = 1,
    reference: Any = None,
) -> Annealed:
    r"""Differentiable annealed importance sampling: a path from a reference to the target.

    A draw of the reference :math:`q_0` goes through K transitions, the k-th of which refreshes
    the momentum in part, :math:`\tilde\rho_k = \eta\rho_{k-1} + \sqrt{1-\eta^2}\,\varepsilon_k`,
    and makes leapfrog steps :math:`(x_k, \rho_k)` on
    :math:`\pi_k \propto q_0^{1-\beta_k}\tilde p^{\beta_k}`, without a Metropolis correction. The
    log-weight of the path,

    .. math:: \log\tilde p(x_K) - \log q_0(x_0)
        + \sum_{k=1}^K \log\mathcal{N}(\rho_k) - \log\mathcal{N}(\tilde\rho_k),

    has :math:`\mathbb{E}\, e^{\log w} = Z` whatever the settings, and is differentiable in them:
    the reference, steps, bridges and :math:`\eta` are trained together, on the ELBO of the path.
    Zhang, Hsu, Li, Finn and Grosse 2021, "Differentiable annealed importance sampling and the
    perils of gradient noise" (algorithm 1); Geffner and Domke 2021, "MCMC variational inference
    via uncorrected Hamiltonian annealing" (section 4).

    A draw costs K · leapfrog + K + 1 gradients, so that training costs several times as much as
    for the reference. The target's log density is of all the data: with batches its noise would
    spoil the transitions (Zhang et al., section 4).

    Args:
        target: the target that it is for.
        start: unconstrained point, around which the reference begins.
        bridges: K.
        leapfrog: leapfrog steps in a transition.
        reference: a family with `log_prob` and differentiable draws, to start from; independent
            Gaussians by default.

    Returns:
        an `Annealed`.

    Raises:
        RitzError: for a target without log density on all the data, numbers that are not
            positive, or a reference without density.

    >>> import jax.numpy as jnp
    >>> from ritz.target import from_log_density
    >>> target = from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    >>> annealed(target, jnp.zeros(2), bridges=4).betas.shape
    (4,)
    """
    whole_number("bridges", bridges, 1)
    whole_number("leapfrog", leapfrog, 1)
    reference = mean_field(target, start) if reference is None else reference
    lacks = lacking({"log_prob", "reparameterised"}, reference.capabilities)
    if lacks:
        raise RitzError(
            f"annealed: the reference {type(reference).__name__} lacks {', '.join(lacks)}; use "
            "ritz.family.mean_field(target, start)"
        )
    return Annealed(
        reference=reference,
        # A tenth of the reference's scale, as far as a step is stable on a target that is ten
        # times as narrow.
        log_step=jnp.full_like(start, -4.6),
        bridges=jnp.zeros(int(bridges), start.dtype),
        persistence=jnp.zeros((), start.dtype),
        density=OwnDensity("annealed", target),
        leapfrog=int(leapfrog),
    )
