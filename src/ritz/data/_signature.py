"""What a model can be called with."""

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any

from ritz._errors import RitzError, listed, suggest


@dataclasses.dataclass(frozen=True)
class Signature:
    """A model's arguments.

    Attributes:
        model: the model's name, for errors.
        parameters: its named parameters, in order.
        any_positional: whether it has `*args`.
        any_keyword: whether it has `**kwargs`.

    >>> signature_of(lambda x, y=None: None).required
    ('x',)
    """

    model: str
    parameters: tuple[inspect.Parameter, ...]
    any_positional: bool
    any_keyword: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def positional(self) -> tuple[str, ...]:
        """The names of the parameters that may be given by position."""
        return tuple(p.name for p in self.parameters if p.kind is not p.KEYWORD_ONLY)

    @property
    def required(self) -> tuple[str, ...]:
        """The names of the parameters that have no default."""
        return tuple(p.name for p in self.parameters if p.default is p.empty)

    def check_complete(self, given: Iterable[str], offered: Iterable[str]) -> None:
        """Refuse a call that lacks a required argument.

        Args:
            given: the arguments that have a value.
            offered: the names in the data, for the hint.

        Raises:
            RitzError: naming every argument that is missing.

        >>> signature_of(lambda x: None).check_complete(["x"], [])
        """
        have, known = set(given), list(offered)
        missing = [name for name in self.required if name not in have]
        if not missing:
            return
        if not known:
            raise RitzError(
                f"model {self.model!r} needs {listed(map(repr, missing))} and was given no data; "
                "pass data=(…,) or data={'" + missing[0] + "': …}"
            )
        near = suggest(missing[0], [name for name in known if name not in have])
        hint = near if near.startswith("did") else f"they have {listed(known)}"
        raise RitzError(
            f"model {self.model!r} needs {listed(map(repr, missing))}, which the data lack; {hint}"
        )

    def split(self, values: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Lay named values out as a call: by keyword wherever the model allows it.

        Args:
            values: argument -> value.

        Returns:
            positional and keyword arguments.

        Raises:
            RitzError: if a positional-only argument has a value and one before it has none.

        >>> signature_of(lambda x, y: None).split({"y": 1, "x": 2})
        ((), {'y': 1, 'x': 2})
        """
        only = [p for p in self.parameters if p.kind is p.POSITIONAL_ONLY]
        last = max((i for i, p in enumerate(only) if p.name in values), default=-1)
        args = []
        for parameter in only[: last + 1]:
            value = values.get(parameter.name, parameter.default)
            if value is parameter.empty:
                raise RitzError(
                    f"model {self.model!r} takes {parameter.name!r} by position only, so it cannot "
                    "be left out; remove the '/' from the model's arguments"
                )
            args.append(value)
        names = {parameter.name for parameter in only}
        return tuple(args), {name: v for name, v in values.items() if name not in names}


def signature_of(model: object) -> Signature:
    """Read a model's arguments off its definition.

    Args:
        model: any callable; one whose arguments Python cannot see is taken to accept anything.

    Returns:
        its signature.

    Raises:
        RitzError: if it is not callable.

    >>> signature_of(lambda x, *, y: None).positional
    ('x',)
    """
    if not callable(model):
        raise RitzError(f"the model is a {type(model).__name__}; expected a function")
    name = getattr(model, "__name__", type(model).__name__)
    try:
        parameters = list(inspect.signature(model).parameters.values())
    except (TypeError, ValueError):
        return Signature(name, (), any_positional=True, any_keyword=True)
    kinds = {p.kind for p in parameters}
    return Signature(
        name,
        tuple(p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)),
        any_positional=inspect.Parameter.VAR_POSITIONAL in kinds,
        any_keyword=inspect.Parameter.VAR_KEYWORD in kinds,
    )
