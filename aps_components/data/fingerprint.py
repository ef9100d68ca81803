"""What a dataset is like: grids, intensities and classes of its scans, from which settings can be planned.

The idea is the dataset fingerprint of nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). Axes are
those of the pipeline: x, y, z of the scan turned to RAS. A case that cannot be used is left out with a line that
names it; the others go on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import io_orientation
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from aps_components.data.case_folder import Case, CaseFolder
from aps_components.data.checks import header_faults, label_faults
from aps_components.data.datalist import located
from aps_components.data.errors import DataError
from aps_components.data.nifti import channels_of, read_geometry, read_scan
from aps_components.data.partial import DRAWN, IGNORE, MOST_CLASSES, Partial, sliced_axis

PERCENTILES = (0.5, 50.0, 99.5)
SAMPLES = 10_000  # voxels per case and channel for the percentiles, as in nnU-Net
UNLABELLED_READ = 50  # the headers of all unlabelled scans are read, the voxels of this number
MOST_VALUES = MOST_CLASSES - 1  # of a label, besides the background
LARGEST_VALUE = 65_535
THREADS = 4
TOUCHING = np.ones((3, 3, 3))  # 26 neighbours, as label_map.keep_largest_component has it

Triple = tuple[float, float, float]
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class ClassFacts:
    """One class in one case.

    Attributes:
        voxels, millilitres: its size.
        centre: its centre of mass along x, y, z, from 0 to 1 of the scan's extent.
        largest_share: of its voxels, how many lie in its largest connected piece.
    """

    voxels: int
    millilitres: float
    centre: Triple
    largest_share: float


@dataclass(frozen=True)
class IntensityFacts:
    """The values of one scan.

    Attributes:
        minimum: per channel.
        zero_share: of all voxels and channels, how many are exactly 0.
        overall: values drawn from all voxels, [C, n].
        foreground: values drawn from the voxels of all classes, [C, m]; [C, 0] without a label.
    """

    minimum: tuple[float, ...]
    zero_share: float
    overall: Samples
    foreground: Samples


@dataclass(frozen=True)
class CaseFacts:
    """One usable case.

    Attributes:
        case: its files.
        shape, spacing: along x, y, z; voxels and mm.
        intensity: None where only the header was read.
        classes: by value in the label file, background left out; None without a label.
        unlabeled_voxels: that a label leaves out.
        drawn: the classes that were drawn; None for all.
        joined_share: the share of a class that lies in the largest connected piece of all classes together, of that
            class of which least does; None without any.
        extent: of the box around that piece, along x, y, z, voxels; None without any.
        sliced: the axis of the file along which the label looks as if only some slices had been drawn, and nobody says
            so, or names another axis; else None.
    """

    case: Case
    shape: tuple[int, int, int]
    spacing: Triple
    intensity: IntensityFacts | None
    classes: dict[int, ClassFacts] | None
    joined_share: float | None = None
    extent: tuple[int, int, int] | None = None
    sliced: int | None = None
    unlabeled_voxels: int = 0
    drawn: tuple[int, ...] | None = None

    @property
    def labeled_voxels(self) -> int:
        """That a label does not leave out."""
        return math.prod(self.shape) - self.unlabeled_voxels

    @property
    def covers_scan(self) -> bool:
        """Whether every voxel has a label."""
        return not self.unlabeled_voxels

    @property
    def is_whole(self) -> bool:
        """Whether every voxel has a label, and every class was drawn."""
        return self.covers_scan and self.drawn is None


@dataclass(frozen=True)
class Fingerprint:
    """All usable cases of a dataset.

    Attributes:
        cases: in the order of the folder.
        channels: of every image.
        faults: what was left out, a line per fault that begins with the file or case.
    """

    cases: list[CaseFacts]
    channels: int
    faults: list[str]

    @property
    def labelled(self) -> list[CaseFacts]:
        """Cases with a label."""
        return [facts for facts in self.cases if facts.classes is not None]

    @property
    def unlabelled(self) -> list[CaseFacts]:
        """Cases without one."""
        return [facts for facts in self.cases if facts.classes is None]

    @property
    def partly_labelled(self) -> list[CaseFacts]:
        """Cases with a label that is not whole."""
        return [facts for facts in self.labelled if not facts.is_whole]

    @property
    def shapes(self) -> NDArray[np.float64]:
        """[N, 3], voxels."""
        return np.array([facts.shape for facts in self.cases], dtype=float)

    @property
    def spacings(self) -> NDArray[np.float64]:
        """[N, 3], mm."""
        return np.array([facts.spacing for facts in self.cases], dtype=float)

    @property
    def intensities(self) -> list[IntensityFacts]:
        """Of the scans whose voxels were read."""
        return [facts.intensity for facts in self.cases if facts.intensity is not None]

    @property
    def values(self) -> list[int]:
        """The class values that occur in label files, background left out."""
        return sorted({value for facts in self.labelled for value in facts.classes or {}})

    def of_class(self, value: int) -> list[ClassFacts]:
        """A class in every case that has it."""
        return [facts.classes[value] for facts in self.labelled if facts.classes and value in facts.classes]

    def voxels_of(self, value: int) -> int:
        """Of a class in all cases; where it was not drawn in some, as many as the others let expect."""
        found = sum(facts.voxels for facts in self.of_class(value))
        labeled = sum(facts.labeled_voxels for facts in self.labelled)
        where = sum(f.labeled_voxels for f in self.labelled if f.drawn is None or value in f.drawn)
        return found if where == labeled or not where else round(found * labeled / where)

    def percentiles(self, part: str) -> NDArray[np.float64]:
        """`PERCENTILES` of the "overall" or "foreground" values of all scans, [C, 3]."""
        pooled = np.concatenate([getattr(facts, part) for facts in self.intensities], axis=1)
        if not pooled.shape[1]:
            return np.full((self.channels, len(PERCENTILES)), np.nan)
        return np.percentile(pooled, PERCENTILES, axis=1).T

    def summary(self) -> dict[str, Any]:
        """Everything as JSON has it, without the drawn values."""
        return {
            "cases": len(self.cases),
            "labelled": len(self.labelled),
            "unlabelled": len(self.unlabelled),
            **({"partly_labelled": len(self.partly_labelled)} if self.partly_labelled else {}),
            "voxels_read": len(self.intensities),
            "channels": self.channels,
            "shape": _spread(self.shapes),
            "spacing_mm": _spread(self.spacings),
            "intensity_percentiles": {
                "of": list(PERCENTILES),
                **{part: _rounded(self.percentiles(part)) for part in ("overall", "foreground")},
            },
            "classes": {str(value): _class_summary(self.of_class(value)) for value in self.values},
            "left_out": self.faults,
        }


def take_fingerprint(
    folder: CaseFolder, *, unlabelled_read: int = UNLABELLED_READ, threads: int = THREADS, progress: bool = True
) -> Fingerprint:
    """Look at every case of a folder.

    Args:
        folder: what `find_cases` found.
        unlabelled_read: how many unlabelled scans are read in full, evenly spread; of the others the header.
        threads: scans looked at at once, which is also how many are held in memory.
        progress: show a bar.
    """
    unlabelled = [case for case in folder.cases if case.label is None]
    picked = np.unique(np.linspace(0, len(unlabelled) - 1, min(unlabelled_read, len(unlabelled))).round().astype(int))
    in_full = {case.name for case in folder.cases if case.label} | {unlabelled[index].name for index in picked}
    with ThreadPoolExecutor(threads) as pool:
        counts = Counter(pool.map(lambda case: _channels(folder.root, case), folder.cases))
        counts.pop(0, None)
        channels = counts.most_common(1)[0][0] if counts else 1

        def look(case: Case) -> CaseFacts | list[str]:
            return _look(folder, case, channels, in_full=case.name in in_full)

        bar = tqdm(total=len(folder.cases), desc="Looking at scans", unit="scan", disable=not progress)
        looks = []
        for result in pool.map(look, folder.cases):
            looks.append(result)
            bar.update()
        bar.close()
    return Fingerprint(
        cases=[result for result in looks if isinstance(result, CaseFacts)],
        channels=channels,
        faults=[*folder.faults, *(line for result in looks if isinstance(result, list) for line in result)],
    )


def _channels(root: Path, case: Case) -> int:
    """Of a case's image files together; 0 where one cannot be read."""
    try:
        return sum(read_geometry(located(root, file)).channels for file in case.images)
    except DataError:
        return 0  # header_faults says what is wrong with it


