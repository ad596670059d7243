r"""Networks, an objective and forecasts for rows that are sequences."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._draws import at_rows
from ritz._errors import RitzError
from ritz._errors import share as a_share
from ritz.family import AbstractAmortised, AbstractFamily
from ritz.latent._assembled import rows_of
from ritz.latent._bound import LatentELBO, elbo
from ritz.latent._potentials import AbstractSequence, Potentials

_NONE = "this VAE's posteriors are no potentials of steps; use posterior=potentials()"


class Stepwise(eqx.Module):
    """One network at each step.

    Attributes:
        network: of a step.
        steps: T.
        halves: into how many parts of equal size a step's numbers are split, each of which comes
            for all steps in a row.
        shape: of the output.
    """

    network: Any
    steps: int = eqx.field(static=True)
    halves: int = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        x = x if self.halves > 1 else x.reshape(self.steps, -1)
        found = jax.vmap(self.network)(x)
        parts = jnp.split(found, self.halves, axis=1) if self.halves > 1 else [found]
        return jnp.concatenate([p.reshape(-1) for p in parts]).reshape(self.shape)


def stepwise(network: Any) -> Any:
    """A builder of the same network at each step of a sequence, as encoder or decoder.

    As an encoder of rows (T, ...) it gives the means of all steps, then as many further numbers; as
    a decoder it takes the states of all steps in a row.

    Args:
        network: a builder for one step, such as `mlp(64)`.

    Raises:
        RitzError: for no builder; from the builder, for shapes that have no steps.

    >>> from ritz.latent import mlp
    >>> net = stepwise(mlp(16))((10, 5), (40,), jax.random.key(0))
    >>> net(jnp.zeros((10, 5))).shape
    (40,)
    """
    if not callable(network):
        raise RitzError(
            f"stepwise: {type(network).__name__} arrived, expected a builder such as mlp(64)"
        )

    def build(inputs: Any, outputs: Any, key: Key[Array, ""]) -> Stepwise:
        encodes = len(inputs) > 1
        steps, numbers = (inputs if encodes else outputs)[0], (outputs if encodes else inputs)[0]
        if (not encodes and len(outputs) < 2) or numbers % ((2 if encodes else 1) * steps):
            raise RitzError(
                f"stepwise: a network from {inputs} to {outputs} arrived, expected rows (T, ...) "
                "and a multiple of T latent dimensions"
            )
        if encodes:
            return Stepwise(network(inputs[1:], (numbers // steps,), key), steps, 2, outputs)
        return Stepwise(network((numbers // steps,), outputs[1:], key), steps, 1, outputs)

    return build


class _Masked(AbstractAmortised):
    """An encoder whose potentials are kept at some steps alone, as each row says."""

    encoder: Any

    @property
    def dim(self) -> int:
        return self.encoder.dim

    def condition(self, data: Any) -> AbstractFamily:
        said = self.encoder.condition(data)
        if not isinstance(said, Potentials):
            raise RitzError(_NONE)
        return said.kept(data["keep"])


class MaskedELBO(LatentELBO):
    """See `masked_elbo`.

    Attributes:
        share: of the steps that are masked.
    """

    share: float = eqx.field(static=True, default=0.0)

    def suits(self, target: Any) -> None:
        super().suits(target)
        if not isinstance(paramax.unwrap(target.prior), AbstractSequence):
            raise RitzError(
                "masked_elbo leaves out potentials of some steps, which this model has not; use "
                "prior=linear_dynamics(width) or gaussian_process(width), and "
                "posterior=potentials()"
            )

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        first, second = jax.random.split(key)
        n, steps = len(batch["x"]), paramax.unwrap(target.prior).steps
        length = round(self.share * steps)
        start = jax.random.randint(first, (n, 1), 0, steps - length + 1)
        at = jnp.arange(steps)
        keep = jnp.where((at >= start) & (at < start + length), 0.0, 1.0)
        return super().loss(_Masked(q), target, second, {**batch, "keep": keep})


def masked_elbo(share: Any = 0.5, draws: Any = 1) -> MaskedELBO:
    r"""The bound with posteriors that do not see a window of the sequence, which they must explain.

    Of each row a window of consecutive steps at a random place is left without potentials, while
    the likelihood is of all steps, so that the dynamics have to lead through: training for
    forecasts. It is a bound of the log likelihood as any other posterior gives. Zhao and Linderman,
    "Revisiting structured variational autoencoders", 2023, section 4.

    Args:
        share: of the steps that are masked, from 0 to below 1.
        draws: of z, a row.

    Raises:
        RitzError: for no such share.

    >>> masked_elbo(0.5).share
    0.5
    """
    part = a_share("masked_elbo: share", share)
    base = elbo(draws)
    return MaskedELBO(base.draws, base.analytic, base.beta, base.warmup, base.free, None, part)


def forecast(vae: Any, x: Any) -> np.ndarray:
    """The means of whole sequences given their first steps.

    Args:
        vae: trained, with `linear_dynamics` or `gaussian_process`, and `potentials`.
        x: the first steps of sequences, shape (n, s, ...), s from 1 to the T of training.

    Returns:
        shape (n, T, ...): decoded means of the states given those steps.

    Raises:
        RitzError: for another model, or other shapes.

    >>> import numpy as np
    >>> from ritz.latent import VAE, linear_dynamics, mlp, potentials
    >>> t = np.arange(12) / 2.0 + np.random.default_rng(0).uniform(0, 6, (200, 1))
    >>> x = np.stack([np.sin(t), np.cos(t)], axis=2)
    >>> parts = {"prior": linear_dynamics(2), "posterior": potentials()}
    >>> nets = {"encoder": stepwise(mlp(16)), "decoder": stepwise(mlp(16))}
    >>> vae = VAE(24, **parts, **nets, epochs=2, progress=False).fit(x)
    >>> forecast(vae, x[:5, :4]).shape
    (5, 12, 2)
    """
    fit = vae._fitted
    prior = paramax.unwrap(fit.target.prior)
    if not isinstance(prior, AbstractSequence):
        raise RitzError(
            f"forecast: a VAE with a prior of type {type(prior).__name__} arrived, expected "
            "prior=linear_dynamics(width) or gaussian_process(width), and posterior=potentials()"
        )
    rows, wanted = rows_of(x), fit.target.observed[0].shape
    seen = rows.shape[1]
    if rows.shape[2:] != wanted[1:] or not 1 <= seen <= wanted[0]:
        raise RitzError(
            f"forecast: sequences of shape {rows.shape[1:]} arrived, expected (s, "
            f"{', '.join(map(str, wanted[1:]))}) with s from 1 to {wanted[0]}"
        )
    rest = np.zeros((len(rows), wanted[0] - seen, *wanted[1:]), rows.dtype)
    full = jnp.asarray(np.concatenate([rows, rest], axis=1))
    keep = (jnp.arange(wanted[0]) < seen).astype(full.dtype)

    def one(parts: Any, row: Any, keep: Any) -> Any:
        q, target = paramax.unwrap(parts)
        said = q.condition({"x": row})
        if not isinstance(said, Potentials):
            raise RitzError(_NONE)
        return target.likelihood.mean(target.decode(target.prior.given(said.kept(keep)).loc))

    return at_rows(one, (fit.q, fit.target), full, keep)
