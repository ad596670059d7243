"""Latents on a torus keep the topology of translations, which a plane has to tear.

The images of a bump that is moved along two periodic axes form a torus. An autoencoder whose
latents lie on one, with Brownian motion as the posterior, finds it: going round an axis of the data
goes round a circle of the latents once, so that the matrix of winding numbers has determinant 1 or
-1. Means in a plane cannot follow, and somewhere jump between images that are neighbours. The
divergence from the uniform law is the heat kernel's at short times, with the scalar curvature.

Paper: L. A. Pérez Rey, V. Menkovski and J. W. Portegies, "Diffusion variational autoencoders",
IJCAI 2020, arXiv:1901.08991.

Scaled down: 1,000 images of 16 x 16 in place of ones of 64 x 64, and layers of 128 units.

Data: made here. Images to train on are at random places; winding numbers and jumps are those of a
grid of 32 x 32 places. Loops along an axis start at each of the 32 places of the other, and unless
all of them have the same winding numbers the determinant counts as zero.

Tuning: none between the two. A run of either is the best of five starts by the bound of the images
that it was trained on, since half of single starts on the torus end folded, with a bound that is
lower by several nats; the share of those that do not is among the figures.

Thresholds: the catalogue's. The heat kernel on the sphere is summed over its harmonics and
integrated by quadrature, in float64; times are those of a motion with half the Laplacian.

Wrong variant: the divergence without the term of the scalar curvature.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from ritz.latent import (
    VAE,
    brownian,
    gaussian,
    kernel_divergence,
    mlp,
    sphere,
    torus,
    uniform,
    winding_numbers,
)
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
SIDE, WIDTH, ROWS, PLACES = 16, 2.0, 1000, 32
UNITS, NOISE, EPOCHS, RATE, BATCH, STARTS = 128, 0.2, 40, 3e-3, 64, 5
TIMES = np.linspace(0.01, 0.3, 30)


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(x: Any, parts: Any, seed: int, epochs: int) -> VAE:
    """An autoencoder of images with some latents, posterior and prior."""
    return VAE(
        **parts,
        likelihood=gaussian(NOISE, each=False),
        encoder=mlp(UNITS, UNITS),
        decoder=mlp(UNITS, UNITS),
        epochs=epochs,
        batch=BATCH,
        lr=RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


ON_TORUS = {"latent": 4, "posterior": brownian(torus(2)), "prior": uniform(torus(2))}


# -- the baseline: measured in the same run -------------------------------------------------------

IN_PLANE = {"latent": 2}


# -- the wrong variant: what the checks must catch ------------------------------------------------


def flat(manifold: Any, time: Any) -> Any:
    """The divergence, as if the manifold had no curvature."""
    return kernel_divergence(manifold, time) - 0.25 * manifold.curvature * time


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """The divergence on a sphere, and how many runs keep or tear the topology."""
    epochs, starts = (2, 1) if quick else (EPOCHS, STARTS)
    divergence = flat if wrong else kernel_divergence
    exact = np.array([heat_kernel_divergence(t) for t in TIMES])
    off = np.asarray(divergence(sphere(2), jnp.asarray(TIMES)), np.float64) / exact - 1.0
    whole, single, jumps = [], [], []
    for seed in seeds:
        z, turns = runs(seed, epochs, starts)["torus"]
        whole.append(turns[0])
        single.extend(turns[1])
        plane, _ = runs(seed, epochs, starts)["plane"]
        jumps.append(jump(plane))
        if seed == seeds[0]:
            curves = {"off": off, "torus": z, "plane": plane}
    checks = (
        Check(
            name="sphere: divergence from the uniform law, relative error",
            value=float(np.abs(off).max()),
            direction="<=",
            threshold=0.005,
            compared="the heat kernel summed over harmonics, times up to 0.3, the worst",
        ),
        Check(
            name="torus: runs whose winding matrix has determinant 1 or -1",
            value=float(sum(whole)),
            direction=">=",
            threshold=7.0,
            compared="of ten; loops along both axes from every place",
        ),
        Check(
            name="plane: runs whose largest jump is five times the median",
            value=float(sum(j >= 5.0 for j in jumps)),
            direction=">=",
            threshold=7.0,
            compared="of ten; distances of the means of neighbours on the grid",
        ),
    )
    figures = {"share of single starts": float(np.mean(single)), "median of jumps": _mid(jumps)}
    figures["median of jumps on the torus"] = _mid(
        [jump(runs(s, epochs, starts)["torus"][0]) for s in seeds]
    )
    return Result(checks, seeds, figures=figures, curves=curves)


@functools.cache
def runs(seed: int, epochs: int, starts: int) -> dict[str, Any]:
    """Encodings of the grid by the best of some starts, and which of these have the topology.

    Once for the right and the wrong variant, which differ on curved manifolds alone.
    """
    places = np.random.default_rng(seed).uniform(0.0, 2.0 * np.pi, (ROWS, 2))
    x, found = images(places), {}
    for name, parts in (("torus", ON_TORUS), ("plane", IN_PLANE)):
        tries = [trained(x, parts, 1000 * seed + i, epochs) for i in range(starts)]
        best = int(np.argmax([vae.diagnose(x).elbo for vae in tries]))
        z = [vae.encode(images(GRID)) for vae in tries]
        whole = [name == "torus" and abs(determinant(one)) == 1 for one in z]
        found[name] = z[best], (whole[best], whole)
    return found


def determinant(z: Any) -> int:
    """Of the winding numbers of the circles, by axis; 0 where they depend on the loop."""
    z = z.reshape(PLACES, PLACES, -1)
    loops = [[winding_numbers(one) for one in axis] for axis in (z.swapaxes(0, 1), z)]
    if any((np.array(one) != one[0]).any() for one in loops):
        return 0
    (a, b), (c, d) = (one[0] for one in loops)
    return int(a * d - b * c)


def jump(z: Any) -> float:
    """The largest distance of neighbours' means over the median one."""
    z = z.reshape(PLACES, PLACES, -1)
    far = [np.linalg.norm(np.roll(z, -1, axis) - z, axis=-1) for axis in (0, 1)]
    return float(np.max(far) / np.median(far))


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Errors of the divergence, and images of the grid's lines."""
    with canvas(1, 3, size=(7.6, 2.7)) as (figure, axes):
        one, two, three = axes[0]
        one.plot(TIMES, 100.0 * result.curves["off"])
        one.set(xlabel="time", ylabel="error (%)", title="divergence, sphere")
        z = result.curves["torus"].reshape(PLACES, PLACES, 4)
        angles = np.arctan2(z[..., 1::2], z[..., ::2])
        plane = result.curves["plane"].reshape(PLACES, PLACES, 2)
        for ax, points, title in ((two, angles, "torus, angles"), (three, plane, "plane")):
            for i in range(0, PLACES, 4):
                ax.plot(*points[i].T, ".", markersize=2)
            ax.set(title=title, xticks=[], yticks=[])
    return figure


