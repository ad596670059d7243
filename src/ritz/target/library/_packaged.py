"""The list of packaged targets; a target's own module is imported when it is asked for."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from ritz._errors import RitzError, suggest

_DESCRIPTIONS = {
    "count_hierarchical": "doctor visits: negative binomial, intercepts by insurance plan",
    "eight_schools": "coaching effects in eight schools, non-centred",
    "eight_schools_centered": "coaching effects in eight schools, centred: a funnel",
    "fertility_countries": "births in 205 countries: a level and a trend for each",
    "gaussian_mixture": "iris petal lengths: two normals, assignments summed out, ordered means",
    "gp_classification_iris": "two species of iris: Gaussian process classification",
    "gp_regression": "ten years of CO2: Gaussian process of trend and season, function summed out",
    "hidden_markov_nile": "flow of the Nile: two regimes, discrete, summed along a scan",
    "horseshoe_breast_cancer": "tumours, 30 features: logistic regression, regularised horseshoe",
    "item_response_davis": "who went to which event: two-parameter item response",
    "lattice_phi4": "a scalar field on a 16 x 16 lattice near its critical point; no data",
    "logistic_breast_cancer": "tumours, 30 correlated features: logistic regression",
    "mixture_iris": "iris petal lengths: the mixture of two normals with discrete assignments",
    "ordinal_regression": "party identification of 944 voters: ordered logit",
    "poisson_counties": "cancer deaths in 301 counties: Poisson with a rate for each county",
    "robust_diabetes": "progression of diabetes, 10 features: Student-t regression",
    "selection_diabetes": "progression of diabetes: which of 10 features matter, spike and slab",
    "state_space_nile": "flow of the Nile: local level model, 100 latent states",
    "stochastic_volatility": "600 of Google's daily returns: AR(1) log-volatility",
}


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A model with its data.

    Attributes:
        name: its name.
        description: one line.
        source: where the data are from.
        model: the NumPyro model; its observations default to None, for predictions.
        data: returns the model's arguments by name, read afresh at each call.

    >>> get("eight_schools").data()["sigma"][:3]
    array([15., 10., 16.])
    """

    name: str
    description: str
    source: str
    model: Callable[..., None]
    data: Callable[[], dict[str, Any]]


def names() -> dict[str, str]:
    """List the packaged targets; nothing else is imported for it.

    Returns:
        name -> description.

    >>> names()["eight_schools"]
    'coaching effects in eight schools, non-centred'
    """
    return dict(_DESCRIPTIONS)


def get(name: str) -> Packaged:
    """Return a packaged target. Its data are read when `data()` is called.

    Args:
        name: one of `names()`.

    Returns:
        the model and its data.

    Raises:
        RitzError: if there is no such target.

    >>> get("state_space_nile").source
    'Cobb (1978), with statsmodels'
    """
    if name not in _DESCRIPTIONS:
        raise RitzError(f"there is no packaged target {name!r}; {suggest(name, _DESCRIPTIONS)}")
    module = importlib.import_module(f"ritz.target.library.{name}")
    return Packaged(name, _DESCRIPTIONS[name], module.SOURCE, module.model, module.data)
