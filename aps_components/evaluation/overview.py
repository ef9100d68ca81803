"""The picture of one scan from the files that inference wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import case_name
from aps_components.data.nifti import channels_of, read_geometry, read_scan
from aps_components.evaluation.figure import save_overview
from aps_components.plain_json import read_object
from aps_components.uncertainty import MAP_NAMES


def overview_from_files(
    path: str | Path,
    *,
    image: str | Path,
    output_dir: str | Path,
    truth: str | Path | None = None,
) -> Path:
    """Draw image, truth, prediction, both uncertainty maps and the prompt points of one scan.

    Args:
        path: of the PNG file to write.
        image: the scan.
        output_dir: where inference wrote ``NAME_seg.nii.gz`` and, with ``--save_maps true``, the maps and the prompts.
        truth: label map of the scan, if there is one.

    Raises:
        FileNotFoundError: the scan has not been segmented into ``output_dir``.
    """
    name, folder = case_name({"image": str(image)}), Path(output_dir)
    segmentation = folder / f"{name}_seg.nii.gz"
    if not segmentation.is_file():
        raise FileNotFoundError(f"{segmentation} is missing: segment {image} into {folder} first (run inference)")
    prompts, maps = folder / f"{name}_prompts.json", _maps(folder, name)
    return save_overview(
        path,
        image=_array(image),
        truth=None if truth is None else _array(truth).astype(np.uint8),
        prediction=_array(segmentation).astype(np.uint8),
        **maps,
        points=_points(prompts) if prompts.is_file() else None,
        spacing=list(read_geometry(image).spacing),
        title=name,
    )


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


def _points(file: Path) -> list[tuple[int, float, float, float]]:
    """(class, d, h, w) of every prompt point, on the scan's own grid."""
    points = read_object(file, keys=("points",))["points"]
    try:
        return [(point["label"], *point["voxel"]) for point in points]
    except (KeyError, TypeError):
        raise ValueError(f"{file}: points without label or voxel; segment the scan again with --maps") from None