# -- what the parts above need --------------------------------------------------------------------


def images(places: np.ndarray) -> np.ndarray:
    """A bump at each place, where both axes are periodic."""
    far = places[:, :, None] - 2.0 * np.pi * np.arange(SIDE) / SIDE
    across, down = np.exp((np.cos(far) - 1.0) / (2.0 * np.pi * WIDTH / SIDE) ** 2).swapaxes(0, 1)
    return across[:, :, None] * down[:, None, :]


_AXIS = 2.0 * np.pi * np.arange(PLACES) / PLACES
GRID = np.stack(np.meshgrid(_AXIS, _AXIS, indexing="ij"), axis=-1).reshape(-1, 2)


def heat_kernel_divergence(time: float) -> float:
    """On the sphere: the kernel over the uniform density is a sum over Legendre polynomials."""
    cosines, weights = np.polynomial.legendre.leggauss(300)
    degrees = np.arange(100)
    terms = (2.0 * degrees + 1.0) * np.exp(-0.5 * degrees * (degrees + 1.0) * time)
    ratio = np.polynomial.legendre.legval(cosines, terms)
    ratio = np.maximum(ratio, 1e-12)  # rounding, where there is next to no mass
    return float(0.5 * weights @ (ratio * np.log(ratio)))


def _mid(values: list[float]) -> float:
    return float(np.median(values))
