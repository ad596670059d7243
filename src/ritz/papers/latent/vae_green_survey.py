"""What autoencoders of many kinds cost and give, with one budget for all of them.

Each has the same encoder and decoder, batches and passes. Better samples need not cost more: a
density that is fitted to the encodings, by a second small autoencoder or by a mixture, takes next
to no operations, while looking at more draws or points takes many.

Paper: A. Asperti, D. Evangelista and E. Loli Piccolomini, "A survey on variational autoencoders
from a GreenAI perspective", SN Computer Science 2021, arXiv:2103.01071. The two stages: B. Dai and
D. Wipf, "Diagnosing and enhancing VAE models", 2019; the regularised one: P. Ghosh, M. Sajjadi,
A. Vergari, M. Black and B. Schölkopf, 2020; the split decoder: A. Asperti and co-authors, 2020.

Scaled down: 8,000 images to train on, fully connected networks with 128 hidden units, 16 latents
and 10 passes; the hierarchy has two levels, 16 and 8.

Data: MNIST's 10,000 test images (folder RITZ_DATA), grey levels from 0 to 1.

Tuning: none. All have a learned noise, but for the balanced one, which sets it. Weights are the
defaults of the parts, but for those that say otherwise in `VARIANTS`.

Thresholds: the catalogue's. Features are the hidden units of a classifier that is trained in the
run. Operations are those of the loss of an image as in training, of all stages; the compiler's are
of the same function for a batch. Seconds are of the processor, compilation left out; times the
power of a core they are the energy. Where a variant's samples are told to be "fitted", they are
decoded from ten Gaussians fitted to encodings.

Wrong variant: a multiplication and an addition are counted as one operation.
"""

import functools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz.family import maf
from ritz.latent import (
    VAE,
    ard,
    ard_elbo,
    balanced,
    capacity,
    codebook,
    denoising_elbo,
    density_gap,
    dip,
    elbo,
    ex_post,
    fit_codes,
    frechet_distance,
    gaussian,
    gaussian_mixture,
    gradient_origin,
    importance,
    infovae,
    mlp,
    reconstruction,
    rotated,
    swae,
    target_divergence,
    total_correlation,
    unscented,
    vamp,
    vector_quantised,
)
from ritz.papers._base import Check, Result
from ritz.papers.latent._images import digits, features
from ritz.plot import canvas
from ritz.report import flops

SEEDS = (0, 1, 2)
LATENT, HIDDEN, EPOCHS, BATCH = 16, 128, 10, 100
SAMPLES, LOOK = 2000, 100


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


class Split(eqx.Module):
    """Two images, and for each pixel the share of the first."""

    network: Any

    def __call__(self, z: Any) -> Any:
        one, two, share = self.network(z)
        return one + jax.nn.sigmoid(share) * (two - one)


def split(inputs: Any, outputs: Any, key: Any) -> Split:
    """A builder of the split decoder."""
    return Split(mlp(HIDDEN)(inputs, (3, *outputs), key))


