"""Sorted projections lead an autoencoder's points to a prior that can only be drawn from.

The distance of the encoded batch from as many draws of the prior is a mean over random lines, on
each of which the best transport is a matter of sorting. That is all that a deterministic
autoencoder needs to have encodings that are spread as a square or a ring, at little cost in its
error; then draws of the prior decode to images.

Paper: S. Kolouri, P. E. Pope, C. E. Martin and G. K. Rohde, "Sliced-Wasserstein autoencoder: an
embarrassingly simple generative model", ICLR 2019, arXiv:1804.01947.

Scaled down: 8,000 images to train on, fully connected networks with two layers of 256 units and 40
passes.

Data: MNIST's 10,000 test images (folder RITZ_DATA), grey levels from 0 to 1.

Tuning: the weight of the distance, the size of batches and the number of passes, with seed 11. In
batches of 200 encodings were no nearer to the ring than a third of the plain autoencoder's: as few
draws are themselves far from it.

Thresholds: the catalogue's. Distances are sliced 2-Wasserstein distances (not squared) over 500
lines, of 2,000 test images from 2,000 draws. Encodings of the plain autoencoder are first made to
agree with the prior in mean and covariance; the draws that it decodes are those of the prior as
they are. Where they are mapped to its encodings' mean and covariance before, its images are as near
to the data (see the figures): two latents leave both autoencoders' images blurred, and that limits
them.

Wrong variant: projections are compared without sorting.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz.latent import (
    VAE,
    AbstractRowLoss,
    gaussian,
    mlp,
    reconstruction,
    samplable,
    squared_sliced_wasserstein,
    swae,
)
from ritz.papers._base import Check, Result
from ritz.papers.latent._images import digits
from ritz.plot import canvas

SEEDS = (0, 1, 2)
LATENT, HIDDEN, EPOCHS, RATE, BATCH = 2, 256, 40, 2e-3, 500
SD, WEIGHT = 0.5, 300.0
LINES, DRAWS = 500, 2000


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def square(key: Any) -> Any:
    """A point of a square."""
    return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)


def ring(key: Any) -> Any:
    """A point near a circle."""
    one, two = jax.random.split(key)
    angle = 2.0 * jnp.pi * jax.random.uniform(one)
    radius = 1.0 + 0.05 * jax.random.normal(two)
    return radius * jnp.array([jnp.cos(angle), jnp.sin(angle)])


PRIORS = {"square": square, "ring": ring}


def trained(objective: Any, prior: Any, seed: int, quick: bool) -> VAE:
    """An autoencoder of images with two latents."""
    return VAE(
        LATENT,
        likelihood=gaussian(SD, each=False),
        encoder=mlp(HIDDEN, HIDDEN, activation=jax.nn.relu),
        decoder=mlp(HIDDEN, HIDDEN, activation=jax.nn.relu),
        prior=samplable(prior),
        objective=objective,
        epochs=1 if quick else EPOCHS,
        batch=BATCH,
        lr=RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(digits(seed)[0][: 1000 if quick else None])


# -- the baseline: measured in the same run -------------------------------------------------------


@functools.cache
def plain(seed: int, quick: bool) -> VAE:
    """An autoencoder without a prior; once for both variants."""
    return trained(reconstruction(), square, seed, quick)


def matched(vae: VAE, seed: int, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix and a shift that make encodings agree with points in mean and covariance."""
    z = vae.encode(digits(seed)[0])
    root = lambda v: np.linalg.cholesky(np.cov(v.T))
    matrix = root(wanted) @ np.linalg.inv(root(z))
    return matrix, wanted.mean(axis=0) - matrix @ z.mean(axis=0)


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Unsorted(AbstractRowLoss):
    """Projections in the order in which they come."""

    density = False

    def loss(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        prior, n = paramax.unwrap(target.prior), len(batch["x"])
        z = jax.vmap(lambda row: q.condition(row).sample(key))(batch)
        fits = jax.vmap(target.log_likelihood)(z, batch).mean()
        wanted = jax.vmap(prior.sample)(jax.random.split(key, n))
        lines = jax.random.normal(key, (LATENT, 50))
        lines = lines / jnp.linalg.norm(lines, axis=0)
        return WEIGHT * ((z @ lines - wanted @ lines) ** 2).mean() - fits


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Distances and errors as shares of a plain autoencoder's."""
    objective = Unsorted() if wrong else swae(WEIGHT)
    found: dict[str, list[float]] = {}
    curves: dict[str, Any] = {}
    for name, prior in PRIORS.items():
        for seed in seeds:
            test, own = digits(seed)[2], trained(objective, prior, seed, quick)
            other = plain(seed, quick)
            keys = jax.random.split(jax.random.key(1_000_000 + seed), DRAWS)
            drawn = np.asarray(jax.vmap(prior)(keys))
            matrix, shift = matched(other, seed, drawn)
            places = {"own": own.encode(test), "plain": other.encode(test) @ matrix.T + shift}
            inverse = (drawn - shift) @ np.linalg.inv(matrix).T
            figures = {"matched: distance of decoded draws": (other.decode(inverse), test)}
            for who, vae in (("own", own), ("plain", other)):
                error = float(((vae.decode(vae.encode(test)) - test) ** 2).mean())
                found.setdefault(f"{name}, {who}: error", []).append(error)
                figures[f"{who}: distance to the prior"] = places[who], drawn
                figures[f"{who}: distance of decoded draws"] = vae.decode(drawn), test
            for what, clouds in figures.items():
                found.setdefault(f"{name}, {what}", []).append(distance(*clouds, seed))
            if seed == seeds[0]:
                curves[name] = places | {"prior": drawn}
    means = {name: float(np.mean(v)) for name, v in found.items()}
    checks = tuple(
        Check(
            name=f"{name}: {what}, as a share",
            value=means[f"{name}, own: {what}"] / means[f"{name}, plain: {what}"],
            direction="<=",
            threshold=threshold,
            compared="a plain autoencoder of the same size, test images, mean over seeds",
        )
        for name in PRIORS
        for what, threshold in THRESHOLDS.items()
    )
    return Result(checks, seeds, figures=means, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Encodings of test images, and draws of the priors."""
    with canvas(2, 3, size=(6.0, 4.0)) as (figure, axes):
        for row, (name, clouds) in zip(axes, result.curves.items(), strict=True):
            for ax, who in zip(row, ("prior", "own", "plain"), strict=True):
                ax.scatter(*clouds[who][:500].T, s=2)
                ax.set(xticks=[], yticks=[], xlim=(-2, 2), ylim=(-2, 2))
            row[0].set_ylabel(name)
        for ax, title in zip(axes[0], ("draws", "sorted projections", "plain"), strict=True):
            ax.set_title(title)
    return figure


# -- what the parts above need --------------------------------------------------------------------

THRESHOLDS = {
    "distance to the prior": 0.3,
    "error": 1.15,
    "distance of decoded draws": 0.8,
}


def distance(x: Any, y: Any, seed: int) -> float:
    """The sliced 2-Wasserstein distance over many lines."""
    one, two = (jnp.asarray(v.reshape(len(v), -1), float) for v in (x, y))
    return float(squared_sliced_wasserstein(one, two, jax.random.key(seed), LINES) ** 0.5)
