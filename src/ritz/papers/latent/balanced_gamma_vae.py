"""An observation variance that follows the error balances reconstruction and divergence by itself.

As reconstructions become better, a variance that stays makes the divergence outweigh them. One that
is kept at the error reached so far, outside the gradient, does as well as one that is learned, and
as the best of a grid of weights for the divergence; with a variance of one the error is far larger.

Paper: A. Asperti and M. Trentin, "Balancing reconstruction error and Kullback-Leibler divergence
in variational autoencoders", IEEE Access 2020, arXiv:2002.07514 (sections 3 and 4).

Scaled down: 8,000 images of 28 x 28 in place of CIFAR-10 and CelebA, networks with a hidden layer
of 200 units, sixteen latents.

Data: MNIST's 10,000 test images (folder RITZ_DATA), grey levels from 0 to 1; 2,000 are test images.

Tuning: none between the methods: rate, batches, networks and epochs are equal. The grid is of the
weights 0.02, 0.1 and 0.5 for the divergence, beside squared errors over two.

Thresholds: the catalogue's. Means over seeds; the best of the grid is that of each figure. Samples
are means that draws from the prior decode to; features are the hidden units of a classifier that is
trained in the run.

Wrong variant: a running maximum in place of the minimum.
"""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ritz.latent import VAE, Balanced, balanced, elbo, frechet_distance, gaussian, mlp
from ritz.papers._base import Check, Result
from ritz.papers.latent._images import digits, features
from ritz.plot import canvas

SEEDS = (0, 1, 2)
LATENT, HIDDEN, EPOCHS, RATE, BATCH = 16, 200, 25, 1e-3, 100
GRID = (0.02, 0.1, 0.5)


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(objective: Any, sd: float | None, seed: int, epochs: int) -> VAE:
    """An autoencoder of images."""
    return VAE(
        LATENT,
        likelihood=gaussian(sd, each=False),
        encoder=mlp(HIDDEN),
        decoder=mlp(HIDDEN),
        objective=objective,
        epochs=epochs,
        batch=BATCH,
        lr=RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(digits(seed)[0])


def judged(vae: VAE, seed: int) -> tuple[float, float]:
    """Mean squared error of test images, and the Fréchet distance of samples from them."""
    test = digits(seed)[2]
    error = float(((vae.decode(vae.encode(test)) - test) ** 2).mean())
    z = np.random.default_rng(seed).normal(size=(len(test), LATENT))
    return error, frechet_distance(test, vae.decode(z), features(seed))


# -- the baseline: measured in the same run -------------------------------------------------------


@functools.cache
def others(seed: int, epochs: int) -> dict[str, tuple[float, float]]:
    """Figures with a learned variance, a variance of one, and the grid."""
    found = {"learned": trained(elbo(), None, seed, epochs)}
    found["one"] = trained(elbo(), 1.0, seed, epochs)
    for beta in GRID:
        found[f"{beta:g}"] = trained(elbo(beta=beta), 1.0, seed, epochs)
    return {name: judged(vae, seed) for name, vae in found.items()}


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Greatest(Balanced):
    """The variance never falls."""

    def revise(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        q, new = super().revise(q, target, key, batch)
        where = lambda t: t.likelihood.log_sd
        return q, eqx.tree_at(where, new, jnp.maximum(where(new), where(target)))


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Errors and distances, against the other ways to set the variance."""
    epochs = 1 if quick else EPOCHS
    objective = Greatest(**vars(balanced())) if wrong else balanced()
    ours = np.mean([judged(trained(objective, None, s, epochs), s) for s in seeds], axis=0)
    rows = [others(s, epochs) for s in seeds]
    mean = {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}
    best = np.min([mean[f"{beta:g}"] for beta in GRID], axis=0)
    told, grid = "learned variance, mean over seeds", "the best of three weights, mean over seeds"
    checks = (
        Check("error, a share", float(ours[0] / mean["learned"][0]), "<=", 1.02, told),
        Check("Fréchet distance, a share", float(ours[1] / mean["learned"][1]), "<=", 1.05, told),
        Check("error over the grid's best", float(ours[0] / best[0]), "<=", 1.05, grid),
        Check("Fréchet distance over the grid's", float(ours[1] / best[1]), "<=", 1.05, grid),
        Check(
            "error with a variance of one over ours",
            float(mean["one"][0] / ours[0]),
            ">=",
            1.3,
            "mean over seeds",
        ),
    )
    curves = {"balanced": ours, **mean}
    figures = {}
    for name, (error, distance) in curves.items():
        figures |= {f"{name}: error": float(error), f"{name}: distance": float(distance)}
    return Result(checks, seeds, figures=figures, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Errors and distances, by how the variance is set."""
    with canvas(1, 2, size=(7.2, 2.8)) as (figure, axes):
        for i, (ax, what) in enumerate(zip(axes[0], ("error", "Fréchet distance"), strict=True)):
            ax.bar(list(result.curves), [pair[i] for pair in result.curves.values()], width=0.6)
            ax.set(ylabel=what)
            ax.tick_params(axis="x", labelrotation=45)
    return figure
