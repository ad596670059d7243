"""A rotation in place of the identity on the way back makes more of a codebook useful.

A quantised autoencoder has no gradient through the choice of a code, and the usual one passes on
what arrives at the code to the encoding as it is. Passed through the rotation and scaling that
carry the encoding onto its code, held fixed, it depends on where in a code's cell the encoding
lies: the same steps reach a smaller error, with more codes in use.

Paper: C. Fifty, R. G. Junkins, D. Duan, A. Iger, J. W. Liu, E. Amid, S. Thrun and C. Ré,
"Restructuring vector quantization with the rotation trick", ICLR 2025, arXiv:2410.06424 (section
4).

Scaled down: 8,000 images of 28 x 28 in place of ImageNet, convolutions of 32 channels, 49 places
with 512 codes of eight numbers, a few hundred steps.

Data: MNIST's 10,000 test images (folder RITZ_DATA), grey levels from 0 to 1; the last 2,000 are
those of validation.

Tuning: none between the two; rate, batches, steps, commitment and the running means' decay are
equal. No code is restarted.

Thresholds: the catalogue's. Means over seeds; the layer is looked at with a random Jacobian.

Wrong variant: the gradient goes through the rotation too, which then is no constant.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ritz
from ritz.latent import (
    VAE,
    codebook,
    gaussian,
    perplexity,
    rotated,
    straight_through,
    vector_quantised,
)
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2)
CODES, WIDTH, SIDE, UNITS = 512, 8, 7, 32
PLACES = SIDE**2
EPOCHS, RATE, BATCH, DECAY, COMMITMENT = 12, 2e-3, 64, 0.9, 1.0
TRAIN = 8000


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


class Down(eqx.Module):
    """From an image to 49 pieces: a convolution of 4 x 4 and stride 4, one of 3 x 3, one of 1."""

    layers: list[eqx.nn.Linear]

    def __call__(self, x: Any) -> Any:
        first, second, last = self.layers
        h = x.reshape(SIDE, 4, SIDE, 4).swapaxes(1, 2).reshape(SIDE, SIDE, 16)
        h = jax.nn.gelu(everywhere(first, h))
        return everywhere(last, jax.nn.gelu(everywhere(second, around(h)))).reshape(-1)


class Up(eqx.Module):
    """From 49 pieces to an image, the same way back."""

    layers: list[eqx.nn.Linear]

    def __call__(self, z: Any) -> Any:
        first, second, last = self.layers
        h = jax.nn.gelu(everywhere(first, z.reshape(SIDE, SIDE, WIDTH)))
        h = everywhere(last, jax.nn.gelu(everywhere(second, around(h))))
        return h.reshape(SIDE, SIDE, 4, 4).swapaxes(1, 2).reshape(4 * SIDE, 4 * SIDE)


def everywhere(layer: Any, h: Any) -> Any:
    """An affine map at each place."""
    return h @ layer.weight.T + layer.bias


def around(h: Any) -> Any:
    """Each place with its eight neighbours."""
    padded = jnp.pad(h, ((1, 1), (1, 1), (0, 0)))
    some = [padded[i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)]
    return jnp.concatenate(some, axis=-1)


def network(kind: Any, sizes: Any) -> Any:
    """A builder of one of the two."""

    def build(given: Any, wanted: Any, key: Any) -> Any:
        pairs = zip(sizes, jax.random.split(key, len(sizes)), strict=True)
        return kind([eqx.nn.Linear(a, b, key=k) for (a, b), k in pairs])

    return build


def trained(x: Any, gradient: Any, seed: int, epochs: int) -> VAE:
    """A quantised autoencoder of images."""
    return VAE(
        PLACES * WIDTH,
        likelihood=gaussian(0.5**0.5, each=False),
        encoder=network(Down, [(16, UNITS), (9 * UNITS, UNITS), (UNITS, WIDTH)]),
        decoder=network(Up, [(WIDTH, UNITS), (9 * UNITS, UNITS), (UNITS, 16)]),
        prior=codebook(CODES, WIDTH),
        objective=vector_quantised(COMMITMENT, decay=DECAY, gradient=gradient),
        epochs=epochs,
        batch=BATCH,
        lr=RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


def judged(vae: VAE, x: Any) -> tuple[float, float]:
    """Mean squared error, and the perplexity of codes."""
    error = float(((vae.decode(vae.encode(x)) - x) ** 2).mean())
    shares = np.bincount(vae.codes(x).ravel(), minlength=CODES) / (len(x) * PLACES)
    return error, float(perplexity(jnp.asarray(shares)))


# -- the baseline: measured in the same run -------------------------------------------------------


@functools.cache
def straight(seed: int, epochs: int, rows: int) -> tuple[float, float]:
    """The same with the identity on the way back; once for the right and the wrong variant."""
    train, test = images(rows)
    return judged(trained(train, straight_through, seed, epochs), test)


# -- the wrong variant: what the checks must catch ------------------------------------------------


def through(e: Any, q: Any) -> Any:
    """The same layer, where the rotation depends on the encoding to the gradient too."""
    length = lambda v: jnp.linalg.norm(v, axis=1, keepdims=True)
    q = jax.lax.stop_gradient(q)
    one, two = e / length(e), q / length(q)
    r = (one + two) / length(one + two)
    dot = lambda a, b: (a * b).sum(axis=1, keepdims=True)
    turned = e - 2.0 * r * dot(r, e) + 2.0 * two * dot(one, e)
    return length(q) / length(e) * turned


# -- the experiment -------------------------------------------------------------------------------


def of_layer(layer: Any, seed: int) -> tuple[float, float]:
    """By how much its value is off its code, and its Jacobian off the scaled rotation."""
    one, two = jax.random.normal(jax.random.key(seed), (2, WIDTH))
    value, slope = layer(one[None], two[None])[0], jax.jacobian(lambda e: layer(e[None], two[None]))
    a, b = (np.asarray(v, np.float64) / np.linalg.norm(v) for v in (one, two))
    # The rotation in the plane of both, in its textbook form.
    plane = np.outer(b, a) - np.outer(a, b)
    turn = np.eye(WIDTH) + plane + plane @ plane / (1.0 + a @ b)
    exact = turn * float(jnp.linalg.norm(two) / jnp.linalg.norm(one))
    off = np.abs(np.asarray(slope(one))[0] - exact).max()
    return float(jnp.abs(value - two).max()), float(off)


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Errors and codes in use, and the layer itself."""
    epochs, rows = (1, 256) if quick else (EPOCHS, TRAIN)
    train, test = images(rows)
    layer = through if wrong else rotated
    ours = [judged(trained(train, layer, s, epochs), test) for s in seeds]
    usual = [straight(s, epochs, rows) for s in seeds]
    (error, used), (error_0, used_0) = np.mean(ours, axis=0), np.mean(usual, axis=0)
    value, slope = np.max([of_layer(layer, s) for s in seeds], axis=0)
    checks = (
        Check(
            name="error as a share of the straight-through one's",
            value=float(error / error_0),
            direction="<=",
            threshold=0.97,
            compared="validation images, mean over seeds, equal steps",
        ),
        Check(
            name="perplexity of codes over the straight-through one's",
            value=float(used / used_0),
            direction=">=",
            threshold=1.15,
            compared="validation images, mean over seeds, equal steps",
        ),
        Check(
            name="the layer's value less its code",
            value=float(value),
            direction="<=",
            threshold=1e-5,
            compared="the largest entry over seeds",
        ),
        Check(
            name="the layer's Jacobian less the scaled rotation",
            value=float(slope),
            direction="<=",
            threshold=1e-5,
            compared="the rotation in the plane of both vectors, the largest entry over seeds",
        ),
    )
    figures = {"error": float(error), "straight-through": float(error_0)}
    figures |= {"perplexity": float(used), "straight-through's": float(used_0)}
    return Result(checks, seeds, figures=figures, curves={"ours": ours, "usual": usual})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Errors and codes in use, by seed."""
    with canvas(1, 2, size=(6.4, 2.8)) as (figure, axes):
        for name, label in (("usual", "straight-through"), ("ours", "rotation")):
            values = np.asarray(result.curves[name])
            for ax, column in zip(axes[0], values.T, strict=True):
                ax.plot(result.seeds, column, "o", label=label)
        axes[0, 0].set(ylabel="validation error", xlabel="seed", xticks=result.seeds)
        axes[0, 1].set(ylabel="perplexity of codes", xlabel="seed", xticks=result.seeds)
        axes[0, 1].legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def images(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """So many to train on, and those of validation."""
    grey = np.asarray(ritz.data.load("mnist10k")["images"], float) / 255.0
    return grey[:rows], grey[TRAIN:]
