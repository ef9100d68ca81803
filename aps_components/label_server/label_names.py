"""From the names that a viewer gives its segments to the values that label files have, and to the bundle they are of.

Viewers number segments in the order in which they stand, or by the alphabet; the names alone say what they are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aps_components.data.label_values import file_values, map_values, parsed_label_values
from aps_components.data.nifti import write_nifti
from aps_components.data.partial import IGNORE
from aps_components.label_server.clicks import INTERACTIVE, SCRIBBLED
from aps_components.label_server.label_check import called, label_affine, label_voxels
from aps_components.label_server.parameters import RefusedRequestError
from aps_components.plain_json import read_object
from aps_components.terminal import brief, shown

NO_CLASS = ("background", "foreground_scribbles", "background_scribbles")
BUNDLE = "bundle"  # in what is said with a label and kept of it: the name of its bundle, or names where it fits several
MEANING = "values"  # kept of it: value in its file to class, as its bundle had them on that day
ALONE = "serve one of them alone"
SAY = f'say which one as "{BUNDLE}" in the label\'s params, or {ALONE}'


@dataclass(frozen=True)
class Served:
    """A bundle that is served, and how its label files are numbered."""

    name: str
    classes: Mapping[str, int]
    """Name, in small letters, to class, without the background."""
    label_values: Mapping[int, int]
    """Value in a label file to class; values that are not named keep their number."""
    ignore: int | None = None
    """Value in a label file of a voxel that nobody labelled."""

    @classmethod
    def of(cls, bundle: Path) -> Served:
        """From a bundle's folder.

        Raises:
            ValueError: its files cannot be read, or its ``label_values`` are no whole numbers.
        """
        metadata = read_object(bundle / "configs" / "metadata.json")
        classes = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        file = bundle / "configs" / "train.json"
        training = read_object(file)
        label_values, ignore = training.get("label_values"), training.get(IGNORE)
        try:
            parsed = parsed_label_values(label_values if isinstance(label_values, dict) else None)
        except ValueError as error:
            raise ValueError(f"{file}: {brief(error)}") from error
        return cls(
            name=bundle.name,
            classes={str(name).lower(): int(value) for value, name in classes.items() if int(value)},
            label_values=parsed,
            ignore=ignore if isinstance(ignore, int) else None,
        )

    @cached_property
    def values(self) -> dict[str, int]:
        """Name to the value that its label files have; a class that no value means is left out."""
        values = file_values(self.label_values, self.classes.values())
        return {name: values[label] for name, label in self.classes.items() if label in values}

    @cached_property
    def meaning(self) -> dict[str, str]:
        """Value in its label files to name of the class, of the background empty; as it is kept with a label."""
        return {str(value): self.name_of(value) or "" for value in sorted(self.known)}

    @property
    def known(self) -> set[int]:
        """Values that a voxel of a whole label may have."""
        return {0, *self.classes.values(), *self.label_values}

    def class_map(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """The voxels of a label file as classes, of the same shape."""
        return map_values(voxels, self.label_values)

    def name_of(self, value: int) -> str | None:
        """Of a value in a label file; None of the background."""
        label = self.label_values.get(value, value)
        return next((name for name, of_class in self.classes.items() if of_class == label), None)


def served_bundles(app: str | os.PathLike[str], conf: Mapping[str, str]) -> dict[str, Path]:
    """Name to folder of the bundles of an app that ``--conf models`` names; others of its folder are of earlier starts.

    Args:
        app: its folder.
        conf: what MONAI Label was started with.
    """
    names = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
    return {name: Path(app) / "model" / name for name in names}


def names_in_order(label_info: Any) -> list[str]:
    """Names of the segments of a label that was handed in, that with the value 1 first; [] where none are said."""
    entries = label_info if isinstance(label_info, list) else []
    names = [str(entry.get("name", "")).lower() for entry in entries if isinstance(entry, dict)]
    names = [name for name in names if name not in NO_CLASS]  # which Slicer's module does not send
    return names if all(names) else []


def named_values(drawn: NDArray[Any], names: Sequence[str], values: Mapping[str, int]) -> NDArray[np.integer]:
    """A label map whose value 1 is the first of the names, as one with the values of the names; others are background.

    Args:
        drawn: [X, Y, Z], whole numbers from 0 to the number of the names.
        names: in small letters; the first has the value 1.
        values: name to value.
    """
    table = np.array([0, *(values.get(name, 0) for name in names)], dtype=type_of(values))
    return table[drawn.astype(np.int64)]


def type_of(values: Mapping[str, int]) -> DTypeLike:
    """The least type of whole numbers, from uint8 on, that holds the values."""
    return np.result_type(np.uint8, *(np.min_scalar_type(value) for value in values.values()))


def bundles_by_name(
    used: Sequence[str], names: Sequence[str], served: Sequence[Served], *, hint: str = ""
) -> list[Served]:
    """The bundles that know all segments with voxels in them, which agree on all their classes.

    Of these, those that know the empty segments, too, if any. A class that was not drawn is background to those that
    know it, so bundles with other classes are told apart: by the hint, if it is one of them.

    Args:
        used: names of the segments with voxels, in small letters.
        names: of all segments.
        served: to choose from.
        hint: name of the bundle that a viewer was set to.

    Raises:
        RefusedRequestError: no bundle knows them all, or two that do are of different classes.
    """
    found = [bundle for bundle in served if set(used) <= set(bundle.values)]
    found = [bundle for bundle in found if set(names) <= set(bundle.values)] or found
    if found:
        if _differing(found) and (hinted := [bundle for bundle in found if bundle.name == hint]):
            return hinted
        _refuse_disagreement(used, found, mend=SAY)
        return found
    known = sorted({name for bundle in served for name in bundle.values})
    strange = next((name for name in used if name not in known), None)
    if strange is None:
        raise RefusedRequestError(f"the segments {', '.join(used)} are not of one model: hand in one model's at a time")
    raise RefusedRequestError(
        f"the segment '{shown(strange)[:80]}' is none of the classes {', '.join(known[:40])}: rename or remove it"
    )


def bundles_by_most_names(names: Sequence[str], served: Sequence[Served]) -> list[Served]:
    """The bundles that know most of some segments, which agree on all their classes.

    Raises:
        RefusedRequestError: none knows any, or two that do are of different classes.
    """
    most = max((len(set(names) & set(bundle.values)) for bundle in served), default=0)
    if not most:
        raise RefusedRequestError(f"no model here knows any of its segments {shown(', '.join(names))[:80]}")
    found = [bundle for bundle in served if len(set(names) & set(bundle.values)) == most]
    _refuse_disagreement([name for name in names if any(name in one.values for one in found)], found, mend=ALONE)
    return found


def _refuse_disagreement(names: Sequence[str], bundles: Sequence[Served], *, mend: str) -> None:
    first, *others = bundles
    for name, other in ((name, other) for name in names for other in others):
        if first.values.get(name) != other.values.get(name):
            raise RefusedRequestError(
                f"the segment '{name}' has another value in labels of {first.name} than of {other.name}: {mend}"
            )
    if differing := _differing(bundles):
        raise RefusedRequestError(
            f"the label could be of {first.name} or of {differing.name}, and what was not drawn would be background to "
            f"either, though they have different classes: {mend}"
        )


def _differing(bundles: Sequence[Served]) -> Served | None:
    """One that has other classes or other values of them than the first."""
    return next((bundle for bundle in bundles if bundle.meaning != bundles[0].meaning), None)


def bundles_by_value(values: Sequence[int], served: Sequence[Served]) -> list[Served]:
    """The bundles whose label files have all these values, which agree on all their classes.

    Args:
        values: of a label that came without names, background left out.
        served: to choose from.

    Raises:
        RefusedRequestError: there is none, or they mean different things.
    """
    found = [bundle for bundle in served if set(values) <= bundle.known]
    if not found:
        raise RefusedRequestError(f"no model here knows all of the label's values {list(values)[:40]}")
    if _differing(found):
        names = " or ".join(bundle.name for bundle in found)
        raise RefusedRequestError(
            f"the label has no names, and its values could be of {names}: name its segments, or {SAY}"
        )
    return found


def said_bundles(info: Mapping[str, Any] | None, served: Sequence[Served]) -> list[Served]:
    """Those that are said with a label; [] where none is.

    Raises:
        RefusedRequestError: one is said that is not served.
    """
    said = (info or {}).get(BUNDLE) or []
    names = [said] if isinstance(said, str) else said
    found = {bundle.name: bundle for bundle in served}
    if not isinstance(names, list) or not all(isinstance(name, str) and name in found for name in names):
        raise RefusedRequestError(
            f"{BUNDLE} '{shown(said)[:80]}' is none of the bundles that are served: {', '.join(found)}"
        )
    return [found[name] for name in names]


def hinted_bundle(info: Mapping[str, Any] | None, served: Sequence[Served]) -> str:
    """Name of the bundle of the model that a viewer was set to, as 3D Slicer sends it with a label; empty of none."""
    model = (info or {}).get("model")
    tasks = {bundle.name + ending: bundle.name for bundle in served for ending in ("", INTERACTIVE, SCRIBBLED)}
    return tasks.get(model, "") if isinstance(model, str) else ""


def is_of(info: Mapping[str, Any], bundle: Served) -> bool:
    """Whether a label is a bundle's, by what was kept with it: by what its values mean, and by the name where it is not
    said."""
    meaning = info.get(MEANING)
    return meaning == bundle.meaning if isinstance(meaning, dict) else bundle.name in bundles_of_label(info)


def bundles_of_label(info: Mapping[str, Any]) -> list[str]:
    """Names of the bundles that a label is of, as they were kept with it; [] where nothing is known."""
    names = info.get(BUNDLE)
    return [str(name) for name in names] if isinstance(names, list) else []


@contextmanager
def renumbered(
    label: str | os.PathLike[str], info: Mapping[str, Any] | None, served: Sequence[Served]
) -> Iterator[tuple[str, list[Served]]]:
    """A label that was handed in, as its bundle numbers labels, where its segments have names; gone afterwards.

    Args:
        label: its file.
        info: what the viewer said with it: the segments' names in its ``label_info``, in their order; perhaps the
            bundle, or the model that the viewer was set to.
        served: the bundles that it can be of.

    Yields:
        The file, and the bundles that it is of: several where it fits them alike, none where nothing says it.

    Raises:
        RefusedRequestError: it cannot be read, or a segment is none of the classes, or of several with other values.
    """
    said, names = said_bundles(info, served), names_in_order((info or {}).get("label_info"))
    if not names:
        yield os.fspath(label), said or list(served if len(served) == 1 else ())
        return
    drawn = _numbered_voxels(label, names)
    used = [names[number - 1] for number in np.unique(drawn).astype(int).tolist() if number]
    bundles = bundles_by_name(used, names, said or served, hint=hinted_bundle(info, served))
    values = {name: bundles[0].values[name] for name in used}
    if all(values.get(name, number) == number for number, name in enumerate(names, start=1)):
        yield os.fspath(label), bundles
        return
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "label.nii.gz")
        write_nifti(file, named_values(drawn, names, values), label_affine(label))
        yield file, bundles


def _numbered_voxels(label: str | os.PathLike[str], names: Sequence[str]) -> NDArray[Any]:
    """The voxels of a label, [X, Y, Z], whose values number its segments."""
    drawn = label_voxels(label)
    for value in np.unique(drawn).tolist():
        if not (0 <= value <= len(names) and value == int(value)):  # NaN is not, either
            raise RefusedRequestError(
                f"{called(label)} has the value {value:g}, and its {len(names)} segments are numbered from 1: save it "
                "as a label map of these segments"
            )
    return drawn
