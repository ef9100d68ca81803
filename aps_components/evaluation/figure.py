"""One picture of one case: image, truth, prediction, uncertainty and prompt points in three orthogonal planes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aps_components.evaluation.drawing import draw_outline, draw_scale, write_on
from aps_components.pictures import new_figure, save_figure

Volume = NDArray[Any]
Point = tuple[int, float, float, float]  # class, d, h, w
Draw = Callable[[Any, "Plane"], Any]  # draws a plane on axes; what it returns feeds the colour bar

PANEL_WIDTH = 2.3  # inches, of the widest plane
GAP = 0.08  # inches, between panels
MARGIN = 0.12  # inches, around everything
HEADING = 0.28  # inches, of a line above the panels
COLOUR_BAR = 0.6  # inches, with its figures and unit
LEGEND_LINE, LEGEND_WIDTH = 0.2, 2.3  # inches, of a line and of an entry
POINT_REACH = 3  # slices to either side of the one shown whose points are shown
TRUTH_COLOUR = "white"
CUT_AXES = (2, 1, 0)  # one row of panels each


@dataclass(frozen=True)
class Plane:
    """One slice through the volume, its first remaining axis to the right and its second upwards."""

    axis: int
    index: int
    spacing: tuple[float, float]  # to the right, upwards
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """Which slice it is, and which axis runs where."""
        right, up = ("DHW"[axis] for axis in range(3) if axis != self.axis)
        return f"{'DHW'[self.axis]} = {self.index}   {right} \N{RIGHTWARDS ARROW} {up} \N{UPWARDS ARROW}"

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height, in the unit of the spacing."""
        return self.size[0] * self.spacing[0], self.size[1] * self.spacing[1]

    def cut(self, volume: Volume) -> Volume:
        """The slice of a volume [D, H, W], rows upwards."""
        return np.take(volume, self.index, axis=self.axis).T


@dataclass(frozen=True)
class _Column:
    """One panel per plane: over the image, or, with a unit, a map of its own with a colour bar."""

    heading: str
    draw: Draw
    unit: str | None = None


def save_overview(
    path: str | os.PathLike[str],
    *,
    image: Volume,
    prediction: Volume,
    truth: Volume | None = None,
    epistemic: Volume | None = None,
    aleatoric: Volume | None = None,
    points: Sequence[Point] | None = None,
    spacing: Sequence[float] | None = None,
    title: str = "",
    class_names: Mapping[int, str] | None = None,
    epistemic_title: str = "epistemic uncertainty",
    aleatoric_title: str = "aleatoric uncertainty",
    epistemic_unit: str = "nats",
    aleatoric_unit: str = "nats",
) -> Path:
    """Draw one case; parts that are None get no panel.

    Each row cuts one axis where the truth, or else the prediction, has the most foreground.

    Args:
        path: of the picture; its ending chooses the format, its folder is made.
        image: [D, H, W].
        prediction: label map, [D, H, W].
        truth: label map, [D, H, W].
        epistemic: [D, H, W].
        aleatoric: [D, H, W].
        points: prompt points as (class, d, h, w), in voxels; those within 3 slices of a plane are shown in it.
        spacing: of the voxels along D, H and W, mm; None draws them as cubes and gives no scale.
        title: over the figure.
        class_names: for the legend, by label.
        epistemic_title: of its column.
        aleatoric_title: of its column.
        epistemic_unit: of the colour bar.
        aleatoric_unit: of the colour bar.

    Returns:
        The path.
    """
    volumes = {"prediction": prediction, "truth": truth, "epistemic": epistemic, "aleatoric": aleatoric}
    for name, volume in volumes.items():
        if volume is not None and np.shape(volume) != np.shape(image):
            raise ValueError(f"{name} {np.shape(volume)} and image {np.shape(image)} must have the same shape")
    planes = _planes(prediction if truth is None or not np.any(truth) else truth, spacing)
    labels = _labels(prediction, truth, points)

    columns = [_Column("image", _scale_bar if spacing is not None else _nothing)]
    if truth is not None:
        columns.append(_Column("truth", lambda axes, plane: _draw_truth(axes, plane, truth, labels)))
    columns.append(_Column("prediction", lambda axes, plane: _draw_prediction(axes, plane, prediction, truth, labels)))
    if epistemic is not None:
        columns.append(_Column(epistemic_title, _heat_map(epistemic, "magma"), epistemic_unit))
    if aleatoric is not None:
        columns.append(_Column(aleatoric_title, _heat_map(aleatoric, "viridis"), aleatoric_unit))
    if points is not None:
        columns.append(_Column("prompt points", lambda axes, plane: _draw_points(axes, plane, points)))

    handles = _legend_handles(labels, class_names or {}, has_truth=truth is not None, has_points=points is not None)
    layout = _Layout(planes, columns, titled=bool(title), entries=len(handles))
    figure = new_figure(layout.size, layout=None, facecolor="white")
    base = _grey_image(image)
    for number, column in enumerate(columns):
        _draw_column(figure, layout, planes, number, column, base)
    figure.legend(handles=handles, loc="lower center", ncols=layout.legend_columns, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=12, y=1 - 0.1 / layout.size[1], va="top")

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, target, dpi=150)
    return target


