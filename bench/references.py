"""What `default_fit.py` holds answers against: the posteriors, and references for packaged targets.

Moments and quantiles in float64 of long runs that are made once and kept
(default_fit_reference.json): NumPyro's NUTS, 4 chains of 4,000 draws thinned from 16,000; where its
chains stay in a mode or a draw costs too much, four runs of sequential Monte Carlo from a wide
normal law, whose moves are BlackJAX's Hamiltonian steps with the particles' covariance. That of
eight_schools_centered is posteriordb's. R-hat and effective draws are those of the four.

    python bench/references.py [--only NAME ...]
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from posteriors import POSTERIORS, flatten, load_data, reference  # noqa: E402

import ritz  # noqa: E402
from ritz.target import library  # noqa: E402

# In which of their sites the chains are non-centred, for their necks' sake.
APART = {
    "horseshoe_breast_cancer": ("beta",),
    "item_response_davis": ("difficulty", "discrimination", "discrimination_base"),
}
# Particles of a run, where it is sequential Monte Carlo, and moves and leaps at each temperature.
PARTICLES = {
    "gaussian_mixture": (4000, 10, 8),
    "hidden_markov_nile": (2000, 10, 8),
    "gp_regression": (300, 5, 5),
}
# Whose posterior is that of another one, too.
SAME = {"mixture_iris": "gaussian_mixture"}
REFERENCE = HERE / "results" / "default_fit_reference.json"
QUANTILES = {"q5": 0.05, "q50": 0.5, "q95": 0.95}
# Two modes of a symmetric lattice field: no sampler of one chain a mode has a reference for it.
PACKAGED = [n for n in library.names() if n not in ("lattice_phi4", "eight_schools_centered")]
CHAINS, KEPT = 4, 1000


def model_of(name: str) -> tuple[Any, dict[str, Any]]:
    if name in POSTERIORS:
        return POSTERIORS[name].model, POSTERIORS[name].data(load_data(name))
    packaged = library.get(name)
    return packaged.model, packaged.data()


def flat(name: str, draws: dict[str, Any]) -> np.ndarray:
    """Draws as rows of numbers, in the order of the reference."""
    if name in POSTERIORS:
        return flatten(name, draws, batch_ndim=1)
    sites = [s.name for s in ritz.target.from_numpyro(*placed(name)).sites]
    rows = [np.asarray(draws[s], float).reshape(len(draws[s]), -1) for s in sites]
    return np.concatenate(rows, axis=1)


def placed(name: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The model with its arguments, as `from_numpyro` takes them."""
    model, data = model_of(name)
    binding = ritz.data.bind(model, data)
    return model, binding.args, binding.kwargs


def known(name: str) -> dict[str, np.ndarray]:
    if name in POSTERIORS:
        return reference(name)
    row = json.loads(REFERENCE.read_text())[name]
    return {key: np.asarray(row[key]) for key in ("mean", "sd", *QUANTILES) if key in row}


def apart(message: dict[str, Any]) -> Any:
    """A way to write a site of `APART` with standard normals."""
    import numpyro.distributions as dist
    from numpyro.infer.reparam import LocScaleReparam, TransformReparam

    if not any(message["name"] in sites for sites in APART.values()):
        return None
    law = message["fn"]
    while isinstance(law, dist.Independent | dist.ExpandedDistribution):
        law = law.base_dist
    return TransformReparam() if isinstance(law, dist.LogNormal) else LocScaleReparam(0)