def _look(folder: CaseFolder, case: Case, channels: int, *, in_full: bool) -> CaseFacts | list[str]:
    """A case's facts, or what is wrong with it."""
    root = folder.root
    paths = {"image": [located(root, file) for file in case.images]}
    if case.label:
        paths["label"] = [located(root, case.label)]
    faults = list(header_faults(paths, in_channels=channels))
    if not faults:
        try:
            partial = Partial.of({IGNORE: folder.ignore, **case.said})
            return _facts(root, case, in_full=in_full, partial=partial)
        except DataError as error:
            faults = str(error).splitlines()
    return [fault.replace(f"{root}/", "") for fault in faults]


def _facts(root: Path, case: Case, *, in_full: bool, partial: Partial) -> CaseFacts:
    geometry = read_geometry(located(root, case.images[0]))
    axes = io_orientation(geometry.affine).astype(int)  # file axis -> axis in RAS, and whether it is turned round
    order = np.argsort(axes[:, 0])
    shape = np.array(geometry.shape)[order].tolist()
    spacing = np.round(geometry.ras_spacing, 6).tolist()
    labels, unlabeled = _read_label(root, case.label, partial) if case.label else (None, 0)
    share, sides = (None, None) if labels is None or not labels.any() else _largest_object(labels)
    return CaseFacts(
        case=case,
        shape=(shape[0], shape[1], shape[2]),
        spacing=(spacing[0], spacing[1], spacing[2]),
        intensity=_intensity(root, case, labels) if in_full else None,
        classes=None if labels is None else dict(_classes(labels, axes, geometry.voxel_mm3 / 1000)),
        unlabeled_voxels=unlabeled,
        drawn=partial.classes,
        joined_share=share,
        sliced=None if labels is None else _sliced(labels, unlabeled, partial),
        extent=None if sides is None else (sides[order[0]], sides[order[1]], sides[order[2]]),
    )


