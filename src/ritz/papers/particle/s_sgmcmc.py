"""Groups of coordinates that see others' earlier values mix faster, and train a network sooner.

Langevin dynamics moves all coordinates by the gradient where all of them stand. Here the force on a
group is that at the other groups' values of earlier iterates. This breaks what couples groups: the
stationary law is the best product of laws of groups, whose covariances are the inverse precision
blocks, and the slow directions along which groups move together are gone. By dropout only a random
share of groups has earlier values, all in one gradient.

Paper: A. Alexos, A. Boyd and S. Mandt, "Structured stochastic gradient MCMC", ICML 2022,
arXiv:2107.09028.

Scaled down: a Gaussian in ten dimensions with full gradients, 200 chains that share their memory;
and one chain of a perceptron 196-50-10 in place of ResNet-20 on CIFAR-10. A chain of a network
draws from its own iterates alone: units of different chains have no common order.

Data: mnist10k (MNIST's test images, in place of Fashion-MNIST) averaged over 2 x 2 pixels, the
first 8,000 to train and the last 2,000 to test. Settings are tuned on the last 1,000 training
images after training on the first 7,000, with two seeds that are not the recorded ones: six steps
for SGLD, by its last accuracy, and six pairs of step and share for dropout, by how soon it gets
there. Batch, budget, memory, the 200 groups at random and the eight masks a step were chosen by
hand on the same images with one of these seeds.

Accuracy is that of the mean prediction of the later half of iterates so far, averaged over seeds;
the goal is SGLD's after twelve epochs, and both are looked at every four steps.

Where it does not hold: epochs are counted, not gradients, of which dropout takes eight a batch. The
budget is short: after 30 epochs both were at 0.92 on validation images. With one mask and chains
that shared their memory, or in batches of 100, it gained nothing.

Thresholds: the catalogue's. Before the recorded run errors were at most 0.052, correlations 0.011,
times 0.17 of SGLD's, and epochs 0.69 of SGLD's. A step h adds about h/2 of a block's precision to
its covariance, and as much again comes from the noise of others' values: 4% for all apart.

Wrong variant: the partition is lost on its way, so that all coordinates are one group.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import ritz
from ritz.papers._base import Check, Result
from ritz.particle import Langevin, Structured, langevin, structured_langevin
from ritz.plot import canvas

SEEDS = (0, 1, 2)
TUNED_ON = (1000, 1001)
# The Gaussian: two blocks of five, of which coordinates pairwise correlate by RHO.
RHO = 0.9
WITHIN = 0.5 * np.eye(5) + 0.5
STEP, EVERY, KEEP, BURN, CHAINS = 0.004, 20, 400, 100, 200
PARTITIONS = {"two blocks": (0,) * 5 + (1,) * 5, "all apart": tuple(range(10))}
# The network: images of 14 x 14, HIDDEN units, and weights in GROUPS groups at random.
SIDE, HIDDEN, GROUPS, TRAIN, VALIDATION = 14, 50, 200, 8000, 1000
BATCH, EPOCHS, LOOK = 500, 12, 4
MEMORY, PARTNERS = {"keep": 10, "every": 2}, 8
SGLD = (1.5e-3, 2e-3, 2.5e-3, 3e-3, 3.5e-3, 4e-3)
DROPOUT = tuple((h, share) for h in (2.5e-3, 3e-3, 3.5e-3) for share in (0.4, 0.5))


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def broken(groups: Any, keep: int, wrong: bool) -> Any:
    """Langevin dynamics of the Gaussian in groups."""
    groups = lost(groups) if wrong else groups
    return structured_langevin(groups, STEP, keep=keep, every=EVERY)


def dropout(step: float, share: float, wrong: bool) -> Any:
    """That of the network, of whose groups a share has earlier values."""
    groups = np.random.default_rng(0).permutation(np.arange(WEIGHTS) % GROUPS).tolist()
    groups = lost(groups) if wrong else groups
    right = structured_langevin(groups, step, dropout=share, partners=PARTNERS, **MEMORY)
    return Looking(**vars(right))


# -- the baseline: measured in the same run -------------------------------------------------------


def sgld(step: float) -> Any:
    """Stochastic gradient Langevin dynamics of the network."""
    return Plain(**vars(langevin(step, metric=None)))


# -- the wrong variant: what the checks must catch ------------------------------------------------


def lost(groups: Any) -> Any:
    """The partition is lost: all coordinates are in one group."""
    return tuple(0 for _ in groups)


# -- the experiment -------------------------------------------------------------------------------


class Plain(Langevin):
    """Stops to look after every few steps."""

    def next_look(self, state: Any) -> Any:
        return (int(state.made) // LOOK + 1) * LOOK


class Looking(Structured):
    """The same for groups."""

    next_look = Plain.next_look


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Moments and autocorrelations of a Gaussian in groups, and a network's accuracy by epoch."""
    figures: dict[str, float] = {}
    used = seeds[:1] if quick else seeds
    gaussian = _gaussian(used, wrong, quick, figures)
    curves, settings = _network(used, wrong, quick)
    goal = float(curves["SGLD"][-1])
    looks = {name: _reached(curve, goal) for name, curve in curves.items()}
    per = TRAIN // BATCH // LOOK
    figures |= settings | {f"epochs to the goal, {name}": n / per for name, n in looks.items()}
    figures |= {f"final accuracy, {name}": float(curve[-1]) for name, curve in curves.items()}
    ratio, both = looks["dropout"] / looks["SGLD"], "dropout with SGLD, both tuned, mean over seeds"
    error, cross, kept, time, shown = gaussian
    checks = (
        Check("error of a block's covariance", error, "<=", 0.1, "with inverse precision blocks"),
        Check("correlation across groups", cross, "<=", 0.05, "largest at the stationary law"),
        Check(
            "error of SGLD's correlations", kept, "<=", 0.05, "across blocks, with the true ones"
        ),
        Check("share of SGLD's autocorrelation time", time, "<=", 0.7, "slowest, at equal step"),
        Check("share of epochs to SGLD's final accuracy", ratio, "<=", 0.8, both),
    )
    return Result(checks, seeds, figures, {"accuracy": curves, "goal": goal, "draws": shown})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Draws of two coordinates of different blocks, and accuracy by epoch."""
    curves = result.curves
    with canvas(1, 2, size=(8.0, 3.4)) as (figure, axes):
        for name, x in curves["draws"].items():
            axes[0, 0].plot(*x.T, ".", ms=2.0, alpha=0.6, label=name)
        axes[0, 0].set(xlabel="first coordinate", ylabel="the one that it correlates with")
        axes[0, 0].legend()
        for name, each in curves["accuracy"].items():
            axes[0, 1].plot(np.arange(1, len(each) + 1) * LOOK * BATCH / TRAIN, each, label=name)
        axes[0, 1].axhline(curves["goal"], color="black", lw=0.8)
        axes[0, 1].set(xlabel="epoch", ylabel="test accuracy, mean over seeds")
        axes[0, 1].legend()
    return figure


# -- what the parts above need: the Gaussian ------------------------------------------------------


def _gaussian(seeds: Any, wrong: bool, quick: bool, figures: dict[str, float]) -> Any:
    """Worst errors, correlations across groups and shares of autocorrelation times."""
    covariance = np.kron([[1.0, RHO], [RHO, 1.0]], WITHIN)
    precision = np.linalg.inv(covariance)
    shared = jnp.asarray(precision)
    target = ritz.target.from_log_density(lambda x: -0.5 * x @ shared @ x, jnp.zeros(10))
    chains, keep, burn = (50, KEEP // 20, BURN // 20) if quick else (CHAINS, KEEP, BURN)

    def traces(solver: Any, seed: int) -> np.ndarray:
        start = np.random.default_rng(seed).multivariate_normal(np.zeros(10), covariance, chains)
        family = ritz.family.Particles(jnp.asarray(start), True)
        made: dict[str, Any] = {"steps": EVERY * (burn + keep), "seed": seed, "progress": False}
        q: Any = ritz.fit(target, family=family, solver=solver, **made).q
        kept = np.asarray(q.points, float).reshape(keep, chains, 10)
        return np.roll(kept, -((burn + keep + 1) % keep), axis=0)  # the oldest first

    plain = langevin(STEP, metric=None, keep=keep, every=EVERY)
    drawn = {"SGLD": [traces(plain, seed) for seed in seeds]}
    for name, groups in PARTITIONS.items():
        drawn[name] = [traces(broken(groups, keep, wrong), seed) for seed in seeds]
    pooled = {
        name: np.concatenate([x.reshape(-1, 10) for x in each]) for name, each in drawn.items()
    }
    times = {name: np.mean([_times(x) for x in each], axis=0) for name, each in drawn.items()}
    errors, cross, share = [], [], []
    for name, partition in PARTITIONS.items():
        groups, found = np.asarray(partition), np.cov(pooled[name].T)
        apart = groups[:, None] != groups
        exact = np.linalg.inv(np.where(apart, 0.0, precision))
        blocks = [np.ix_(groups == g, groups == g) for g in set(partition)]
        norm = np.linalg.norm
        errors.append(max(float(norm((found - exact)[b]) / norm(exact[b])) for b in blocks))
        cross.append(float(np.abs(np.corrcoef(pooled[name].T)[apart]).max()))
        share.append(float(times[name].max() / times["SGLD"].max()))
        figures[f"error of a block, {name}"] = errors[-1]
        figures[f"correlation across groups, {name}"] = cross[-1]
        figures[f"share of SGLD's autocorrelation time, {name}"] = share[-1]
    off = np.corrcoef(pooled["SGLD"].T) - covariance
    figures["autocorrelation time of SGLD"] = float(times["SGLD"].max())
    shown = {name: x[:: len(x) // 600][:, [0, 5]] for name, x in pooled.items()}
    return max(errors), max(cross), float(np.abs(off[:5, 5:]).max()), max(share), shown


def _times(x: np.ndarray) -> np.ndarray:
    """Integrated autocorrelation times in steps: sums of correlations up to where they vanish."""
    n = len(x)
    spectrum = np.abs(np.fft.rfft(x, 2 * n, axis=0)) ** 2
    found = np.fft.irfft(spectrum, axis=0)[:n].mean(axis=1) / np.arange(n, 0, -1)[:, None]
    found = found / found[0]
    ends = [int(np.argmax(each < 0.02)) or n for each in found.T]
    return EVERY * np.array(
        [2.0 * each[:end].sum() - 1.0 for each, end in zip(found.T, ends, strict=True)]
    )


# -- what the parts above need: the network -------------------------------------------------------


def classifier(x: Any, y: Any) -> None:
    """A perceptron with standard normal weights."""
    normal: Any = dist.Normal(0.0, 1.0)
    inside = numpyro.sample("inside", normal.expand((HIDDEN, SIDE**2 + 1)).to_event(2))
    outside = numpyro.sample("outside", normal.expand((HIDDEN, 10)).to_event(2))
    answer: Any = dist.Categorical(logits=_logits(inside, outside, x))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", answer, obs=y)


def _logits(inside: Any, outside: Any, x: Any) -> Any:
    hidden = jax.nn.relu(x @ inside[:, :-1].T / SIDE + inside[:, -1])
    return hidden @ outside / HIDDEN**0.5


WEIGHTS = HIDDEN * (SIDE**2 + 1 + 10)


@jax.jit
def _probabilities(weights: Any, x: Any) -> Any:
    cut = HIDDEN * (SIDE**2 + 1)
    inside, outside = weights[:cut].reshape(HIDDEN, -1), weights[cut:].reshape(HIDDEN, 10)
    return jax.nn.softmax(_logits(inside, outside, x))


def _accuracy(rows: Any, held: Any, solver: Any, epochs: int, seed: int) -> np.ndarray:
    """At each look, that of the mean prediction of the later half of iterates."""
    seen, found = [], []

    def look(state: Any, step: int, info: Any) -> None:
        if step % LOOK == 0:
            seen.append(np.asarray(_probabilities(state.params.points[0], held[0])))
            mean = np.mean(seen[len(seen) // 2 :], axis=0)
            found.append((mean.argmax(axis=1) == held[1]).mean())

    start = np.random.default_rng(seed).normal(size=(1, WEIGHTS))
    family = ritz.family.Particles(jnp.asarray(0.5 * start), True)
    batches = ritz.data.batches({"x": rows[0], "y": rows[1]}, BATCH, seed=seed)
    made: dict[str, Any] = {"steps": len(rows[1]) // BATCH * epochs, "seed": seed}
    made |= {"progress": False, "callbacks": [look]}
    ritz.fit(classifier, batches, family=family, solver=solver, **made)
    return np.array(found)


def _network(seeds: Any, wrong: bool, quick: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Both methods' test accuracies, means over seeds, and their settings."""
    images = ritz.data.load("mnist10k")
    x = np.asarray(images["images"], np.float32).reshape(-1, SIDE, 2, SIDE, 2).mean(axis=(2, 4))
    x, y = x.reshape(-1, SIDE**2), np.asarray(images["labels"], np.int32)
    x = (x - x[:TRAIN].mean()) / x[:TRAIN].std()
    some = slice(0, TRAIN - VALIDATION), slice(TRAIN - VALIDATION, TRAIN)
    epochs, few, tuned = (
        (1, slice(0, 1), TUNED_ON[:1]) if quick else (EPOCHS, slice(None), TUNED_ON)
    )
    fit, held = ((x[i], y[i]) for i in some)
    mean = lambda rows, seen, solver, over: np.mean(
        [_accuracy(rows, seen, solver, epochs, seed) for seed in over], axis=0
    )
    tried = lambda solver: mean(fit, held, solver, tuned)
    slow = {step: tried(sgld(step)) for step in SGLD[few]}
    step = max(slow, key=lambda at: slow[at][-1])
    fast = {at: tried(dropout(*at, wrong)) for at in DROPOUT[few]}
    pair = min(fast, key=lambda at: (_reached(fast[at], slow[step][-1]), -fast[at].mean()))
    whole, test = (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])
    solvers = {"SGLD": sgld(step), "dropout": dropout(*pair, wrong)}
    curves = {name: mean(whole, test, each, seeds) for name, each in solvers.items()}
    return curves, {"step, SGLD": step, "step, dropout": pair[0], "share, dropout": pair[1]}


def _reached(curve: np.ndarray, goal: float) -> int:
    """The first look at which a curve is as high as a goal; one after the last if there is none."""
    return int(np.argmax(curve >= goal)) + 1 if (curve >= goal).any() else len(curve) + 1
