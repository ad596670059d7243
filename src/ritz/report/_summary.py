"""The table that a fit prints."""

import dataclasses
import math
from typing import Any

import numpy as np

_COLUMNS = ("mean", "sd", "5%", "50%", "95%")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a fit found and how far to trust it; print it, or read `rows` and `facts`.

    Attributes:
        rows: a name for each scalar, to its mean, sd, 5%, 50% and 95% quantiles.
        facts: elbo, elbo_se, khat, khat_threshold, ess, draws, steps, seconds and more.
        verdict: "ok", "doubtful" or "failed".
        reasons: why, a line each.
    """

    rows: dict[str, dict[str, float]]
    facts: dict[str, Any]
    verdict: str
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return "\n".join([*self._table(40), "", *self._lines()])

    __repr__ = __str__

    def _table(self, most: int) -> list[str]:
        names = list(self.rows)
        shown = names[:most]
        width = max([len(n) for n in shown] + [9])
        cells = [[_number(self.rows[n][c]) for c in _COLUMNS] for n in shown]
        widths = [max([len(r[i]) for r in cells] + [len(c)]) for i, c in enumerate(_COLUMNS)]
        header = " " * width + "".join(f"  {c:>{w}}" for c, w in zip(_COLUMNS, widths, strict=True))
        lines = [header]
        for name, row in zip(shown, cells, strict=True):
            lines.append(
                f"{name:<{width}}"
                + "".join(f"  {v:>{w}}" for v, w in zip(row, widths, strict=True))
            )
        if len(names) > most:
            lines.append(f"… and {len(names) - most} more; all are in summary().rows")
        return lines

    def _lines(self) -> list[str]:
        f = self.facts
        lines = []
        if f.get("elbo") is not None:
            n, spread = f"{f['weights']:,}", ""
            if f.get("log_evidence") is not None:
                value = f"{f['log_evidence']:.2f} ± {f['log_evidence_se']:.2g}"
                lines.append(
                    f"log Z   {value}  (log of the mean weight of {n} draws and its standard error)"
                )
            else:
                what = f"ELBO    {f['elbo']:.2f} ± {f['elbo_se']:.2g}  (mean log-weight"
                lines.append(f"{what} of {n} draws and its standard error)")
                spread = f"log-weight sd {f['log_weight_sd']:.2f}; "
            word = "below" if f["khat"] <= f["khat_threshold"] else "ABOVE"
            lines.append(
                f"k-hat   {f['khat']:.2f}, {word} {f['khat_threshold']:.2f}; {spread}"
                f"importance-sampling ESS {f['ess']:,.0f} of {n}"
            )
        if f.get("correction") == "nuts":
            made = f["nuts"]
            lines.append(
                f"draws   {f['draws']:,} by NUTS, started from q; {made['gradients']:,} gradient "
                f"evaluations, {made['diverged']:,} divergences"
            )
        elif f.get("correction") is not None:
            lines.append(
                f"draws   {f['draws']:,} resampled by importance weights, {f['distinct']:,} "
                "distinct"
            )
        for i, bound in enumerate(f.get("data", ())):
            lines.append(f"{'data' if i == 0 else '':<7} {bound}")
        for i, site in enumerate(f.get("discrete", ())):
            lines.append(f"{'sites' if i == 0 else '':<7} {site}")
        for i, value in enumerate(f.get("trained", ())[:8]):
            lines.append(f"{'trained' if i == 0 else '':<7} {value}")
        lines.append(
            f"fit     {f['family']}, {f['dim']} dimensions, {f['steps']:,} steps of {f['solver']}, "
            f"started from {f['start']}"
        )
        if f.get("evaluations") is not None:
            lines[-1] += f"; {f['evaluations']:,.0f} gradient evaluations"
        lines.append(
            f"time    {f['compile_seconds']:.2f} s compiling, {f['run_seconds']:.2f} s running"
        )
        lines.append(f"verdict {self.verdict}")
        lines += [f"        - {reason}" for reason in self.reasons]
        return lines

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{c}</th>" for c in ("", *_COLUMNS))
        body = "".join(
            f"<tr><th>{_escape(n)}</th>"
            + "".join(f"<td>{_number(row[c])}</td>" for c in _COLUMNS)
            + "</tr>"
            for n, row in list(self.rows.items())[:100]
        )
        notes = "<br>".join(_escape(line) for line in self._lines())
        return f"<table><tr>{head}</tr>{body}</table><pre>{notes}</pre>"


def table_rows(draws: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean, sd and quantiles of each scalar among draws (axis 0)."""
    rows = {}
    for name, values in draws.items():
        flat = np.asarray(values, np.float64).reshape(len(values), -1)
        quantiles = np.quantile(flat, (0.05, 0.5, 0.95), axis=0)
        spread = flat.std(axis=0, ddof=1)
        for i, label in enumerate(labels(name, np.shape(values)[1:])):
            numbers = (flat[:, i].mean(), spread[i], *quantiles[:, i])
            rows[label] = dict(zip(_COLUMNS, map(float, numbers), strict=True))
    return rows


def labels(name: str, shape: tuple[int, ...]) -> list[str]:
    """A label for each entry of an array: `name`, or `name[i,j]`, counted from zero."""
    if not shape:
        return [name]
    return [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*shape)]


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size != 0 and (size >= 1e6 or size < 1e-3):
        return f"{value:.2e}"
    return f"{value:.{max(0, 3 - max(0, math.floor(math.log10(size)) if size else 0))}f}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
