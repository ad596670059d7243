"""NumPyro's gradients of the tasks in `tasks.py`: its models and guides, and what ELBOs give."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import param, plate, sample
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from tasks import FACTORS, MEANS, SPREAD, Gradient, Task


class ScoredNormal(dist.Normal):
    """A normal whose draws NumPyro does not differentiate."""

    reparametrized_params: ClassVar = []


class ScoredGamma(dist.Gamma):
    """A gamma whose draws NumPyro does not differentiate."""

    reparametrized_params: ClassVar = []


def gradient(model: Any, guide: Any, elbo: Any) -> Gradient:
    def one(key: Any, params: Any) -> Any:
        return jax.grad(lambda p: elbo.loss(key, {"params": p}, model, guide))(params)

    return one


def gradients(name: str, task: Task, data: Any) -> dict[str, Gradient]:
    """By the name of an ELBO; only those that serve: Trace_ELBO has no score term."""
    data = {k: jnp.asarray(v) for k, v in data.items()}
    parts: Callable[..., Any] = {
        "Bernoulli layer": coins,
        "Gamma-Poisson": counts,
        "logistic regression": weights,
        "mixture": components,
    }[name]
    return {f"NumPyro {how}": gradient(*pair) for how, pair in parts(task.params, data).items()}


def given(start: Any) -> Any:
    """The parameters of a guide."""
    return param("params", start)


def coins(start: Any, data: Any) -> dict[str, Any]:
    def model() -> None:
        with plate("units", 16):
            z = sample("z", dist.Bernoulli(0.5))
        with plate("pixels", 64):
            logits = (z - 0.5) @ data["decoder"]
            sample("x", dist.Bernoulli(logits=logits), obs=data["image"])

    def guide() -> None:
        logits = given(start)[0]
        with plate("units", 16):
            sample("z", dist.Bernoulli(logits=logits))

    return {"TraceGraph_ELBO": (model, guide, TraceGraph_ELBO())}


def counts(start: Any, data: Any) -> dict[str, Any]:
    rows, factors = plate("rows", len(data["counts"]), dim=-2), plate("factors", FACTORS, dim=-1)

    def model() -> None:
        with rows:
            with factors:
                z = sample("z", dist.Gamma(0.5, 0.5))
            rate = (z @ data["loadings"])[:, None]
            sample("y", dist.Poisson(rate).to_event(1), obs=data["counts"][:, None])

    def guide(family: Any) -> Callable[[], None]:
        def program() -> None:
            shape, rate = jnp.exp(given(start))
            with rows, factors:
                sample("z", family(shape, rate))

        return program

    return {
        "Trace_ELBO": (model, guide(dist.Gamma), Trace_ELBO()),
        "TraceGraph_ELBO": (model, guide(ScoredGamma), TraceGraph_ELBO()),
    }


def weights(start: Any, data: Any) -> dict[str, Any]:
    def model() -> None:
        w = sample("w", dist.Normal(jnp.zeros(10), 1.0).to_event(1))
        with plate("rows", len(data["signed"])):
            logits = data["signed"] @ w
            sample("y", dist.Bernoulli(logits=logits), obs=jnp.ones(len(logits)))

    def guide(family: Any) -> Callable[[], None]:
        def program() -> None:
            loc, log_scale = given(start)[:, 0]
            sample("w", family(loc, jnp.exp(log_scale)).to_event(1))

        return program

    return {
        "Trace_ELBO": (model, guide(dist.Normal), Trace_ELBO()),
        "TraceGraph_ELBO": (model, guide(ScoredNormal), TraceGraph_ELBO()),
    }


def components(start: Any, data: Any) -> dict[str, Any]:
    y = data["lengths"]

    def model() -> None:
        with plate("rows", len(y)):
            z = sample("z", dist.Bernoulli(0.5))
            sample("y", dist.Normal(jnp.array(MEANS)[z], SPREAD), obs=y)

    def guide(infer: Any) -> Callable[[], None]:
        def program() -> None:
            logits = given(start)[:, 0]
            with plate("rows", len(y)):
                sample("z", dist.Bernoulli(logits=logits), infer=infer)

        return program

    return {
        "TraceGraph_ELBO": (model, guide({}), TraceGraph_ELBO()),
        "TraceEnum_ELBO": (model, guide({"enumerate": "parallel"}), TraceEnum_ELBO()),
    }


VERSION = numpyro.__version__
