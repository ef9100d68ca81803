"""A session with one scan: the image is seen once, and a person's prompts correct the answer, on the scan's own grid.

After the predictor of Segment Anything (Kirillov et al. 2023, arXiv:2304.02643): ``set_image`` once, then ``predict``
as often as there is something to say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from aps_components.data import DataError, Pipeline
from aps_components.data.geometry import REAL, not_real, refuse_affine
from aps_components.inference import PromptPoint
from aps_components.inference.boxed import TOUCHING
from aps_components.inference.interactive import CERTAIN, InteractiveVolume
from aps_components.inference.temperature import calibrated
from aps_components.interactive.grid import ScanGrid
from aps_components.interactive.model import LoadedModel
from aps_components.interactive.words import Corners, Frame, Line, Listener, Point, Voxel, Words, contradictions
from aps_components.options import OF_EACH_CLASS, OF_THE_FOREGROUND, Pieces
from aps_components.prompts import Box, Click, Scribble
from aps_components.terminal import brief

ARRAY = "the array"  # in messages
Scan = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | tuple[NDArray[Any], NDArray[np.floating]]


@dataclass(frozen=True)
class Answer:
    """What the model says after everything that was said so far, on the scan's own grid."""

    label_map: NDArray[np.uint8]
    """Class of each voxel, [X, Y, Z], the scan's own axes."""
    affine: NDArray[np.float64]
    """Of the scan, [4, 4], voxel to mm, RAS+."""
    notes: list[str] = field(default_factory=list)
    """What of the prompts was passed over, and why."""
    _network_probabilities: Tensor | None = field(default=None, repr=False)
    _grid: ScanGrid | None = field(default=None, repr=False)
    _named: dict[Voxel, int] = field(default_factory=dict, repr=False)
    _temperature: float = field(default=1.0, repr=False)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """[C, X, Y, Z], summing to 1 over C, on the scan's own grid; made when asked for."""
        assert self._network_probabilities is not None
        assert self._grid is not None
        raw = self._grid.interpolated(self._network_probabilities, self._grid.whole)
        maps = calibrated(raw, self._temperature, dim=0).cpu().numpy().copy()
        for voxel, label in self._named.items():
            maps[(slice(None), *voxel)] = (1 - CERTAIN) / (len(maps) - 1)
            maps[(label, *voxel)] = CERTAIN
        return maps