def _sliced(labels: NDArray[np.int32], unlabeled: int, partial: Partial) -> int | None:
    """See :attr:`CaseFacts.sliced`."""
    along = partial.slices == DRAWN
    if not along and (unlabeled or partial.slices is not None):
        return None
    axis = sliced_axis(labels > 0)
    return None if along and axis == partial.axis else axis


def _read_label(root: Path, file: str, partial: Partial) -> tuple[NDArray[np.int32], int]:
    """A label's values, [X, Y, Z] in the file's own axes, 0 where nobody labelled; and how many voxels those are."""
    values = read_scan(located(root, file)).voxels
    values = values.reshape(values.shape[:3])
    top = float(values.max())
    with np.errstate(invalid="ignore"):
        faults = list(label_faults(file, values, None, partial=partial))
    if faults:
        raise DataError("\n".join(faults))
    if top > LARGEST_VALUE:
        raise DataError(f"{file}: holds values up to {top:g}; a label holds class numbers: is it a scan?")
    labels = np.rint(values).astype(np.int32) if values.dtype.kind == "f" else values.astype(np.int32)
    unlabeled = partial.unlabeled(labels, labels)
    labels[unlabeled] = 0
    if (count := np.count_nonzero(np.bincount(labels.ravel())[1:])) > MOST_VALUES:
        raise DataError(f"{file}: holds {count} classes; at most {MOST_VALUES} can be told apart: is it a scan?")
    return labels, int(np.count_nonzero(unlabeled))


