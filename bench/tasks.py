"""Four models with a family each, and how the gradients of their negative ELBOs are measured.

Only JAX and NumPy are used here, so that a peer in an environment of its own measures the same
model at the same parameters, in the same way. Each task is written once, as functions of arrays;
peers that have a modelling language write the model in it, and their mean gradient is held against
the exact one, so that another model, or a wrong estimator, does not go unnoticed.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jax.scipy.stats import norm

BATCH = 64
FACTORS = 5
MEANS, SPREAD = (1.5, 4.9), 0.8  # of petal lengths
NODES = np.polynomial.hermite_e.hermegauss(40)


class Task(NamedTuple):
    """A negative ELBO, as a sum over rows that no choice shares.

    Attributes:
        params: of the family.
        draw: from a key and params to choices (rows, choices of a row).
        log_q: from params and choices to one number a row.
        log_joint: from choices to one number a row; linear in a coin where coins are relaxed.
        exact: from params to the negative ELBO, or None where a mean over draws is the reference.
    """

    params: Any
    draw: Callable[[Any, Any], Any]
    log_q: Callable[[Any, Any], Any]
    log_joint: Callable[[Any], Any]
    exact: Callable[[Any], Any] | None


def tasks(data: Any) -> dict[str, Task]:
    """The tasks, by name, from the arrays of `inputs`."""
    data = {k: jnp.asarray(v) for k, v in data.items()}
    return {
        "Bernoulli layer": bernoulli_layer(data),
        "Gamma-Poisson": gamma_poisson(data),
        "logistic regression": logistic(data),
        "mixture": mixture(data),
    }


def inputs(load: Callable[[str], Any]) -> dict[str, np.ndarray]:
    """Arrays that the tasks need, in single precision, from `ritz.data.load`."""
    rng = np.random.default_rng(0)
    digits, cancer = load("digits")["x"], load("breast_cancer")
    x = (cancer["x"] - cancer["x"].mean(0)) / cancer["x"].std(0)
    found = {
        "image": digits[0] > 7.5,
        "decoder": 0.5 * rng.normal(size=(16, 64)),
        "coins": rng.normal(size=(1, 16)),
        "counts": digits[:10],
        "loadings": rng.gamma(1.0, size=(FACTORS, 64)),
        "signed": x[:, :10] * np.where(cancer["y"] == 1, 1.0, -1.0)[:, None],
        "lengths": load("iris")["x"][:, 2],
        "assignments": 0.5 * rng.normal(size=(150, 1)),
    }
    return {k: np.asarray(v, np.float32) for k, v in found.items()}


def coin(logits: Any, z: Any) -> Any:
    """Log mass, linear in z."""
    return z * jax.nn.log_sigmoid(logits) + (1.0 - z) * jax.nn.log_sigmoid(-logits)


def flips(key: Any, logits: Any) -> Any:
    return jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(float)


def bernoulli_layer(data: Any) -> Task:
    """Sixteen fair coins under a decoder of 64 binary pixels."""

    def log_joint(z: Any) -> Any:
        logits = (z - 0.5) @ data["decoder"]
        return coin(logits, data["image"]).sum(-1) + 16 * jnp.log(0.5)

    def exact(logits: Any) -> Any:
        every = (jnp.arange(2**16)[:, None] >> jnp.arange(16)) % 2 * 1.0
        log_q = coin(logits, every).sum(-1)
        return jnp.exp(log_q) @ (log_q - log_joint(every))

    log_q = lambda logits, z: coin(logits, z).sum(-1)
    return Task(data["coins"], flips, log_q, log_joint, exact)


def log_gamma(shape: Any, rate: Any, z: Any) -> Any:
    """Log density."""
    return shape * jnp.log(rate) - gammaln(shape) + (shape - 1.0) * jnp.log(z) - rate * z


def gamma_poisson(data: Any) -> Task:
    """Ten images of 64 counts, each with five factors under fixed loadings."""

    def log_joint(z: Any) -> Any:
        rate, y = z @ data["loadings"], data["counts"]
        log_lik = y * jnp.log(rate) - rate - gammaln(y + 1.0)
        return log_lik.sum(-1) + log_gamma(0.5, 0.5, z).sum(-1)

    draw = lambda key, p: jax.random.gamma(key, jnp.exp(p[0])) / jnp.exp(p[1])
    log_q = lambda p, z: log_gamma(jnp.exp(p[0]), jnp.exp(p[1]), z).sum(-1)
    params = jnp.full((2, len(data["counts"]), FACTORS), jnp.log(5.0))
    return Task(params, draw, log_q, log_joint, None)


def logistic(data: Any) -> Task:
    """Ten standard normal weights and 569 labels; one row, as all weights meet all labels."""
    x = data["signed"]

    def log_joint(w: Any) -> Any:
        return jax.nn.log_sigmoid(w @ x.T).sum(-1) + norm.logpdf(w).sum(-1)

    def exact(p: Any) -> Any:
        loc, scale = p[0, 0], jnp.exp(p[1, 0])
        spread = jnp.sqrt((x**2) @ (scale**2))
        at = (x @ loc)[:, None] + spread[:, None] * NODES[0]
        log_lik = (jax.nn.log_sigmoid(at) @ (NODES[1] / NODES[1].sum())).sum()
        # the constants of prior and entropy, less 1 / 2 a weight
        return -log_lik + (0.5 * (loc**2 + scale**2) - jnp.log(scale) - 0.5).sum()

    draw = lambda key, p: p[0] + jnp.exp(p[1]) * jax.random.normal(key, p[0].shape)
    log_q = lambda p, w: norm.logpdf(w, p[0], jnp.exp(p[1])).sum(-1)
    params = jnp.stack([jnp.zeros((1, 10)), jnp.full((1, 10), -1.0)])
    return Task(params, draw, log_q, log_joint, exact)


def mixture(data: Any) -> Task:
    """Which of two normals 150 petal lengths are from."""
    y = data["lengths"][:, None]
    zero, one = (norm.logpdf(y, m, SPREAD) + jnp.log(0.5) for m in MEANS)
    log_joint = lambda z: ((1.0 - z) * zero + z * one).sum(-1)

    def exact(logits: Any) -> Any:
        q = jax.nn.sigmoid(logits)
        return (coin(logits, q) - (1.0 - q) * zero - q * one).sum()

    log_q = lambda logits, z: coin(logits, z).sum(-1)
    return Task(data["assignments"], flips, log_q, log_joint, exact)


# -- gradients ------------------------------------------------------------------------------------

Gradient = Callable[[Any, Any], Any]  # from a key and params to the estimated gradient


def by_hand(task: Task) -> Gradient:
    """The score function, each row credited with its own cost."""
    stop = jax.lax.stop_gradient

    def surrogate(params: Any, key: Any) -> Any:
        z = stop(task.draw(key, params))
        log_q = task.log_q(params, z)
        cost = log_q - task.log_joint(z)
        return (cost + stop(cost) * (log_q - stop(log_q))).sum()

    return lambda key, params: jax.grad(surrogate)(params, key)


def reference(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The gradient and its squared standard error."""
    if task.exact is not None:
        found = np.asarray(jax.jit(jax.grad(task.exact))(task.params), float).ravel()
        return found, np.zeros_like(found)

    def loss(params: Any, key: Any) -> Any:
        z = task.draw(key, params)
        return (task.log_q(params, z) - task.log_joint(z)).sum()

    path = lambda key, params: jax.grad(loss)(params, key)
    keys = jax.random.split(jax.random.key(3), 100_000)
    draws = np.asarray(over_keys(path)(keys, task.params), float).reshape(len(keys), -1)
    return draws.mean(0), draws.var(0) / len(draws)


