"""A noise that follows the error balances reconstruction and divergence, and need not be learned.

The variance of a Gaussian decoder is a running minimum of the error of batches. The loss's gradient
then is that of the logarithm of the error, so that divergence keeps its share as reconstructions
become better; a variance of one leaves it far too large a share.

Paper: A. Asperti and M. Trentin, "Balancing reconstruction error and Kullback-Leibler divergence in
variational autoencoders", IEEE Access 2020, arXiv:2002.07514.

Scaled down: networks of one hidden layer in place of convolutions, digits in place of CIFAR-10 and
CelebA, and features of a classifier of digits in place of Inception's.

Data: MNIST's 10,000 test images (folder RITZ_DATA), grey levels from 0 to 1: 8,000 to train on and
2,000 to test with.

Tuning: none. All have equal networks, rates, batches and steps, and are trained until errors hardly
fall: a noise that is learned is larger than the error for a long time, which does samples good.

Thresholds: the catalogue's. The best weight of a grid is the one whose samples are nearest;
Fréchet distances are of 2,000 samples from the test images, squared, means of three draws.

Wrong variant: the noise stays where the first batches have brought it.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ritz.latent import VAE, Balanced, balanced, elbo, frechet_distance, gaussian, mlp
from ritz.papers._base import Check, Result
from ritz.papers.latent._images import digits, features
from ritz.plot import canvas

SEEDS = (0, 1, 2)
LATENT, HIDDEN = 16, 128
EPOCHS, BATCH, RATE = 60, 100, 3e-3
# The noise is one, so that a weight of the divergence acts as its variance.
GRID = (0.005, 0.015, 0.045)


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(x: Any, seed: int, epochs: int, objective: Any, sd: float | None) -> VAE:
    """An autoencoder with a Gaussian decoder, with one noise for all pixels."""
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
    ).fit(x)


# -- the baselines: `elbo()` with a learned noise, or with one of one and a weight ----------------


# -- the wrong variant: what the checks must catch ------------------------------------------------


def halted() -> Balanced:
    """As `balanced()`, but so slow that it hardly leaves its start."""
    return balanced(decay=0.99999)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Errors of test images, and distances of samples from them."""
    many, epochs = (500, 1) if quick else (None, EPOCHS)
    ways: dict[str, tuple[Any, float | None]] = {
        "balanced": (halted() if wrong else balanced(), None),
        "learned": (elbo(), None),
        "one": (elbo(), 1.0),
    }
    ways |= {f"weight {w}": (elbo(beta=w), 1.0) for w in GRID}
    errors: dict[str, list[float]] = {}
    far: dict[str, list[float]] = {}
    curves: dict[str, Any] = {}
    for seed in seeds:
        x, _, test = digits(seed)
        space = features(seed)
        for name, (objective, sd) in ways.items():
            vae = trained(x[:many], seed, epochs, objective, sd)
            error = float(((vae.decode(vae.encode(test)) - test) ** 2).mean())
            draws = [vae.sample(len(test), seed=draw) for draw in range(3)]
            errors.setdefault(name, []).append(error)
            distances = [frechet_distance(d, test, space) for d in draws]
            far.setdefault(name, []).append(float(np.mean(distances)))
            if seed == seeds[0] and not name.startswith("weight"):
                z = np.random.default_rng(0).normal(size=(8, LATENT))
                curves[name] = vae.decode(jnp.asarray(z, jnp.float32))
    mse = {name: float(np.mean(v)) for name, v in errors.items()}
    distance = {name: float(np.mean(v)) for name, v in far.items()}
    best = min((f"weight {w}" for w in GRID), key=lambda name: distance[name])
    ratio = lambda of, other: of["balanced"] / of[other]
    checks = (
        Check(
            name="squared error of test images over that with a learned noise",
            value=ratio(mse, "learned"),
            direction="<=",
            threshold=1.02,
            compared="equal steps, means over seeds",
        ),
        Check(
            name="Fréchet distance of samples over that with a learned noise",
            value=ratio(distance, "learned"),
            direction="<=",
            threshold=1.05,
            compared="equal steps, means over seeds",
        ),
        Check(
            name="the larger of both over those of the best of three weights",
            value=max(ratio(mse, best), ratio(distance, best)),
            direction="<=",
            threshold=1.05,
            compared=f"{best}, the one with the nearest samples",
        ),
        Check(
            name="squared error with a noise of one over that",
            value=1.0 / ratio(mse, "one"),
            direction=">=",
            threshold=1.3,
            compared="equal steps, means over seeds",
        ),
    )
    figures = {f"{name}: squared error": v for name, v in mse.items()}
    figures |= {f"{name}: Fréchet distance": v for name, v in distance.items()}
    return Result(checks, seeds, figures=figures, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Means of images whose latents are draws of the prior."""
    with canvas(3, 8, size=(7.2, 2.9)) as (figure, axes):
        for row, (name, images) in zip(axes, result.curves.items(), strict=True):
            for ax, image in zip(row, images, strict=True):
                ax.imshow(np.asarray(image).reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
                ax.set(xticks=[], yticks=[])
            row[0].set_ylabel(name)
    return figure
