"""Weights by Jarzynski's equality let an energy model learn how mass is shared between far modes.

An energy model is trained by comparing its energy at samples and at draws of itself. Chains that
persist supply draws, but do not cross between modes that are far apart: then the shares of chains
are no longer the model's, the gradient does not vanish, and the mass of a mode drifts. Chains
weighted by the work that changing parameters did on them give the right expectations however far
they lag behind, and the normaliser beside. Score matching sees gradients of the log density only,
so that it cannot know the shares at all.

Paper: D. Carbone, "Hitchhiker's guide on energy-based models: a comprehensive review on the
relation with other generative models, sampling and statistical physics", 2024, arXiv:2406.13661;
the reweighting is that of D. Carbone, M. Hua, S. Coste and E. Vanden-Eijnden, "Efficient training
of energy-based models using Jarzynski equality", NeurIPS 2023, arXiv:2305.19414.

Scaled down: a network of two layers of 32 units, in two dimensions, where the model's own mass is
had by quadrature; the review's experiments are of images and mixtures. Five rules train the same
network, from the same start, for as many steps: contrastive divergence, persistent chains without
and with weights, denoising score matching and noise-contrastive estimation; a spline flow by
maximum likelihood stands beside them. The two kinds of persistent chains differ in their weights
alone. For the noise-contrastive rule this is an easy case: its noise covers the plane.

Data: made here from the seed: 10,000 points, 80% around (5, 5) and 20% around (-5, -5), with sd 1,
fourteen sds apart.

Thresholds: the catalogue's. The mass error is that of the half-plane x + y < 0, under the
model's density on a grid, not of its draws; it is averaged over seeds.

Wrong variant: the work has the other sign, as if parameters had gone from new to old.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax

import ritz
from ritz.papers._base import Check, Result
from ritz.particle import (
    PersistentChains,
    contrastive_divergence,
    denoising_score_matching,
    energy_model,
    hmc,
    noise_contrastive,
    persistent_chains,
)
from ritz.plot import canvas

SEEDS = (0, 1, 2, 3, 4)
STEPS = 2000
SAMPLES = 10_000
AWAY, SMALL = 5.0, 0.2  # both coordinates of a mode, and the mass of the one on the left
RATE = 1e-3
CHAINS = 1024
ROWS = 1024
NOISE = 0.05  # of score matching, in sds of the samples: a fifth of a mode's
SIDE, POINTS = 12.0, 241
LEAP = 0.1


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def reweighted(steps: int) -> Any:
    """The solver with weights."""
    return _persistent(steps, True)


# -- the baselines: measured in the same run ------------------------------------------------------


def unweighted(steps: int) -> Any:
    """Persistent contrastive divergence: the same chains."""
    return _persistent(steps, False)


def other_rules() -> dict[str, Any]:
    """Objectives that need no chains that persist."""
    return {
        "contrastive divergence": contrastive_divergence(hmc(LEAP, 4), 1, ROWS),
        "noise contrastive": noise_contrastive(ROWS),
    }


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Backwards(PersistentChains):
    """The sign of the work is wrong."""

    def work(self, old: Any, new: Any, z: Any) -> Any:
        return -super().work(old, new, z)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Train by each rule, and integrate the models' densities."""
    steps = STEPS // 10 if quick else STEPS
    masses: dict[str, list[float]] = {}
    normalisers: dict[str, list[float]] = {}
    effective, pictures = [], {}
    for seed in seeds:
        target = ritz.target.from_samples(_samples(seed))
        chains = reweighted(steps)
        if wrong:
            chains = Backwards(**vars(chains))
        rules: dict[str, Any] = {
            "reweighted chains": {"solver": chains},
            "persistent chains": {"solver": unweighted(steps)},
            "score matching": {"objective": denoising_score_matching(NOISE, ROWS)},
        }
        if not wrong:
            rules |= {name: {"objective": each} for name, each in other_rules().items()}
        for name, parts in rules.items():
            family = energy_model(width=32, moves=hmc(LEAP, 4), seed=seed)
            made = {"steps": steps, "seed": seed, "progress": False}
            lr = {} if "solver" in parts else {"lr": RATE}
            fit = ritz.fit(target, family=family, **parts, **lr, **made)
            log_p = _log_density(fit.q)
            mass, log_z = _integrated(log_p)
            masses.setdefault(name, []).append(mass)
            if name in ("reweighted chains", "noise contrastive"):
                q: Any = fit.q
                off = float(q.log_normaliser) - log_z
                normalisers.setdefault(name, []).append(off)
            if name == "reweighted chains":
                effective.append(float(fit.history.columns["effective share"].mean()))
            if seed == seeds[0]:
                pictures[name] = log_p - log_z
    if not (wrong or quick):
        target = ritz.target.from_samples(_samples(seeds[0]))
        flow = ritz.fit(
            target, family=ritz.family.spline, steps=steps, seed=seeds[0], progress=False
        )
        drawn = np.asarray(flow.sample(4000, jax.random.key(1)))
        masses["flow by likelihood, one seed"] = [float((drawn.sum(axis=1) < 0.0).mean())]
    error = {name: float(np.abs(np.asarray(m) - SMALL).mean()) for name, m in masses.items()}
    figures = {f"mass error, {name}": value for name, value in error.items()}
    for name, off in normalisers.items():
        figures[f"log normaliser's error, {name}"] = float(np.abs(off).mean())
    figures["effective share of weights"] = float(np.mean(effective))
    own = error["reweighted chains"]
    checks = (
        Check(
            "mass error as a share of persistent chains'",
            own / error["persistent chains"],
            "<=",
            0.5,
            "reweighted chains with the same chains unweighted, mean over seeds",
        ),
        Check("mass error", own, "<=", 0.05, "reweighted chains with the truth, mean over seeds"),
        Check(
            "mass error of score matching",
            error["score matching"],
            ">=",
            0.1,
            "at small noise, with the truth, mean over seeds",
        ),
    )
    return Result(checks, seeds, figures, {"pictures": pictures, "masses": masses})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """The first seed's densities in the first coordinate, and all masses."""
    curves = result.curves
    x = np.linspace(-SIDE, SIDE, POINTS)
    with canvas(1, 2, size=(10.0, 3.6)) as (figure, axes):
        for name, log_p in curves["pictures"].items():
            line = np.exp(log_p.reshape(POINTS, POINTS)).sum(axis=1) * (x[1] - x[0])
            axes[0, 0].plot(x, line, lw=1.2, label=name)
        normal = lambda at: np.exp(-0.5 * (x - at) ** 2) / np.sqrt(2.0 * np.pi)
        truth = SMALL * normal(-AWAY) + (1.0 - SMALL) * normal(AWAY)
        axes[0, 0].plot(x, truth, color="black", ls=":", label="truth")
        axes[0, 0].set(xlabel="first coordinate", ylabel="density", ylim=(0.0, 0.5))
        axes[0, 0].legend()
        for i, masses in enumerate(curves["masses"].values()):
            axes[0, 1].plot(masses, np.full(len(masses), i), "o", mfc="none")
        axes[0, 1].axvline(SMALL, color="black", ls=":")
        axes[0, 1].set_yticks(range(len(curves["masses"])), list(curves["masses"]))
        axes[0, 1].set(xlabel="mass of the smaller mode", xlim=(-0.02, 1.02))
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _samples(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = np.where(rng.random((SAMPLES, 1)) < SMALL, -AWAY, AWAY)
    return rng.normal(size=(SAMPLES, 2)) + centre


def _persistent(steps: int, weights: bool) -> PersistentChains:
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    settings: dict[str, Any] = {"chains": CHAINS, "rows": ROWS, "moves": hmc(LEAP, 4)}
    return persistent_chains(optimiser, reweighted=weights, **settings)


def _log_density(q: Any) -> np.ndarray:
    """At the points of a grid, unnormalised."""
    axis = np.linspace(-SIDE, SIDE, POINTS)
    at = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    found = jax.lax.map(paramax.unwrap(q).log_density, jnp.asarray(at, float), batch_size=4096)
    return np.asarray(found, float)


def _integrated(log_p: np.ndarray) -> tuple[float, float]:
    """The mass of the half-plane x + y < 0, and the log of all of it."""
    axis = np.linspace(-SIDE, SIDE, POINTS)
    top = log_p.max()
    p = np.exp(log_p - top).reshape(POINTS, POINTS)
    side = axis[:, None] + axis
    left = p[side < -1e-9].sum() + 0.5 * p[np.abs(side) < 1e-9].sum()
    return float(left / p.sum()), float(np.log(p.sum() * (axis[1] - axis[0]) ** 2) + top)
