"""From what a user gives to a model and an encoder: rows, likelihood, networks and prior."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz._errors import RitzError
from ritz.data import Table
from ritz.family import AbstractFamily, MeanField
from ritz.latent._encoder import AbstractPosterior, Encoder, diagonal, point
from ritz.latent._gaussian import gaussian
from ritz.latent._likelihood import AbstractLikelihood
from ritz.latent._model import LatentModel, latent_model
from ritz.latent._networks import built, mlp

_SEEN = 1000  # rows at which a fit is looked at
_ASIDE = 10_000  # rows kept aside, at most: each look at them is one batch


def assembled(
    rows: np.ndarray,
    latent: int,
    likelihood: AbstractLikelihood,
    networks: tuple[Any, Any],
    posterior: AbstractPosterior,
    prior: Any,
    seed: int,
) -> tuple[LatentModel, Encoder]:
    """A model and an encoder at their start.

    Args:
        rows: to train on.
        latent: d.
        likelihood: of a row.
        networks: encoder and decoder: builders, Equinox modules, or None.
        posterior: from the encoder's numbers to a law.
        prior: a family over (d,), a builder of one, or None for the standard normal.
        seed: of the networks' weights.

    Raises:
        RitzError: for parts whose shapes do not fit.
    """
    one, two = jax.random.split(jax.random.key(seed))
    three = jax.random.fold_in(one, 1)
    shape = rows.shape[1:]
    shift, scale = likelihood.standard(rows)
    likelihood = likelihood.for_data(rows)
    encoder, decoder = (mlp(256, 256) if n is None else n for n in networks)
    down = built("encoder", encoder, shape, (posterior.numbers(latent),), one)
    up = built("decoder", decoder, (latent,), likelihood.outputs(shape), two)
    fixed = lambda v: paramax.NonTrainable(jnp.asarray(v, float))
    if prior is None:
        prior = paramax.non_trainable(MeanField(jnp.zeros(latent), jnp.zeros(latent)))
    elif callable(prior):
        prior = prior(latent, three)
    width = paramax.unwrap(prior).dim if isinstance(prior, AbstractFamily) else None
    if width != latent:
        what = type(prior).__name__ if width is None else f"one of {width} dimensions"
        raise RitzError(f"prior arrived as {what}, expected a family of {latent} dimensions")
    some = np.random.default_rng(seed).permutation(len(rows))[:_SEEN]
    seen = {"x": jnp.asarray(rows[np.sort(some)])}
    q = Encoder(down, posterior, fixed(shift), fixed(scale), latent)
    return latent_model(up, likelihood, prior, seen), q


def likelihood_of(given: Any) -> AbstractLikelihood:
    """The likelihood that was asked for; a Gaussian where none was.

    Raises:
        RitzError: for something else.
    """
    if given is None:
        return gaussian()
    if not isinstance(given, AbstractLikelihood):
        raise RitzError(
            f"likelihood arrived as {type(given).__name__}, expected one of ritz.latent such as "
            "bernoulli() or gaussian()"
        )
    return given


def posterior_of(given: Any, objective: Any) -> AbstractPosterior:
    """The posterior that was asked for, or the one that an objective is for.

    Raises:
        RitzError: for something else, or one without a density where the objective needs it.
    """
    found = diagonal() if given is None else given
    if given is None and not objective.density:
        found = point()
    if not isinstance(found, AbstractPosterior):
        raise RitzError(
            f"posterior arrived as {type(found).__name__}, expected one of ritz.latent such as "
            "diagonal() or point()"
        )
    if objective.density and not found.density:
        raise RitzError(
            f"{type(objective).__name__} needs a posterior with a density, which "
            f"{type(found).__name__} has not; use diagonal(), or an objective for points"
        )
    return found


def split(rows: np.ndarray, share: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and a share of them that is kept aside.

    Raises:
        RitzError: for no share.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise RitzError(f"validation={share!r} arrived, expected a share from 0 to below 1")
    order = np.random.default_rng(seed).permutation(len(rows))
    kept = min(int(share * len(rows)), _ASIDE)
    return rows[np.sort(order[kept:])], rows[np.sort(order[:kept])]


def rows_of(x: Any) -> np.ndarray:
    """Rows of numbers as an array of the floating type in use.

    Args:
        x: an array of shape (n, ...), a data frame, or a `ritz.data.Table`.

    Raises:
        RitzError: for no rows, or what is no finite number.
    """
    if isinstance(x, Table):
        words = [name for name, column in x.columns.items() if column.dtype.kind not in "biuf"]
        if words:
            raise RitzError(f"column {words[0]!r} of {x.source} is not of numbers; leave it out")
        x = np.column_stack(list(x.columns.values()))
    values = np.asarray(x)
    if values.ndim < 2 or not len(values):
        raise RitzError(f"data of shape {values.shape} arrived, expected rows, (n, ...)")
    if values.dtype.kind not in "biuf":
        raise RitzError(f"data of dtype {values.dtype} arrived, expected numbers")
    bad = ~np.isfinite(values.astype(np.float64))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise RitzError(
            f"{int(bad.sum())} values of the data are not finite (the first at {first}); fill them "
            "in, or leave those rows out"
        )
    return values.astype(jax.dtypes.canonicalize_dtype(float))
