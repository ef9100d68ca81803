"""From the names that a viewer gives its segments to the values that the classes have.

Viewers number segments in the order in which they stand, or by the alphabet; the names alone say what they are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data.nifti import write_nifti
from aps_components.label_server.label_check import label_affine, label_voxels
from aps_components.label_server.parameters import RefusedRequestError
from aps_components.plain_json import read_object
from aps_components.terminal import shown

NO_CLASS = ("background", "foreground_scribbles", "background_scribbles")


def classes_of(bundle: Path) -> dict[str, int]:
    """Name, in small letters, to value of a bundle's classes, without the background."""
    metadata = read_object(bundle / "configs" / "metadata.json")
    classes = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    return {str(name).lower(): int(value) for value, name in classes.items() if int(value)}


def classes_of_app(app: Path) -> list[dict[str, int]]:
    """Of each of the app's bundles."""
    return [classes_of(file.parent.parent) for file in sorted(app.glob("model/*/configs/metadata.json"))]


def names_in_order(label_info: Any) -> list[str]:
    """Names of the segments of a label that was handed in, that with the value 1 first; [] where none are said."""
    entries = label_info if isinstance(label_info, list) else []
    names = [str(entry.get("name", "")).lower() for entry in entries if isinstance(entry, dict)]
    names = [name for name in names if name not in NO_CLASS]  # which Slicer's module does not send
    return names if all(names) else []


def named_values(drawn: NDArray[Any], names: Sequence[str], values: Mapping[str, int]) -> NDArray[np.uint8]:
    """A label map whose value 1 is the first of the names, as one whose values are the classes'; others are background.

    Args:
        drawn: [X, Y, Z], whole numbers.
        names: in small letters; the first has the value 1.
        values: name to value of the classes.
    """
    table = np.zeros(max(int(drawn.max(initial=0)), len(names)) + 1, dtype=np.uint8)
    for number, name in enumerate(names, start=1):
        table[number] = values.get(name, 0)
    return table[drawn.astype(np.int64)]


def values_by_name(drawn: NDArray[Any], names: Sequence[str], classes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The classes of the bundle that knows all segments with voxels in them.

    Args:
        drawn: [X, Y, Z], whole numbers.
        names: in small letters; the first has the value 1.
        classes: name to value, of each bundle.

    Raises:
        RefusedRequestError: no bundle knows them all.
    """
    used = [names[number - 1] for number in np.unique(drawn).astype(int).tolist() if 0 < number <= len(names)]
    for values in classes:
        if all(name in values for name in used):
            return dict(values)
    known = sorted({name for values in classes for name in values})
    strange = next((name for name in used if name not in known), None)
    if strange is None:
        raise RefusedRequestError(f"the segments {', '.join(used)} are not of one model: hand in one model's at a time")
    raise RefusedRequestError(
        f"the segment '{shown(strange)[:80]}' is none of the classes {', '.join(known[:40])}: rename or remove it"
    )


@contextmanager
def renumbered(
    label: str | os.PathLike[str], info: Mapping[str, Any] | None, classes: Sequence[Mapping[str, int]]
) -> Iterator[str]:
    """A label that was handed in, with the values of the classes where its segments have names; gone afterwards.

    Args:
        label: its file.
        info: what the viewer said with it; the names are those of its ``label_info``, in their order.
        classes: name to value, of each bundle.

    Raises:
        RefusedRequestError: it cannot be read, or a segment is none of the classes.
    """
    names = names_in_order((info or {}).get("label_info"))
    drawn = label_voxels(label) if names else np.zeros(0)
    values = values_by_name(drawn, names, classes) if names else {}
    if all(values.get(name) == number for number, name in enumerate(names, start=1)):
        yield os.fspath(label)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "label.nii.gz")
        write_nifti(file, named_values(drawn, names, values), label_affine(label))
        yield file
