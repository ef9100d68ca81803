"""A picture of a segmented scan to see at a glance whether it went well: three planes and what is in them.

Drawn through matplotlib's object interface, without pyplot, so that it needs no display and keeps no global state.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from nibabel import orientations
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage

from aps_components.pictures import save_figure

Volume = NDArray[Any]

# Twenty that differ from each other on black, after Sasha Trubetskoy, "20 simple, distinct colors" (2017).
COLOURS = (
    *("#ff4d5e", "#3cc45b", "#ffe119", "#5b7dff", "#f58231", "#b04bd6", "#42d4f4", "#f032e6", "#bfef45", "#fabed4"),
    *("#4fb3a9", "#dcbeff", "#b9793a", "#fffac8", "#c2404a", "#aaffc3", "#a8a832", "#ffd8b1", "#7fa8e8", "#b0b0b0"),
)
BACKGROUND, TEXT, FAINT = "#0b0c10", "#f2f2f2", "#9aa0a6"
HEIGHT, WIDTH = 3.8, 10.5  # inches, of the highest plane and of all planes together, at most
GAP, MARGIN, HEADING, FOOT = 0.14, 0.2, 0.4, 0.3  # inches
LEGEND_WIDTH, LINE, SWATCH = 3.0, 0.24, 0.13  # inches: of the legend, of its lines, of its squares
NAME_LENGTH = 24  # of a class in the legend
FILL = 0.25  # opacity of a class over the image
AROUND = 0.25  # of the segmentation's box, added on every side to choose the grey window in
SAMPLES = 4_000_000  # voxels, of which black and white are taken
SCALES = (1, 2, 5, 10, 20, 50, 100, 200)  # mm, of the scale bar


@dataclass(frozen=True)
class Plane:
    """One of the three, of a volume in RAS+; seen as radiologists do, the patient's right or front on the left."""

    name: str
    axis: int  # that is cut
    left: int  # the axis whose end is on the left
    up: int
    ends: tuple[str, str, str, str]  # what lies left, right, below, above

    def cut(self, volume: Volume, index: int) -> Volume:
        """The slice, rows upwards."""
        return np.take(volume, index, axis=self.axis).T


PLANES = (
    Plane("axial", axis=2, left=0, up=1, ends=("R", "L", "P", "A")),
    Plane("coronal", axis=1, left=0, up=2, ends=("R", "L", "I", "S")),
    Plane("sagittal", axis=0, left=1, up=2, ends=("A", "P", "I", "S")),
)


def save_preview(
    path: str | os.PathLike[str],
    *,
    image: Volume,
    label_map: Volume,
    affine: NDArray[np.floating],
    volumes: Mapping[int, tuple[str, float]],
    title: str = "",
    note: str = "",
) -> Path:
    """Draw a scan and its label map in the three planes in which most of the segmentation is.

    Args:
        path: of the PNG file; its folder is made.
        image: [D, H, W], one channel.
        label_map: [D, H, W].
        affine: of both, [4, 4], voxel to mm, RAS+; the planes are those of the voxel grid.
        volumes: for the legend, by class: its name, and its volume in ml.
        title: above, such as the scan's name.
        note: below, in small.

    Returns:
        The path.
    """
    if np.shape(image) != np.shape(label_map):
        raise ValueError(f"image {np.shape(image)} and label_map {np.shape(label_map)} must have the same shape")
    turn = orientations.io_orientation(affine)
    image, label_map = (orientations.apply_orientation(np.asarray(volume), turn) for volume in (image, label_map))
    steps = voxel_sizes(affine)[np.argsort(turn[:, 0])]
    layout = _Layout([size * step for size, step in zip(image.shape, steps, strict=True)], entries=len(volumes))
    figure = Figure(figsize=layout.size, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    places, window = busiest_slices(label_map), _grey_window(image, label_map)
    for plane, box in zip(PLANES, layout.boxes(), strict=True):
        axes = figure.add_axes(box)
        aspect = steps[plane.up] / steps[plane.left]
        _draw_plane(axes, plane, image, label_map, places[plane.axis], window=window, aspect=aspect)
    _draw_scale(figure.axes[0], layout.extent[0])
    width, height = layout.size
    figure.text(MARGIN / width, 1 - 0.16 / height, title, color=TEXT, fontsize=12, va="top", weight="bold")
    figure.text(MARGIN / width, 0.14 / height, note, color=FAINT, fontsize=8, va="bottom")
    _draw_legend(figure, layout, volumes)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, target, dpi=130, facecolor=BACKGROUND)
    return target


