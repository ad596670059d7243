"""What scikit-learn expects of an estimator, without a need for it."""

import inspect
from typing import Any

from ritz._errors import RitzError


class Estimator:
    """Arguments of `__init__` that can be read and set by name; `fit_` once it has been fitted."""

    fit_: Any

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What it was made with."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Any:
        """Change what it was made with.

        Raises:
            RitzError: for a name that it does not have.
        """
        kind, names = type(self).__name__, self._names()
        for name, value in params.items():
            if name not in names:
                raise RitzError(f"{kind} has no parameter {name!r}; it has {', '.join(names)}")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fit_")

    @property
    def _fitted(self) -> Any:
        if not hasattr(self, "fit_"):
            raise RitzError(f"this {type(self).__name__} has not been trained: call fit(x) first")
        return self.fit_

    @classmethod
    def _names(cls) -> list[str]:
        return [n for n in inspect.signature(cls.__init__).parameters if n != "self"]
