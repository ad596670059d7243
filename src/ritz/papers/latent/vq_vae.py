"""Codes of a book keep what an image is where Gaussian latents are given up for a strong decoder.

A decoder that predicts each pixel from those before it does well without latents. The divergence of
the bound is then a price for nothing, and posteriors become the prior. Codes have no such price:
the encoder's output becomes the nearest of 64 learned vectors, the decoder's gradient passes by the
choice, and the codes tell which digit it is. A law of the codes, learned afterwards, makes draws.

Paper: A. van den Oord, O. Vinyals and K. Kavukcuoglu, "Neural discrete representation learning",
NeurIPS 2017, arXiv:1711.00937.

Scaled down: images of 8 x 8 with four codes each, one hidden layer in encoder and decoder, and a
masked network of two layers for pixels, and one of one for codes, in place of PixelCNNs.

Data: scikit-learn's digits, pixels 0 or 1, cut at half of the range; 1,200 to train on, 597 to
test with.

Tuning: none between the two; networks, rate, batches and epochs are equal. Codes are running means
with a decay of 0.9 in place of 0.99, as there are few steps, and codes that are out of use restart.

Thresholds: the catalogue's. The probe is a logistic regression of the digit, trained on the rows
that the autoencoders were trained on, from the vectors of codes or from draws of the posteriors.

Wrong variant: the gradient of the choice is dropped, so that the encoder learns from its distance
to the codes alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

import ritz
from ritz.latent import (
    VAE,
    autoregressive,
    bernoulli,
    codebook,
    elbo,
    fit_codes,
    mlp,
    perplexity,
    straight_through,
    vector_quantised,
)
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2)
LATENT, CODES, WIDTH, UNITS = 16, 64, 4, 128
EPOCHS, RATE, BATCH, TRAIN = 45, 2e-3, 100, 1200


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(x: Any, objective: Any, prior: Any, seed: int, epochs: int) -> VAE:
    """An autoencoder of bits whose decoder sees the pixels before each."""
    return VAE(
        LATENT,
        likelihood=autoregressive(bernoulli(), UNITS, UNITS),
        encoder=mlp(UNITS),
        decoder=mlp(UNITS),
        prior=prior,
        objective=objective,
        epochs=epochs,
        batch=BATCH,
        lr=RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


def quantised(x: Any, seed: int, epochs: int, gradient: Any = straight_through) -> VAE:
    """One whose latents are four codes."""
    objective = vector_quantised(1.0, decay=0.9, restart=0.1, gradient=gradient)
    return trained(x, objective, codebook(CODES, WIDTH), seed, epochs)


# -- the baseline: `elbo()` and the standard normal, measured in the same run ---------------------


def drawn(vae: VAE, x: Any, seed: int) -> np.ndarray:
    """A draw of each row's posterior."""
    q, keys = paramax.unwrap(vae.fit_.q), jax.random.split(jax.random.key(seed), len(x))
    one = lambda row, key: q.condition({"x": row}).sample(key)
    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(x), keys))


# -- the wrong variant: what the checks must catch ------------------------------------------------


def dropped(e: Any, q: Any) -> Any:
    """The codes, as constants."""
    return jax.lax.stop_gradient(q)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """What codes and Gaussian latents hold of rows that were not trained on."""
    epochs = 1 if quick else EPOCHS
    found: dict[str, list[float]] = {}
    curves: dict[str, Any] = {}
    for seed in seeds:
        (x, y), (test, told) = digits(seed)
        mine = quantised(x, seed, epochs, dropped if wrong else straight_through)
        other = trained(x, elbo(), None, seed, epochs)
        share = np.bincount(mine.codes(test).astype(int).ravel(), minlength=CODES)
        probes = {
            "codes": probe(mine.encode(x), y, mine.encode(test), told),
            "Gaussian": probe(drawn(other, x, seed), y, drawn(other, test, seed), told),
        }
        values = {
            "perplexity": float(perplexity(jnp.asarray(share / share.sum()))),
            "divergence (nats)": float(other.diagnose(test).kl.sum()),
            **{f"accuracy: {name}": v for name, v in probes.items()},
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
        if seed == seeds[0] and not wrong:
            law = fit_codes(mine, x, steps=50 if quick else 2000)
            curves = {"data": test[:10], "codes drawn alike": mine.sample(10)}
            curves |= {"codes of the law": law.sample(10), "Gaussian": other.sample(10)}
    means = {name: float(np.mean(v)) for name, v in found.items()}
    checks = (
        Check(
            name="the Gaussian autoencoder's divergence (nats)",
            value=means["divergence (nats)"],
            direction="<=",
            threshold=0.5,
            compared="test rows, mean over seeds",
        ),
        Check(
            name="perplexity of codes",
            value=means["perplexity"],
            direction=">=",
            threshold=16.0,
            compared="of 64, over the codes of test rows, mean over seeds",
        ),
        Check(
            name="accuracy from codes less that from Gaussian latents",
            value=means["accuracy: codes"] - means["accuracy: Gaussian"],
            direction=">=",
            threshold=0.25,
            compared="a linear probe of the digit, test rows, mean over seeds",
        ),
    )
    return Result(checks, seeds, figures=means, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Images, and draws of each."""
    with canvas(len(result.curves), 10, size=(7.2, 3.2)) as (figure, axes):
        for row, (name, images) in zip(axes, result.curves.items(), strict=True):
            for ax, image in zip(row, images, strict=True):
                ax.imshow(np.asarray(image).reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
                ax.set(xticks=[], yticks=[])
            row[0].set_ylabel(name.replace(" ", "\n", 1), rotation=0, ha="right", va="center")
    return figure


# -- what the parts above need --------------------------------------------------------------------


def digits(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Bits and their digits, to train on and to test with."""
    data = ritz.data.load("digits")
    x, y = (np.asarray(data["x"]) > 7.5).astype(np.float32), np.asarray(data["y"])
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order].reshape(len(x), -1), y[order]
    return (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])


def probe(z: Any, y: Any, test: Any, told: Any) -> float:
    """The share of digits that a linear classifier of latents tells."""
    from sklearn.linear_model import LogisticRegression

    centre, spread = z.mean(axis=0), np.maximum(z.std(axis=0), 1e-6)
    model = LogisticRegression(max_iter=3000).fit((z - centre) / spread, y)
    return float(model.score((test - centre) / spread, told))
