"""Figures and their files: a user's own words in them are no formulas, and the file appears whole or not at all.

Drawn through matplotlib's object interface, without pyplot: no display, no global state.
"""

from __future__ import annotations

import io
import os
import warnings
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from aps_components.files import replacing

OF_TICKS = r"\mathdefault"  # matplotlib's own formulas, on a log scale
MADE_HERE = "AutoPromptSeg"  # in a picture's file, which tells it from those of others


def new_figure(
    size: tuple[float, float], *, layout: Literal["constrained"] | None = "constrained", **options: Any
) -> Figure:
    """An empty figure.

    Args:
        size: width and height in inches.
        layout: ``constrained`` makes room for titles and labels; None leaves every panel where it is put.
        options: of ``Figure``.
    """
    figure = Figure(figsize=size, layout=layout, **options)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int, **options: Any) -> None:
    """Draw a figure into a file.

    Args:
        figure: drawn on already.
        path: its ending chooses the format.
        dpi: dots an inch.
        options: of ``Figure.savefig``.
    """
    if os.fspath(path).endswith(".png"):
        options["metadata"] = {"Software": MADE_HERE}
    with replacing(path) as unfinished:
        _save(figure, unfinished, dpi=dpi, **options)


def figure_bytes(figure: Figure, *, format: str) -> bytes:
    """A figure as the content of a file, the same each time.

    Args:
        figure: drawn on already.
        format: such as ``svg``.
    """
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": MADE_HERE}):
        _save(figure, content, format=format, metadata={"Date": None} if format == "svg" else {})
    return content.getvalue()


def _save(figure: Figure, target: Any, **options: Any) -> None:
    """Names of scans and classes go into figures: matplotlib would read ``a$b$c`` as a formula, and fail at ``$b__c$``.

    What no font has a letter for is drawn as a question mark. Ticks are empty until then, and may be formulas.
    """
    for text in figure.findobj(Text):
        letters = text.get_text() if isinstance(text, Text) else ""
        if isinstance(text, Text) and letters and OF_TICKS not in letters:
            text.set_parse_math(False)
            text.set_text("".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in letters))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(target, **options)
