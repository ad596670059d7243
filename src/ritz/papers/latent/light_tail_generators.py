"""No decoder of normal latents makes tails that are heavier than those of the latents.

A network is a Lipschitz function, and such functions of a normal vector are concentrated: norms of
what it makes have tails like a Gaussian's, whatever the data. The same goes for a flow or diffusion
from normal noise. Data whose norms fall like a square are therefore met by neither, with far too
few extremes. With latents of such tails the same autoencoder has them.

Paper: E. Tam and D. B. Dunson, "On the statistical capacity of deep generative models", 2025,
arXiv:2501.07763.

Scaled down: nothing; the paper has theory and small experiments. The diffusion model is flow
matching with a Gaussian path, whose draws are those of the probability flow.

Data: made here. Five independent Student t variables with two degrees of freedom, 20,000 rows;
norms of a million draws of each model. The exact quantile of norms is by conditional Monte Carlo,
each coordinate in turn the largest (Asmussen and Kroese 2006).

Tuning: none. Networks, rate, batches and steps are equal for both autoencoders.

Thresholds: the catalogue's.

Wrong variant: heavy-tailed latents with 30 degrees of freedom in place of two.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

import ritz
from ritz.diagnose import hill
from ritz.family import student_t
from ritz.latent import VAE, gaussian, mlp
from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.transport import interpolant

SEEDS = (0, 1, 2)
ROWS, WIDTH, DF = 20_000, 5, 2.0
UNITS, EPOCHS, BATCH, RATE = 64, 30, 200, 1e-3
STEPS = 5000  # of the diffusion model
DRAWS, SHARE, RARE = 1_000_000, 1e-3, 1e-5


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def autoencoder(x: Any, prior: Any, seed: int, epochs: int) -> VAE:
    """One with as many latents as columns."""
    return VAE(
        WIDTH,
        likelihood=gaussian(each=False),
        encoder=mlp(UNITS, UNITS),
        decoder=mlp(UNITS, UNITS),
        prior=prior,
        epochs=epochs,
        batch=BATCH,
        lr=RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


def heavy(df: float) -> Any:
    """Latents with Student t margins, as they are."""
    return paramax.non_trainable(student_t(None, jnp.zeros(WIDTH), df=df, scale=1.0))


# -- the baseline: measured in the same run -------------------------------------------------------


def diffusion(x: Any, seed: int, steps: int) -> Any:
    """A flow from normal noise."""
    family, target = interpolant(width=UNITS), ritz.target.from_samples(x)
    fit = ritz.fit(target, family=family, steps=steps, lr=RATE, seed=seed, progress=False)
    return paramax.unwrap(fit.q)


# -- the wrong variant: what the checks must catch ------------------------------------------------

LIGHT = 30.0  # degrees of freedom


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Tails of norms of what each makes, over those of the law of the data."""
    epochs, steps, draws = (1, 100, 20_000) if quick else (EPOCHS, STEPS, DRAWS)
    rare = exact_quantile(RARE)
    found: dict[str, list[float]] = {}
    curves: dict[str, Any] = {}
    for seed in seeds:
        x = np.random.default_rng(seed).standard_t(DF, (ROWS, WIDTH)).astype(np.float32)
        made = {
            "Gaussian latents": autoencoder(x, None, seed, epochs).sample(draws, seed),
            "diffusion": drawn(diffusion(x, seed, steps), draws, seed),
            "Student t latents": autoencoder(x, heavy(LIGHT if wrong else DF), seed, epochs).sample(
                draws, seed
            ),
        }
        for name, rows in made.items():
            norms = np.linalg.norm(np.asarray(rows, np.float64), axis=1)
            values = {"index": hill(norms, SHARE)[0] / DF}
            values["quantile"] = float(np.quantile(norms, 1.0 - RARE)) / rare
            for what, value in values.items():
                found.setdefault(f"{name}: {what}", []).append(value)
            if seed == seeds[0]:
                curves[name] = np.quantile(norms, 1.0 - LEVELS)
    curves["exact"] = np.array([exact_quantile(p) for p in LEVELS])
    means = {name: float(np.mean(v)) for name, v in found.items()}
    off = np.abs(np.array(found["Student t latents: index"]) - 1.0)
    checks = (
        Check(
            name="Gaussian latents: index of the tail over the truth",
            value=min(found["Gaussian latents: index"]),
            direction=">=",
            threshold=2.0,
            compared="Hill's estimate from the top 0.1%, the least of the seeds",
        ),
        Check(
            name="diffusion: index of the tail over the truth",
            value=min(found["diffusion: index"]),
            direction=">=",
            threshold=1.3,
            compared="Hill's estimate from the top 0.1%, the least of the seeds",
        ),
        Check(
            name="Student t latents: relative error of the index",
            value=float(off.max()),
            direction="<=",
            threshold=0.4,
            compared="Hill's estimate from the top 0.1%, the largest of the seeds",
        ),
        Check(
            name="Gaussian latents: 99.999% quantile of norms over the truth",
            value=max(found["Gaussian latents: quantile"]),
            direction="<=",
            threshold=0.6,
            compared="the largest of the seeds",
        ),
        Check(
            name="diffusion: 99.999% quantile of norms over the truth",
            value=max(found["diffusion: quantile"]),
            direction="<=",
            threshold=0.6,
            compared="the largest of the seeds",
        ),
    )
    return Result(checks, seeds, figures=means, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """How often norms are larger."""
    with canvas(1, 1, size=(4.8, 3.2)) as (figure, axes):
        ax = axes[0][0]
        for name, quantiles in result.curves.items():
            style = {"color": "black", "linewidth": 1.0} if name == "exact" else {"marker": "."}
            ax.loglog(quantiles, LEVELS, label=name, **style)
        ax.set(xlabel="norm", ylabel="share of larger ones", title="a million draws of each")
        ax.legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------

LEVELS = np.logspace(-1, -5, 13)


def drawn(q: Any, n: int, seed: int) -> np.ndarray:
    """Draws of a family."""
    keys = jax.random.split(jax.random.key(seed), n)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(q.sample, keys, batch_size=1000))(keys))


def exact_quantile(share: float) -> float:
    """The norm that a share of the law of the data is beyond."""
    rest = np.random.default_rng(0).standard_t(DF, (200_000, WIDTH - 1)) ** 2
    total, largest = rest.sum(axis=1), rest.max(axis=1)
    low, high = 0.1, 1e6
    while high / low > 1.0 + 1e-6:
        middle = np.sqrt(low * high)
        beyond = np.maximum(np.maximum(middle**2 - total, largest), 0.0)
        more = WIDTH * float((1.0 - np.sqrt(beyond / (2.0 + beyond))).mean()) > share
        low, high = (middle, high) if more else (low, middle)
    return float(low)
