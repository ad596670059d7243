"""An autoencoder with Gaussian latents becomes a quantiser without more training.

Each pair of latents is replaced by the nearest of 256 random normal vectors. That is nearly as good
as a draw of the posterior, if each pair tells about eight bits of each image, which the bound does
not care for: training weighs each pair's divergence up or down to hold it there.

Paper: T. Xu, W. Zheng, J. He, J. M. Hernández-Lobato, Y. Wang, Y.-Q. Zhang and J. Tang, "Vector
quantization using Gaussian variational autoencoder", 2025, arXiv:2512.06609.

Scaled down: 8,000 images to train on and 2,000 to test with, fully connected networks with one
hidden layer of 256 units, 8 pairs of latents, 60 passes.

Data: MNIST's 10,000 test images (folder RITZ_DATA), grey levels from 0 to 1.

Tuning: the noise, an sd of 0.1, is about the error's, for all of them. With a noise that is learned
the divergence of the plain bound comes near 64 bits by itself, so that the constraint has less to
do. A pair is held at 7.5 bits, a little below what its codes tell.

Thresholds: the catalogue's. The quantised autoencoder has codes that are running means with the
decay and commitment of its paper (0.99, 0.25), and as many of them, of two dimensions. Where its
codes also restart when out of use, which the paper's do not, its error is less by some hundredths
than that of random codes; figures have both. Learned codes leave half the distance that random
ones do, so that these are no worse only where codes are learned badly.

Wrong variant: codes are spread evenly between -1 and 1, in place of draws from the prior.
"""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz.latent import (
    VAE,
    codebook,
    elbo,
    gaussian,
    gaussian_quantised,
    mlp,
    target_divergence,
    vector_quantised,
)
from ritz.papers._base import Check, Result
from ritz.papers.latent._images import digits
from ritz.plot import canvas

SEEDS = (0, 1, 2)
LATENT, WIDTH, BITS, HELD, LESS = 16, 2, 8, 7.5, 4
HIDDEN, EPOCHS, BATCH, NOISE = 256, 60, 100, 0.1


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


@functools.cache
def trained(name: str, seed: int, epochs: int) -> VAE:
    """An autoencoder of digits, once for both variants."""
    objective, prior = WAYS[name]
    return VAE(
        LATENT,
        likelihood=gaussian(NOISE, each=False),
        encoder=mlp(HIDDEN),
        decoder=mlp(HIDDEN),
        objective=objective,
        prior=prior,
        epochs=epochs,
        batch=BATCH,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(digits(seed)[0])


def quantised(vae: VAE, bits: int, seed: int) -> VAE:
    """With random codes."""
    return gaussian_quantised(vae, bits, WIDTH, seed=seed)


# -- the baselines: measured in the same run ------------------------------------------------------

BOOK = codebook(2**BITS, WIDTH)
WAYS: dict[str, tuple[Any, Any]] = {
    "held": (target_divergence(HELD, WIDTH), None),
    "free": (elbo(), None),
    "codes": (vector_quantised(), BOOK),
    "codes, restarts": (vector_quantised(decay=0.9, restart=0.1), BOOK),
}


def drawn(vae: VAE, x: np.ndarray, seed: int) -> np.ndarray:
    """A draw of each row's posterior."""
    q, keys = paramax.unwrap(vae.fit_.q), jax.random.split(jax.random.key(seed), len(x))
    one = lambda row, key: q.condition({"x": row}).sample(key)
    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(x), keys))


# -- the wrong variant: what the checks must catch ------------------------------------------------


def even(vae: VAE, seed: int) -> VAE:
    """With codes that are evenly spread between -1 and 1."""
    codes = vae.fit_.target.prior.codes
    new = jax.random.uniform(jax.random.key(seed), codes.shape, minval=-1.0, maxval=1.0)
    target = eqx.tree_at(lambda t: t.prior.codes, vae.fit_.target, new)
    vae.fit_ = dataclasses.replace(vae.fit_, target=target)
    return vae


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Squared errors of test images by codes, by draws, and of the baselines."""
    epochs = 1 if quick else EPOCHS
    found: dict[str, list[float]] = {}
    curves: dict[str, Any] = {}
    for seed in seeds:
        x = digits(seed)[2]
        held = trained("held", seed, epochs)
        images = {"draws": held.decode(drawn(held, x, seed)), "means": held.decode(held.encode(x))}
        for bits in (BITS, BITS - LESS):
            mine = quantised(held, bits, seed)
            mine = even(mine, seed) if wrong else mine
            images[f"{bits} bits"] = mine.decode(mine.encode(x))
        free = quantised(trained("free", seed, epochs), BITS, seed)
        images["free"] = free.decode(free.encode(x))
        for name in ("codes", "codes, restarts"):
            vae = trained(name, seed, epochs)
            images[name] = vae.decode(vae.encode(x))
        for name, made in images.items():
            found.setdefault(f"{name}: squared error", []).append(float(((made - x) ** 2).mean()))
        nats = held.diagnose(x).kl / np.log(2.0) / (LATENT // WIDTH)
        found.setdefault("bits of a pair", []).append(float(nats.sum()))
        if seed == seeds[0]:
            curves = {name: made[:8] for name, made in images.items()} | {"images": x[:8]}
    means = {name: float(np.mean(v)) for name, v in found.items()}
    error = lambda name: means[f"{name}: squared error"]
    mine, over = error(f"{BITS} bits"), "mean over seeds"
    checks = (
        Check(
            name="squared error over that of draws",
            value=mine / error("draws"),
            direction="<=",
            threshold=1.15,
            compared=f"draws of the posteriors of the same autoencoder, {over}",
        ),
        Check(
            name="squared error over that of learned codes",
            value=mine / error("codes"),
            direction="<=",
            threshold=1.05,
            compared=f"codes that are running means, as many bits, {over}",
        ),
        Check(
            name="squared error without the constraint over that with it",
            value=error("free") / mine,
            direction=">=",
            threshold=1.1,
            compared=f"the bound in place of it, {over}",
        ),
        Check(
            name=f"squared error with {LESS} bits less over that",
            value=error(f"{BITS - LESS} bits") / mine,
            direction=">=",
            threshold=1.5,
            compared=f"fewer codes, {over}",
        ),
    )
    return Result(checks, seeds, figures=means, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Images, and what is left of them."""
    names = ["images", "draws", f"{BITS} bits", "codes", f"{BITS - LESS} bits", "free"]
    with canvas(len(names), 8, size=(5.6, 4.4)) as (figure, axes):
        for row, name in zip(axes, names, strict=True):
            for ax, image in zip(row, result.curves[name], strict=True):
                ax.imshow(image.reshape(28, 28), cmap="Greys", vmin=0, vmax=1)
                ax.set(xticks=[], yticks=[])
            row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure
