"""Methods of a fit that are absent where it cannot answer them."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ritz.family import AbstractFamily, lacking

F = TypeVar("F", bound=Callable[..., Any])


class OnlyIf:
    """A method that is absent where the fit cannot answer it."""

    def __init__(self, able: Callable[[Any], bool], reason: str, method: Any) -> None:
        self.able, self.reason, self.method = able, reason, method
        functools.update_wrapper(self, method)  # pyright: ignore

    def __get__(self, fit: Any, owner: Any = None) -> Any:
        if fit is None:
            return self.method
        if not self.able(fit):
            raise AttributeError(f"this fit has no {self.method.__name__}: {self.reason}")
        return self.method.__get__(fit, owner)


def only_if(able: Callable[[Any], bool], reason: str) -> Callable[[F], F]:
    return lambda method: OnlyIf(able, reason, method)  # pyright: ignore


def weighs(q: AbstractFamily) -> bool:
    """Whether draws of q come with importance weights."""
    return not lacking({"sample_and_log_prob"}, q.capabilities)


density = only_if(
    lambda fit: (
        "log_prob" in fit.q.capabilities and fit.target.has_transforms and fit.correction is None
    ),
    "its family has no log_prob, its transforms are not known without the model, or its draws are "
    "corrected by importance weights (fit.q has the density before)",
)
weights = only_if(
    lambda fit: weighs(fit.q) and fit.target.has_full_density,
    "it needs a family with log_prob or sample_and_log_prob, and a target whose density can be "
    "evaluated on all data",
)
model = only_if(
    lambda fit: bool(fit.target.observed) and fit.target.has_model,
    "it needs a NumPyro model with observed sites (load a saved fit with its model)",
)
discrete = only_if(
    lambda fit: bool(getattr(fit.target, "lines", ())) and fit.target.has_full_density,
    "it needs a NumPyro model with discrete latent sites that sees all data",
)
