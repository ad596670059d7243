"""A Gaussian autoencoder whose rate is held becomes a quantised one with random codes.

Where every group of latents holds about as many bits as its codes can tell apart, the nearest of
random normal codes does as well as a draw from the posterior, and the quantised autoencoder is as
good as one that was trained with its codes. Without the rate held some groups hold more than that,
and lose it; four bits fewer than the divergence lose much.

Paper: T. Xu, W. Zheng, J. He, J. M. Hernández-Lobato, Y. Wang, Y.-Q. Zhang and J. Tang, "Vector
quantization using Gaussian variational autoencoder", 2025, arXiv:2512.06609 (section 3).

Scaled down: 8,000 images of 28 x 28, networks with one hidden layer of 300 units, eight groups of
two latents with eight bits each.

Data: MNIST's 10,000 test images (folder RITZ_DATA), grey levels from 0 to 1; the last 2,000 are
test images.

Tuning: none between the methods: rate, batches, networks and epochs are equal. The quantised
autoencoder that is trained with its codes has them in eight dimensions, as is usual, and restarts
those that are not in use.

Thresholds: the catalogue's. Mean squared errors of test images, means over seeds. Without the
constraint it is the same autoencoder trained by its bound.

Wrong variant: the weight of a group's divergence falls where it holds too much, a controller with
the sign turned.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

import ritz
from ritz.latent import (
    VAE,
    TargetDivergence,
    codebook,
    elbo,
    gaussian,
    gaussian_quantised,
    mlp,
    target_divergence,
    vector_quantised,
)
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2)
GROUPS, WIDTH, BITS, SD = 8, 2, 8, 0.1
HIDDEN, EPOCHS, RATE, BATCH, TRAIN = 300, 40, 1e-3, 100, 8000


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(x: Any, objective: Any, seed: int, epochs: int, **kwargs: Any) -> VAE:
    """An autoencoder of images."""
    options = {"latent": GROUPS * WIDTH, "likelihood": gaussian(SD, each=False), **kwargs}
    return VAE(
        **options,
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


def error(vae: VAE, x: Any) -> float:
    """Mean squared error of what codes, or means, decode to."""
    return float(((vae.decode(vae.encode(x)) - x) ** 2).mean())


def of_draws(vae: VAE, x: Any) -> float:
    """That of draws from the posterior."""
    q, keys = paramax.unwrap(vae.fit_.q), jax.random.split(jax.random.key(0), len(x))
    z = jax.jit(jax.vmap(lambda x, key: q.condition({"x": x}).sample(key)))(jnp.asarray(x), keys)
    return float(((vae.decode(np.asarray(z)) - x) ** 2).mean())


# -- the baseline: measured in the same run -------------------------------------------------------


def quantised(x: Any, seed: int, epochs: int) -> VAE:
    """One that is trained with its codes."""
    return trained(
        x,
        vector_quantised(restart=0.1),
        seed,
        epochs,
        latent=GROUPS * 8,
        prior=codebook(2**BITS, 8),
    )


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Turned(TargetDivergence):
    """Groups that hold too much pay less."""

    def loss(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        plain, figures = elbo().loss(q, target, key, batch)
        held, _ = super().loss(q, target, key, batch)
        return 2.0 * plain - held, figures


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Errors with random codes, with draws, with trained codes, without the constraint."""
    epochs, rows = (1, 500) if quick else (EPOCHS, TRAIN)
    images = np.asarray(ritz.data.load("mnist10k")["images"], float).reshape(10_000, -1) / 255.0
    train, test = images[:rows], images[TRAIN:]
    found = []
    for seed in seeds:
        objective = Turned(float(BITS), WIDTH) if wrong else target_divergence(BITS, WIDTH)
        vae = trained(train, objective, seed, epochs)
        free = trained(train, elbo(), seed, epochs)
        kinds = {"codes": vae, "free": free}
        row = {k: error(gaussian_quantised(v, BITS, WIDTH, seed), test) for k, v in kinds.items()}
        row["few"] = error(gaussian_quantised(vae, BITS - 4, WIDTH, seed), test)
        row["draws"] = of_draws(vae, test)
        row["quantised"] = error(quantised(train, seed, epochs), test)
        row["bits"] = float(vae.diagnose(test).kl.sum()) / np.log(2.0) / GROUPS
        row["free's bits"] = float(free.diagnose(test).kl.sum()) / np.log(2.0) / GROUPS
        found.append(row)
    mean = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
    told = "mean squared errors of test images, mean over seeds"
    share = lambda a, b: mean[a] / mean[b]
    checks = (
        Check("random codes over draws", share("codes", "draws"), "<=", 1.15, told),
        Check("random over trained codes", share("codes", "quantised"), "<=", 1.05, told),
        Check("without the constraint over with", share("free", "codes"), ">=", 1.1, told),
        Check("four bits fewer over all", share("few", "codes"), ">=", 1.5, told),
    )
    return Result(checks, seeds, figures=mean, curves={"errors": mean})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Errors, by method."""
    names = ("draws", "codes", "quantised", "free", "few")
    labels = ("draws", "random\ncodes", "trained\ncodes", "rate\nnot held", "four bits\nfewer")
    with canvas(1, 1, size=(5.2, 2.9)) as (figure, axes):
        errors = result.curves["errors"]
        axes[0, 0].bar(labels, [errors[n] for n in names], width=0.6)
        axes[0, 0].set(ylabel="mean squared error")
    return figure
