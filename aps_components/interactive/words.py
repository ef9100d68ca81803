"""What a person says about a scan, in its voxels or in mm, as voxels of its own grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from aps_components.prompts import Box, Click, Scribble
from aps_components.terminal import brief

Frame = Literal["voxel", "world"]
Place = Sequence[float]
Label = int | str
Voxel = tuple[int, int, int]
MOST_MARKS = 1000  # tokens, of which attention takes pairs
MOST_DRAWN = 20_000  # voxels
HALF = 0.5 + 1e-6  # a voxel reaches half a voxel from its centre


class Point(NamedTuple):
    """A place and the class that it has: ``((x, y, z), "tumour")``."""

    place: Place
    label: Label


class Corners(NamedTuple):
    """Two opposite corners of a box, both inside, and its class."""

    corners: tuple[Place, Place]
    label: Label


class Line(NamedTuple):
    """Places along a line, and the class that they have."""

    places: Sequence[Place]
    label: Label


@dataclass
class Words:
    """Everything that was said at once, in voxels of the scan's own grid."""

    clicks: list[Click] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    scribbles: list[Scribble] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was passed over, and why, a sentence each."""

    def __bool__(self) -> bool:
        return bool(self.clicks or self.boxes or self.scribbles)

    def named(self) -> dict[Voxel, int]:
        """Class of every voxel that was named; the later word counts, clicks after scribbles."""
        return dict(self.in_order())

    def in_order(self) -> list[tuple[Voxel, int]]:
        """Every voxel that was named with its class, as often as it was; clicks after scribbles."""
        marks = [(voxel, line.label) for line in self.scribbles for voxel in line.voxels]
        return [*marks, *((click.voxel, click.label) for click in self.clicks)]


class Listener:
    """Understands what is said about one scan.

    Args:
        shape: (X, Y, Z) of the scan's own grid.
        affine: of that grid, [4, 4], voxel to mm, RAS+.
        class_value: class value from a value or a name; a ValueError where there is none.
    """

    def __init__(
        self, shape: Sequence[int], affine: NDArray[np.floating], *, class_value: Callable[[Label], int]
    ) -> None:
        self.shape, self.class_value = tuple(int(size) for size in shape), class_value
        self.affine = np.asarray(affine, dtype=np.float64)
        self.to_voxel = np.linalg.inv(self.affine)

    def words(
        self,
        *,
        points: Sequence[Any] = (),
        boxes: Sequence[Any] = (),
        scribbles: Sequence[Any] = (),
        frame: Frame = "voxel",
    ) -> Words:
        """Prompts in voxels of the scan's own grid; the arguments are those of :meth:`Predictor.predict`."""
        if frame not in get_args(Frame):
            raise ValueError(f"frame {frame!r} must be 'voxel' or 'world'")
        said = Words()
        for where, (place, label) in _pairs(points, "points", "((x, y, z), class)"):
            with _named(where):
                said.clicks.append(Click(self.class_value(label), self.voxel(place, frame=frame)))
        for where, (corners, label) in _pairs(boxes, "boxes", "((corner, opposite corner), class)"):
            with _named(where):
                said.boxes.append(self.box(corners, self.class_value(label), frame=frame))
        for where, (places, label) in _pairs(scribbles, "scribbles", "(places, class)"):
            with _named(where):
                said.scribbles.append(self.scribble(places, self.class_value(label), frame=frame))
        return without_contradictions(said)

    def voxel(self, place: Place, *, frame: Frame) -> Voxel:
        """The voxel that holds a place.

        Raises:
            ValueError: no voxel of the scan holds it, or it is no place.
        """
        try:
            numbers = np.asarray(place, dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.empty(0)
        if numbers.shape != (3,) or not np.isfinite(numbers).all():
            raise ValueError(f"{_shown(place)} is no place: give three numbers")
        where = numbers if frame == "voxel" else (self.to_voxel @ [*numbers, 1.0])[:3]
        if (where < -HALF).any() or (where > np.array(self.shape) - 1 + HALF).any():
            raise ValueError(self._outside(numbers, where, frame))
        d, h, w = np.clip(np.rint(where), 0, np.array(self.shape) - 1).astype(int).tolist()
        return d, h, w

    def box(self, corners: Sequence[Place], label: int, *, frame: Frame) -> Box:
        """The box between two corners, in whichever order."""
        if len(corners) != 2:
            raise ValueError(f"{_shown(corners)} is no box: give two opposite corners")
        one, other = (np.array(self.voxel(corner, frame=frame)) for corner in corners)
        (a, b, c), (d, e, f) = np.minimum(one, other).tolist(), np.maximum(one, other).tolist()
        return Box(label, (a, b, c), (d, e, f))

    def scribble(self, places: Sequence[Place], label: int, *, frame: Frame) -> Scribble:
        """The voxels of a line, each once."""
        if not len(places):
            raise ValueError("a scribble without a place; give every voxel that it covers, or leave it out")
        return Scribble(label, list(dict.fromkeys(self.voxel(place, frame=frame) for place in places)))

    def _outside(self, given: NDArray[np.float64], where: NDArray[np.float64], frame: Frame) -> str:
        reach = f"its voxels run from 0 to {[size - 1 for size in self.shape]}"
        if frame == "voxel":
            mend = "if it is in mm, say so (world_mm in a file, frame='world' in Python)"
            return f"voxel {_shown(given)} lies outside the scan: {reach}; {mend}"
        return (
            f"{_shown(given)} mm lies outside the scan, at voxel {_shown(where)}: {reach}; "
            "give mm, RAS+, or say that these are voxels"
        )


def without_contradictions(said: Words) -> Words:
    """Of two words on one voxel the later one alone, and a note that says so.

    Raises:
        ValueError: more than a person says, or than can be answered: every mark looks at every other one.
    """
    _refuse_many(said)
    said.notes.extend(contradictions(said.in_order()))
    named = said.named()
    clicks = [mark for mark in said.clicks if named[mark.voxel] == mark.label]
    lines = [
        line._replace(voxels=[voxel for voxel in line.voxels if named[voxel] == line.label]) for line in said.scribbles
    ]
    return Words(list(dict.fromkeys(clicks)), said.boxes, [line for line in lines if line.voxels], said.notes)


def contradictions(marks: Iterable[tuple[Voxel, int]], *, before: Mapping[Voxel, int] | None = None) -> list[str]:
    """A sentence for each pair of classes that a voxel was said to have, one after the other.

    Args:
        marks: voxels with their class, in the order in which they count.
        before: class of every voxel that was named earlier.
    """
    known, overruled = dict(before or {}), dict[tuple[int, int], list[Voxel]]()
    for voxel, label in marks:
        if (former := known.get(voxel, label)) != label:
            overruled.setdefault((former, label), []).append(voxel)
        known[voxel] = label
    return [
        f"voxel {list(voxels[0])}{f' and {more} more were' if (more := len(voxels) - 1) else ' was'} said to be class "
        f"{former} and later class {later}: the later word counts"
        for (former, later), voxels in overruled.items()
    ]


def _refuse_many(said: Words) -> None:
    marks = len(said.clicks) + len(said.boxes) + len(said.scribbles)
    if marks > MOST_MARKS:
        raise ValueError(
            f"{marks} clicks, boxes and scribbles, and {MOST_MARKS} at once are the most; leave some out, or draw one "
            "scribble through clicks of a class"
        )
    if (voxels := sum(len(line.voxels) for line in said.scribbles)) > MOST_DRAWN:
        raise ValueError(f"scribbles of {voxels} voxels, and {MOST_DRAWN} at once are the most; draw shorter ones")


def _pairs(entries: Any, name: str, wanted: str) -> Iterator[tuple[str, tuple[list[Any], Any]]]:
    """Of each entry its name, and its place or places with its class."""
    try:
        listed = list(entries)
    except TypeError as error:
        raise ValueError(f"{name} {brief(repr(entries))} must be a list of {wanted}") from error
    for index, entry in enumerate(listed):
        where = f"{name}[{index}]"
        try:
            place, label = entry
            places = list(place)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} {brief(repr(entry))} must be {wanted}") from error
        yield where, (places, label)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """What is wrong, and in which entry."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _shown(place: Any) -> str:
    """Without the digits that nobody reads."""
    try:
        return str([round(float(value), 2) + 0.0 for value in place])
    except (TypeError, ValueError):
        return brief(repr(place))
