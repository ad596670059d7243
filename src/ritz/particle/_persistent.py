"""Maximum likelihood of an energy model by chains that persist, weighted or not."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.particle._energy import check_energy_model
from ritz.particle._moves import Moves, as_moves, ula
from ritz.solver import AbstractSolver
from ritz.target import samples_of


class PersistentState(NamedTuple):
    """Where a run stands.

    Attributes:
        params: of the family.
        opt: the optimiser's state.
        chains: in units of the reference, shape (n, d).
        log_weights: A, whose mean exponential estimates the normaliser; zero if unweighted.
    """

    params: PyTree
    opt: PyTree
    chains: Float[Array, "n d"]
    log_weights: Float[Array, " n"]


class PersistentChains(AbstractSolver):
    """See `persistent_chains`.

    Attributes:
        optimiser: of Optax.
        moves: of the chains.
        length: how many they make a step.
        chains: n.
        rows: how many samples a step sees.
        reweighted: whether chains have weights.
        resample: the share of n below which an effective size has them resampled.
    """

    guarantees: ClassVar[str] = "a maximum of the likelihood, as chains become many"
    optimiser: Any = eqx.field(static=True)
    moves: Moves
    length: int = eqx.field(static=True)
    chains: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    reweighted: bool = eqx.field(static=True)
    resample: float = eqx.field(static=True)

    def prepare(self, family: Any) -> Any:
        q = check_energy_model(family, "persistent_chains")
        d, like = q.dim, paramax.unwrap(q.loc)
        room = jnp.zeros((self.chains, d), like.dtype)
        return dataclasses.replace(
            q, chains=paramax.NonTrainable(room), log_weights=paramax.NonTrainable(room[:, 0])
        )

    def init(self, problem: Any, key: Key[Array, ""]) -> PersistentState:
        samples_of(problem.target, "persistent_chains")
        params = problem.params
        q = paramax.unwrap(problem.family_at(params))
        z = jax.random.normal(key, q.chains.shape, q.chains.dtype)
        # Chains are draws of the reference, of which the model may be a tilt already.
        log_weights = -jax.vmap(q.energy)(z) if self.reweighted else q.log_weights
        return PersistentState(params, self.optimiser.init(params), z, log_weights)

    def step(
        self, problem: Any, state: PersistentState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[PersistentState, dict[str, Array]]:
        import optax

        drawn, walk, again = jax.random.split(key, 3)
        old = paramax.unwrap(problem.family_at(state.params))
        x = old.standard(problem.target.draw(drawn, self.rows))
        share = jax.nn.softmax(state.log_weights)

        def loss(params: PyTree) -> Array:
            energy = jax.vmap(paramax.unwrap(problem.family_at(params)).energy)
            return energy(x).mean() - share @ energy(state.chains)

        gap, grad = jax.value_and_grad(loss)(state.params)
        update, opt = self.optimiser.update(grad, state.opt, state.params)
        params = optax.apply_updates(state.params, update)
        new = paramax.unwrap(problem.family_at(params))
        # Under the old parameters: new ones know where the chains were, so that their work there
        # would be biased.
        one = lambda z, key: self.moves(old.log_tilted, z, key, self.length)
        moved = jax.vmap(one)(state.chains, jax.random.split(walk, self.chains))
        info = {"loss": gap, "acceptance": moved.accepted.mean()}
        if not self.reweighted:
            return PersistentState(params, opt, moved.x, state.log_weights), info
        log_weights = state.log_weights + moved.log_ratio + self.work(old, new, moved.x)
        share = jax.nn.softmax(log_weights)
        size = 1.0 / (self.chains * (share**2).sum())
        log_mean = jax.nn.logsumexp(log_weights) - jnp.log(float(self.chains))
        rows = jnp.where(size < self.resample, _systematic(again, share), jnp.arange(self.chains))
        log_weights = jnp.where(size < self.resample, log_mean, log_weights)
        info |= {"effective share": size, "log normaliser": log_mean}
        return PersistentState(params, opt, moved.x[rows], log_weights), info

    def work(self, old: Any, new: Any, z: Float[Array, "n d"]) -> Float[Array, " n"]:
        """What new parameters add to the log weights of chains, from where they are."""
        return jax.vmap(old.energy)(z) - jax.vmap(new.energy)(z)

    def answer(self, state: PersistentState) -> PyTree:
        # What a fit draws from are the trained chains, by weight.
        params = state.params
        log_mean = jax.nn.logsumexp(state.log_weights) - jnp.log(float(self.chains))
        normaliser = log_mean if self.reweighted else params.log_normaliser
        return eqx.tree_at(
            lambda q: (q.chains, q.log_weights, q.log_normaliser),
            params,
            (
                paramax.NonTrainable(state.chains),
                paramax.NonTrainable(state.log_weights),
                normaliser,
            ),
            is_leaf=lambda v: v is None,
        )


def persistent_chains(
    optimiser: Any = None,
    *,
    reweighted: Any = True,
    moves: Any = None,
    length: Any = 1,
    chains: Any = 512,
    rows: Any = 256,
    resample: Any = 0.5,
) -> PersistentChains:
    r"""Trains an energy model by chains that go on from step to step.

    The gradient of minus the log likelihood is estimated by n chains :math:`X^i`,

    .. math:: \mathbb{E}_{\mathrm{data}}\nabla f_\theta
        - \sum_i \frac{e^{A^i}}{\sum_j e^{A^j}}\,\nabla f_\theta(X^i).

    With all A equal this is persistent contrastive divergence (Tieleman 2008), which is right only
    where chains keep up with the parameters: between modes that they do not cross, the shares of
    chains are those of long ago. Reweighted, Jarzynski's equality keeps the estimate right however
    far chains lag behind. A move :math:`X \to Y`, followed by a step
    :math:`\theta \to \theta'`, adds

    .. math:: A \mathrel{+}= \log r_\theta(X, Y) + f_\theta(Y) - f_{\theta'}(Y),

    where r is the Metropolis ratio of an untested move (one of `ula`), and one of a tested move.
    The step's gradient is that at X: where moves are so short that Y tells X, weights are biased
    downwards by what the step has learned of its own chains.
    Chains start as exact draws of the reference, so that :math:`\frac1n\sum_i e^{A^i}` has the
    mean :math:`\int e^{-f_\theta} p_0` at each step, whatever was resampled; it becomes the
    family's `log_normaliser`. Where the effective size falls, chains are resampled
    systematically, and all take the mean weight.

    Carbone, Hua, Coste and Vanden-Eijnden, "Efficient training of energy-based models using
    Jarzynski equality", 2023, proposition 1 and algorithm 1 (there the move back is that of the new
    parameters; here both are of the old ones, which is as exact).

    Args:
        optimiser: of Optax; by default `optax.adam(3e-3)`.
        reweighted: whether chains carry weights.
        moves: of the chains, in the samples' sds; by default `ula(0.1)`.
        length: how many moves a step.
        chains: n.
        rows: how many samples a step sees.
        resample: chains are resampled where their effective size is below this share of n.

    Returns:
        a solver, for `ritz.fit(target, family=energy_model(), solver=...)`.

    Raises:
        RitzError: for sizes below one, another optimiser or other moves, or a share outside [0, 1].

    >>> import numpy as np, ritz
    >>> target = ritz.target.from_samples(np.random.default_rng(0).normal(3.0, 2.0, (500, 1)))
    >>> fit = ritz.fit(
    ...     target,
    ...     family=ritz.particle.energy_model(width=16, length=20),
    ...     solver=persistent_chains(chains=128),
    ...     steps=200,
    ...     progress=False,
    ... )
    >>> bool(abs(fit.mean()[0] - 3.0) < 0.5)
    True
    """
    import optax

    optimiser = optax.adam(3e-3) if optimiser is None else optimiser
    if not (hasattr(optimiser, "init") and hasattr(optimiser, "update")):
        raise RitzError(
            f"persistent_chains: an optimiser arrived as {type(optimiser).__name__}, expected an "
            "Optax transformation such as optax.adam(0.003)"
        )
    share = isinstance(resample, int | float) and not isinstance(resample, bool)
    if not share or not 0.0 <= resample <= 1.0:
        raise RitzError(
            f"persistent_chains: resample={resample!r} arrived, expected a share from 0 to 1"
        )
    return PersistentChains(
        optimiser=optimiser,
        moves=ula(0.1) if moves is None else as_moves("persistent_chains", moves),
        length=whole_number("length", length, 1),
        chains=whole_number("chains", chains, 2),
        rows=whole_number("rows", rows, 1),
        reweighted=bool(reweighted),
        resample=float(resample),
    )


def _systematic(key: Key[Array, ""], share: Float[Array, " n"]) -> Array:
    """Indices by systematic resampling."""
    n = len(share)
    at = (jnp.arange(n) + jax.random.uniform(key, dtype=share.dtype)) / n
    return jnp.minimum(jnp.searchsorted(jnp.cumsum(share), at), n - 1)