def over_keys(gradient: Gradient) -> Any:
    """Gradients for many keys, 64 at once."""
    return jax.jit(
        lambda keys, params: jax.lax.map(lambda k: gradient(k, params), keys, batch_size=BATCH)
    )


def measured(
    task: Task, gradients: dict[str, Gradient], draws: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Variance, seconds and distance from the exact gradient of each, or what it raised.

    Runs are interleaved, so that a machine that is busy for a while is so for all.
    """
    keys, rows, compiled = jax.random.split(jax.random.key(1), draws), {}, {}
    exact, error = reference(task)
    for name, gradient in gradients.items():
        began = time.perf_counter()
        try:
            program = over_keys(gradient).lower(keys, task.params).compile()
        except Exception as refused:  # a peer's may be of any kind
            rows[name] = {"refused": f"{type(refused).__name__}: {refused}".splitlines()[0]}
            continue
        seconds = time.perf_counter() - began
        found = np.asarray(program(keys, task.params), float).reshape(draws, -1)
        variance = found.var(0)
        rounding = 1e-5 * np.abs(exact).max()
        off = found.mean(0) - exact
        z = np.abs(off) / (np.sqrt(variance / draws + error) + rounding)
        rows[name] = {
            "variance": float(variance.sum()),
            "compile": seconds,
            "z": float(z.max()),  # the largest of as many as there are parameters
            "bias": float(np.linalg.norm(off) / np.linalg.norm(exact)),
        }
        compiled[name] = program
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(repeats):
        for name, program in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(program(keys, task.params))
            times[name].append(time.perf_counter() - began)
    for name, found in times.items():
        rows[name]["seconds"] = statistics.median(found) / draws
    base = rows["score, by hand"]
    for name in compiled:
        row = rows[name]
        row["product"] = row["variance"] * row["seconds"] / (base["variance"] * base["seconds"])
    return rows
