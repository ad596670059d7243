"""The reparameterised bound trains a decoder and an encoder together, better than wake-sleep.

A linear decoder with a learned noise is probabilistic PCA, whose best likelihood is known: the
bound of rows that were not seen is within half a nat of it. On binarised MNIST the bound of test
images is higher by two nats or more than that of a decoder and an encoder of the same sizes which
wake-sleep has trained with as many gradient updates.

Paper: D. P. Kingma and M. Welling, "Auto-encoding variational Bayes", ICLR 2014, arXiv:1312.6114.

Scaled down: 10,000 images (8,500 to train on) in place of 60,000; ten latent dimensions, one of the
paper's settings, with 300 hidden units in place of 500, and Adam in place of Adagrad.

Data: scikit-learn's digits, 8 x 8; MNIST's 10,000 test images (folder RITZ_DATA), where each pixel
is made 0 or 1 once, by its grey level.

Tuning: none; both methods use Adam with the same rate, batches and number of steps. Neither sees
test rows.

Thresholds: the catalogue's. The bound of wake-sleep is that of its own encoder, which its sleep
phase has trained on the model's own images.

Wrong variant: draws of z are constants to the gradient, so that the encoder learns from the
divergence alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

import ritz
from ritz.latent import VAE, AbstractRowLoss, bernoulli, elbo, gaussian, mlp
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2)
LATENT, HIDDEN = 10, 300
EPOCHS, RATE, BATCH = 40, 1e-3, 100
TEST = 1500


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(x: Any, objective: Any, seed: int, epochs: int) -> VAE:
    """An autoencoder of bits."""
    return VAE(
        LATENT,
        likelihood=bernoulli(),
        encoder=mlp(HIDDEN, activation=jnp.tanh),
        decoder=mlp(HIDDEN, activation=jnp.tanh),
        objective=objective,
        epochs=epochs,
        batch=BATCH,
        lr=RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


def linear(x: Any, objective: Any, seed: int, epochs: int) -> VAE:
    """One whose decoder is affine, with one noise for all pixels."""
    return VAE(
        LATENT,
        likelihood=gaussian(each=False),
        encoder=mlp(),
        decoder=mlp(),
        objective=objective,
        epochs=epochs,
        batch=BATCH,
        lr=10 * RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


# -- the baseline: measured in the same run -------------------------------------------------------


class WakeSleep(AbstractRowLoss):
    """Hinton, Dayan, Frey and Neal 1995: each of the two learns from what the other draws."""

    def loss(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        prior, law = paramax.unwrap(target.prior), paramax.unwrap(target.likelihood)

        def one(row: Any, key: Any) -> Any:
            seen, dreamt, drawn = jax.random.split(key, 3)
            z = jax.lax.stop_gradient(q.condition(row).sample(seen))
            wake = target.log_likelihood(z, row)
            z = prior.sample(dreamt)
            x = jax.lax.stop_gradient(law.sample(target.decoder(z), drawn))
            return -wake - q.condition({"x": x}).log_prob(z)

        return jax.vmap(one)(batch, jax.random.split(key, len(batch["x"]))).mean()


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Detached(AbstractRowLoss):
    """The bound, where draws are constants to the gradient."""

    def loss(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        def one(row: Any, key: Any) -> Any:
            post = q.condition(row)
            z = jax.lax.stop_gradient(post.sample(key))
            kl = 0.5 * (jnp.exp(2 * post.log_scale) + post.loc**2 - 1.0) - post.log_scale
            return kl.sum() - target.log_likelihood(z, row)

        return jax.vmap(one)(batch, jax.random.split(key, len(batch["x"]))).mean()


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Bounds of rows that were not trained on."""
    epochs, rows = (1, 1000) if quick else (EPOCHS, None)
    objective = Detached() if wrong else elbo()
    gaps, gains, mine, other = [], [], [], []
    images = bits(seeds[0])
    for seed in seeds:
        train, test = parts(ritz.data.load("digits")["x"].astype(float), seed, 300)
        vae = linear(train, objective, seed, epochs if quick else 300)
        gaps.append(exact(train, test) - vae.diagnose(test).elbo)
        train, test = parts(images, seed, TEST)
        vae = trained(train[:rows], objective, seed, epochs)
        baseline = trained(train[:rows], WakeSleep(), seed, epochs)
        mine.append(vae.diagnose(test).elbo)
        other.append(baseline.diagnose(test).elbo)
        gains.append(mine[-1] - other[-1])
        if seed == seeds[0]:
            examples = {"data": test[:8], "bound": vae.sample(8), "wake-sleep": baseline.sample(8)}
    checks = (
        Check(
            name="likelihood of probabilistic PCA less the bound (nats)",
            value=float(np.max(gaps)),
            direction="<=",
            threshold=0.5,
            compared="exact maximum likelihood, rows not seen, the worst seed",
        ),
        Check(
            name="bound less wake-sleep's (nats)",
            value=float(np.mean(gains)),
            direction=">=",
            threshold=2.0,
            compared="wake-sleep with as many updates, test images, mean over seeds",
        ),
    )
    figures = {"bound": float(np.mean(mine)), "wake-sleep": float(np.mean(other))}
    return Result(checks, seeds, figures=figures, curves=examples)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Images, and draws of both."""
    with canvas(3, 8, size=(7.2, 2.9)) as (figure, axes):
        for row, (name, images) in zip(axes, result.curves.items(), strict=True):
            for ax, image in zip(row, images, strict=True):
                ax.imshow(np.asarray(image).reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
                ax.set(xticks=[], yticks=[])
            row[0].set_ylabel(name)
    return figure


# -- what the parts above need --------------------------------------------------------------------


def bits(seed: int) -> np.ndarray:
    """Images whose pixels are 0 or 1."""
    grey = np.asarray(ritz.data.load("mnist10k")["images"], float).reshape(10_000, -1) / 255.0
    return (np.random.default_rng(seed).uniform(size=grey.shape) < grey).astype(float)


def parts(x: np.ndarray, seed: int, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and rows to test with."""
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order[kept:]], x[order[:kept]]


def exact(train: np.ndarray, test: np.ndarray) -> float:
    """Mean log likelihood under the PCA of maximum likelihood (Tipping and Bishop 1999)."""
    from scipy.stats import multivariate_normal

    values, axes = np.linalg.eigh(np.cov(train.T, bias=True))
    values, axes = values[::-1], axes[:, ::-1]
    noise = values[LATENT:].mean()
    loads = axes[:, :LATENT] * (values[:LATENT] - noise)
    cov = loads @ axes[:, :LATENT].T + noise * np.eye(len(values))
    return float(multivariate_normal(train.mean(axis=0), cov).logpdf(test).mean())
