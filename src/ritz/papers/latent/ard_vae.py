"""With a precision for each latent dimension an autoencoder says how many it needs.

Images that five factors make need about five latent dimensions, however many there are. With a
prior whose precisions follow what is encoded, the share of the decoder's output that a dimension
accounts for tells which ones are needed, and the others can be left out. The variance of a plain
autoencoder's code spreads over more dimensions the more there are.

Paper: S. Saha, S. Joshi and R. Whitaker, "ARD-VAE: a statistical formulation to find the relevant
latent dimensions of variational autoencoders", WACV 2025, arXiv:2501.10901 (section 3, table 1).

Scaled down: 4,000 images of 12 x 12, networks with two hidden layers of 128 units.

Data: ellipses, whose place (two numbers), lengths of axes and angle are drawn uniformly; grey
levels from 0 to 1. 1,000 more are test images.

Tuning: none between the methods: rate, batches, networks and epochs are equal.

Thresholds: the catalogue's. A dimension is relevant if it is among the fewest that hold 99.999% of
the decoder's output by `relevance`: errors are a thousandth of the images' variance, so that what
is left out is a hundredth of an error. Of the plain autoencoder those count that hold 99% of its
code's variance. Pruned means that the others are at their mean over the test images. The worst seed
and size where the check is of every one.

Wrong variant: dimensions are counted by the variance of their codes alone, without the decoder.
"""

from typing import Any

import jax
import numpy as np

from ritz.latent import VAE, AbstractRowLoss, ard, ard_elbo, gaussian, mlp, relevance
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2)
SIZES = (10, 20, 40)
SIDE, TRAIN, TEST = 12, 4000, 1000
EPOCHS, RATE, BATCH, WIDTH = 100, 1e-3, 100, 128
SHARE, MOST = 0.99, 0.99999


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(x: Any, latent: int, objective: Any, prior: Any, seed: int, epochs: int) -> VAE:
    """An autoencoder of images."""
    return VAE(
        latent,
        likelihood=gaussian(each=False),
        encoder=mlp(WIDTH, WIDTH),
        decoder=mlp(WIDTH, WIDTH),
        prior=prior,
        objective=objective,
        epochs=epochs,
        batch=BATCH,
        lr=RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


def needed(weights: Any, share: float) -> Any:
    """The fewest dimensions that hold this share of the weight."""
    order = np.argsort(-weights)
    held = np.cumsum(weights[order]) / weights.sum()
    return order[: int(np.searchsorted(held, share)) + 1]


def error(vae: VAE, x: Any, kept: Any = None) -> float:
    """Mean squared error, with these dimensions alone."""
    z = vae.encode(x)
    if kept is not None:
        z = np.where(np.isin(np.arange(z.shape[1]), kept), z, z.mean(axis=0))
    return float(((vae.decode(z) - x) ** 2).mean())


# -- the baseline: measured in the same run -------------------------------------------------------


class Plain(AbstractRowLoss):
    """The reconstruction alone, of the posterior's mean."""

    density = False

    def loss(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        one = lambda row: target.log_likelihood(q.condition(row).loc, row)
        return -jax.vmap(one)(batch).mean()


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Relevant dimensions by latent size."""
    epochs, many = (1, 300) if quick else (EPOCHS, TRAIN)
    counts, plain, raised = [], [], []
    for seed in seeds:
        images = ellipses(many + TEST, seed)
        train, test = images[:many], images[many:]
        for size in SIZES:
            vae = trained(train, size, ard_elbo(), ard(), seed, epochs)
            weights = vae.encode(test).var(axis=0) if wrong else relevance(vae, test)
            kept = needed(weights, MOST)
            counts.append(len(kept))
            raised.append(error(vae, test, kept) / error(vae, test))
            other = trained(train, size, Plain(), None, seed, epochs)
            plain.append(len(needed(other.encode(test).var(axis=0), SHARE)))
    counts, plain = (np.reshape(v, (len(seeds), len(SIZES))) for v in (counts, plain))
    told = "the worst of all seeds and sizes"
    checks = (
        Check("fewest relevant dimensions", float(counts.min()), ">=", 4.0, told),
        Check("most relevant dimensions", float(counts.max()), "<=", 8.0, told),
        Check("their spread over sizes", float(np.ptp(counts, axis=1).max()), "<=", 2.0, told),
        Check(
            "by how many a plain autoencoder's grow",
            float((plain[:, -1] - plain[:, 0]).mean()),
            ">=",
            5.0,
            "from size 10 to 40, mean over seeds",
        ),
        Check("error when pruned over that of all", float(np.max(raised)), "<=", 1.05, told),
    )
    curves = {"relevant": counts.mean(axis=0), "plain": plain.mean(axis=0)}
    return Result(checks, seeds, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Dimensions that are needed, by latent size."""
    with canvas(1, 1, size=(4.6, 2.9)) as (figure, axes):
        ax = axes[0, 0]
        ax.plot(SIZES, result.curves["plain"], "o-", label="autoencoder: variance of codes")
        ax.plot(SIZES, result.curves["relevant"], "s-", label="ARD: relevance")
        ax.axhline(5, color="grey", linewidth=0.8)
        ax.set(xlabel="latent dimensions", ylabel="needed", xticks=SIZES)
        ax.legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def ellipses(n: int, seed: int) -> np.ndarray:
    """Images of soft ellipses, flat."""
    rng = np.random.default_rng(seed)
    draw = lambda low, high: rng.uniform(low, high, (n, 1))
    x0, y0, long, ratio, angle = (
        draw(4.0, 7.0),
        draw(4.0, 7.0),
        draw(2.0, 3.5),
        draw(0.4, 0.7),
        draw(-0.7, 0.7),
    )
    y, x = np.indices((SIDE, SIDE)).reshape(2, 1, -1)
    x, y = x - x0, y - y0
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    radius = np.sqrt((along / long) ** 2 + (across / (ratio * long)) ** 2)
    return 1.0 / (1.0 + np.exp(6.0 * (radius - 1.0)))
