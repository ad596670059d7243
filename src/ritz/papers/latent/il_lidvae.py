"""The inverse Lipschitz constant of a decoder dials how far posteriors are from the prior.

A decoder that may map different latents to the same image lets posteriors collapse onto the prior.
One that is built of gradients of convex functions moves by L times what the latents move at least:
the larger L, the larger the divergence of the posteriors, and the more latents are in use.

Paper: Y. Kinoshita, K. Oono, K. Fukumizu, Y. Yoshida and S. Maeda, "Controlling posterior collapse
by an inverse Lipschitz constraint on the decoder network", ICML 2023, arXiv:2304.12770.

Scaled down: 8,000 images of MNIST to train on, 18 passes; convex networks with one layer of 64
units, 8 latent dimensions (4 for the small digits) and encoders with 64 hidden units. The embedding
is an orthonormal basis that is trained.

Data: scikit-learn's digits, 8 x 8, and MNIST's 10,000 test images (folder RITZ_DATA), grey levels
from 0 to 1. The decoder's noise has an sd of one, so that the small digits collapse where L is 0.

Tuning: the rate, the number of passes and latents, with seeds from 11 on: at three times the rate
networks for small L end where their divergence is off by chance. The divergence's
weight rises from zero over 1,000 steps, for the same reason; from there on it is one.

Thresholds: the catalogue's. Divergences are of test images, averaged over seeds, and so are active
units (means that vary by more than 0.01), of which the median seed counts, as a direction without
information is now and then found late; the figure of the worse data set counts. Pairs are 10,000
draws from the prior for each L, data set and seed; the plain decoder is held to L = 1.

Wrong variant: the weights between layers of the convex networks may have any sign.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

import ritz
from ritz.latent import VAE, BrenierMap, InputConvex, brenier, elbo, gaussian, mlp
from ritz.papers._base import Check, Result
from ritz.papers.latent._images import digits
from ritz.plot import canvas

SEEDS = (0, 1, 2)
LEVELS = (0.0, 0.1, 0.3, 1.0, 3.0)
HIDDEN, PAIRS = 64, 10_000
# Latent dimensions and passes.
SETTINGS = {"digits": (4, 150), "MNIST": (8, 18)}


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(name: str, decoder: Any, seed: int, quick: bool) -> VAE:
    """An autoencoder of images with unit variance."""
    latent, epochs = SETTINGS[name]
    return VAE(
        latent,
        likelihood=gaussian(1.0, each=False),
        encoder=mlp(HIDDEN),
        decoder=decoder,
        objective=elbo(warmup=1000),
        epochs=1 if quick else epochs,
        batch=50,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(images(name, seed)[0][: 500 if quick else None])


def dialled(name: str, level: float, seed: int) -> Any:
    """A decoder with this L, in units of pixels."""
    return brenier(HIDDEN, inverse_lipschitz=level / float(images(name, seed)[0].std()))


# -- the baseline: measured in the same run -------------------------------------------------------


@functools.cache
def plain(name: str, seed: int, quick: bool) -> int:
    """How many pairs a plain decoder brings nearer than L allows; once for both variants."""
    vae = trained(name, mlp(HIDDEN), seed, quick)
    return int((stretch(vae, seed, quick) < 1.0).sum())


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Signed(InputConvex):
    """Weights of any sign, so that it need not be convex."""

    def __call__(self, x: Any) -> Any:
        first, last = self.affine
        return (jax.nn.softplus(first(x)) @ self.raw[0].T + last(x))[0]


def signed(builder: Any) -> Any:
    """The same decoder without the constraint."""

    def build(*args: Any) -> Any:
        convex = lambda v: isinstance(v, BrenierMap)
        change = lambda v: eqx.tree_at(lambda m: m.potential, v, Signed(**vars(v.potential)))
        return jax.tree.map(lambda v: change(v) if convex(v) else v, builder(*args), is_leaf=convex)

    return build


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Divergences, active units and stretches by L."""
    curves: dict[str, Any] = {}
    figures: dict[str, float] = {}
    least, nearer = np.inf, PAIRS
    for name in SETTINGS:
        some = seeds[:1] if quick else seeds
        found = np.empty((2, len(some), len(LEVELS)))
        for i, seed in enumerate(some):
            for j, level in enumerate(LEVELS):
                builder = dialled(name, level, seed)
                vae = trained(name, signed(builder) if wrong else builder, seed, quick)
                told = vae.diagnose(images(name, seed)[1])
                found[:, i, j] = told.kl.sum(), told.active.sum()
                if level:
                    least = min(least, float(stretch(vae, seed, quick).min()) / level)
            nearer = min(nearer, plain(name, seed, quick))
        curves[name] = np.stack([found[0].mean(axis=0), np.median(found[1], axis=0)])
        for level, kl, active in zip(LEVELS, *curves[name], strict=True):
            figures |= {f"{name}: KL at {level:g}": kl, f"{name}: active at {level:g}": active}
    rank: Any = lambda values: spearmanr(LEVELS, values)
    kl, active = (np.stack([v[i] for v in curves.values()]) for i in (0, 1))
    compared = "test images, {} over seeds, the worse data set"
    checks = (
        Check(
            name="rank correlation of the divergence with L",
            value=min(round(float(rank(v).statistic), 6) for v in kl),
            direction=">=",
            threshold=0.9,
            compared=compared.format("mean"),
        ),
        Check(
            name="active units lost where L rises, at most",
            value=float(-np.diff(active).min()),
            direction="<=",
            threshold=0.0,
            compared=compared.format("median"),
        ),
        Check(
            name="divergence at L = 3 as a multiple of that at L = 0",
            value=float((kl[:, -1] / kl[:, 0]).min()),
            direction=">=",
            threshold=2.0,
            compared=compared.format("mean"),
        ),
        Check(
            name="distance of decoded pairs as a multiple of L times that of latents, at least",
            value=least,
            direction=">=",
            threshold=0.999,
            compared=f"{PAIRS:,} pairs for each L > 0, data set and seed",
        ),
        Check(
            name="pairs that a plain decoder brings nearer than L = 1 allows",
            value=float(nearer),
            direction=">=",
            threshold=1.0,
            compared=f"of {PAIRS:,}, the fewest over data sets and seeds",
        ),
    )
    return Result(checks, seeds, figures=figures, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Divergence and active units by L."""
    with canvas(1, 2, size=(7.2, 2.8)) as (figure, axes):
        for name, (kl, active) in result.curves.items():
            places = np.arange(len(LEVELS))
            axes[0, 0].plot(places, kl, marker="o", label=name)
            axes[0, 1].plot(places, active, marker="o", label=name)
        for ax, label in zip(axes[0], ("divergence (nats)", "active units"), strict=True):
            ax.set(xlabel="inverse Lipschitz constant L", ylabel=label)
            ax.set_xticks(np.arange(len(LEVELS)), [f"{v:g}" for v in LEVELS])
        axes[0, 0].legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


@functools.cache
def images(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and rows to test with."""
    if name == "MNIST":
        train, _, test = digits(seed)
        return train, test
    x = np.asarray(ritz.data.load("digits")["x"], np.float32).reshape(-1, 64) / 16.0
    x = x[np.random.default_rng(seed).permutation(len(x))]
    return x[300:], x[:300]


def stretch(vae: VAE, seed: int, quick: bool) -> np.ndarray:
    """By how much the distance of decoded pairs exceeds that of their latents."""
    n = 100 if quick else PAIRS
    z = np.random.default_rng(seed).normal(size=(2, n, vae.latent))
    one, two = (vae.decode(jnp.asarray(v)).reshape(n, -1).astype(float) for v in z)
    return np.linalg.norm(one - two, axis=1) / np.linalg.norm(z[0] - z[1], axis=1)
