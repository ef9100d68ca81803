"""The picture of one scan from the files that inference wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import DataError, case_name
from aps_components.data.checks import read_labels, require_one_grid
from aps_components.data.marks import DIGITS, read_mark, scan_hash
from aps_components.data.nifti import channels_of, read_geometry, read_scan
from aps_components.evaluation.figure import save_overview
from aps_components.files import refuse_special
from aps_components.plain_json import read_object
from aps_components.uncertainty import ALL_MAP_NAMES, MAP_NAMES


def overview_from_files(
    path: str | Path,
    *,
    image: str | Path,
    output_dir: str | Path,
    truth: str | Path | None = None,
    labels: Mapping[int, str] | None = None,
) -> Path:
    """Draw image, truth, prediction, both uncertainty maps and the prompt points of one scan.

    Args:
        path: of the PNG file to write.
        image: the scan.
        output_dir: where inference wrote ``NAME_seg.nii.gz`` and, with ``--save_maps true``, the maps and the prompts.
        truth: label map of the scan, if there is one.
        labels: class to name, for the legend; without one a class has the name that the files beside its label map say.

    Raises:
        FileNotFoundError: the scan has not been segmented into ``output_dir``.
        DataError: a file cannot be read, or is of another scan.
    """
    refuse_special(path, ending=".png")
    name, folder = case_name({"image": str(image)}), Path(output_dir)
    segmentation = folder / f"{name}_seg.nii.gz"
    if not segmentation.is_file():
        raise FileNotFoundError(f"{segmentation} is missing: segment {image} into {folder} first (run inference)")
    prompts = folder / f"{name}_prompts.json"
    maps = [file for kind in ALL_MAP_NAMES if (file := folder / f"{name}_{kind}.nii.gz").is_file()]
    require_one_grid([image, segmentation, *maps, *([] if truth is None else [truth])])
    _refuse_other_scan(image, segmentation)
    return save_overview(
        path,
        image=_array(image),
        truth=None if truth is None else read_labels(truth),
        prediction=read_labels(segmentation),
        **_maps(folder, name),
        points=_points(prompts) if prompts.is_file() else None,
        spacing=list(read_geometry(image).spacing),
        title=name,
        class_names={**_names(folder, name), **(labels or {})},
    )


def _refuse_other_scan(image: str | Path, segmentation: Path) -> None:
    """Another patient's scan can have the same name, and lie on the same grid."""
    mark = read_mark(segmentation)
    if mark is not None and mark.scan not in ("", scan_hash([image])[:DIGITS]):
        raise DataError(f"{segmentation} was made of another scan than {image}: give that one, or segment this one")


def _array(file: str | Path) -> NDArray[np.float32]:
    """The first channel of a scan, [D, H, W]."""
    return channels_of(read_scan(file))[0].astype(np.float32)


def _maps(folder: Path, name: str) -> dict[str, Any]:
    """The uncertainty maps that are there, with titles and units, by the names of :func:`save_overview`'s arguments."""
    given: dict[str, Any] = {"epistemic": None, "aleatoric": None}
    for names in MAP_NAMES.values():
        for which, called in zip(("epistemic", "aleatoric"), names, strict=False):
            file = folder / f"{name}_{called.file}.nii.gz"
            if given[which] is None and file.is_file():
                given |= {which: _array(file), f"{which}_title": called.title, f"{which}_unit": called.unit}
    return given


def _names(folder: Path, name: str) -> dict[int, str]:
    """Class to name, as the prompts and the statistics of ``aps segment`` have them."""
    return {
        entry["label"]: entry["name"]
        for entry in _entries(folder, name)
        if isinstance(entry, dict) and isinstance(entry.get("label"), int) and isinstance(entry.get("name"), str)
    }


def _entries(folder: Path, name: str) -> Iterator[Any]:
    for file, key in (("prompts", "points"), ("statistics", "classes")):
        path = folder / f"{name}_{file}.json"
        found = read_object(path).get(key) if path.is_file() else None
        yield from found if isinstance(found, list) else []


def _points(file: Path) -> list[tuple[int, float, float, float]]:
    """(class, d, h, w) of every prompt point, on the scan's own grid."""
    points = read_object(file, keys=("points",))["points"]
    try:
        return [(point["label"], *point["voxel"]) for point in points]
    except (KeyError, TypeError):
        raise ValueError(f"{file}: points without label or voxel; segment the scan again with --maps") from None
