"""What every picture of a slice is drawn with: closed outlines, letters that any tissue lets read, a bar of mm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

SCALES = (1, 2, 5, 10, 20, 50, 100, 200)  # mm, of the scale bar
LIGHT = "#f2f2f2"
BAR_LEFT, BAR_BOTTOM = 0.05, 0.05  # of the panel


def draw_outline(axes: Any, mask: NDArray[Any], **options: Any) -> None:
    """The contour of a mask [rows, columns], closed at the edge of the slice; an empty one has none.

    Args:
        axes: with the slice; their limits stay as they are.
        mask: rows upwards.
        options: of ``Axes.contour``.
    """
    closed = np.pad(mask.astype(float), 1)
    if not closed.any():
        return
    rows, columns = (np.arange(size) - 1 for size in closed.shape)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.contour(columns, rows, closed, levels=[0.5], **options)
    axes.set(xlim=limits[0], ylim=limits[1])


def draw_scale(axes: Any, width: float, *, share: float = 1 / 3) -> None:
    """A bar of a round length in mm.

    Args:
        axes: of the slice.
        width: of the slice, mm.
        share: of the width that the bar takes at most.
    """
    length = max((step for step in SCALES if step <= width * share), default=SCALES[0])
    (line,) = axes.plot(
        [BAR_LEFT, BAR_LEFT + length / width],
        [BAR_BOTTOM, BAR_BOTTOM],
        transform=axes.transAxes,
        scalex=False,
        scaley=False,
    )
    line.set(color=LIGHT, linewidth=2, solid_capstyle="butt", path_effects=[withStroke(linewidth=3.5, foreground="k")])
    write_on(axes, BAR_LEFT, BAR_BOTTOM + 0.02, f"{length} mm", {"va": "bottom", "fontsize": 7})


def write_on(axes: Any, x: float, y: float, text: str, style: Mapping[str, Any]) -> None:
    """Light letters on a dark shadow, at a place in fractions of the panel.

    Args:
        axes: of the slice.
        x, y: fractions of the panel.
        text: to write.
        style: of ``Axes.text``.
    """
    shadow = [withStroke(linewidth=1.8, foreground="black")]
    axes.text(x, y, text, transform=axes.transAxes, color=LIGHT, path_effects=shadow, **style)
