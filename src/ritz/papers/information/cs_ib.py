"""A bottleneck of Cauchy-Schwarz divergences regresses as well as a variational one.

An information bottleneck predicts y from a code t of x that says little about x. Its variational
form has a Gaussian decoder, so squared error, and bounds the information by a KL divergence from a
prior on codes. Here both are read off a minibatch's Gram matrices instead, with neither decoder nor
prior: the Cauchy-Schwarz divergence between the laws of y and of its prediction given x, and the
Cauchy-Schwarz quadratic mutual information of x and t. Such predictions err as little as the
variational bottleneck's, and less than those of squared error where inputs are attacked.

Paper: S. Yu, X. Yu, S. Løkse, R. Jenssen and J. Principe, "Cauchy-Schwarz divergence information
bottleneck for regression", ICLR 2024, arXiv:2404.17951. The baseline: A. Alemi, I. Fischer,
J. Dillon and K. Murphy, "Deep variational information bottleneck", ICLR 2017, arXiv:1612.00410.

Scaled down: four of the paper's tables, 2,000 rows of kin8nm, a network of 64 and 64 units and a
code of 16, 1,000 steps of minibatches of 64. All methods have one encoder and a linear decoder, so
that the mean code gives the mean prediction; they train side by side on the same minibatches. VIB
learns its codes' noise, CS-IB has a fixed one, as only the KL charge pushes noise up. Each
bottleneck has six settings: six betas, or three betas and two noises. Setting and step (of 20
looks) are those with the least RMSE on validation rows, split by split; MSE has its step chosen
alike. Inputs and labels are standardised. FGSM steps along the sign of squared error's gradient.

Kernel widths: the paper's is about 1. At 1 a row has 0.6 to 2.5 neighbours in its minibatch, the
divergence leaves rough residuals unpunished, and test RMSE was 1.07 times VIB's in boston and in
concrete; at 3 it was twice VIB's in boston. Here it is 0.25, with 0.00 to 0.11 neighbours. That is
close to limits without x: -2 log mean exp(-e^2 / 2 w^2) of errors e, and minus the log of the mean
of codes' Gram matrix. Widths and noises were chosen on seeds 0 to 4 and 100 to 104.

Data: UCI boston, concrete, energy and kin8nm, from the folder RITZ_DATA; 64% of the rows train, 16%
validate, 20% test, dealt anew for each seed.

Thresholds: the catalogue's. The third lowest of four ratios is at most the bound where three are.
From seeds 0, 100 and 1000, of which the last were not seen before, it was 0.994, 1.004 and 0.994
of VIB's RMSE, and 0.974, 0.963 and 0.951 of MSE's under attack; the wrong variant's were
2.1 and 1.3. In single sets, from 0 and 1000, the former was 0.97 to 1.04. VIB withstands the
attack as well: CS-IB's RMSE was 0.97 to 1.00 of VIB's there.

Wrong variant: the inputs' Gram matrix is left out of the prediction term, so that the law of all
guesses meets the law of all labels, but no guess its own label.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ritz
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = tuple(range(5))  # a seed is a split
SETS = ("boston", "concrete", "energy", "kin8nm")
ROWS = 2000  # of kin8nm; the others have fewer
STEPS, LOOKS, BATCH, RATE = 1000, 20, 64, 0.003
HIDDEN, CODE = 64, 16
VIB_BETAS = (0.001, 0.003, 0.01, 0.02, 0.04, 0.1)
CS_BETAS, NOISES = (0.01, 0.03, 0.1), (0.15, 0.4)  # of CS-IB: as many settings
X_WIDTH, Y_WIDTH, CODE_WIDTH = 0.25, 1.5, 2.0  # sds of the kernels
ATTACKS = (0.0, 0.05, 0.1, 0.15, 0.2)  # 0 and 0.1 are checked
CHECKED = ATTACKS.index(0.1)
METHODS = ("MSE", "VIB", "CS-IB")


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def gram(a: Any, b: Any, width: float) -> Any:
    """Gaussian kernels between rows of a and rows of b."""
    squares = ((a[:, None] - b[None]) ** 2).reshape(len(a), len(b), -1).sum(-1)
    return jnp.exp(-0.5 * squares / width**2)


def conditional_divergence(near: Any, y: Any, guess: Any) -> Any:
    """Cauchy-Schwarz divergence of guesses from labels, given inputs whose Gram matrix is `near`.

    Each integral of a product of two laws is estimated from kernel densities at the inputs.
    """
    weight = near.sum(1) ** -2.0
    product = lambda a, b: jnp.log(weight @ (near * gram(a, b, Y_WIDTH)).sum(1))
    return product(y, y) + product(guess, guess) - 2.0 * product(guess, y)


def mutual_information(near: Any, close: Any) -> Any:
    """Cauchy-Schwarz quadratic mutual information of samples with these two Gram matrices."""
    joint, product = jnp.log((near * close).mean()), jnp.log(near.mean() * close.mean())
    return joint + product - 2.0 * jnp.log((near.mean(1) * close.mean(1)).mean())


def hidden(p: Any, x: Any) -> Any:
    """The encoder's last hidden units."""
    return jax.nn.relu(jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])


