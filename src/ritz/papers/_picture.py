"""A figure as a small PNG."""

import io
from typing import Any

LIMIT = 60_000  # bytes; hundreds of them are in the repository, and all in one page
_WIDTH = 900  # pixels


def png(figure: Any, *, limit: int | None = LIMIT) -> bytes:
    """A Matplotlib figure as PNG, small enough to keep.

    Args:
        figure: what a paper's `plot` returned.
        limit: bytes that it should not exceed: colours are reduced first, then size. None keeps
            every colour and more pixels.

    Returns:
        the file's content, the same for the same figure.

    >>> from ritz.plot import canvas
    >>> with canvas() as (figure, _):
    ...     len(png(figure)) < LIMIT
    True
    """
    width = float(figure.get_figwidth())
    dpi = min(110.0, _WIDTH / width) if limit else 160.0
    content = _draw(figure, dpi)
    while limit and len(content) > limit:
        content = _fewer_colours(content)
        if len(content) <= limit or dpi < 45:
            break
        dpi *= 0.85
        content = _draw(figure, dpi)
    return content


def _draw(figure: Any, dpi: float) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)  # whatever screen the figure was made for
    stream = io.BytesIO()
    # Without the version of Matplotlib in it: another release need not change every file.
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def _fewer_colours(content: bytes) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGB")
    stream = io.BytesIO()
    image.quantize(96, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
