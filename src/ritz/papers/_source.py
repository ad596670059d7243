"""What a paper's file says of itself, without running it."""

import ast
import html
import re

from ritz.papers._rows import Row


def docstring(row: Row) -> str:
    """The docstring of a paper's file.

    Args:
        row: a paper that has one.

    Returns:
        its text; empty where the file cannot be parsed or has none.
    """
    try:
        tree = ast.parse(row.file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return ""
    return ast.get_docstring(tree) or ""


def as_html(text: str) -> str:
    """A docstring as HTML: paragraphs, lists, code and links.

    Args:
        text: paragraphs apart by empty lines; lists with "- ".

    Returns:
        HTML without anything that the text did not say.

    >>> as_html("A `b` < c.\\n\\n- one\\n- two")
    '<p>A <code>b</code> &lt; c.</p><ul><li>one</li><li>two</li></ul>'
    """
    out = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.strip("\n").splitlines()
        items = re.split(r"^\s*- ", "\n".join(lines), flags=re.MULTILINE)
        if not items[0].strip() and len(items) > 1:
            out.append("<ul>" + "".join(f"<li>{_inline(i)}</li>" for i in items[1:]) + "</ul>")
        elif len(lines) > 1 and all(line.startswith("    ") for line in lines):
            out.append(f"<pre>{html.escape(block)}</pre>")
        elif len(items) > 1:  # a sentence, then its list
            out.append(f"<p>{_inline(items[0])}</p>")
            out.append("<ul>" + "".join(f"<li>{_inline(i)}</li>" for i in items[1:]) + "</ul>")
        else:
            out.append(f"<p>{_inline(block)}</p>")
    return "".join(out)


def _inline(text: str) -> str:
    text = html.escape(" ".join(text.split()), quote=False)
    text = re.sub(r"``(.+?)``|:math:`(.+?)`|`([^`]+)`", _code, text)
    text = re.sub(r"\b(https?://[^\s<>)]*[^\s<>).,;])", r'<a href="\1">\1</a>', text)
    arxiv = r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>'
    return re.sub(r"(?<![/\w])arXiv:\s?(\d{4}\.\d{4,5})", arxiv, text)


def _code(match: re.Match[str]) -> str:
    return f"<code>{next(group for group in match.groups() if group is not None)}</code>"
