"""Figures as files: a user's own words in them are no formulas, and the file appears whole or not at all."""

from __future__ import annotations

import os
import warnings
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from aps_components.files import replacing

OF_TICKS = r"\mathdefault"  # matplotlib's own formulas, on a log scale
MADE_HERE = "AutoPromptSeg"  # in a picture's file, which tells it from those of others


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int, **options: Any) -> None:
    """Draw a figure into a file.

    Names of scans and classes go into figures: matplotlib would read ``a$b$c`` as a formula, and fail at ``$b__c$``.
    What no font has a letter for is drawn as a question mark.

    Args:
        figure: drawn on already.
        path: its ending chooses the format.
        dpi: dots an inch.
        options: of ``Figure.savefig``.
    """
    for text in figure.findobj(Text):
        if isinstance(text, Text) and OF_TICKS not in text.get_text():
            letters = text.get_text()
            text.set_parse_math(False)
            text.set_text("".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in letters))
    if os.fspath(path).endswith(".png"):
        options["metadata"] = {"Software": MADE_HERE}
    with replacing(path) as unfinished, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(unfinished, dpi=dpi, **options)
