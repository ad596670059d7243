"""From what a user gives to a model and an encoder: rows, likelihood, networks and prior."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz._errors import RitzError, whole_number
from ritz._errors import share as a_share
from ritz.data import Table
from ritz.family import AbstractFamily, MeanField
from ritz.latent._bound import AbstractRowLoss, elbo
from ritz.latent._encoder import AbstractPosterior, Encoder, Given, diagonal, point
from ritz.latent._gaussian import gaussian
from ritz.latent._hierarchy import hierarchical, levels
from ritz.latent._likelihood import AbstractLikelihood
from ritz.latent._model import LatentModel, latent_model
from ritz.latent._networks import built, mlp
from ritz.latent._origin import GradientOrigin

_SEEN = 1000  # rows at which a fit is looked at
_ASIDE = 10_000  # rows kept aside, at most: each look at them is one batch


def assembled(
    rows: dict[str, np.ndarray],
    latent: int | tuple[int, ...],
    likelihood: AbstractLikelihood,
    networks: tuple[Any, Any],
    posterior: Any,
    prior: Any,
    seed: int,
) -> tuple[LatentModel, Encoder]:
    """A model and an encoder at their start.

    Args:
        rows: to train on, "x" and, of a conditional model, "given".
        latent: d, or the widths of a hierarchy's levels.
        likelihood: of a row.
        networks: encoder and decoder: builders, Equinox modules, or None.
        posterior: from the encoder's numbers to a law, or a builder of that.
        prior: a family over (d,), a builder of one, or None for the standard normal.
        seed: of the networks' weights.

    Raises:
        RitzError: for parts whose shapes do not fit.
    """
    one, two = jax.random.split(jax.random.key(seed))
    three, four = jax.random.split(jax.random.fold_in(one, 1))
    x, shape = rows["x"], rows["x"].shape[1:]
    fixed = lambda v: paramax.NonTrainable(jnp.asarray(v, float))
    shift, scale = likelihood.standard(x)
    likelihood = likelihood.for_data(x)
    widths = latent if isinstance(latent, tuple) else (latent,)
    total, low = sum(widths), widths[0]  # dimensions in all, and those that the decoder sees
    given, inputs = None, shape
    if "given" in rows:
        values = rows["given"]
        spread = values.std(axis=0)
        given = Given(fixed(values.mean(axis=0)), fixed(np.where(spread > 0, spread, 1.0)))
        inputs, low = (x[0].size + values[0].size,), low + values[0].size
    if not isinstance(posterior, AbstractPosterior):
        posterior = posterior(latent, four)
    encoder, decoder = (mlp(256, 256) if n is None else n for n in networks)
    if isinstance(encoder, GradientOrigin):
        down: Any = encoder.built(posterior.numbers(total), total, one)
    else:
        down = built("encoder", encoder, inputs, (posterior.numbers(total),), one)
    up = built("decoder", decoder, (low,), likelihood.outputs(shape), two)
    if prior is None:
        prior = levels() if isinstance(latent, tuple) else _normal(total)
    if callable(prior) and not isinstance(prior, AbstractFamily):
        prior = prior(latent, three)
    width = paramax.unwrap(prior).dim if isinstance(prior, AbstractFamily) else None
    if width != total:
        what = type(prior).__name__ if width is None else f"one of {width} dimensions"
        raise RitzError(f"prior arrived as {what}, expected a family of {total} dimensions")
    some = np.sort(np.random.default_rng(seed).permutation(len(x))[:_SEEN])
    seen = {name: jnp.asarray(v[some]) for name, v in rows.items()}
    q = Encoder(down, posterior, fixed(shift), fixed(scale), total, given)
    return latent_model(up, likelihood, prior, seen, given), q


def _normal(d: int) -> Any:
    return paramax.non_trainable(MeanField(jnp.zeros(d), jnp.zeros(d)))


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


def objective_of(given: Any) -> AbstractRowLoss:
    """The objective that was asked for; the bound where none was.

    Raises:
        RitzError: for something else.
    """
    found = elbo() if given is None else given
    if not isinstance(found, AbstractRowLoss):
        raise RitzError(
            f"objective arrived as {type(found).__name__}, expected one of ritz.latent such as "
            "elbo() or importance(K)"
        )
    return found


def latent_of(given: Any) -> int | tuple[int, ...]:
    """How many latent dimensions, or the widths of a hierarchy's levels.

    Raises:
        RitzError: for something else.
    """
    if not isinstance(given, list | tuple):
        whole_number("latent", given, 1)
        return int(given)
    if len(given) < 2:
        raise RitzError(f"latent={given!r} arrived, expected a number, or two widths or more")
    for width in given:
        whole_number("latent", width, 1)
    return tuple(map(int, given))


def posterior_of(given: Any, objective: Any, latent: int | tuple[int, ...]) -> Any:
    """The posterior that was asked for, or the one that an objective and its latents are for.

    Raises:
        RitzError: for something else, or one without a density where the objective needs it.
    """
    if given is None and isinstance(latent, tuple):
        return hierarchical()
    if given is None:
        return diagonal() if objective.density else point()
    known = isinstance(given, AbstractPosterior)
    if isinstance(given, type) or not callable(given) or (isinstance(latent, tuple) and known):
        what = "hierarchical()" if isinstance(latent, tuple) else "diagonal() or point()"
        raise RitzError(
            f"posterior arrived as {type(given).__name__}, expected one of ritz.latent such as "
            f"{what}"
        )
    if known and objective.density and not given.density:
        raise RitzError(
            f"{type(objective).__name__} needs a posterior with a density, which "
            f"{type(given).__name__} has not; use diagonal(), or an objective for points"
        )
    return given


def split(rows: dict[str, np.ndarray], share: Any, seed: int) -> tuple[dict, dict]:
    """Rows to train on, and a share of them that is kept aside.

    Raises:
        RitzError: for no share.
    """
    a_share("validation", share)
    order = np.random.default_rng(seed).permutation(len(rows["x"]))
    kept = min(int(share * len(order)), _ASIDE)
    some = lambda which: {name: v[np.sort(which)] for name, v in rows.items()}
    return some(order[kept:]), some(order[:kept])


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


def named(x: Any, given: Any) -> dict[str, np.ndarray]:
    """Rows by name: "x" and, where there is any, what each is "given".

    Raises:
        RitzError: for what `rows_of` refuses, and numbers of rows that differ.
    """
    rows = {"x": rows_of(x)}
    if given is None:
        return rows
    values = rows_of(given)
    if len(values) != len(rows["x"]):
        raise RitzError(
            f"given holds {len(values)} rows, but there are {len(rows['x'])}; pass one for each"
        )
    return rows | {"given": values}


def like(target: LatentModel, x: np.ndarray, given: Any) -> dict[str, Any]:
    """Rows as those that a model was trained on.

    Raises:
        RitzError: for another shape, or `given` where it takes none or none where it does.
    """
    wanted = target.observed[0].shape
    if x.shape[1:] != wanted:
        raise RitzError(f"rows of shape {x.shape[1:]} arrived, expected {wanted}")
    return {"x": jnp.asarray(x)} | given_like(target, given, len(x))


def given_like(target: LatentModel, given: Any, n: int) -> dict[str, Any]:
    """What n rows are given, as those that a model was trained on.

    Raises:
        RitzError: for another shape, or where it takes none or needs one.
    """
    seen = target.seen.get("given")
    if seen is None and given is None:
        return {}
    if seen is None or given is None:
        raise RitzError(
            "this VAE was trained without given=, and takes none"
            if seen is None
            else "this VAE is conditional: pass given=, what each row is given"
        )
    values = rows_of(given)
    if values.shape != (n, *seen.shape[1:]):
        raise RitzError(f"given of shape {values.shape} arrived, expected {(n, *seen.shape[1:])}")
    return {"given": jnp.asarray(values)}
