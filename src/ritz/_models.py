"""From what a user gives to what is fitted: the target of a model and its data."""

from typing import Any

from ritz import data as _data
from ritz._errors import RitzError
from ritz.target import AbstractTarget, from_batches, from_numpyro, from_pymc, is_pymc


def make_target(model: Any, data: Any = None) -> AbstractTarget:
    """The target that `fit(model, data)` would fit.

    Raises:
        RitzError: where the data and the model do not fit.
    """
    return targeted(model, data)[0]


def targeted(model: Any, data: Any, discrete: Any = None) -> tuple[AbstractTarget, Any, Any]:
    """The target, its batches and its binding (None where there are none).

    Raises:
        RitzError: where the data and the model do not fit.
    """
    if isinstance(model, AbstractTarget):
        if discrete is not None:
            raise RitzError(
                "discrete arrived with a target, which has decided it; give it to "
                "ritz.target.from_numpyro"
            )
        if model.in_batches:
            if not isinstance(data, _data.Batches):
                raise RitzError(
                    f"a {type(model).__name__} takes its rows in batches: pass "
                    "data=ritz.data.batches({'x': rows}, size)"
                )
            return model, data, None
        if data is None:
            return model, None, None
        raise RitzError(
            "data arrived with a target that holds its own; pass fit(model, data), or rebuild the "
            "target with the new data"
        )
    if is_pymc(model):
        if data is None:
            return from_pymc(model), None, None
        raise RitzError(
            "data arrived with a PyMC model, which holds its own; give it other data with "
            "pm.set_data, and leave out data"
        )
    if not callable(model):
        packaged = f"; for a packaged one, ritz.target.library.get({model!r})"
        raise RitzError(
            f"a model arrived as {type(model).__name__}; expected a NumPyro model function or a "
            f"target from ritz.target.from_log_density{packaged if isinstance(model, str) else ''}"
        )
    if isinstance(data, _data.Batches):
        return from_batches(model, data, discrete=discrete), data, None
    binding = _data.bind(model, data)
    return from_numpyro(model, binding.args, binding.kwargs, discrete=discrete), None, binding
