"""How a variational autoencoder is trained: what is checked, kept aside and given to the engine."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._errors import RitzError, whole_number
from ritz.data import batches
from ritz.latent._assembled import latent_of, likelihood_of, named, objective_of, split
from ritz.solver import adam, early_stopping

_STEPS = 3000  # at least, where the number of epochs is left open
_EVERY = 25  # steps between looks at the rows kept aside, at least


def train(vae: Any, x: Any, given: Any, go: Any) -> Any:
    """Set what is learned of rows.

    Args:
        vae: with its parts and settings.
        x: rows.
        given: what each row is given, or None.
        go: `ritz.fit` or `ritz.resume`, from a target, batches and parts to a `Fit`.

    Returns:
        the autoencoder.

    Raises:
        RitzError: for data, parts or numbers that do not fit, before training starts.
    """
    latent_of(vae.latent)
    if vae.epochs is not None:
        whole_number("epochs", vae.epochs, 1)
    whole_number("seed", vae.seed, 0)
    rows = named(x, given)
    likelihood_of(vae.likelihood).check(rows["x"])
    seen, held = split(rows, vae.validation, vae.seed)
    whole_number("batch", vae.batch, 1)
    many = len(seen["x"])
    if vae.batch > many:
        raise RitzError(
            f"batch={vae.batch} arrived, but there are {many} rows to train on; use a smaller batch"
        )
    target, q = vae._parts(seen)
    objective = objective_of(vae.objective)
    objective.suits(target)
    a_pass = many // vae.batch
    epochs = max(100, -(-_STEPS // a_pass)) if vae.epochs is None else vae.epochs
    steps = epochs * a_pass
    solver: Any = adam(vae.lr, steps)
    if len(held["x"]):
        aside = jax.tree.map(jnp.asarray, held)
        whole_number("patience", vae.patience, 1)
        solver = early_stopping(solver, aside, every=max(a_pass, _EVERY), patience=vae.patience)
    vae.fit_ = go(
        target,
        batches(seen, vae.batch, seed=vae.seed),
        family=q,
        objective=objective,
        solver=solver,
        steps=steps,
        progress=vae.progress,
    )
    vae.n_features_in_ = int(np.prod(rows["x"].shape[1:]))
    return vae