BOOK = {"prior": codebook(64, 2)}
VARIANTS: dict[str, tuple[Any, Any, str]] = {
    # name: objective, parts, of the images where need be, and where samples are from
    "VAE": (elbo(), {}, "prior"),
    "VAE, fitted": (elbo(), {}, "fitted"),
    "two stages": (elbo(), {}, "second"),
    "regularised AE, fitted": (reconstruction(), {}, "fitted"),
    "hierarchy": (elbo(), {"latent": (16, 8)}, "prior"),
    "split": (elbo(), {"decoder": split}, "prior"),
    "importance (5)": (importance(5), {}, "prior"),
    "balanced": (balanced(), {}, "prior"),
    "capacity": (capacity(25.0, 400), {}, "prior"),
    "InfoVAE": (infovae(1.0, 1000.0), {}, "prior"),
    "target divergence": (target_divergence(2.0), {}, "prior"),
    "total correlation": (total_correlation(6.0), {}, "prior"),
    "density gap": (density_gap(10.0), {}, "prior"),
    "DIP": (dip(10.0, 10.0), {}, "prior"),
    "denoising": (denoising_elbo(0.2), {}, "prior"),
    "ARD": (ard_elbo(), {"prior": ard()}, "prior"),
    "mixture as prior": (elbo(), {"prior": gaussian_mixture(20)}, "prior"),
    "VampPrior": (elbo(), lambda x: {"prior": vamp(x[:20])}, "prior"),
    "flow as prior": (elbo(), {"prior": maf(None, jnp.zeros(LATENT), scale=1.0)}, "prior"),
    "sliced Wasserstein": (swae(100.0), {}, "prior"),
    "one gradient": (elbo(), {"encoder": gradient_origin()}, "prior"),
    "one gradient, fitted": (reconstruction(), {"encoder": gradient_origin()}, "fitted"),
    "sigma points, fitted": (unscented(0.2), {}, "fitted"),
    "codes": (vector_quantised(decay=0.9, restart=0.1), BOOK, "codes"),
    "codes, rotated": (vector_quantised(decay=0.9, restart=0.1, gradient=rotated), BOOK, "codes"),
}
QUICK = ("VAE", "two stages", "hierarchy", "one gradient, fitted", "codes")


