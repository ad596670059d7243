"""One HTML page of all papers. It reads files and runs nothing."""

import base64
import collections
import datetime
import html
import math
import string
from collections.abc import Iterable
from pathlib import Path

from ritz.papers import _record, _rows, _source, _table
from ritz.papers._base import Check
from ritz.papers._record import Record, Status
from ritz.papers._rows import Row

_WORDS = ("works", "fails", "missing")
_SIGNS = {"works": "✓", "fails": "✗", "missing": "·"}


def page() -> tuple[str, str]:
    """The page, in one piece: it asks for no other file.

    Returns:
        HTML, and the counts in a line.

    >>> page()[0][:15]
    '<!doctype html>'
    """
    found = [(row, _record.status(row)) for row in _rows.rows()]
    counts = collections.Counter(state.word for _, state in found)
    told = ", ".join(f"{counts[word]} {word}" for word in _WORDS)
    template = (Path(__file__).parent / "_report.html").read_text(encoding="utf-8")
    cards = [_card(row, state, state.record) for row, state in found if state.record is not None]
    text = string.Template(template).substitute(
        works=counts["works"],
        total=len(found),
        told=told,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        modules=_modules(found),
        module_options=_options(sorted({row.module for row, _ in found})),
        tier_options=_options(_rows.TIERS),
        status_options=_options(_WORDS),
        rows="\n".join(_line(row, state) for row, state in found),
        cards="\n".join(cards) or "<p>No run is recorded yet.</p>",
    )
    return text, told


def _modules(found: list[tuple[Row, Status]]) -> str:
    """How much of each module works, as bars."""
    by_module: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for row, state in found:
        by_module[row.module][state.word] += 1
    most = max(sum(counts.values()) for counts in by_module.values())
    out = []
    for name, counts in sorted(by_module.items(), key=lambda item: -sum(item[1].values())):
        total = sum(counts.values())
        parts = "".join(
            f'<span class="{word}" style="flex:{counts[word]}"></span>'
            for word in _WORDS
            if counts[word]
        )
        width = 9 * total / most
        out.append(
            f'<li><button type="button" data-module="{name}" aria-pressed="false"><span>{name}'
            f'</span><span class="bar" style="width:{width:.2f}rem">{parts}</span>'
            f"<span>{counts['works']} of {total}</span></button></li>"
        )
    return "\n".join(out)


def _options(words: Iterable[str]) -> str:
    return "".join(f'<option value="{word}">{word}</option>' for word in words)


def _keys(row: Row, state: Status) -> str:
    """What the filters read."""
    return f'data-module="{row.module}" data-tier="{row.tier}" data-status="{state.word}"'


def _word(state: Status) -> str:
    return f'<span class="word {state.word}">{_SIGNS[state.word]} {state.word}</span>'


def _line(row: Row, state: Status) -> str:
    """A line of the table."""
    name = f"<code>{row.slug}</code>"
    if state.record is not None:
        name = f'<a href="#{row.slug}">{name}</a>'
    texts = {"Builds": row.system, "Claim": row.check, "Data": row.data}
    if state.word == "fails":
        texts = {"Fails": state.reason} | texts
    inside = "".join(f"<dt>{k}</dt><dd>{_safe(v)}</dd>" for k, v in texts.items())
    return (
        f"<tr {_keys(row, state)}><td>{_word(state)}</td><th scope='row'>{name}</th>"
        f"<td><details><summary>{_safe(row.title)}</summary><dl>{inside}</dl></details></td>"
        f"<td>{row.module}</td><td>{row.tier}</td><td>{row.compute}</td></tr>"
    )


