"""Samplers whose draws end discretised paths of controlled diffusions."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from ritz.family import AbstractFamily
from ritz.family._own_density import OwnDensity
from ritz.transport._control import UNIT


class AbstractDiffusion(AbstractFamily):
    r"""Paths :math:`x_0, \dots, x_K` of Gaussian steps, each with a backward step beside it.

    A path is drawn forward, and a second law of paths ends in the target and goes backward. With
    :math:`F_k` and :math:`B_k` the densities of their steps,

    .. math:: \log\hat q = \log q_0(x_0)
        + \sum_{k=0}^{K-1} \log\frac{F_k(x_k \to x_{k+1})}{B_k(x_{k+1} \to x_k)},

    so that :math:`\tilde p(x_K)/\hat q` is the discrete Radon-Nikodym derivative of the two laws,
    whose mean is Z for any steps whatever. The negative ELBO is the reverse KL divergence of paths;
    `ritz.objective.log_variance` holds paths still, and is differentiated through
    `path_log_prob` alone, at all steps in parallel. What sets the noise of steps is held there:
    laws of paths of different noise are singular to one another as steps get short, so that the
    variance of their ratio says nothing of use (Richter and Berner 2024, section 2, vary drifts).

    Attributes:
        density: the target's log density.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "sample_and_log_prob", "path", "reparameterised"}
    )
    clip: ClassVar[float | None] = 5.0  # a path that starts in a funnel's neck has huge gradients
    noise: ClassVar[tuple[str, ...]] = ()  # the names of the fields that set it
    density: eqx.AbstractVar[OwnDensity]

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """K."""

    @property
    def looks(self) -> int:
        return self.steps + 1

    @property
    @abc.abstractmethod
    def controls(self) -> tuple[str, ...]:
        """The names of the fields that hold networks, which move in smaller units."""

    @abc.abstractmethod
    def schedule(self) -> Any:
        """What differs from point to point of a path, K + 1 rows in every array."""

    @abc.abstractmethod
    def begin(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        """Where a path begins."""

    @abc.abstractmethod
    def look(self, at: Any, x: Float[Array, " d"]) -> Any:
        """What the steps from and to a point need of it: drifts, evaluated once."""

    @abc.abstractmethod
    def move(
        self, at: Any, x: Float[Array, " d"], seen: Any
    ) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """The mean and the standard deviations of the step from a point."""

    @abc.abstractmethod
    def log_ratio(
        self, at: Any, x: Float[Array, " d"], seen: Any, new: Float[Array, " d"], then: Any
    ) -> Float[Array, ""]:
        r""":math:`\log F_k/B_k` of a step, up to what `ends` adds for the whole path."""

    @abc.abstractmethod
    def ends(self, first: Float[Array, " d"], last: Float[Array, " d"]) -> Float[Array, ""]:
        r"""What the ends of a path add to :math:`\log\hat q`."""

    def in_units(self, power: float) -> "AbstractDiffusion":
        smaller = lambda tree: jax.tree.map(lambda v: v * UNIT**power, tree)
        return dataclasses.replace(self, **{n: smaller(getattr(self, n)) for n in self.controls})

    def for_target(self, target: Any) -> "AbstractDiffusion":
        return dataclasses.replace(self, density=OwnDensity(self.density.name, target))

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.sample_path(key)[-1]

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        return self._score(*self._walk(key))

    def sample_path(self, key: Key[Array, ""]) -> Float[Array, "n d"]:
        return self._walk(key)[0]

    def path_log_prob(
        self, path: Float[Array, "n d"]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        still = {name: jax.lax.stop_gradient(getattr(self, name)) for name in self.noise}
        held = dataclasses.replace(self, **still)
        return held._score(path, jax.vmap(held.look)(held.schedule(), path))

    def _walk(self, key: Key[Array, ""]) -> tuple[Float[Array, "n d"], Any]:
        """A path, and what was seen at its points."""
        first, rest = jax.random.split(key)
        start, schedule = self.begin(first), self.schedule()
        noise = jax.random.normal(rest, (self.steps, *start.shape), start.dtype)

        def step(x: Array, given: Any) -> tuple[Array, Any]:
            at, noise = given
            seen = self.look(at, x)
            mean, sd = self.move(at, x, seen)
            return mean + sd * noise, (x, seen)

        row = lambda tree, i: jax.tree.map(lambda v: v[i], tree)
        # Of a step only its point is kept for the way back; the networks and scores are recomputed.
        before = row(schedule, slice(None, -1))
        last, (points, seen) = jax.lax.scan(jax.checkpoint(step), start, (before, noise))
        end = self.look(row(schedule, -1), last)
        join = lambda many, one: jax.numpy.concatenate([many, one[None]])
        return join(points, last), jax.tree.map(join, seen, end)

    def _score(
        self, path: Float[Array, "n d"], seen: Any
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The end of a path and its log q-hat."""
        before, after = (
            lambda tree: jax.tree.map(lambda v: v[:-1], tree),
            lambda tree: jax.tree.map(lambda v: v[1:], tree),
        )
        ratios = jax.vmap(self.log_ratio)(
            before(self.schedule()), path[:-1], before(seen), path[1:], after(seen)
        )
        return path[-1], self.ends(path[0], path[-1]) + ratios.sum()
