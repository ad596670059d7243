"""A transformer from a mixture prior and data to a mixture posterior beats ADVI, in a millisecond.

An amortised posterior knows one prior, that of its training. Here the prior is an input: a mixture
of Gaussians, one token for each component, with its weight, mean and Cholesky factor. The tokens
attend to each other and to tokens of the data, and each comes out as a component of the posterior,
at first unchanged. Trained on random priors, parameters from these, and data from those, by the
negative log density of the parameters, it answers for a prior that it has never seen.

Paper: G. Whittle, J. Ziomek, J. Rawling and M. Osborne, "Distribution transformers: fast
approximate Bayesian inference with on-the-fly prior adaptation", 2025, arXiv:2502.02463.

Scaled down: a logistic likelihood of 10 points in 2 dimensions and priors of 5 components, as in
the catalogue, where a grid gives the posterior; two layers of width 32. The paper's models are of a
few dimensions too. The baseline without the prior has the same network and training; its prior
tokens are constants, so that it can but average over priors. ADVI is `ritz.fit` with
family="full_rank".

Data: made here from the seed. Weights are Dirichlet(1, ..., 1), means N(0, 2.5^2), sds lognormal
around 0.6, correlations uniform on (-0.9, 0.9); inputs are N(0, 1).

Thresholds: the catalogue's. KL is KL(posterior || q), on a grid, averaged over 200 pairs of prior
and data; KL(q || posterior), which ADVI minimises, is recorded too. Times are medians of whole
calls in this run, `posteriors.fit(data)` against `ritz.fit(...)`; the first of each compiles.

Wrong variant: the simulator draws the prior that the tokens show and the prior that parameters come
from with different keys, so that they are two priors of the same kind. The loss falls as it should.
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ritz
from ritz.family import AbstractAmortised, Mixture, gaussians
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0,)
COMPONENTS, POINTS, PAIRS = 5, 10, 200
WIDTH, LAYERS, HEADS = 32, 2, 4
STEPS, DRAWS = 4000, 128
AXIS = np.linspace(-11.0, 11.0, 221)


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


class Layer(eqx.Module):
    """Components attend to each other, then to the data."""

    norms: list[eqx.nn.LayerNorm]
    among: eqx.nn.MultiheadAttention
    across: eqx.nn.MultiheadAttention
    forward: eqx.nn.MLP

    def __init__(self, key: Any) -> None:
        one, two, three = jax.random.split(key, 3)
        self.norms = [eqx.nn.LayerNorm(WIDTH) for _ in range(3)]
        self.among = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=one)
        self.across = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=two)
        self.forward = eqx.nn.MLP(WIDTH, WIDTH, 2 * WIDTH, 1, jax.nn.gelu, key=three)

    def __call__(self, h: Any, rows: Any) -> Any:
        first, second, third = map(jax.vmap, self.norms)
        at = first(h)
        h = h + self.among(at, at, at)
        h = h + self.across(second(h), rows, rows)
        return h + jax.vmap(self.forward)(third(h))


class DistributionTransformer(AbstractAmortised):
    """From the tokens of a mixture prior and of data to a mixture posterior."""

    components: eqx.nn.MLP
    rows: eqx.nn.MLP
    layers: list[Layer]
    out: eqx.nn.Linear
    sees_prior: bool = eqx.field(static=True)

    def __init__(self, key: Any, sees_prior: bool = True) -> None:
        one, two, three, four = jax.random.split(key, 4)
        self.components = eqx.nn.MLP(6, WIDTH, WIDTH, 1, jax.nn.gelu, key=one)
        self.rows = eqx.nn.MLP(3, WIDTH, WIDTH, 1, jax.nn.gelu, key=two)
        self.layers = [Layer(k) for k in jax.random.split(three, LAYERS)]
        out = eqx.nn.Linear(WIDTH, 6, key=four)
        self.out = eqx.tree_at(lambda o: (o.weight, o.bias), out, replace_fn=lambda v: 0.01 * v)
        self.sees_prior = sees_prior

    @property
    def dim(self) -> int:
        return 2

    def condition(self, data: Any) -> Mixture:
        prior = data["prior"] if self.sees_prior else jnp.asarray(typical_prior())
        h = jax.vmap(self.components)(prior)
        rows = jax.vmap(self.rows)(data["rows"])
        for layer in self.layers:
            h = layer(h, rows)
        return mixture(prior + jax.vmap(self.out)(h))


def mixture(tokens: Any) -> Mixture:
    """A mixture from its tokens: log weight, mean, log diagonal of the factor, and below it
    in units of that diagonal."""
    lower = jnp.zeros((len(tokens), 2, 2)).at[:, 1, 0].set(tokens[:, 5])
    return gaussians(tokens[:, 0], tokens[:, 1:3], tokens[:, 3:5], lower)


def simulator(wrong: bool = False) -> Any:
    """Draws of parameters from a random prior, with that prior and data."""

    def simulate(key: Any) -> Any:
        one, two, three = jax.random.split(key, 3)
        shown = random_prior(one)
        prior = random_prior(jax.random.fold_in(one, 1)) if wrong else shown
        theta = mixture(prior).sample(two)
        return theta, {"prior": shown, "rows": random_rows(three, theta)}

    return ritz.target.from_simulator(simulate, log_joint)


def log_joint(theta: Any, data: Any) -> Any:
    """log p(theta) + log p(y | theta), with the prior that the data hold."""
    rows = data["rows"]
    sign = 2.0 * rows[:, 2] - 1.0
    likelihood = jax.nn.log_sigmoid(sign * (rows[:, :2] @ theta)).sum()
    return mixture(data["prior"]).log_prob(theta) + likelihood


def learn(seed: int, steps: int, *, sees_prior: bool = True, wrong: bool = False) -> Any:
    """A trained transformer."""
    network = DistributionTransformer(jax.random.key(seed), sees_prior)
    return ritz.amortise(
        simulator(wrong), encoder=network, steps=steps, draws=DRAWS, seed=seed, progress=False
    )


# -- the baseline: measured in the same run -------------------------------------------------------


def advi(data: Any, seed: int) -> Any:
    """A full-rank fit of the same posterior, and the seconds that it took."""
    began = time.perf_counter()
    target = simulator().given(data)
    fit = ritz.fit(target, family="full_rank", steps=2000, lr=0.05, seed=seed, progress=False)
    return fit.q, time.perf_counter() - began


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """KL divergences and times over pairs of prior and data that nobody has seen."""
    steps, pairs = (STEPS // 10, 20) if quick else (STEPS, PAIRS)
    kl: dict[str, list[float]] = {"transformer": [], "without prior": [], "ADVI": []}
    back: dict[str, list[float]] = {name: [] for name in kl}
    seconds: dict[str, list[float]] = {"transformer": [], "ADVI": []}
    example: dict[str, Any] = {}
    for seed in seeds:
        ours = learn(seed, steps, wrong=wrong)
        denied = learn(seed, steps, sees_prior=False)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 77), pairs)
        cases = jax.vmap(simulator().simulate)(keys)[1]
        for i in range(pairs):
            data = jax.tree.map(lambda v, i=i: v[i], cases)
            began = time.perf_counter()
            mine = jax.block_until_ready(ours.fit(data).q)
            seconds["transformer"].append(time.perf_counter() - began)
            theirs, spent = advi(data, seed)
            seconds["ADVI"].append(spent)
            families = {"transformer": mine, "without prior": denied.fit(data).q, "ADVI": theirs}
            for name, q in families.items():
                forward, reverse, picture = divergences(q, data)
                kl[name].append(forward)
                back[name].append(reverse)
                if i == 0:
                    example |= {name: picture[0], "posterior": picture[1]}
    mean = {name: float(np.mean(values)) for name, values in kl.items()}
    took = {name: float(np.median(values)) for name, values in seconds.items()}
    ours_kl, ratio = mean["transformer"], took["transformer"] / took["ADVI"]
    checks = (
        Check("KL over that without prior tokens", ours_kl / mean["without prior"], "<=", 0.5,
              "mean KL(posterior || q), the same network and training"),
        Check("KL over ADVI's", ours_kl / mean["ADVI"], "<=", 1.0,
              "mean KL(posterior || q), a full-rank fit to each pair"),
        Check("time over ADVI's", ratio, "<=", 0.05, "median seconds of a call, after the first"),
    )  # fmt: skip
    figures = {f"mean KL(p || q), {name}": value for name, value in mean.items()}
    figures |= {f"mean KL(q || p), {name}": float(np.mean(v)) for name, v in back.items()}
    figures |= {f"seconds, {name}": value for name, value in took.items()}
    curves = {name: np.asarray(values) for name, values in kl.items()}
    return Result(checks, seeds, figures, curves | {"example": example})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """One posterior and its approximations, and the divergences of all."""
    example = result.curves["example"]
    with canvas(1, 4, size=(12.0, 3.0)) as (figure, (axes,)):
        for ax, name in zip(axes, ("posterior", "transformer", "ADVI"), strict=False):
            ax.contourf(AXIS, AXIS, example[name].T, levels=12, cmap="Blues")
            ax.set(title=name, xlim=(-7.0, 7.0), ylim=(-7.0, 7.0))
        for name in ("transformer", "without prior", "ADVI"):
            values = np.sort(result.curves[name])
            axes[3].semilogx(values, np.linspace(0.0, 1.0, len(values)), label=name)
        axes[3].set(title="pairs of prior and data", xlabel="KL(posterior || q)", ylabel="share")
        axes[3].legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def random_prior(key: Any) -> Any:
    """Tokens of a random mixture."""
    one, two, three, four = jax.random.split(key, 4)
    log_weights = jnp.log(jax.random.dirichlet(one, jnp.ones(COMPONENTS)) + 1e-6)
    means = 2.5 * jax.random.normal(two, (COMPONENTS, 2))
    log_sd = jnp.log(0.6) + 0.4 * jax.random.normal(three, (COMPONENTS, 2))
    rho = jax.random.uniform(four, (COMPONENTS,), minval=-0.9, maxval=0.9)
    rest = jnp.sqrt(1.0 - rho**2)
    log_scale = log_sd + jnp.stack([jnp.zeros(COMPONENTS), jnp.log(rest)], 1)
    return jnp.column_stack([log_weights, means, log_scale, rho / rest])


def typical_prior() -> np.ndarray:
    """What stands in place of prior tokens where these are denied: five of average size."""
    angle = 2.0 * np.pi * np.arange(COMPONENTS) / COMPONENTS
    tokens = np.zeros((COMPONENTS, 6), np.float32)
    tokens[:, 1], tokens[:, 2] = 2.5 * np.cos(angle), 2.5 * np.sin(angle)
    return tokens


def random_rows(key: Any, theta: Any) -> Any:
    """Inputs and labels."""
    one, two = jax.random.split(key)
    x = jax.random.normal(one, (POINTS, 2))
    y = jax.random.bernoulli(two, jax.nn.sigmoid(x @ theta))
    return jnp.column_stack([x, y.astype(x.dtype)])


@jax.jit
def _on_grid(q: Any, data: Any) -> Any:
    points = jnp.stack(jnp.meshgrid(AXIS, AXIS, indexing="ij"), -1).reshape(-1, 2)
    log_p = jax.vmap(lambda x: log_joint(x, data))(points)
    return log_p, jax.vmap(q.log_prob)(points)


def divergences(q: Any, data: Any) -> tuple[float, float, Any]:
    """KL(p || q) and KL(q || p) on the grid, with both densities."""
    log_p, log_q = (np.asarray(v, float).reshape(len(AXIS), -1) for v in _on_grid(q, data))
    cell = (AXIS[1] - AXIS[0]) ** 2
    log_p = log_p - log_p.max()
    log_p = log_p - np.log(np.exp(log_p).sum() * cell)
    p, density = np.exp(log_p), np.exp(log_q)
    forward = float((p * (log_p - log_q)).sum() * cell)
    return forward, float((density * (log_q - log_p)).sum() * cell), (density, p)
