"""A recorded run, and what it says of its paper. Light: no JAX."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from ritz._errors import RitzError
from ritz.papers import _rows
from ritz.papers._base import Check
from ritz.papers._rows import Row


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run of an experiment leaves on disk.

    Attributes:
        slug: the paper's.
        source_sha256: the hash of the paper's file when it ran.
        quick: whether it was the small experiment, which proves nothing.
        seeds: the seeds that were run.
        checks: the claim's figures against their thresholds.
        figures: other named numbers.
        seconds: how long it took, compilation included.
        wrong_checks: the same checks on the wrong variant; None where it was not run.
        wrong_figures: its other numbers.
        wrong_seconds: how long it took.
        date: of the run, UTC.
        versions: of Python packages, by name.
        machine: cpus, python, platform, device.
    """

    slug: str
    source_sha256: str
    quick: bool
    seeds: tuple[int, ...]
    checks: tuple[Check, ...]
    figures: dict[str, float]
    seconds: float
    wrong_checks: tuple[Check, ...] | None
    wrong_figures: dict[str, float]
    wrong_seconds: float
    date: str
    versions: dict[str, str]
    machine: dict[str, Any]

    def failures(self) -> list[str]:
        """Why the claim is not shown by this run, a line each; empty where it is."""
        out = ["it was a quick run, whose checks are not the claim"] if self.quick else []
        out += [] if self.checks else ["it has no checks"]
        out += [f"check fails: {said(check)}" for check in self.checks if not check.holds]
        if self.wrong_checks is None:
            return [*out, "the wrong variant was not run"]
        if list(map(_terms, self.checks)) != list(map(_terms, self.wrong_checks)):
            out.append("the wrong variant was held to other checks than the method")
        elif all(check.holds for check in self.wrong_checks):
            out.append("the wrong variant passes every check")
        return out

    def to_json(self) -> str:
        """As text, with a digest of it all that catches slips of an editor, not forgery."""
        content = _plain(dataclasses.asdict(self))
        return (
            json.dumps(content | {"digest": _digest(content)}, indent=1, ensure_ascii=False) + "\n"
        )

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """What `to_json` wrote.

        Args:
            text: JSON.

        Returns:
            the record.

        Raises:
            RitzError: where that is not a record, or was changed since.
        """
        try:
            content = json.loads(text)
            digest = content.pop("digest")
            whole = _digest(content) == digest
            content["seeds"] = tuple(content["seeds"])
            content["checks"] = _checks(content["checks"])
            content["wrong_checks"] = _checks(content["wrong_checks"])
            for name in ("figures", "wrong_figures"):
                content[name] = {k: float(v) for k, v in content[name].items()}
            record = cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RitzError(
                f"the record cannot be read ({type(error).__name__}: {error})"
            ) from error
        if not whole:
            raise RitzError("the record was changed after it was written")
        return record


@dataclasses.dataclass(frozen=True)
class Status:
    """Where a paper stands.

    Attributes:
        word: "works", "fails" or "missing".
        reason: why it does not work; empty where it does.
        record: what was recorded, if it can be read.
    """

    word: str
    reason: str
    record: Record | None = None


def status(row: Row) -> Status:
    """Where a paper stands, from its file and its record.

    Args:
        row: the paper.

    Returns:
        "works" where a record of this very file shows that each check holds and that the wrong
        variant fails.

    >>> status(_rows.find("fb-gvi")).word in ("works", "fails", "missing")
    True
    """
    if not row.file.is_file():
        return Status("missing", f"{row.place} is not written yet")
    again = f"run: ritz papers check {row.slug} --record"
    path = record_path(row)
    if not path.is_file():
        return Status("fails", f"no run is recorded; {again}")
    try:
        record = Record.from_json(path.read_text(encoding="utf-8"))
    except (RitzError, OSError, UnicodeDecodeError) as error:
        return Status("fails", f"{error}; {again}")
    if record.slug != row.slug:
        return Status("fails", f"the record is of {record.slug!r}; {again}", record)
    if record.source_sha256 != row.source_sha256:
        return Status("fails", f"the file changed since its run was recorded; {again}", record)
    failures = record.failures()
    return Status("fails" if failures else "works", "; ".join(failures), record)


def record_path(row: Row) -> Path:
    """Where the record of a paper is, or would be; its figure is beside it."""
    return _rows.results() / f"{row.slug}.json"


def said(check: Check) -> str:
    """A check without its verdict.

    Args:
        check: a figure and its threshold.

    Returns:
        one line.

    >>> said(Check("error", 0.25, "<=", 0.1, "ours with theirs"))
    'error 0.25, not <= 0.1'
    """
    word = "" if check.holds else "not "
    return f"{check.name} {check.value:.4g}, {word}{check.direction} {check.threshold:g}"


def _terms(check: Check) -> tuple[Any, ...]:
    return check.name, check.direction, check.threshold


def _checks(found: Any) -> tuple[Check, ...] | None:
    if found is None:
        return None
    return tuple(Check(**(c | {k: float(c[k]) for k in ("value", "threshold")})) for c in found)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are kept as words, which `float` reads."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    number = float(value)  # of any NumPy or JAX scalar, too
    return number if math.isfinite(number) else str(number)


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