class _Layout:
    """Places panels in proportion to their planes; matplotlib wants fractions of the figure."""

    def __init__(self, planes: Sequence[Plane], columns: Sequence[_Column], *, titled: bool, entries: int) -> None:
        inch = PANEL_WIDTH / max(plane.extent[0] for plane in planes)
        self.panels = [(plane.extent[0] * inch, plane.extent[1] * inch) for plane in planes]
        width = 2 * MARGIN + len(columns) * PANEL_WIDTH + (len(columns) - 1) * GAP
        self.legend_columns = min(entries, max(1, int(width / LEGEND_WIDTH)))
        legend = 0.15 + LEGEND_LINE * math.ceil(entries / self.legend_columns)
        self.top = MARGIN + HEADING + (HEADING if titled else 0)
        self.bottom = legend + (COLOUR_BAR if any(column.unit for column in columns) else 0)
        height = self.top + self.bottom + sum(panel[1] for panel in self.panels) + (len(planes) - 1) * GAP
        self.size = (width, height)

    def panel(self, row: int, column: int) -> tuple[float, float, float, float]:
        width, height = self.panels[row]
        left = MARGIN + column * (PANEL_WIDTH + GAP) + (PANEL_WIDTH - width) / 2
        above = sum(panel[1] for panel in self.panels[: row + 1]) + row * GAP
        return self._fractions(left, self.size[1] - self.top - above, width, height)

    def colour_bar(self, column: int) -> tuple[float, float, float, float]:
        left = MARGIN + column * (PANEL_WIDTH + GAP)
        return self._fractions(left + 0.1 * PANEL_WIDTH, self.bottom - 0.16, 0.8 * PANEL_WIDTH, 0.08)

    def _fractions(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        return left / self.size[0], bottom / self.size[1], width / self.size[0], height / self.size[1]


def _draw_column(
    figure: Any, layout: _Layout, planes: Sequence[Plane], number: int, column: _Column, base: Draw
) -> None:
    for row, plane in enumerate(planes):
        axes = figure.add_axes(layout.panel(row, number))
        if column.unit is None:
            base(axes, plane)
        drawn = column.draw(axes, plane)
        axes.set(xticks=[], yticks=[])
        if row == 0:
            axes.set_title(column.heading, fontsize=10)
        if number == 0:
            write_on(axes, 0.04, 0.95, plane.name, {"va": "top", "fontsize": 7})
    if column.unit is not None:
        bar = figure.colorbar(drawn, cax=figure.add_axes(layout.colour_bar(number)), orientation="horizontal")
        bar.locator = MaxNLocator(nbins=4)  # more labels run into each other where the values are small
        bar.update_ticks()
        bar.ax.tick_params(labelsize=7)
        bar.ax.xaxis.offsetText.set_fontsize(7)
        bar.set_label(column.unit, fontsize=8)


def _planes(label_map: Volume, spacing: Sequence[float] | None) -> list[Plane]:
    foreground = np.asarray(label_map) > 0
    steps = (1.0, 1.0, 1.0) if spacing is None else tuple(float(step) for step in spacing)
    planes = []
    for axis in CUT_AXES:
        right, up = (other for other in range(3) if other != axis)
        area = foreground.sum(axis=(right, up))
        index = int(area.argmax()) if area.any() else foreground.shape[axis] // 2
        size = (foreground.shape[right], foreground.shape[up])
        planes.append(Plane(axis, index, (steps[right], steps[up]), size))
    return planes


def _labels(prediction: Volume, truth: Volume | None, points: Sequence[Point] | None) -> list[int]:
    found = set(np.unique(prediction).tolist())
    found |= set() if truth is None else set(np.unique(truth).tolist())
    found |= {point[0] for point in points or ()}
    return sorted(int(label) for label in found if label > 0)


def _colour(label: int) -> tuple[float, float, float]:
    """One of ten clear colours, beginning with red."""
    order = (3, 0, 1, 2, 4, 8, 6, 9, 5, 7)
    return colormaps["tab10"](order[(label - 1) % len(order)])[:3]


def _show(axes: Any, plane: Plane, volume: Volume, **options: Any) -> Any:
    aspect = plane.spacing[1] / plane.spacing[0]
    return axes.imshow(plane.cut(volume), origin="lower", aspect=aspect, interpolation="nearest", **options)


def _grey_image(image: Volume) -> Draw:
    low, high = np.percentile(image, (1, 99.5))
    return lambda axes, plane: _show(axes, plane, image, cmap="gray", vmin=low, vmax=high)


def _heat_map(volume: Volume, colour_map: str) -> Draw:
    """One colour scale for all planes; the top half per cent saturates."""
    low, high = float(np.min(volume)), float(np.percentile(volume, 99.5))
    high = high if high > low else low + 1e-6
    return lambda axes, plane: _show(axes, plane, volume, cmap=colour_map, vmin=low, vmax=high)


def _draw_truth(axes: Any, plane: Plane, truth: Volume, labels: Sequence[int]) -> None:
    cut = plane.cut(truth)
    overlay = np.zeros((*cut.shape, 4))
    for label in labels:
        overlay[cut == label] = (*_colour(label), 0.3)
        draw_outline(axes, plane.cut(truth == label), colors=[_colour(label)], linewidths=1.2)
    axes.imshow(overlay, origin="lower", aspect=plane.spacing[1] / plane.spacing[0], interpolation="nearest")


def _draw_prediction(axes: Any, plane: Plane, prediction: Volume, truth: Volume | None, labels: Sequence[int]) -> None:
    for label in labels:
        draw_outline(axes, plane.cut(prediction == label), colors=[_colour(label)], linewidths=1.4)
        if truth is not None:
            draw_outline(axes, plane.cut(truth == label), colors=[TRUTH_COLOUR], linewidths=0.9, linestyles="dashed")


def _draw_points(axes: Any, plane: Plane, points: Sequence[Point]) -> None:
    """Points near the plane, smaller and fainter the further they lie from it."""
    right, up = (other for other in range(3) if other != plane.axis)
    for label, *position in points:
        away = abs(position[plane.axis] - plane.index)
        if away <= POINT_REACH:
            strength = 1 - away / (POINT_REACH + 1)
            axes.scatter(
                position[right],
                position[up],
                s=10 + 26 * strength,
                color=[_colour(label) if label > 0 else "black"],
                alpha=0.35 + 0.65 * strength,
                edgecolors="white",
                linewidths=0.6,
            )


def _scale_bar(axes: Any, plane: Plane) -> None:
    draw_scale(axes, plane.extent[0], share=1 / 4)


def _nothing(axes: Any, plane: Plane) -> None:
    """Without known voxel sizes there is no length to draw."""


def _legend_handles(
    labels: Sequence[int], class_names: Mapping[int, str], *, has_truth: bool, has_points: bool
) -> list[Any]:
    handles: list[Any] = [
        Patch(color=_colour(label), label=class_names.get(label, f"class {label}")) for label in labels
    ]
    handles.append(Line2D([], [], color="black", linewidth=1.4, label="prediction (in class colour)"))
    if has_truth:
        handles.append(Line2D([], [], color="grey", linewidth=0.9, linestyle="dashed", label="truth (dashed white)"))
    if has_points:
        label = f"point within {POINT_REACH} slices"
        handles.append(Line2D([], [], color="grey", marker="o", linestyle="", label=label))
    return handles