class Predictor:
    """Segments a scan and takes corrections.

    Args:
        model: from :func:`load_model`.
        thorough: a prompt asks all windows that hold it and their mirror images, not just the one that holds it
            deepest: several times as slow.
    """

    def __init__(self, model: LoadedModel, *, thorough: bool = False) -> None:
        if not isinstance(model, LoadedModel):
            raise TypeError(f"model {brief(repr(model))} must be a loaded one: Predictor(load_model(...))")
        self.model, self.thorough = model, thorough
        self._session: _Session | None = None

    def set_image(self, scan: Scan) -> None:
        """See a scan: everything that does not depend on prompts.

        Args:
            scan: a NIfTI file; several, one for each modality, in channel order; or (array, affine): the scan's values,
                [X, Y, Z] or [X, Y, Z, channels] as a NIfTI file holds them, and the affine [4, 4], voxel to mm, RAS+.

        Raises:
            DataError: the scan cannot be used; which file and the mend.
        """
        self._session = None  # an error is not to leave the scan before
        self._session = _Session(self._preprocessed(scan), self.model, thorough=self.thorough)

    @property
    def session(self) -> _Session:
        """Of the scan that was set."""
        if self._session is None:
            raise RuntimeError("there is no image yet: call set_image first")
        return self._session

    def predict(
        self,
        points: Sequence[Point | tuple[Sequence[float], int | str]] = (),
        *,
        boxes: Sequence[Corners | tuple[Sequence[Sequence[float]], int | str]] = (),
        scribbles: Sequence[Line | tuple[Sequence[Sequence[float]], int | str]] = (),
        mask: NDArray[np.integer] | None = None,
        frame: Frame = "voxel",
        reset: bool = False,
    ) -> Answer:
        """Take prompts into account, and give the whole answer; without any, the answer so far.

        Prompts add up over the calls. The answer changes where it was asked to and nowhere else. Of two words on one
        voxel the later one counts.

        Args:
            points: ``((x, y, z), class)`` each; the class by value or name, 0 for background.
            boxes: ``((corner, opposite corner), class)`` each, both corners inside.
            scribbles: ``(places along a line, class)`` each.
            mask: an earlier label map to go on from, [X, Y, Z], integers, on the scan's own grid. What was said before
                is forgotten.
            frame: of all places: ``voxel``, of the scan's own grid, from 0; or ``world``, mm, RAS+ as NIfTI counts.
            reset: forget what was said before, and begin with the automatic answer.

        Raises:
            ValueError: a place outside the scan, an unknown class, or a mask that is none of this scan. Nothing has
                changed then.
            RuntimeError: no image was set.
        """
        session = self.session
        said = session.listener.words(points=points, boxes=boxes, scribbles=scribbles, frame=frame)
        if said:
            self.model.require_prompted()
        start = None if mask is None else session.checked_mask(mask, self.model)
        if reset or start is not None:
            session.reset(start)
        return self.say(said)

    def say(self, words: Words) -> Answer:
        """Take what was read from a file into account; see :func:`read_prompts`."""
        if words:
            self.model.require_prompted()
        self.session.say(words)
        return self.session.answer(words.notes)

    def reset(self) -> None:
        """Forget what was said; the image need not be seen again."""
        self.session.reset()

    @property
    def own_points(self) -> list[PromptPoint]:
        """The points that the model gave itself, in voxels of the scan's own grid, best first within a class."""
        return self.session.own_points()

    def _preprocessed(self, scan: Scan) -> MetaTensor:
        whole = self.model.preprocessing
        if isinstance(scan, str | os.PathLike):
            return whole({"image": os.fspath(scan)})["image"]
        entries: list[Any] = list(scan) if isinstance(scan, Sequence) else []
        if entries and all(isinstance(entry, str | os.PathLike) for entry in entries):
            return whole({"image": [os.fspath(file) for file in entries]})["image"]
        if len(entries) != 2:
            given = brief(repr(scan), most=60)
            raise DataError(f"scan must be a file, a list of files, or (array, affine), and is {given}")
        load, *others = whole.transforms
        image = load.checked(_as_loaded(*entries, in_channels=self.model.in_channels), ARRAY)
        return Pipeline(others)({"image": image})["image"]


