"""Datasets as users have them: folders of small made-up scans, without a datalist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

Box = tuple[slice, slice, slice]


def box(*edges: tuple[int, int]) -> Box:
    """A block of voxels from its edges along each axis."""
    x, y, z = (slice(low, high) for low, high in edges)
    return x, y, z


def label_map(shape: Sequence[int], boxes: Mapping[int, Box | Sequence[Box]]) -> np.ndarray:
    """Blocks of class values on background."""
    label = np.zeros(shape, dtype=np.int16)
    for value, places in boxes.items():
        for place in places if isinstance(places, list) else [places]:
            label[place] = value
    return label


def save(file: Path, array: np.ndarray, affine: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), file)


def write_cases(
    root: Path,
    *,
    labelled: int,
    unlabelled: int = 0,
    shape: Sequence[int],
    boxes: Mapping[int, Box | Sequence[Box]],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    affine: np.ndarray | None = None,
    channels: int = 1,
    layout: str = "plain",
    offset: float = 100.0,
) -> Path:
    """Cases c00, c01, ...: noise around `offset` with classes that are brighter, the first ones labelled.

    Args:
        layout: "plain" for images/ and labels/, 4-D files if there are channels; "nnunet" for imagesTr/ and labelsTr/
            with a file per channel.
    """
    affine = np.diag([*spacing, 1.0]) if affine is None else affine
    label = label_map(shape, boxes)
    for index in range(labelled + unlabelled):
        rng = np.random.default_rng(index)
        image = rng.normal(offset, 20, (*shape, channels)) + 30 * label[..., None]
        image = image.astype(np.float32)
        name = f"c{index:02d}"
        if layout == "nnunet":
            for channel in range(channels):
                save(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz", image[..., channel], affine)
        else:
            save(root / "images" / f"{name}.nii.gz", image if channels > 1 else image[..., 0], affine)
        if index < labelled:
            save(root / ("labelsTr" if layout == "nnunet" else "labels") / f"{name}.nii.gz", label, affine)
    return root