def trained(x: Any, objective: Any, seed: int, epochs: int, **parts: Any) -> VAE:
    """An autoencoder with the shared budget."""
    shared = {"latent": LATENT, "encoder": mlp(HIDDEN), "decoder": mlp(HIDDEN)}
    return VAE(
        **(shared | {"likelihood": gaussian(each=False)} | parts),
        objective=objective,
        epochs=epochs,
        batch=BATCH,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


def cost(vae: VAE, objective: Any, x: Any) -> Any:
    """The loss of some rows, as a function of parameters."""
    key, batch = jax.random.key(0), {"x": jnp.asarray(x)}
    parts, rest = eqx.partition((vae.fit_.q, vae.fit_.target), eqx.is_inexact_array)

    def loss(parts: Any) -> Any:
        q, target = paramax.unwrap(eqx.combine(parts, rest))
        found = objective.loss(q, target, key, batch)
        return found[0] if isinstance(found, tuple) else found

    return loss, parts


# -- the wrong variant: what the checks must catch ------------------------------------------------

FUSED = 0.5  # of the operations: where products and sums are one


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Costs and distances of all."""
    found: dict[str, list[float]] = {}
    curves: dict[str, Any] = {}
    off, names = [], QUICK if quick else tuple(VARIANTS)
    for seed in seeds:
        for name in names:
            values, counts, images = measured(name, seed, quick)
            for what, value in values.items():
                found.setdefault(f"{name}: {what}", []).append(value)
            share = FUSED if wrong else 1.0
            off += [abs(share * mine / theirs - 1.0) for mine, theirs in counts]
            if seed == seeds[0]:
                curves[name] = images
    means = {name: float(np.mean(v)) for name, v in found.items()}
    of = lambda what: {name: means[f"{name}: {what}"] for name in names}
    far, work = of("Fréchet distance"), of("operations an image")
    cheap = {n: v for n, v in far.items() if n != "VAE" and work[n] <= 1.5 * work["VAE"]}
    best = min(cheap, key=lambda name: cheap[name])
    checks = (
        Check(
            name="least Fréchet distance of a variant, as a share of the VAE's",
            value=far[best] / far["VAE"],
            direction="<=",
            threshold=0.9,
            compared=f"mean over seeds; {best}, of those with 1.5 times its operations at most",
        ),
        Check(
            name="counted operations: relative difference from the compiler's",
            value=max(off),
            direction="<=",
            threshold=0.1,
            compared="the loss of 100 images, every variant and stage, the worst",
        ),
    )
    return Result(checks, seeds, figures=means, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Samples of each, with its distance and operations."""
    with canvas(len(result.curves), 8, size=(6.4, 13.0)) as (figure, axes):
        for row, (name, images) in zip(axes, result.curves.items(), strict=True):
            for ax, image in zip(row, images, strict=True):
                ax.imshow(np.asarray(image).reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
                ax.set(xticks=[], yticks=[])
            far = result.figures[f"{name}: Fréchet distance"]
            work = result.figures[f"{name}: operations an image"]
            told = f"{name}\n{far:.1f}, {work / 1e6:.2f} M"
            row[0].set_ylabel(told, rotation=0, ha="right", va="center", fontsize=7)
    return figure


# -- what the parts above need --------------------------------------------------------------------


@functools.cache
def measured(name: str, seed: int, quick: bool) -> tuple[dict[str, float], Any, np.ndarray]:
    """Figures, operations by stage and samples; once for both variants, which only count."""
    objective, parts, source = VARIANTS[name]
    train, _, test = digits(seed)
    train, epochs = (train[:500], 1) if quick else (train, EPOCHS)
    parts = parts(train) if callable(parts) else parts
    both = stages(source, train, objective, seed, 1, parts)  # compiled before seconds are taken
    began = time.process_time()
    both = stages(source, train, objective, seed, epochs, parts)
    seconds = time.process_time() - began
    vae, second = both[0], both[-1]
    images = samples(vae, second, source, train, seed, steps=50 if quick else 1000)
    counts = [counted(vae, objective, test)]
    if source == "second":
        counts.append(counted(second, elbo(), vae.encode(test)))
    values = {
        "Fréchet distance": frechet_distance(test, images, features(seed)),
        "error": float(((vae.decode(vae.encode(test)) - test) ** 2).mean()),
        "operations an image": sum(mine for mine, _ in counts) / LOOK,
        "parameters": sum(map(size, both)),
        "seconds": seconds,
    }
    return values, counts, images[:8]


def stages(source: str, x: Any, objective: Any, seed: int, epochs: int, parts: Any) -> list[VAE]:
    """The autoencoder, and where it has one the second."""
    vae = trained(x, objective, seed, epochs, **parts)
    return [vae] + ([trained_second(vae, x, seed, epochs)] if source == "second" else [])


def trained_second(vae: VAE, x: Any, seed: int, epochs: int) -> VAE:
    """One of the draws of posteriors."""
    q, keys = paramax.unwrap(vae.fit_.q), jax.random.split(jax.random.key(seed), len(x))
    draw = lambda row, key: q.condition({"x": row}).sample(key)
    z = np.asarray(jax.jit(jax.vmap(draw))(jnp.asarray(x), keys))
    return trained(z, elbo(), seed, epochs, likelihood=gaussian())


def samples(vae: VAE, second: Any, source: str, x: Any, seed: int, steps: int) -> np.ndarray:
    """Images without noise, decoded from latents of the source."""
    if source == "fitted":
        keys = jax.random.split(jax.random.key(seed), SAMPLES)
        return vae.decode(jax.vmap(ex_post(vae.encode(x), seed=seed).sample)(keys))
    if source == "second":
        return vae.decode(second.sample(SAMPLES, seed))
    if source == "codes":
        vae = fit_codes(vae, x, steps=steps, seed=seed)
    prior = paramax.unwrap(vae.fit_.target).joined(paramax.unwrap(vae.fit_.q))[1]
    return vae.decode(jax.vmap(prior.sample)(jax.random.split(jax.random.key(seed), SAMPLES)))


def counted(vae: VAE, objective: Any, x: Any) -> tuple[float, float]:
    """Operations of the loss of some rows, and what the compiler counts."""
    loss, parts = cost(vae, objective, x[:LOOK])
    found: Any = jax.jit(loss).lower(parts).compile().cost_analysis()
    return float(flops(loss, parts)), float(found["flops"])


def size(vae: VAE) -> float:
    """Parameters that are trained."""
    fit, frozen = vae.fit_, lambda leaf: isinstance(leaf, paramax.NonTrainable)
    parts = (fit.q, [getattr(fit.target, name) for name in fit.target.trainable])
    leaves = jax.tree.leaves(parts, is_leaf=frozen)
    return float(sum(v.size for v in leaves if eqx.is_inexact_array(v)))