def of_nuts(
    name: str, seed: int, lengths: tuple[int, int] = (1000, KEPT), thinning: int = 1
) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpyro
    from numpyro.infer import MCMC, NUTS

    model, args, kwargs = placed(name)
    if thinning > 1 and name in APART:
        model = numpyro.handlers.reparam(model, config=apart)
    began = time.perf_counter()
    chains = MCMC(
        NUTS(model, target_accept_prob=0.8 if thinning == 1 else 0.95),
        num_warmup=lengths[0],
        num_samples=lengths[1],
        thinning=thinning,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    count = ("num_steps", "diverging")
    chains.warmup(jax.random.key(seed), *args, extra_fields=count, collect_warmup=True, **kwargs)
    gradients = int(np.asarray(chains.get_extra_fields()["num_steps"]).sum())
    chains.run(jax.random.key(seed + 1), *args, extra_fields=count, **kwargs)
    fields = chains.get_extra_fields()
    gradients += int(np.asarray(fields["num_steps"]).sum())
    draws = {k: np.asarray(v) for k, v in chains.get_samples().items()}
    seconds = time.perf_counter() - began
    row = {"seconds": seconds, "evaluations": float(gradients)}
    return row | {"diverging": int(np.asarray(fields["diverging"]).sum())}, draws


def of_smc(
    name: str, seed: int, particles: int, moves: int, leaps: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Tempered from a normal law of sd 3; draws by run, in the order of the reference."""
    import blackjax
    import jax.numpy as jnp

    target = ritz.target.from_numpyro(*placed(name))
    middle = target.start(jax.random.key(0))[0]
    wide = lambda x: jax.scipy.stats.norm.logpdf(x, middle, 3.0).sum()
    began, count = time.perf_counter(), 0

    @jax.jit
    def gain(x: Any) -> Any:
        return jax.lax.map(lambda x: target.log_density(x) - wide(x), x, batch_size=100)

    @jax.jit
    def moved(x: Any, beta: Any, cov: Any, step: Any, keys: Any) -> Any:
        tempered = lambda x: (1.0 - beta) * wide(x) + beta * target.log_density(x)
        move: Any = blackjax.hmc(tempered, step, cov, leaps)

        def one(at: Any) -> Any:
            x, key = at
            state, rates = jax.lax.scan(
                lambda s, k: (lambda new, info: (new, info.acceptance_rate))(*move.step(k, s)),
                move.init(x),
                jax.random.split(key, moves),
            )
            return state.position, rates.mean()

        return jax.lax.map(one, (x, keys), batch_size=100)

    runs = []
    for run in range(CHAINS):
        rng, key = np.random.default_rng(seed + run), jax.random.key(seed + run)
        x = middle + 3.0 * jnp.asarray(rng.normal(size=(particles, target.dim)))
        beta, step = 0.0, 0.3
        while beta < 1.0:
            log_w = np.nan_to_num(np.asarray(gain(x)), nan=-np.inf)
            low, high = 0.0, 1.0 - beta  # the longest step that leaves half the effective draws
            share = lambda d, log_w=log_w: np.exp(
                2 * np.logaddexp.reduce(d * log_w) - np.logaddexp.reduce(2 * d * log_w)
            )
            if share(high) >= 0.5 * particles:
                low = high
            else:
                for _ in range(50):
                    middle_step = 0.5 * (low + high)
                    good = share(middle_step) >= 0.5 * particles
                    low, high = (middle_step, high) if good else (low, middle_step)
            weights = np.exp(low * log_w - np.logaddexp.reduce(low * log_w))
            beta = min(1.0, beta + low) if low < 1.0 - beta else 1.0
            places = (np.arange(particles) + rng.uniform()) / particles  # systematic
            order = np.minimum(np.searchsorted(np.cumsum(weights), places), particles - 1)
            x = x[order]
            rounds = 1 if beta < 1.0 else 5
            for _ in range(rounds):
                cov = jnp.asarray(np.cov(np.asarray(x).T) + 1e-10 * np.eye(target.dim))
                key, now = jax.random.split(key)
                x, rates = moved(x, beta, cov, step, jax.random.split(now, particles))
                rate, count = float(np.mean(rates)), count + particles * moves * leaps
                step = float(np.clip(step * np.exp(rate - 0.8), 0.02, 1.0))
        runs.append(flat(name, jax.vmap(target.constrain)(x)))
        print(name, "run", run, round(time.perf_counter() - began), "s, moves accepted", rate)
    row = {"seconds": time.perf_counter() - began, "evaluations": float(count)}
    return row, np.stack(runs)


def of_subsets(name: str, seed: int, n: int) -> np.ndarray:
    """Independent draws where features are in or out, in the order of the reference.

    Given a subset and the noise's sd, coefficients are conjugate; the share of features that are in
    is Beta given how many are. The sd is on a grid of 400 points.
    """
    data = model_of(name)[1]
    x, y = np.asarray(data["X"], float), np.asarray(data["y"], float)
    features, slab = x.shape[1], 0.25
    subsets = (np.arange(2**features)[:, None] >> np.arange(features)) % 2 == 1
    sigma = np.linspace(0.3, 1.5, 400)
    gram, cross = x.T @ x, x.T @ y
    log_p = np.empty((len(subsets), len(sigma)))
    for i, used in enumerate(subsets):
        k = int(used.sum())
        values, vectors = np.linalg.eigh(gram[np.ix_(used, used)])
        told = (vectors.T @ cross[used]) ** 2
        variances = values + sigma[:, None] ** 2 / slab
        quadratic = (y @ y - (told / variances).sum(axis=1)) / sigma**2
        log_det = len(y) * np.log(sigma**2) + np.log1p(values * slab / sigma[:, None] ** 2).sum(1)
        of_share = math.lgamma(2 + k) + math.lgamma(2 + features - k)
        log_p[i] = of_share - 0.5 * (quadratic + log_det + sigma**2)
    rng = np.random.default_rng(seed)
    p = np.exp(log_p - log_p.max())
    rows = []
    for at in rng.choice(p.size, n, p=(p / p.sum()).ravel()):
        used, sd = subsets[at // len(sigma)], sigma[at % len(sigma)]
        k = int(used.sum())
        beta = rng.normal(0.0, slab**0.5, features)
        cov = np.linalg.inv(gram[np.ix_(used, used)] / sd**2 + np.eye(k) / slab)
        beta[used] = rng.multivariate_normal(cov @ cross[used] / sd**2, cov)
        rows.append([rng.beta(2 + k, 2 + features - k), sd, *beta])
    return np.asarray(rows)


def make_reference(names: list[str]) -> None:
    """Moments by long runs, and their R-hat and effective draws."""
    import arviz

    found = json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}
    for name in names:
        if name in SAME:
            found[name] = found[SAME[name]]
            REFERENCE.write_text(json.dumps(found, indent=1) + "\n")
            continue
        if name == "selection_diabetes":
            row, chains = {}, of_subsets(name, 100, 4 * 20_000).reshape(4, 20_000, -1)
        elif name in PARTICLES:
            row, chains = of_smc(name, 100, *PARTICLES[name])
        else:
            row, draws = of_nuts(name, 100, (1500, 4 * KEPT), thinning=4)
            values = flat(name, draws)
            chains = values.reshape(CHAINS, -1, values.shape[1])
        sets = arviz.convert_to_dataset({"x": chains})
        values = chains.reshape(-1, chains.shape[2])
        row |= {
            "rhat": float(np.asarray(arviz.rhat(sets)["x"]).max()),
            "ess": float(np.asarray(arviz.ess(sets)["x"]).min()),
            "mean": values.mean(axis=0).tolist(),
            "sd": values.std(axis=0).tolist(),
        }
        row |= {k: np.quantile(values, q, axis=0).tolist() for k, q in QUANTILES.items()}
        found[name] = row
        told = ("seconds", "evaluations", "diverging", "rhat", "ess")
        print(name, {k: row[k] for k in told if k in row}, flush=True)
        REFERENCE.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*")
    jax.config.update("jax_enable_x64", True)
    make_reference(parser.parse_args().only or PACKAGED)


if __name__ == "__main__":
    main()
