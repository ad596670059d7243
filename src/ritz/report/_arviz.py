"""A fit as ArviZ InferenceData."""

import warnings
from typing import Any

import numpy as np


def to_arviz(fit: Any, coords: dict[str, Any] | None = None) -> Any:
    """InferenceData of a fit; see `Fit.to_arviz`."""
    with warnings.catch_warnings():
        # ArviZ announces its own future once a day, whatever is done with it.
        warnings.simplefilter("ignore", FutureWarning)
        import arviz as az
    target, draws = fit.target, fit.draws
    quantities = (*target.sites, *target.deterministic, *target.observed)
    dims = {q.name: list(q.dims) for q in quantities if q.dims}
    groups: dict[str, Any] = {"posterior": _one_chain(draws)}
    if hasattr(fit, "predict"):
        groups["posterior_predictive"] = _one_chain(fit.predict(n=len_of(draws)))
        groups["log_likelihood"] = _one_chain(fit.log_likelihood())
        groups["observed_data"] = fit.observed_data()
    sizes = {d: n for q in quantities for d, n in zip(q.dims, q.shape, strict=True)}
    own = {name: np.arange(n) for name, n in sizes.items()}
    own |= {name: labels for name, labels in getattr(target, "coords", ()) if name in sizes}
    own |= coords or {}
    attrs = {k: v for k, v in fit.summary().facts.items() if type(v) in (str, int, float)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="More chains", category=UserWarning)
        idata = az.from_dict(**groups, dims=dims, coords=own)
    for group in idata.groups():
        idata[group].attrs.update(attrs | {"inference_library": "ritz"})
    return idata


def len_of(draws: dict[str, np.ndarray]) -> int:
    """How many draws there are."""
    return len(next(iter(draws.values())))


def _one_chain(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values)[None] for name, values in draws.items()}