class _Session:
    """One scan, its answer on both grids, and what was said."""

    def __init__(self, image: MetaTensor, model: LoadedModel, *, thorough: bool) -> None:
        inputs = image.as_tensor()[None].to(model.device)
        self.volume = InteractiveVolume(inputs, model.network, model.inferer, thorough=thorough)
        affine = np.asarray(image.meta["original_affine"], dtype=np.float64)
        self.grid = ScanGrid(
            image.meta["spatial_shape"],
            affine,
            network_shape=inputs.shape[2:],
            network_affine=np.asarray(image.affine, dtype=np.float64),
        )
        self.listener = Listener(self.grid.shape, affine, class_value=model.class_value)
        self.classes = model.network.num_classes
        self.pieces, self.temperature = model.largest_component, model.network.temperature
        self._automatic = self.grid.label_map(self.volume.automatic.probabilities[0], self.grid.whole)
        self._shown_first = self._automatic.copy()
        drop_small_pieces(self._shown_first, self.pieces, classes=self.classes, named={})
        self.reset()

    def reset(self, start: NDArray[np.integer] | None = None) -> None:
        """Back to the automatic answer, or on to another one."""
        self.volume.reset(None if start is None else self.grid.nearest(start))
        self.label_map = (self._automatic if start is None else start.astype(np.uint8)).copy()
        self.in_pieces = start is not None  # a person's own map may be
        # What the last answer showed. Which pieces a model's answer keeps is asked of its automatic one alone: after a
        # correction a hidden piece may be larger than what is left of the one that is shown.
        self.shown = self._shown_first.copy()
        self.named: dict[Voxel, int] = {}

    def say(self, said: Words) -> None:
        """Take what was said into account, on both grids."""
        if not said:
            return
        said.notes.extend(contradictions(said.named().items(), before=self.named))
        clicks = {self.grid.network_voxel(click.voxel): click.label for click in said.clicks}
        scribbles = [
            Scribble(line.label, list(dict.fromkeys(self.grid.network_voxel(voxel) for voxel in line.voxels)))
            for line in said.scribbles
        ]
        if clicks or scribbles:
            former = self.volume.probabilities
            self.volume.prompt([Click(label, voxel) for voxel, label in clicks.items()], scribbles=scribbles)
            self._update(former[0], self.volume.probabilities[0], towards=set(said.named().values()))
        self.named |= said.named()
        self._keep_named()
        for box in said.boxes:
            self._say_box(box, said.notes)

    def _keep_named(self) -> None:
        """What a person has named has that class, and is shown."""
        for voxel, label in self.named.items():
            self.label_map[voxel] = label
            self.shown[voxel] = label

    def _say_box(self, box: Box, notes: list[str]) -> None:
        """A box, outside which nothing changes; a note where nothing changes within."""
        place = tuple(slice(low, high + 1) for low, high in zip(box.least, box.greatest, strict=True))
        before, former = self.label_map.copy(), self.volume.probabilities
        corners = _sorted(self.grid.network_voxel(box.least), self.grid.network_voxel(box.greatest))
        self.volume.prompt([], boxes=[Box(box.label, *corners)])
        self._update(former[0], self.volume.probabilities[0], towards={box.label})
        within = self.label_map[place].copy()
        self.label_map = before
        changed = bool((before[place] != within).any())
        before[place] = within
        self._keep_named()
        np.copyto(self.shown[place], box.label, where=self.label_map[place] == box.label)
        if not changed:
            there = bool((self.label_map[place] == box.label).any())
            found = f"no more of class {box.label} than is there" if there else f"nothing of class {box.label}"
            where = f"box {list(box.least)} to {list(box.greatest)}"
            notes.append(f"{where}: the model finds {found} in it; click or draw where it is")

    def _update(self, former: Tensor, current: Tensor, *, towards: set[int]) -> None:
        """The label map where the probabilities have changed, and nowhere else, towards some classes."""
        box = _box_of((former != current).any(dim=0))
        if box is None:
            return
        place = self.grid.scan_box(*box)
        before, after = (self.grid.label_map(maps, place) for maps in (former, current))
        np.copyto(self.label_map[place], after, where=(before != after) & np.isin(after, sorted(towards)))

    def answer(self, notes: list[str]) -> Answer:
        """As it is now."""
        label_map = self.label_map.copy()
        if not self.in_pieces:
            drop_hidden_pieces(label_map, self.pieces, classes=self.classes, shown=self.shown)
            self.shown = label_map.copy()
        probabilities = self.volume.probabilities[0].clone()
        return Answer(label_map, self.grid.affine, notes, probabilities, self.grid, dict(self.named), self.temperature)

    def checked_mask(self, mask: NDArray[np.integer], model: LoadedModel) -> NDArray[np.integer]:
        """A label map that fits the scan.

        Raises:
            ValueError: it has another shape, or values that are no class.
        """
        mask = np.asarray(mask)
        if mask.shape != self.grid.shape:
            raise ValueError(f"mask {mask.shape} must have the scan's own shape {self.grid.shape}")
        values = np.unique(mask)
        if strange := [value for value in values.tolist() if value not in model.labels]:
            raise ValueError(f"mask holds {strange[0]!r}, which is no class; there are: {sorted(model.labels)}")
        return mask

    def own_points(self) -> list[PromptPoint]:
        back, last = np.linalg.inv(self.grid.to_network), np.array(self.grid.shape) - 1
        points = []
        for point in self.volume.volume.points:
            d, h, w = np.clip(np.rint((back @ [*point.voxel, 1.0])[:3]), 0, last).astype(int).tolist()
            points.append(point._replace(voxel=(d, h, w)))
        return points