def _card(row: Row, state: Status, record: Record) -> str:
    """All that is known of a paper with a record."""
    head, _, rest = _source.docstring(row).partition("\n\n") if row.file.is_file() else ("", "", "")
    picture = _record.record_path(row).with_suffix(".png")
    figure = ""
    if picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode()
        told = _safe(head.strip() or row.title)
        figure = f'<figure><img src="data:image/png;base64,{data}" alt="{told}" /></figure>'
    why = "" if state.word == "works" else f'<p class="why">{_safe(state.reason)}</p>'
    versions = ", ".join(f"{k} {v}" for k, v in record.versions.items())
    on = record.machine
    made = (
        f"{record.date}, {_table.span(record.seeds)}, {record.seconds:.0f} s and "
        f"{record.wrong_seconds:.0f} s for the wrong variant, on {on.get('cpus')} cores "
        f"({on.get('platform')}, {on.get('device')}), Python {on.get('python')}, {versions}"
    )
    facts = f"<code>{row.slug}</code> {row.module}, tier {row.tier}, {row.compute}"
    return f"""<article id="{row.slug}" {_keys(row, state)}>
<h3>{_safe(row.title)}</h3>
<p class="facts">{_word(state)} {facts}</p>
{why}<div class="claim"><div class="lead">{_source.as_html(head)}</div></div>
<div class="sides">{figure}<div class="scroll" tabindex="0" role="region"
 aria-label="Checks of {row.slug}">{_checks(record)}</div></div>
<details><summary>What was done</summary><div class="claim">{_source.as_html(rest)}</div></details>
<details><summary>Other numbers, and the run</summary>{_numbers(record)}<p>{_safe(made)}</p>
<p>Again: <code>ritz papers check {row.slug}</code></p></details>
</article>"""


def _checks(record: Record) -> str:
    """The claim's figures, each beside that of the wrong variant."""
    others = {check.name: check for check in record.wrong_checks or ()}
    out = []
    for check in record.checks:
        other = others.get(check.name)
        mark, tick = ("works", "✓") if check.holds else ("fails", "✗")
        if other is None:
            wrong = ""
        else:
            wrong = f"{_number(other.value)} {'passes' if other.holds else 'fails'}"
        sign = "≤" if check.direction == "<=" else "≥"
        out.append(
            f'<tr><th scope="row">{_safe(check.name)}<small>{_safe(check.compared)}</small></th>'
            f'<td class="{mark}">{tick} {_number(check.value)}</td>'
            f"<td>{sign} {_number(check.threshold)}</td>"
            f"<td>{wrong}</td><td>{_scale(check, other)}</td></tr>"
        )
    words = ("check", "figure", "threshold", "wrong variant", "place")
    head = "".join(f'<th scope="col">{word}</th>' for word in words)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(out)}</tbody></table>"


def _scale(check: Check, other: Check | None) -> str:
    """Where the method (dot) and the wrong variant (cross) lie; left of the bar a check holds."""
    x = _place(check)
    marks = f'<circle cx="{x}" cy="9" r="4.5" class="dot" />'
    if other is not None:
        x = _place(other)
        cross = f"M{x - 4} 5 l8 8 M{x - 4} 13 l8 -8"
        marks = f'<path d="{cross}" class="cross" />' + marks
    return (
        '<svg viewBox="0 0 120 18" width="120" height="18" aria-hidden="true">'
        f'<path d="M4 9 H116" class="axis" /><path d="M60 2 V16" class="bound" />{marks}</svg>'
    )


def _place(check: Check) -> float:
    """Two decades to either side of the threshold; linear where there is no logarithm."""
    if not math.isfinite(check.value):
        return 114.0
    if check.value > 0 and check.threshold > 0:
        off = math.log10(check.value / check.threshold) / 2.0
    else:
        off = (check.value - check.threshold) / (abs(check.threshold) or 1.0)
    off = off if check.direction == "<=" else -off
    # A figure at its threshold is on the side where it counts, and can be told from the bar.
    off = math.copysign(max(0.1, min(1.0, abs(off) ** 0.6)), -1.0 if check.holds else 1.0)
    return round(60.0 + 54.0 * off, 1)


def _numbers(record: Record) -> str:
    if not record.figures and not record.wrong_figures:
        return ""
    names = list(dict.fromkeys([*record.figures, *record.wrong_figures]))
    cell = lambda found, name: f"<td>{_number(found[name]) if name in found else ''}</td>"
    body = "".join(
        f'<tr><th scope="row">{_safe(n)}</th>{cell(record.figures, n)}'
        f"{cell(record.wrong_figures, n)}</tr>"
        for n in names
    )
    head = "<tr><th>number</th><th>method</th><th>wrong variant</th></tr>"
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Other numbers">'
        f"<table><thead>{head}</thead><tbody>{body}</tbody></table></div>"
    )


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _safe(text: str) -> str:
    return html.escape(" ".join(text.split()))
