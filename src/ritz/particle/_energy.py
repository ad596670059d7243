"""Energy-based models: families known by an unnormalised density, and sampled by chains."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family import AbstractFamily
from ritz.family._mean_field import LOG_2PI
from ritz.particle._moves import as_moves, mala
from ritz.target import samples_of


class EnergyModel(AbstractFamily):
    r"""A Gaussian tilted by an energy, :math:`q(x) \propto e^{-f_\theta(z)}\,p_0(x)`.

    :math:`p_0` is the independent Gaussian of the samples' means and sds, and
    :math:`z = (x - m)/s` the point in its units. It makes the density integrable where f is
    bounded, gives chains an exact start, and makes weights of chains and of noise-contrastive
    estimation absolute: both find the log normaliser :math:`\log\int e^{-f}p_0`. See
    `energy_model`.

    Attributes:
        energy: f, from (d,) to one number.
        log_normaliser: as `noise_contrastive` or reweighted `persistent_chains` found it; other
            rules leave it at zero, and say nothing of it.
        loc: m.
        scale: s.
        moves: of its chains, in units of s.
        length: how many moves a draw is from its chain's start.
        chains: where chains start, in z, shape (n, d); a draw from :math:`p_0` where n is zero.
        log_weights: of these chains, shape (n,).
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_density"})
    energy: Callable[[Any], Any]
    log_normaliser: Float[Array, ""]
    loc: Any
    scale: Any
    moves: Any
    length: int = eqx.field(static=True)
    chains: Any
    log_weights: Any

    @property
    def objective(self) -> Any:
        from ritz.particle._energy_losses import contrastive_divergence

        return contrastive_divergence()

    @property
    def dim(self) -> int:
        return jnp.shape(paramax.unwrap(self.loc))[0]

    def log_tilted(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        r""":math:`-f(z) + \log p_0`, unnormalised, of a point in units of the reference."""
        return -self.energy(z) - 0.5 * (z @ z + z.shape[0] * LOG_2PI)

    def log_density(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        r""":math:`-f(z) + \log p_0(x)`: the log density up to `log_normaliser`."""
        return self.log_tilted((x - self.loc) / self.scale) - jnp.log(self.scale).sum()

    def standard(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Points in units of the reference."""
        return (x - self.loc) / self.scale

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        """The end of a chain, from :math:`p_0` or from a trained chain drawn by weight."""
        first, rest = jax.random.split(key)
        if len(self.chains):
            z = self.chains[jax.random.categorical(first, self.log_weights)]
        else:
            z = jax.random.normal(first, (self.dim,), self.loc.dtype)
        z = self.moves(self.log_tilted, z, rest, self.length).x
        return self.loc + self.scale * z


class _Network(eqx.Module):
    """A multilayer perceptron that is zero at first."""

    hidden: eqx.nn.MLP
    last: Float[Array, " width"]

    def __call__(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        return self.last @ self.hidden(z)


def energy_model(
    energy: Any = None,
    *,
    width: Any = 64,
    depth: Any = 2,
    moves: Any = None,
    length: Any = 200,
    seed: Any = 0,
) -> Callable[[Any, Any], EnergyModel]:
    r"""An energy-based model of samples, as a `family` for `ritz.fit`.

    .. math:: q(x) = \frac{e^{-f_\theta(z)}\, p_0(x)}{\int e^{-f_\theta} p_0}, \qquad
        z = (x - m)/s.

    It is trained by an objective (`contrastive_divergence`, `score_matching`,
    `denoising_score_matching`, `noise_contrastive`) or by the solver `persistent_chains`, with or
    without reweighting. Its chains draw, `log_density` is unnormalised.

    Carbone, "Hitchhiker's guide on energy-based models", 2024, arXiv:2406.13661.

    Args:
        energy: f, an Equinox module from (d,), in units of the samples' sds, to one number; by
            default a multilayer perceptron, whose last layer is zero at first.
        width: of that network's layers.
        depth: how many there are.
        moves: of the chains that draw; by default `mala(0.3)`. Steps are in the samples' sds.
        length: how many moves a draw is from the start of its chain.
        seed: of the network's weights.

    Returns:
        a function of a target, made by `ritz.target.from_samples`, and a point.

    Raises:
        RitzError: for sizes below one, what is no function or no moves; from the function, for a
            target that is not known by samples, or whose samples do not vary.

    >>> import numpy as np, ritz
    >>> target = ritz.target.from_samples(np.random.default_rng(0).normal(3.0, 2.0, (500, 1)))
    >>> fit = ritz.fit(
    ...     target,
    ...     family=ritz.particle.energy_model(width=16, length=20),
    ...     objective=ritz.particle.noise_contrastive(),
    ...     steps=200,
    ...     progress=False,
    ... )
    >>> bool(abs(fit.mean()[0] - 3.0) < 0.4)
    True
    """
    sizes = {"width": width, "depth": depth, "length": length}
    for name, size in sizes.items():
        whole_number(name, size, 1)
    whole_number("seed", seed, 0)
    if energy is not None and not isinstance(energy, eqx.Module):
        raise RitzError(
            f"energy_model: an energy arrived as {type(energy).__name__}, expected an Equinox "
            "module from (d,) to a number, or None for a network"
        )
    moves = mala(0.3) if moves is None else as_moves("energy_model", moves)

    def built(target: Any, start: Any) -> EnergyModel:
        x = samples_of(target, "energy_model").samples
        loc, scale = x.mean(axis=0), x.std(axis=0)
        if not bool((scale > 0).all()):
            raise RitzError(
                "energy_model: a coordinate of the samples has one value only; leave it out"
            )
        f: Any = _network(x.shape[1], width, depth, seed, x.dtype) if energy is None else energy
        _check_energy(f, x[0])
        fixed = paramax.NonTrainable
        none = jnp.zeros((0, x.shape[1]), x.dtype)
        return EnergyModel(
            energy=f,
            log_normaliser=jnp.zeros((), x.dtype),
            loc=fixed(loc),
            scale=fixed(scale),
            moves=paramax.non_trainable(moves),
            length=length,
            chains=fixed(none),
            log_weights=fixed(none[:, 0]),
        )

    return built


def check_energy_model(q: Any, what: str) -> EnergyModel:
    """The family, if it is an energy model.

    Raises:
        RitzError: where it is another one.
    """
    if not isinstance(q, EnergyModel):
        raise RitzError(
            f"{what} trains energies, but the family is a {type(q).__name__}; use "
            "family=ritz.particle.energy_model()"
        )
    return q


def _network(d: int, width: int, depth: int, seed: int, dtype: Any) -> _Network:
    hidden = eqx.nn.MLP(
        d, width, width, depth - 1, jax.nn.silu, jax.nn.silu, dtype=dtype, key=jax.random.key(seed)
    )
    return _Network(hidden, jnp.zeros(width, dtype))


def _check_energy(energy: Any, x: Array) -> None:
    try:
        found = eqx.filter_eval_shape(energy, x)
    except Exception as error:  # the user's module may raise anything
        raise RitzError(
            f"energy_model: the energy failed for a point of shape {x.shape}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if getattr(found, "shape", None) != ():
        raise RitzError(
            f"energy_model: the energy gave {getattr(found, 'shape', found)} for a point of shape "
            f"{x.shape}, expected one number, of shape ()"
        )
