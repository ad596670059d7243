"""What a user clicks next is ranked better when clicks share one probability over all items.

The likelihood of a user's clicks is multinomial: items compete for them, and how many clicks there
are tells nothing. The encoder sees a part of the clicks, and the divergence is weighted by less
than one, rising from zero, by what ranks best on validation users. A Gaussian likelihood of the
same networks also spends latents on how active users are, and ranks worse; so does the full weight.

Paper: D. Liang, R. G. Krishnan, M. D. Hoffman and T. Jebara, "Variational autoencoders for
collaborative filtering", WWW 2018, arXiv:1802.05814.

Scaled down: 2,000 users and 500 items in place of 136,677 and 20,108, one hidden layer of 50 units
in place of 600, and 16 latents in place of 200.

Data: made here from the seeds. Eight traits of a user, through 32 tanh units, give logits of items,
beside a popularity of each; a user clicks on different items, in proportion to their exponentials,
5 to 200 of them, 12 in the median, log-normal with a log sd of 1. Of 1,600 users all clicks are
seen; of 200 for validation and 200 for the test a fifth of the clicks is hidden.

Tuning: the weight of either likelihood is the best of four on validation users. The Gaussian's
noise is learned, which is the stronger baseline; the paper's is one. With users who are about
equally active (log sd 0.5) both likelihoods rank about as well.

Thresholds: the catalogue's, but that it asks for more than the full weight's, whatever the margin.
NDCG is that of the first 20 items, those that were seen left out.

Wrong variant: the weight is one, whatever validation says.
"""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import ndcg_score

from ritz.latent import VAE, denoising_elbo, gaussian, mlp, multinomial
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2, 3, 4)
USERS, ITEMS, KEPT, FIRST = 2000, 500, 200, 20
LATENT, HIDDEN, EPOCHS, BATCH = 16, 50, 100, 100
WEIGHTS, WARMUP, DROPPED, HIDE = (0.1, 0.2, 0.5, 1.0), 500, 0.5, 0.2
LIKELIHOODS = {"multinomial": multinomial(), "Gaussian": gaussian(each=False)}


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


class Normalised(eqx.Module):
    """A network of clicks, which reads their direction."""

    network: Any

    def __call__(self, x: Any) -> Any:
        return self.network(x / jnp.maximum(jnp.linalg.norm(x), 1.0))


def encoder(inputs: Any, outputs: Any, key: Any) -> Normalised:
    """A builder of it."""
    return Normalised(mlp(HIDDEN, activation=jnp.tanh)(inputs, outputs, key))


def trained(name: str, weight: float, seed: int, epochs: int) -> VAE:
    """An autoencoder of users' clicks."""
    return VAE(
        LATENT,
        likelihood=LIKELIHOODS[name],
        encoder=encoder,
        decoder=mlp(HIDDEN, activation=jnp.tanh),
        objective=denoising_elbo(DROPPED, beta=weight, warmup=WARMUP),
        epochs=epochs,
        batch=BATCH,
        lr=2e-3,
        validation=0.0,
        seed=seed,
        progress=False,
    ).fit(clicks(seed)[0])


@functools.cache
def scores(name: str, weight: float, seed: int, epochs: int) -> tuple[float, float]:
    """NDCG of validation and of test users, once for both variants."""
    vae = trained(name, weight, seed, epochs)
    _, validation, test = clicks(seed)
    rank = lambda seen, hidden: ndcg(vae.decode(vae.encode(seen)), seen, hidden)
    return rank(*validation), rank(*test)


# -- the baseline: measured in the same run -------------------------------------------------------


def popular(seed: int) -> float:
    """NDCG of test users where all get the items that most have clicked."""
    train, _, (seen, hidden) = clicks(seed)
    return ndcg(np.broadcast_to(train.sum(axis=0), seen.shape), seen, hidden)


# -- the wrong variant: what the checks must catch ------------------------------------------------

FULL = (1.0,)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """NDCG of two likelihoods by weight, and of popularity."""
    epochs, weights = (1, WEIGHTS[-2:]) if quick else (EPOCHS, WEIGHTS)
    table = {
        name: np.array([[scores(name, w, seed, epochs) for w in weights] for seed in seeds])
        for name in LIKELIHOODS
    }
    allowed = [weights.index(w) for w in (FULL if wrong else weights)]
    mine = chosen(table["multinomial"], allowed)
    figures = {
        "multinomial": mine,
        "Gaussian": chosen(table["Gaussian"], range(len(weights))),
        "weight of one": float(table["multinomial"][:, -1, 1].mean()),
        "popularity": float(np.mean([popular(seed) for seed in seeds])),
    }
    limits = {"Gaussian": 1.03, "weight of one": 1.01, "popularity": 1.2}
    checks = tuple(
        Check(
            name=f"NDCG@{FIRST}, as a share of that of: {name}",
            value=mine / figures[name],
            direction=">=",
            threshold=limit,
            compared="hidden clicks of test users, means over seeds",
        )
        for name, limit in limits.items()
    )
    curves = {name: v[..., 1] for name, v in table.items()} | {"weights": np.array(weights)}
    return Result(checks, seeds, figures=figures, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """NDCG by weight, each seed and the mean."""
    with canvas(1, 1, size=(5.2, 3.4)) as (figure, axes):
        ax, weights = axes[0][0], result.curves["weights"]
        for color, name in enumerate(LIKELIHOODS):
            found = result.curves[name]
            ax.plot(weights, found.mean(axis=0), "o-", color=f"C{color}", label=name)
            ax.plot(weights, found.T, ".", color=f"C{color}", alpha=0.4)
        ax.axhline(result.figures["popularity"], color="0.5", ls="--", label="popularity")
        ax.set(
            xscale="log", xlabel="weight of the divergence", ylabel=f"NDCG@{FIRST}", ylim=(0, None)
        )
        ax.legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def chosen(table: np.ndarray, allowed: Any) -> float:
    """NDCG of test users at the weight that is best on validation users, mean over seeds."""
    part = table[:, list(allowed)]
    best = part[..., 0].argmax(axis=1)
    return float(part[np.arange(len(part)), best, 1].mean())


def ndcg(score: Any, seen: np.ndarray, hidden: np.ndarray) -> float:
    """Of hidden clicks, where items that were seen are not shown again."""
    least = np.min(score) - 1.0
    return float(ndcg_score(hidden, np.where(seen > 0, least, score), k=FIRST))


@functools.cache
def clicks(seed: int) -> tuple[np.ndarray, Any, Any]:
    """Of training users; seen and hidden ones of validation users, and of test users."""
    rng = np.random.default_rng(seed)
    units = np.tanh(rng.normal(size=(USERS, 8)) @ rng.normal(size=(8, 32)) * 0.53)
    logits = 0.75 * units @ rng.normal(size=(32, ITEMS)) + rng.normal(size=ITEMS)
    many = np.clip(12.0 * np.exp(rng.normal(size=USERS)), 5, 200).astype(int)
    rank = (-logits - rng.gumbel(size=logits.shape)).argsort(axis=1).argsort(axis=1)
    x = (rank < many[:, None]).astype(np.float32)  # in order of arrival, without replacement
    hidden = np.zeros_like(x)
    for row, user in zip(hidden, x, strict=True):
        on = np.flatnonzero(user)
        row[rng.choice(on, max(1, round(HIDE * len(on))), replace=False)] = 1.0
    part = lambda s: (x[s] - hidden[s], hidden[s])
    return x[: -2 * KEPT], part(slice(-2 * KEPT, -KEPT)), part(slice(-KEPT, None))