def _as_loaded(voxels: Any, place: Any, *, in_channels: int) -> MetaTensor:
    """What loading a file with these values and this affine gives, [C, X, Y, Z]."""
    try:
        array = np.asarray(voxels)
        affine = np.asarray(place, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"scan must be (array, affine), both of numbers alone ({brief(error)})") from error
    if array.dtype.kind not in REAL:
        raise DataError(not_real(ARRAY, array.dtype.kind, str(array.dtype)))
    channels = array.shape[3] if array.ndim == 4 else 1
    if array.ndim not in (3, 4) or channels != in_channels or min(array.shape) < 1:
        raise DataError(
            f"an array of shape {array.shape} where {in_channels} channel(s) are wanted; give [X, Y, Z], "
            "or [X, Y, Z, channels]"
        )
    if affine.shape != (4, 4) or affine[3].tolist() != [0, 0, 0, 1]:
        raise DataError(
            f"affine {affine.tolist()} must be an invertible 4 x 4 matrix from voxel to mm, its last row 0, 0, 0, 1"
        )
    refuse_affine(affine, ARRAY)
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    values = values.movedim(-1, 0) if array.ndim == 4 else values[None]
    shape = np.array(array.shape[:3])
    meta = {"original_affine": affine.copy(), "spatial_shape": shape, "filename_or_obj": ARRAY}
    return MetaTensor(values, affine=torch.from_numpy(affine), meta=meta)


def _box_of(changed: Tensor) -> tuple[list[int], list[int]] | None:
    """The least and greatest voxel of what has changed, [D, H, W]; None where nothing has."""
    lines = [torch.nonzero(changed.any(dim=other[0]).any(dim=other[1])) for other in ((1, 1), (0, 1), (0, 0))]
    if not len(lines[0]):
        return None
    return [int(line[0]) for line in lines], [int(line[-1]) for line in lines]


def _sorted(one: Voxel, other: Voxel) -> tuple[Voxel, Voxel]:
    (a, b, c), (d, e, f) = np.minimum(one, other).tolist(), np.maximum(one, other).tolist()
    return (a, b, c), (d, e, f)


def drop_small_pieces(
    label_map: NDArray[np.uint8], pieces: Pieces, *, classes: int, named: Mapping[Voxel, int]
) -> None:
    """In place: what :func:`aps_components.label_map.kept_pieces` keeps, and every piece that a person has named.

    Args:
        label_map: [X, Y, Z].
        pieces: which stay.
        classes: background included.
        named: voxels that a person has named, with their class.
    """
    for group in _groups(pieces, classes):
        if (box := _bounds(_is_in(label_map, group))) is not None:
            found, count = ndimage.label(_is_in(label_map[box], group), structure=TOUCHING)
            largest = int(np.bincount(found.ravel(), minlength=count + 1)[1:].argmax()) + 1
            voxels = [voxel for voxel, said in named.items() if said in group]
            places = [tuple(index - side.start for index, side in zip(voxel, box, strict=True)) for voxel in voxels]
            _keep(label_map[box], found, count, [largest, *(int(found[place]) for place in places)])


def drop_hidden_pieces(label_map: NDArray[np.uint8], pieces: Pieces, *, classes: int, shown: NDArray[np.uint8]) -> None:
    """In place: where the larger pieces were chosen once, those that meet what was shown stay, whatever their size.

    Args:
        label_map: [X, Y, Z], with the pieces that were hidden.
        pieces: which were chosen, as :func:`drop_small_pieces` has it.
        classes: background included.
        shown: what was kept before, and what a person has named since, [X, Y, Z].
    """
    for group in _groups(pieces, classes):
        if (box := _bounds(_is_in(label_map, group))) is not None:
            found, count = ndimage.label(_is_in(label_map[box], group), structure=TOUCHING)
            _keep(label_map[box], found, count, np.unique(found[_is_in(shown[box], group)]).tolist())


def _groups(pieces: Pieces, classes: int) -> Iterator[range]:
    """Classes among whose pieces, of all of them together, is chosen, one choice after another."""
    if pieces in OF_THE_FOREGROUND:
        yield range(1, classes)
    if pieces in OF_EACH_CLASS:
        yield from (range(label, label + 1) for label in range(1, classes))


def _is_in(values: NDArray[np.uint8], group: range) -> NDArray[np.bool_]:
    return (values >= group.start) & (values < group.stop)


def _keep(part: NDArray[np.uint8], found: NDArray[np.integer], count: int, numbers: Sequence[int]) -> None:
    """In place: of the pieces of a part, numbered from 1 to ``count`` in ``found``, those of some numbers stay."""
    kept = np.zeros(count + 1, dtype=bool)
    kept[[0, *numbers]] = True
    part[~kept[found]] = 0


def _bounds(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The box that holds a mask; None where it is empty."""
    sides = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if not len(filled):
            return None
        sides.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return sides[0], sides[1], sides[2]
