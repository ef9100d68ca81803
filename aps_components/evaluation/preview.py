"""A picture of a segmented scan to see at a glance whether it went well: three planes and what is in them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from nibabel import orientations
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage

from aps_components.evaluation.drawing import LIGHT, draw_outline, draw_scale, write_on
from aps_components.label_map import class_boxes
from aps_components.pictures import new_figure, save_figure

Volume = NDArray[Any]

# Twenty that differ from each other on black, after Sasha Trubetskoy, "20 simple, distinct colors" (2017).
COLOURS = (
    *("#ff4d5e", "#3cc45b", "#ffe119", "#5b7dff", "#f58231", "#b04bd6", "#42d4f4", "#f032e6", "#bfef45", "#fabed4"),
    *("#4fb3a9", "#dcbeff", "#b9793a", "#fffac8", "#c2404a", "#aaffc3", "#a8a832", "#ffd8b1", "#7fa8e8", "#b0b0b0"),
)
BACKGROUND, TEXT, FAINT = "#0b0c10", LIGHT, "#9aa0a6"
TRUTH_COLOUR = "white"
HEIGHT, WIDTH = 3.8, 10.5  # inches, of the highest plane and of all planes together, at most
GAP, MARGIN, HEADING, FOOT = 0.14, 0.2, 0.4, 0.3  # inches
LEGEND_WIDTH, LINE, SWATCH = 3.0, 0.24, 0.13  # inches: of the legend, of its lines, of its squares
NAME_LENGTH, SHORT_NAME_LENGTH = 24, 18  # of a class in the legend, and beside its predicted Dice
ML_WIDTH = 0.7  # inches, of the millilitres
FILL = 0.25  # opacity of a class over the image
AROUND = 0.25  # of the segmentation's box, added on every side to choose the grey window in
SAMPLES = 4_000_000  # voxels at most, from which black and white are taken, and by which slices are chosen


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
        place: list[Any] = [slice(None)] * 3
        place[self.axis] = index
        return volume[tuple(place)].T  # np.take would copy the whole volume first


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
    truth: Volume | None = None,
    shares: Mapping[int, str] | None = None,
    title: str = "",
    note: str = "",
) -> Path:
    """Draw a scan and its label map in the three planes in which most of the segmentation is.

    With the truth they go through the worst error (:func:`worst_error`), and its outlines are dashed and white.

    Args:
        path: of the PNG file; its folder is made.
        image: [D, H, W], one channel.
        label_map: [D, H, W].
        affine: of both, [4, 4], voxel to mm, RAS+; the planes are those of the voxel grid.
        volumes: for the legend, by class: its name, and its volume in ml.
        truth: [D, H, W].
        shares: for the legend, by class: its predicted Dice.
        title: above, such as the scan's name.
        note: below, in small.

    Returns:
        The path.
    """
    for name, volume in {"label_map": label_map, "truth": truth}.items():
        if volume is not None and np.shape(image) != np.shape(volume):
            raise ValueError(f"image {np.shape(image)} and {name} {np.shape(volume)} must have the same shape")
    scan = _Scan.in_ras(image, label_map, truth, affine=affine)
    layout = _Layout([size * step for size, step in zip(scan.image.shape, scan.steps, strict=True)], len(volumes))
    figure = new_figure(layout.size, layout=None, facecolor=BACKGROUND)
    places, window = scan.places(), _grey_window(scan.image, scan.label_map)
    for plane, box in zip(PLANES, layout.boxes(), strict=True):
        _draw_plane(figure.add_axes(box), plane, scan, places[plane.axis], window=window)
    draw_scale(figure.axes[0], layout.extent[0])
    width, height = layout.size
    figure.text(MARGIN / width, 1 - 0.16 / height, title, color=TEXT, fontsize=12, va="top", weight="bold")
    figure.text(MARGIN / width, 0.14 / height, note, color=FAINT, fontsize=8, va="bottom")
    _draw_legend(figure, layout, volumes, shares or {})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, target, dpi=130, facecolor=BACKGROUND)
    return target


@dataclass(frozen=True, eq=False)
class _Scan:
    """The volumes of a picture, each [D, H, W] along the patient's axes."""

    image: Volume
    label_map: Volume
    truth: Volume | None
    steps: NDArray[np.floating]  # of the voxels, mm

    @classmethod
    def in_ras(cls, image: Volume, label_map: Volume, truth: Volume | None, *, affine: NDArray[np.floating]) -> _Scan:
        """Turned from the voxel grid's own axes."""
        turn = orientations.io_orientation(affine)

        def turned(volume: Volume) -> Volume:
            return orientations.apply_orientation(np.asarray(volume), turn)

        steps = voxel_sizes(affine)[np.argsort(turn[:, 0])]
        return cls(turned(image), turned(label_map), None if truth is None else turned(truth), steps)

    def places(self) -> tuple[int, int, int]:
        """The voxel through which the three planes go."""
        if self.truth is None:
            return busiest_slices(self.label_map)
        return worst_error(self.label_map, self.truth, spacing=self.steps) or busiest_slices(self.truth)


def worst_error(
    label_map: Volume, truth: Volume, *, spacing: Sequence[float] | NDArray[np.floating]
) -> tuple[int, int, int] | None:
    """The voxel in the thickest part of what is wrong: of all wrong ones the farthest from a right one; None without.

    Args:
        label_map: [D, H, W].
        truth: [D, H, W].
        spacing: of the voxels along D, H and W, mm.
    """
    wrong = np.asarray(label_map) != np.asarray(truth)
    box = _box(wrong)
    if box is None:
        return None
    depth = ndimage.distance_transform_edt(np.pad(wrong[box], 1), sampling=spacing)
    inside = np.unravel_index(depth.argmax(), depth.shape)
    first, second, third = (int(at) - 1 + part.start for at, part in zip(inside, box, strict=True))
    return first, second, third