def busiest_slices(label_map: Volume) -> tuple[int, int, int]:
    """Along each axis the slice that has most of the classes, each counted as a share of itself; or the middle one."""
    shares = [np.zeros(size) for size in label_map.shape]
    for label, box in enumerate(ndimage.find_objects(label_map), start=1):
        if box is not None:
            inside = label_map[box] == label
            for axis, (share, side) in enumerate(zip(shares, box, strict=True)):
                share[side] += inside.sum(axis=tuple(other for other in range(3) if other != axis)) / inside.sum()
    first, second, third = (int(share.argmax()) if share.any() else len(share) // 2 for share in shares)
    return first, second, third


class _Layout:
    """Places the panels at one scale and the legend beside them; matplotlib wants fractions of the figure."""

    def __init__(self, extent: Sequence[float], *, entries: int) -> None:
        self.extent = extent
        inch = min(
            HEIGHT / max(extent[plane.up] for plane in PLANES), WIDTH / sum(extent[plane.left] for plane in PLANES)
        )
        self.panels = [(extent[plane.left] * inch, extent[plane.up] * inch) for plane in PLANES]
        self.body = max(max(height for _, height in self.panels), LINE * (entries + 1))
        self.legend_left = MARGIN + sum(width + GAP for width, _ in self.panels) + 0.1
        self.size = (self.legend_left + LEGEND_WIDTH + MARGIN, HEADING + self.body + FOOT + MARGIN)

    def boxes(self) -> Iterator[tuple[float, float, float, float]]:
        """Of the planes, side by side, in the middle of the height."""
        left = MARGIN
        for width, height in self.panels:
            yield self.box(left, FOOT + MARGIN / 2 + (self.body - height) / 2, width, height)
            left += width + GAP

    def box(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Inches to fractions."""
        return left / self.size[0], bottom / self.size[1], width / self.size[0], height / self.size[1]


def _colour(label: int) -> str:
    return COLOURS[(label - 1) % len(COLOURS)]


def _grey_window(image: Volume, label_map: Volume) -> tuple[float, float]:
    """Black and white, from what lies around the segmentation: the air around a patient would take the contrast."""
    box: tuple[slice, ...] = ()
    if found := ndimage.find_objects((label_map > 0).astype(np.uint8)):
        margins = [math.ceil((part.stop - part.start) * AROUND) for part in found[0]]
        box = tuple(
            slice(max(0, part.start - margin), part.stop + margin)
            for part, margin in zip(found[0], margins, strict=True)
        )
    inside = image[box]
    step = math.ceil((inside.size / SAMPLES) ** (1 / 3))
    black, white = np.percentile(inside[::step, ::step, ::step], (1, 99.5))
    return float(black), float(white if white > black else black + 1)


def _draw_plane(
    axes: Any,
    plane: Plane,
    image: Volume,
    label_map: Volume,
    index: int,
    *,
    window: tuple[float, float],
    aspect: float,
) -> None:
    grey, labels = plane.cut(image, index), plane.cut(label_map, index)
    shown = {"origin": "lower", "aspect": aspect, "interpolation": "nearest"}
    axes.imshow(grey, cmap="gray", vmin=window[0], vmax=window[1], **shown)
    overlay = np.zeros((*labels.shape, 4))
    rows, columns = (np.arange(-1, size + 1) for size in labels.shape)
    for label in np.unique(labels[labels > 0]).tolist():
        mask = labels == label
        overlay[mask] = (*to_rgb(_colour(label)), FILL)
        outline = np.pad(mask.astype(float), 1)  # closed at the edge of the volume
        axes.contour(columns, rows, outline, levels=[0.5], colors=[_colour(label)], linewidths=1.1)
    axes.imshow(overlay, **shown)
    axes.set(xticks=[], yticks=[], xlim=(labels.shape[1] - 0.5, -0.5), ylim=(-0.5, labels.shape[0] - 0.5))
    for spine in axes.spines.values():
        spine.set_visible(False)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.02, "center", "bottom"))
    for end, (x, y, ha, va) in zip(plane.ends, (*places, (0.5, 0.98, "center", "top")), strict=True):
        _write_on(axes, x, y, end, ha=ha, va=va)
    _write_on(axes, 0.03, 0.97, plane.name, ha="left", va="top", size=7)


def _draw_scale(axes: Any, width: float) -> None:
    """A bar of a round length in mm, about a quarter of the panel's width."""
    length = max((step for step in SCALES if step <= width / 3), default=1)
    (line,) = axes.plot(
        [0.05, 0.05 + length / width], [0.05, 0.05], transform=axes.transAxes, scalex=False, scaley=False
    )
    line.set(color=TEXT, linewidth=2, solid_capstyle="butt", path_effects=_shadow(3.5))
    _write_on(axes, 0.05, 0.07, f"{length} mm", ha="left", va="bottom", size=7)


def _draw_legend(figure: Any, layout: _Layout, volumes: Mapping[int, tuple[str, float]]) -> None:
    """A square, the name and the millilitres of each class, in the middle of the height; empty ones are faint."""
    width, height = layout.size
    right = layout.legend_left + LEGEND_WIDTH
    top = FOOT + MARGIN / 2 + layout.body / 2 + LINE * (len(volumes) + 1) / 2 - LINE / 2
    figure.text(right / width, top / height, "ml", color=FAINT, fontsize=8, ha="right", va="center")
    for row, (label, (name, volume)) in enumerate(volumes.items(), start=1):
        y, colour = top - row * LINE, TEXT if volume > 0 else FAINT
        corner = layout.box(layout.legend_left, y - SWATCH / 2, SWATCH, SWATCH)
        figure.add_artist(
            Rectangle(corner[:2], *corner[2:], color=_colour(label), alpha=1 if volume > 0 else 0.35, linewidth=0)
        )
        short = name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}\N{HORIZONTAL ELLIPSIS}"
        left = (layout.legend_left + SWATCH + 0.1) / width
        figure.text(left, y / height, short, color=colour, fontsize=10, va="center")
        amount = millilitres(volume) if volume > 0 else "\N{EN DASH}"
        figure.text(right / width, y / height, amount, color=colour, fontsize=10, ha="right", va="center")


def millilitres(volume: float) -> str:
    """Three figures that count or one behind the point, whichever is more."""
    return f"{volume:.1f}" if volume >= 10 or volume == 0 else f"{volume:.3g}"


def _write_on(axes: Any, x: float, y: float, text: str, *, ha: str, va: str, size: float = 9) -> None:
    """Light on dark shadow, so that it can be read over any tissue."""
    axes.text(x, y, text, transform=axes.transAxes, color=TEXT, fontsize=size, ha=ha, va=va, path_effects=_shadow(1.8))


def _shadow(width: float) -> list[Any]:
    return [withStroke(linewidth=width, foreground="black")]
