"""Fifty weighted draws of a row's latents make a better decoder than fifty averaged ones.

The bound is the logarithm of the mean weight of K draws, so that a draw that misses the posterior
costs little, and latents may spread as the exact posterior does. Its gradient is the mean of the
draws' gradients by their normalised weights.

Paper: Y. Burda, R. Grosse and R. Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
arXiv:1509.00519: one stochastic layer of 50.

Scaled down: one hidden layer of 200 in place of two; 8,000 images in place of 60,000, and passes
over them in proportion.

Data: MNIST's 10,000 test images (folder RITZ_DATA), where each pixel is made 0 or 1 once, by its
grey level: 8,000 to train on and 500 to test with.

Tuning: none; both objectives have 50 draws of a row, the same rate, batches and number of updates.

Thresholds: the catalogue's. Log likelihoods are importance-weighted bounds by 2,000 draws of each
model's own encoder; bounds by fewer draws are of the model trained by the weighted bound.

Wrong variant: the fifty draws of a row are one.
"""

from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np

import ritz
from ritz.latent import VAE, bernoulli, elbo, importance, mlp
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2)
LATENT, HIDDEN, DRAWS = 50, 200, 50
EPOCHS, RATE, BATCH = 12, 1e-3, 50
TRAIN, TEST, MANY = 8000, 500, 2000
COUNTS = (1, 5, 20, 100, 500, MANY)


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


# -- the baseline: `elbo(DRAWS)`, measured in the same run ----------------------------------------


# -- the wrong variant: what the checks must catch ------------------------------------------------


def repeated() -> Any:
    """The weighted bound of draws that are all the same: that of one draw."""
    return elbo(1, analytic=False)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Log likelihoods of test images, units in use, and bounds by the number of draws."""
    many, epochs, test_rows = (500, 1, 20) if quick else (TRAIN, EPOCHS, TEST)
    counts = COUNTS[:3] if quick else COUNTS
    gains, units, steps, figures = [], [], [], {}
    curves: dict[str, Any] = {"draws": counts, "weighted": [], "averaged": []}
    for seed in seeds:
        train, test = bits(seed)
        train, test = train[:many], test[:test_rows]
        ways = {"weighted": repeated() if wrong else importance(DRAWS), "averaged": elbo(DRAWS)}
        found, active = {}, {}
        for name, objective in ways.items():
            vae = trained(train, objective, seed, epochs)
            found[name] = [vae.log_likelihood(test, draws=k, seed=seed) for k in counts]
            active[name] = int(vae.diagnose(test).active.sum())
            figures.setdefault(f"{name}: log likelihood", []).append(found[name][-1].mean())
            figures.setdefault(f"{name}: units in use", []).append(active[name])
            curves[name].append([v.mean() for v in found[name]])
        gains.append(found["weighted"][-1].mean() - found["averaged"][-1].mean())
        units.append(active["weighted"] - active["averaged"])
        steps += [after.mean() - before.mean() for before, after in pairwise(found["weighted"])]
    means = {name: float(np.mean(v)) for name, v in figures.items()}
    checks = (
        Check(
            name="log likelihood of test images above that by averaged draws (nats)",
            value=float(np.mean(gains)),
            direction=">=",
            threshold=0.7,
            compared=f"elbo({DRAWS}) with as many updates, by {MANY} draws, mean over seeds",
        ),
        Check(
            name="units in use more than by averaged draws",
            value=float(np.mean(units)),
            direction=">=",
            threshold=0.0,
            compared="test images, mean over seeds",
        ),
        Check(
            name="smallest rise of the bound from some draws to more (nats)",
            value=float(np.min(steps)),
            direction=">=",
            threshold=0.0,
            compared=f"{', '.join(map(str, counts))} draws of the same model, the worst seed",
        ),
    )
    return Result(checks, seeds, figures=means, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Bounds by the number of draws."""
    with canvas(1, 1, size=(4.6, 3.2)) as (figure, axes):
        ax = axes[0, 0]
        for name, style in (("weighted", "-o"), ("averaged", "--s")):
            bounds = np.mean(result.curves[name], axis=0)
            ax.plot(result.curves["draws"], bounds, style, label=f"trained by {name} draws")
        ax.set(xscale="log", xlabel="draws of the bound", ylabel="bound of test images (nats)")
        ax.legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def bits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images to train on and to test with, whose pixels are 0 or 1."""
    grey = np.asarray(ritz.data.load("mnist10k")["images"], np.float32).reshape(10_000, -1) / 255.0
    rng = np.random.default_rng(seed)
    x = (rng.uniform(size=grey.shape) < grey).astype(np.float32)[rng.permutation(len(grey))]
    return x[:TRAIN], x[TRAIN : TRAIN + TEST]