def _others(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _box(volume: Volume) -> tuple[slice, ...] | None:
    """Of all voxels that are not 0; None where there is none."""
    along = (np.flatnonzero(volume.any(axis=_others(axis))) for axis in range(3))
    sides = [slice(int(places[0]), int(places[-1]) + 1) for places in along if len(places)]
    return tuple(sides) or None


def busiest_slices(label_map: Volume) -> tuple[int, int, int]:
    """Along each axis the slice that has most of the classes, each counted as a share of itself; or the middle one.

    A class in a large box is counted at some of each slice's voxels, evenly spread.
    """
    shares = [np.zeros(size) for size in label_map.shape]
    for label, box in enumerate(class_boxes(label_map), start=1):
        if box is not None:
            inside = label_map[box]
            step = math.ceil(math.sqrt(inside.size / SAMPLES))
            for axis, (share, side) in enumerate(zip(shares, box, strict=True)):
                some = inside[tuple(slice(None, None, 1 if other == axis else step) for other in range(3))]
                voxels = (some == label).sum(axis=_others(axis))
                share[side] += voxels / max(voxels.sum(), 1)
    first, second, third = (int(share.argmax()) if share.any() else len(share) // 2 for share in shares)
    return first, second, third


class _Layout:
    """Places the panels at one scale and the legend beside them; matplotlib wants fractions of the figure."""

    def __init__(self, extent: Sequence[float], entries: int) -> None:
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
    around: tuple[slice, ...] = ()
    if box := _box(label_map):
        margins = [math.ceil((part.stop - part.start) * AROUND) for part in box]
        around = tuple(
            slice(max(0, part.start - margin), part.stop + margin) for part, margin in zip(box, margins, strict=True)
        )
    inside = image[around]
    step = math.ceil((inside.size / SAMPLES) ** (1 / 3))
    black, white = np.percentile(inside[::step, ::step, ::step], (1, 99.5))
    return float(black), float(white if white > black else black + 1)


def _draw_plane(axes: Any, plane: Plane, scan: _Scan, index: int, *, window: tuple[float, float]) -> None:
    labels = plane.cut(scan.label_map, index)
    shown = {"origin": "lower", "aspect": scan.steps[plane.up] / scan.steps[plane.left], "interpolation": "nearest"}
    axes.imshow(plane.cut(scan.image, index), cmap="gray", vmin=window[0], vmax=window[1], **shown)
    overlay = np.zeros((*labels.shape, 4))
    for label in np.unique(labels[labels > 0]).tolist():
        mask = labels == label
        overlay[mask] = (*to_rgb(_colour(label)), FILL)
        draw_outline(axes, mask, colors=[_colour(label)], linewidths=1.1)
    axes.imshow(overlay, **shown)
    if scan.truth is not None:
        true = plane.cut(scan.truth, index)
        for label in np.unique(true[true > 0]).tolist():
            draw_outline(axes, true == label, colors=[TRUTH_COLOUR], linewidths=1.1, linestyles="dashed")
    axes.set(xticks=[], yticks=[], xlim=(labels.shape[1] - 0.5, -0.5), ylim=(-0.5, labels.shape[0] - 0.5))
    for spine in axes.spines.values():
        spine.set_visible(False)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.02, "center", "bottom"))
    for end, (x, y, ha, va) in zip(plane.ends, (*places, (0.5, 0.98, "center", "top")), strict=True):
        write_on(axes, x, y, end, {"ha": ha, "va": va, "fontsize": 9})
    write_on(axes, 0.03, 0.97, plane.name, {"va": "top", "fontsize": 7})


def _draw_legend(
    figure: Any, layout: _Layout, volumes: Mapping[int, tuple[str, float]], shares: Mapping[int, str]
) -> None:
    """A square, the name and the millilitres of each class, in the middle of the height; empty ones are faint."""
    width, height = layout.size
    right = layout.legend_left + LEGEND_WIDTH
    top = FOOT + MARGIN / 2 + layout.body / 2 + LINE * (len(volumes) + 1) / 2 - LINE / 2
    figure.text(right / width, top / height, "ml", color=FAINT, fontsize=8, ha="right", va="center")
    beside = (right - ML_WIDTH) / width  # of the column of shares
    if shares:
        figure.text(beside, top / height, "Dice", color=FAINT, fontsize=8, ha="right", va="center")
    for row, (label, (name, volume)) in enumerate(volumes.items(), start=1):
        y, colour = top - row * LINE, TEXT if volume > 0 else FAINT
        corner = layout.box(layout.legend_left, y - SWATCH / 2, SWATCH, SWATCH)
        figure.add_artist(
            Rectangle(corner[:2], *corner[2:], color=_colour(label), alpha=1 if volume > 0 else 0.35, linewidth=0)
        )
        length = SHORT_NAME_LENGTH if shares else NAME_LENGTH
        short = name if len(name) <= length else f"{name[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
        left = (layout.legend_left + SWATCH + 0.1) / width
        figure.text(left, y / height, short, color=colour, fontsize=10, va="center")
        figure.text(beside, y / height, shares.get(label, ""), color=colour, fontsize=10, ha="right", va="center")
        amount = millilitres(volume) if volume > 0 else "\N{EN DASH}"
        figure.text(right / width, y / height, amount, color=colour, fontsize=10, ha="right", va="center")


def millilitres(volume: float) -> str:
    """Three figures that count or one behind the point, whichever is more."""
    return f"{volume:.1f}" if volume >= 10 or volume == 0 else f"{volume:.3g}"
