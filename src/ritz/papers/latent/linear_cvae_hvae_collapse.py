"""How many latents of a linear conditional autoencoder survive is known before it is trained.

With affine networks the best a conditional autoencoder can do has a closed form: a latent survives
for each eigenvalue of the data's covariance given the condition that is above the decoder's
variance times beta; the more the condition tells, the fewer. In a linear hierarchy of two levels
whose divergences have weights of their own, an inner encoder with a variance that is learned makes
the upper level collapse where one with a fixed variance keeps it.

Paper: H. Dang, T. Tran, T. Nguyen and N. Ho, "Beyond vanilla variational autoencoders: detecting
posterior collapse in conditional and hierarchical variational autoencoders", ICLR 2024,
arXiv:2306.05023 (theorems 2 to 4).

Scaled down: six columns and five latents, 2,000 rows; a hierarchy of five and two latents.

Data: linear Gaussian; each column follows a condition of its own, with the stated correlation.

Tuning: none. The decoder's sd was set so that no eigenvalue is within 5% of a threshold:
there the divergence that tells an active latent would be below 0.025 nats.

Thresholds: the catalogue's. A latent is active if its divergence, mean over rows, is above 0.01
nats.

Wrong variant: the threshold is taken to be that of the data's covariance without the condition,
and the first level's sd is learned in both hierarchies.
"""

from typing import Any

import numpy as np

from ritz.latent import VAE, elbo, gaussian, hierarchical, levels, mlp
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2, 3, 4)
ROWS, COLUMNS, LATENT = 2000, 6, 5
SPREADS = np.array([3.0, 2.0, 1.4, 1.0, 0.7, 0.4])  # sds of independent directions
NOISE = 0.52  # the decoder's sd
BETAS = (0.5, 1.0, 2.0, 4.0)
CORRELATIONS = (0.0, 0.4, 0.6, 0.8, 0.95)
ACTIVE, EPOCHS = 0.01, 300


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def conditional(x: Any, c: Any, beta: float, seed: int, epochs: int) -> VAE:
    """A linear autoencoder of x given c, with a fixed sd."""
    return VAE(
        LATENT,
        likelihood=gaussian(NOISE),
        encoder=mlp(),
        decoder=mlp(),
        objective=elbo(beta=beta),
        epochs=epochs,
        batch=100,
        lr=0.01,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x, given=c)


def hierarchy(x: Any, sd: float | None, seed: int, epochs: int) -> VAE:
    """A linear one of two levels, the first with this posterior sd."""
    return VAE(
        (5, 2),
        likelihood=gaussian(NOISE),
        encoder=mlp(),
        decoder=mlp(),
        posterior=hierarchical(mlp(), sd=sd),
        prior=levels(mlp(), sd=1.0),
        objective=elbo(beta=(1.0, 1.5)),
        epochs=epochs,
        batch=100,
        lr=0.01,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


def active(vae: VAE, x: Any, c: Any) -> int:
    """How many latents hold something."""
    return int((vae.diagnose(x, given=c).kl > ACTIVE).sum())


def upper(vae: VAE, x: Any) -> int:
    """How many latents of the upper level depend on the rows: their means' variance is seen."""
    return int((vae.encode(x)[:, 5:].var(axis=0) > ACTIVE).sum())


# -- what is known: the closed form --------------------------------------------------------------


def survivors(x: Any, c: Any, beta: float, blind: bool) -> int:
    """Eigenvalues of the covariance of x given c above beta times the decoder's variance."""
    x, c = x - x.mean(axis=0), c - c.mean(axis=0)
    left = x if blind else x - c @ np.linalg.lstsq(c, x, rcond=None)[0]
    values = np.linalg.eigvalsh(left.T @ left / len(x))
    return min(LATENT, int((values > beta * NOISE**2).sum()))


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Counts of active latents against the formula, and the two hierarchies."""
    epochs = 2 if quick else EPOCHS
    settings = [(beta, rho) for beta in BETAS for rho in CORRELATIONS]
    found, known = [], []
    for beta, rho in settings[:2] if quick else settings:
        x, c = rows(rho, seeds[0])
        found.append(active(conditional(x, c, beta, seeds[0], epochs), x, c))
        known.append(survivors(x, c, beta, wrong))
    kept = []
    for seed in seeds:
        x, _ = rows(0.0, seed)
        learned = upper(hierarchy(x, None, seed, 3 * epochs), x)
        fixed = upper(hierarchy(x, None if wrong else 1.0, seed, 3 * epochs), x)
        kept.append((learned, fixed))
    agree = np.array(found) == np.array(known)
    checks = (
        Check(
            name="settings in which the active latents are as many as the formula says",
            value=20 * float(agree.mean()),
            direction=">=",
            threshold=18.0,
            compared="of 20 weights and correlations",
        ),
        Check(
            name="rises of the count as the correlation rises",
            value=float(sum(np.any(np.diff(row) > 0) for row in _by_weight(found))),
            direction="<=",
            threshold=0.0,
            compared="of four weights",
        ),
        Check(
            name="runs whose upper level collapses where the first sd is learned, and is kept at 1",
            value=float(sum(a == 0 and b >= 1 for a, b in kept)),
            direction=">=",
            threshold=float(len(seeds)),
            compared="of all seeds",
        ),
    )
    curves = {"found": np.array(found), "known": np.array(known)}
    return Result(checks, seeds, figures={"agree": float(agree.sum())}, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Active latents by correlation, and the formula's."""
    with canvas(1, 1, size=(5.0, 3.0)) as (figure, axes):
        ax = axes[0, 0]
        known, found = (_by_weight(result.curves[name]) for name in ("known", "found"))
        for beta, a, b in zip(BETAS, known, found, strict=False):
            (line,) = ax.plot(CORRELATIONS[: len(a)], a, "-", label=f"beta {beta:g}")
            ax.plot(CORRELATIONS[: len(b)], b, "o", color=line.get_color())
        ax.set(xlabel="correlation with the condition", ylabel="active latents")
        ax.legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _by_weight(counts: Any) -> list[Any]:
    return [counts[i : i + len(CORRELATIONS)] for i in range(0, len(counts), len(CORRELATIONS))]


def rows(rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in turned axes, and a condition for each direction with this correlation."""
    rng = np.random.default_rng(seed)
    c = rng.normal(size=(ROWS, COLUMNS))
    latent = rho * c + np.sqrt(1.0 - rho**2) * rng.normal(size=(ROWS, COLUMNS))
    turn = np.linalg.qr(rng.normal(size=(COLUMNS, COLUMNS)))[0]
    return latent * SPREADS @ turn, c