def encode(p: Any, x: Any) -> Any:
    """An input's code; the mean of it where it is noisy."""
    return hidden(p, x) @ p["w3"] + p["b3"]


def decode(p: Any, t: Any) -> Any:
    """A code's prediction: linear, so that the mean code gives the mean prediction."""
    return t @ p["w4"] + p["b4"]


class Networks(eqx.Module):
    """Networks by method, each for all its settings and all splits, trained side by side."""

    params: dict[str, Any]  # (settings, splits, ...)
    settings: dict[str, Any]
    x: Any  # (splits, rows, columns)
    y: Any
    divergence: Any = eqx.field(static=True)
    oracles = frozenset({"grad"})

    def cs_loss(self, p: Any, x: Any, y: Any, how: Any, key: Any) -> Any:
        """Of the bottleneck of Cauchy-Schwarz divergences; `how` is beta and the noise's sd."""
        mean = encode(p, x)
        t = mean + how[1] * jax.random.normal(key, mean.shape)
        near = gram(x, x, X_WIDTH)
        charge = mutual_information(near, gram(t, t, CODE_WIDTH))
        return self.divergence(near, y, decode(p, t)) + how[0] * charge

    def grad(self, params: Any, key: Any, batch: Any = None) -> tuple[Any, dict[str, Any]]:
        def draw(key: Any, x: Any, y: Any) -> tuple[Any, Any]:
            rows = jax.random.choice(key, len(y), (BATCH,), replace=False)
            return x[rows], y[rows]

        keys = jax.random.split(key, (2, len(self.x)))
        x, y = jax.vmap(draw)(keys[0], self.x, self.y)

        def total(params: Any) -> Any:
            out = jnp.zeros(())
            losses = (mse_loss, vib_loss, self.cs_loss)
            for name, loss in zip(METHODS, losses, strict=True):
                each = jax.vmap(jax.vmap(loss, (0, 0, 0, None, 0)), (0, None, None, 0, None))
                out += each(params[name], x, y, self.settings[name], keys[1]).sum()
            return out

        loss, grad = jax.value_and_grad(total)(params)
        return grad, {"loss": loss}


