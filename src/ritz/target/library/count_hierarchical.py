"""Overdispersed counts in groups: visits to the doctor under six insurance plans."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.data import load
from ritz.target.library._standardise import standardise

SOURCE = "RAND health insurance experiment, with statsmodels"


def data() -> dict[str, Any]:
    """Return every twentieth person-year: visits, plan, and four standardised health measures.

    Neighbouring rows are years of one person, so a stride keeps the rows nearly independent.

    Returns:
        the model's arguments; a plan is a coinsurance rate with or without a deductible.

    Raises:
        RitzError: if statsmodels is not installed.

    >>> data()["n_plan"], data()["X"].shape
    (6, (1010, 4))
    """
    rows = {name: column[::20] for name, column in load("randhie").items()}
    plans = np.stack([rows["lncoins"], rows["idp"]], axis=1)
    _, plan = np.unique(plans, axis=0, return_inverse=True)
    health = np.stack([rows[name] for name in ("disea", "physlm", "hlthf", "hlthp")], axis=1)
    return {
        "X": standardise(health),
        "plan": plan.reshape(-1),
        "n_plan": int(plan.max()) + 1,
        "y": rows["mdvis"],
    }


def model(
    X: Array | np.ndarray, plan: Array | np.ndarray, n_plan: int, y: ArrayLike | None = None
) -> None:
    """Negative binomial visits, log-linear in health, with an intercept for each plan.

    Args:
        X: rows by health measures.
        plan: each row's plan, from 0.
        n_plan: how many plans there are.
        y: visits in the year.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["intercept"]["value"].shape
    (6,)
    """
    rows, features = X.shape
    mu = numpyro.sample("mu", dist.Normal(1.0, 1.0))
    tau = numpyro.sample("tau", dist.HalfNormal(0.5))
    with numpyro.plate("features", features):
        beta = numpyro.sample("beta", dist.Normal(0.0, 0.5))
    with numpyro.plate("plans", n_plan):
        intercept = jnp.asarray(numpyro.sample("intercept", dist.Normal(mu, tau)))
    # Variance = mean + mean² / shape: the smaller the shape, the more overdispersed.
    shape = numpyro.sample("shape", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("rows", rows):
        mean = jnp.exp(intercept[plan] + X @ beta)
        numpyro.sample("y", dist.NegativeBinomial2(mean, shape), obs=y)
