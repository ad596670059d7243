"""Latents that are alike the prior together, and not row by row, tell of rows and fill the prior.

The bound holds each row's posterior to the prior. Where there are few rows and little noise it
lets them spread far beyond it all the same; where the decoder is strong it makes each of them the
prior, and latents tell nothing. Without this divergence, and with one of all posteriors together,
neither happens: the maximum mean discrepancy of draws of a batch from draws of the prior.

Paper: S. Zhao, J. Song and S. Ermon, "InfoVAE: balancing learning and inference in variational
autoencoders", AAAI 2019, arXiv:1706.02262.

Scaled down: networks of one hidden layer in place of convolutions, and for pixels a masked network
of two layers in place of a PixelCNN.

Data: scikit-learn's digits. 500 of them with pixels in [0, 1], two latents and a noise of variance
0.01; and bits, cut at half of the range, eight latents, 1,200 to train on and 597 to test with.

Tuning: the weight of the discrepancy of bits is the larger of 100 and 1,000 with which latents are
in use; all else is equal for both objectives.

Thresholds: the catalogue's. The aggregate posterior is the mixture of the posteriors of the rows
that the one was trained on, with its moments exactly; information is that of test rows.

Wrong variant: the weight lies on the divergence of each row, in place of that of all together.
"""

from typing import Any

import numpy as np

import ritz
from ritz.latent import VAE, aggregate, autoregressive, bernoulli, elbo, gaussian, infovae, mlp
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2, 3, 4)
FEW, NOISE, UNITS, RATE = 500, 0.1, 128, 3e-3
EPOCHS, BATCH = 300, 100
TRAIN, LATENT, WEIGHT, PASSES = 1200, 8, 100.0, 120


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(x: Any, objective: Any, seed: int, epochs: int, **parts: Any) -> VAE:
    """An autoencoder by some objective."""
    return VAE(
        **parts,
        encoder=mlp(UNITS),
        decoder=mlp(UNITS),
        objective=objective,
        epochs=epochs,
        batch=BATCH,
        lr=RATE,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(x)


def noisy(x: Any, objective: Any, seed: int, epochs: int) -> VAE:
    """Pixels with a little noise, in a plane."""
    return trained(x, objective, seed, epochs, latent=2, likelihood=gaussian(NOISE, each=False))


def strong(x: Any, objective: Any, seed: int, epochs: int) -> VAE:
    """Bits, each given those before it."""
    law = autoregressive(bernoulli(), UNITS, UNITS)
    return trained(x, objective, seed, epochs, latent=LATENT, likelihood=law)


# -- the baseline: `elbo()`, measured in the same run ---------------------------------------------


# -- the wrong variant: what the checks must catch ------------------------------------------------


def by_row(weight: float) -> Any:
    """The divergence of each row, with the weight of the one of all."""
    return elbo(beta=weight)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """How far the aggregate is from the prior, and what latents tell under a strong decoder."""
    epochs, passes = (2, 2) if quick else (EPOCHS, PASSES)
    ways: dict[str, Any] = {"bound": (elbo(), elbo())}
    if wrong:
        ways["InfoVAE"] = (by_row(1000.0), by_row(WEIGHT))
    else:
        ways["InfoVAE"] = (infovae(1.0, 1000.0), infovae(1.0, WEIGHT))
    found: dict[str, list[float]] = {}
    curves: dict[str, Any] = {}
    for seed in seeds:
        few, bits, test = digits(seed)
        for name, (plane, told) in ways.items():
            vae = noisy(few, plane, seed, epochs)
            of_few = aggregate(vae, few)
            of_bits = aggregate(strong(bits, told, seed, passes), test)
            values = {
                "|log det|": abs(of_few.log_det),
                "information": of_bits.information,
                "divergence of the aggregate": of_bits.divergence,
            }
            for what, value in values.items():
                found.setdefault(f"{name}: {what}", []).append(value)
            if seed == seeds[0]:
                curves[name] = vae.encode(few)
    means = {name: float(np.mean(v)) for name, v in found.items()}
    checks = (
        Check(
            name="plane: |log det| of the aggregate's covariance over that by the bound",
            value=means["InfoVAE: |log det|"] / means["bound: |log det|"],
            direction="<=",
            threshold=0.5,
            compared="both on the same 500 rows, means over seeds",
        ),
        Check(
            name="strong decoder: information in latents (nats)",
            value=means["InfoVAE: information"],
            direction=">=",
            threshold=1.0,
            compared="of 597 test rows, mean over seeds",
        ),
        Check(
            name="strong decoder: information by the bound over that",
            value=means["bound: information"] / max(means["InfoVAE: information"], 1e-6),
            direction="<=",
            threshold=0.2,
            compared="of 597 test rows, means over seeds",
        ),
    )
    return Result(checks, seeds, figures=means, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Where rows lie in the plane, beside three sds of the prior."""
    turn = 3.0 * np.exp(1j * np.linspace(0.0, 2.0 * np.pi, 200))
    with canvas(1, 2, size=(6.4, 3.0)) as (figure, axes):
        for ax, (name, z) in zip(axes[0], result.curves.items(), strict=True):
            ax.plot(*z.T, ".", markersize=3)
            ax.plot(turn.real, turn.imag, color="black", linewidth=0.8)
            ax.set(title=name, xlabel="first latent", ylabel="second", aspect="equal")
    return figure


# -- what the parts above need --------------------------------------------------------------------


def digits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some with pixels in [0, 1], and bits to train on and to test with."""
    x = np.asarray(ritz.data.load("digits")["x"], np.float32)
    x = x[np.random.default_rng(seed).permutation(len(x))].reshape(len(x), -1)
    bits = (x > 7.5).astype(np.float32)
    return x[:FEW] / 16.0, bits[:TRAIN], bits[TRAIN:]