def _intensity(root: Path, case: Case, labels: NDArray[np.int32] | None) -> IntensityFacts:
    rng = np.random.default_rng(0)
    inside = np.flatnonzero(labels) if labels is not None else np.zeros(0, dtype=int)
    minimum: list[float] = []
    zeros: list[float] = []
    overall: list[Samples] = []
    foreground: list[Samples] = []
    for file, channel in _image_channels(root, case):
        if broken := channel.size - np.count_nonzero(np.isfinite(channel)):
            raise DataError(f"{file}: {broken} voxels are NaN or infinite; replace them, for instance by the minimum")
        if not overall:  # the same voxels of every channel
            anywhere = _drawn(channel.size, rng)
            inside = inside[_drawn(len(inside), rng)]
        minimum.append(float(channel.min()))
        zeros.append(1 - np.count_nonzero(channel) / channel.size)
        overall.append(channel.ravel()[anywhere])
        foreground.append(channel.ravel()[inside])
    return IntensityFacts(tuple(minimum), float(np.mean(zeros)), np.stack(overall), np.stack(foreground))


def _image_channels(root: Path, case: Case) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for file in case.images:
        with np.errstate(over="ignore"):  # beyond float32: becomes infinite, which is reported as such
            image = channels_of(read_scan(located(root, file))).astype(np.float32)
        for channel in image:
            yield file, np.ascontiguousarray(channel)


def _drawn(count: int, rng: np.random.Generator) -> NDArray[np.int_]:
    """At most `SAMPLES` of the numbers 0 to count - 1; all of them, in order, where there are fewer."""
    return np.arange(count) if count <= SAMPLES else rng.integers(count, size=SAMPLES)


def _classes(labels: NDArray[np.int32], axes: NDArray[np.int_], millilitres: float) -> Iterator[tuple[int, ClassFacts]]:
    """Every class of a label; each is only looked at within its bounding box.

    Args:
        labels: in the file's own axes.
        axes: [3, 2], to which RAS axis each goes, and 1 or -1.
        millilitres: of a voxel.
    """
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        mask = labels[box] == value
        voxels = int(np.count_nonzero(mask))
        centre = [0.0, 0.0, 0.0]
        for axis, (target, turn) in enumerate(axes):
            profile = mask.sum(axis=tuple(other for other in range(3) if other != axis))
            middle = box[axis].start + 0.5 + float(profile @ np.arange(len(profile))) / voxels
            relative = middle / labels.shape[axis]
            centre[target] = relative if turn > 0 else 1 - relative
        yield (
            value,
            ClassFacts(
                voxels=voxels,
                millilitres=voxels * millilitres,
                centre=(centre[0], centre[1], centre[2]),
                largest_share=_largest_share(mask),
            ),
        )


def _largest_share(mask: NDArray[np.bool_]) -> float:
    """Of a mask's voxels, how many lie in its largest connected piece."""
    sizes = np.bincount(ndimage.label(mask, structure=TOUCHING)[0].ravel())[1:]
    return int(sizes.max()) / int(sizes.sum())


def _largest_object(labels: NDArray[np.int32]) -> tuple[float, list[int]]:
    """Of the largest connected piece of all classes together: see ``joined_share``; and the sides of the box around it.

    A small class that lies elsewhere makes the share 0, however few voxels it has.
    """
    pieces, _ = ndimage.label(labels > 0, structure=TOUCHING)
    largest = int(np.bincount(pieces.ravel())[1:].argmax()) + 1
    everywhere = np.bincount(labels.ravel())[1:]
    inside = np.bincount(labels[pieces == largest], minlength=len(everywhere) + 1)[1:]
    sides = [side.stop - side.start for side in ndimage.find_objects(pieces)[largest - 1]]
    return float((inside[everywhere > 0] / everywhere[everywhere > 0]).min()), sides


def _class_summary(found: Sequence[ClassFacts]) -> dict[str, float]:
    return {
        "cases": len(found),
        "voxels": sum(facts.voxels for facts in found),
        "millilitres_median": round(float(np.median([facts.millilitres for facts in found])), 3),
        "in_one_piece": round(sum(facts.largest_share >= 0.99 for facts in found) / len(found), 3),
    }


def _spread(rows: NDArray[np.float64]) -> dict[str, list[float]]:
    spread = {"min": rows.min(axis=0), "median": np.median(rows, axis=0), "max": rows.max(axis=0)}
    return {name: _rounded(values) for name, values in spread.items()}


def _rounded(values: NDArray[np.float64]) -> Any:
    return [_rounded(row) for row in values] if values.ndim > 1 else [_number(value) for value in values]


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