def train(data: Any, divergence: Any, seeds: tuple[int, ...], steps: int) -> dict[str, np.ndarray]:
    """Test RMSEs by method, split and strength of attack, each where validation RMSE is least."""
    settings = {
        "MSE": jnp.zeros(1),
        "VIB": jnp.asarray(VIB_BETAS),
        "CS-IB": jnp.asarray([(beta, noise) for noise in NOISES for beta in CS_BETAS]),
    }
    first = [_start(seed, data["train"][0].shape[-1]) for seed in seeds]
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *first)
    repeated = lambda n: jax.tree.map(lambda v: jnp.tile(v, (n, *(1,) * v.ndim)), stacked)
    params = {name: repeated(len(how)) for name, how in settings.items()}
    x, y = data["train"]
    problem = Networks(params, settings, x, y, divergence)
    adam, key = ritz.solver.adam(RATE, steps), jax.random.key(seeds[0])
    errors = jax.jit(jax.vmap(jax.vmap(_errors), (0, None, None)))
    state, valid, test = None, {name: [] for name in METHODS}, {name: [] for name in METHODS}
    for start in range(0, steps, steps // LOOKS):
        state = ritz.solver.run(
            problem,
            adam,
            steps // LOOKS,
            key,
            state=state,
            start=start,
            progress=False,
            strict=True,
        ).state
        for name in METHODS:
            valid[name].append(errors(state.params[name], *data["validation"])[..., 0])
            test[name].append(errors(state.params[name], *data["test"]))
    return {name: _at_least(np.stack(valid[name]), np.stack(test[name])) for name in METHODS}


# -- the baselines: the same encoder and decoder, trained in the same run -------------------------


def mse_loss(p: Any, x: Any, y: Any, how: Any, key: Any) -> Any:
    """Squared error."""
    return ((decode(p, encode(p, x)) - y) ** 2).mean()


def vib_loss(p: Any, x: Any, y: Any, how: Any, key: Any) -> Any:
    """Squared error from a noisy code, and beta times its KL divergence from a standard normal."""
    mean, log_sd = encode(p, x), hidden(p, x) @ p["w_sd"] + p["b_sd"]
    t = mean + jnp.exp(log_sd) * jax.random.normal(key, mean.shape)
    charge = 0.5 * (mean**2 + jnp.exp(2.0 * log_sd) - 1.0 - 2.0 * log_sd).sum(-1)
    return ((decode(p, t) - y) ** 2).mean() + how * charge.mean()


# -- the wrong variant: what the checks must catch ------------------------------------------------


def marginal_divergence(near: Any, y: Any, guess: Any) -> Any:
    """Forgets the inputs: the divergence of all guesses from all labels."""
    return conditional_divergence(jnp.ones_like(near), y, guess)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Both bottlenecks and plain training on four data sets."""
    divergence = marginal_divergence if wrong else conditional_divergence
    errors: dict[str, dict[str, np.ndarray]] = {}
    figures: dict[str, float] = {}
    sets = SETS[:1] if quick else SETS
    for name in sets:
        data = _data(name, seeds)
        found = train(data, divergence, seeds, 2 * LOOKS if quick else STEPS)
        errors[name] = {method: v * data["sd"][:, None] for method, v in found.items()}
        for method, v in errors[name].items():
            figures[f"{name}: test RMSE, {method}"] = float(v[:, 0].mean())
            figures[f"{name}: attacked RMSE, {method}"] = float(v[:, CHECKED].mean())
    ratio = lambda over, i: [
        float(v["CS-IB"][:, i].mean() / v[over][:, i].mean()) for v in errors.values()
    ]
    clean, attacked = ratio("VIB", 0), ratio("MSE", CHECKED)
    for name, a, b in zip(sets, clean, attacked, strict=True):
        figures |= {f"{name}: test RMSE over VIB's": a, f"{name}: attacked over MSE's": b}
    what = "mean over splits, the third lowest of four data sets"
    third = lambda ratios: sorted(ratios)[:3][-1]
    checks = (
        Check("test RMSE over VIB's", third(clean), "<=", 1.02, what),
        Check("attacked RMSE over MSE's", third(attacked), "<=", 1.0, what),
    )
    return Result(checks, seeds, figures, {"errors": errors})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """RMSE as a share of plain training's, against the strength of the attack."""
    shown = result.curves["errors"]
    with canvas(1, len(shown), size=(12.0, 3.2)) as (figure, (axes,)):
        for ax, (name, errors) in zip(axes, shown.items(), strict=True):
            mean = {method: v.mean(0) for method, v in errors.items()}
            if ax is not axes[0]:
                ax.sharey(axes[0])
            ax.axhline(1.0, color="black", lw=1.0)
            for mark, method in zip("so", METHODS[1:], strict=True):
                share = mean[method] / mean["MSE"]
                ax.plot(ATTACKS, share, marker=mark, mfc="none", label=method)
            over = mean["CS-IB"][0] / mean["VIB"][0]
            ax.set(title=f"{name}: {over:.3f} × VIB's at 0", xlabel="FGSM step (sds of an input)")
        axes[0].set_ylabel("test RMSE / plain training's")
        axes[0].legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------

PARTS = ("train", "validation", "test")


def _errors(p: Any, x: Any, y: Any) -> Any:
    """RMSEs after one step along the sign of squared error's gradient in x, for each strength."""
    predict = lambda x: decode(p, encode(p, x))
    sign = jnp.sign(jax.grad(lambda x: ((predict(x) - y) ** 2).sum())(x))
    rmse = lambda step: jnp.sqrt(((predict(x + step * sign) - y) ** 2).mean())
    return jnp.stack([rmse(step) for step in ATTACKS])


def _at_least(valid: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Test errors of the look and setting with the least validation error: (splits, strengths)."""
    looks, settings, splits = valid.shape
    best = valid.reshape(looks * settings, splits).argmin(0)
    return test.reshape(looks * settings, splits, -1)[best, np.arange(splits)]


def _start(seed: int, columns: int) -> dict[str, Any]:
    """Weights that keep the scale of a layer, and codes with little noise."""
    rng = np.random.default_rng((seed, 1))
    sizes = {"w1": (columns, HIDDEN), "w2": (HIDDEN, HIDDEN), "w3": (HIDDEN, CODE)}
    p = {name: rng.normal(size=s) * (2.0 / s[0]) ** 0.5 for name, s in sizes.items()}
    p["w3"] /= 2.0**0.5
    p["w4"] = rng.normal(size=CODE) / CODE**0.5
    p |= {"b1": np.zeros(HIDDEN), "b2": np.zeros(HIDDEN), "b3": np.zeros(CODE), "b4": np.zeros(())}
    p |= {"w_sd": np.zeros((HIDDEN, CODE)), "b_sd": np.full(CODE, -3.0)}
    return {name: jnp.asarray(v, dtype=float) for name, v in p.items()}


def _data(name: str, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Standardised inputs and labels by part, splits first, and the sds of labels."""
    table, out = ritz.data.load(f"uci/{name}"), []
    for seed in seeds:
        order = np.random.default_rng((seed, 0)).permutation(len(table["y"]))[:ROWS]
        x, y = table["x"][order].astype(float), table["y"][order].astype(float).ravel()
        ends = [int(0.64 * len(y)), int(0.8 * len(y))]
        x_sd = x[: ends[0]].std(0)
        x = (x - x[: ends[0]].mean(0)) / np.where(x_sd > 0.0, x_sd, 1.0)
        sd = y[: ends[0]].std()
        y = (y - y[: ends[0]].mean()) / sd
        out.append(([*zip(np.split(x, ends), np.split(y, ends), strict=True)], sd))
    parts = jax.tree.map(lambda *v: jnp.asarray(np.stack(v), dtype=float), *[v[0] for v in out])
    return dict(zip(PARTS, parts, strict=True)) | {"sd": np.stack([v[1] for v in out])}
