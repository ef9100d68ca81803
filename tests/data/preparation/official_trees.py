"""Official downloads in miniature, for the tests beside this file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import nibabel as nib
import nrrd
import numpy as np

SHAPE = (17, 24, 40)  # x, y, z: sizes that cannot be confused
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
DIRECTIONS = np.diag([0.625, 0.625, 0.625])
ORIGIN = (3.0, -5.0, 7.0)


def image_of(name: str, shape: Sequence[int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(sum(name.encode())).integers(0, 200, size=shape).astype(np.uint8)


def mask_of(shape: Sequence[int] = SHAPE, value: int = 255) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[5:11, 7:16, 11:30] = value
    return mask


def write_nrrd(path: Path, voxels: np.ndarray, **header: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    geometry = {"space": "left-posterior-superior", "space directions": DIRECTIONS, "space origin": ORIGIN}
    nrrd.write(str(path), voxels, geometry | header)
    return path


def write_la(folder: Path, names: Iterable[str], *, labels: bool = True) -> Path:
    """Folders ID/lgemri.nrrd and ID/laendo.nrrd."""
    for name in names:
        write_nrrd(folder / name / "lgemri.nrrd", image_of(name))
        if labels:
            write_nrrd(folder / name / "laendo.nrrd", mask_of())
    return folder


def write_h5(folder: Path, names: Iterable[str], *, labels: bool = True, label_shape: Sequence[int] = SHAPE) -> Path:
    """Folders ID/mri_norm2.h5, as UA-MT has them."""
    for name in names:
        path = folder / name / "mri_norm2.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as content:
            content["image"] = (image_of(name) / 100 - 1).astype(np.float32)
            if labels:
                content["label"] = mask_of(label_shape, value=1)
    return folder


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def write_amos(raw: Path, names: Iterable[str], *, part: str = "Tr", labels: bool = True) -> Path:
    """Files imagesTr/NAME.nii.gz and labelsTr/NAME.nii.gz with all 15 organs."""
    label = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 16).astype(np.uint8)
    for name in names:
        write_nifti(raw / f"images{part}" / f"{name}.nii.gz", image_of(name).astype(np.int16) - 100)
        if labels:
            write_nifti(raw / f"labels{part}" / f"{name}.nii.gz", label)
    return raw


def write_brats(
    folder: Path,
    names: Iterable[str],
    *,
    pattern: str = "{name}/{name}-{part}.nii.gz",
    parts: Sequence[str] = ("t1n", "t1c", "t2w", "t2f", "seg"),
    enhancing: int = 3,
) -> Path:
    """Four scans and a label per case."""
    for name in names:
        for part in parts:
            path = folder / pattern.format(name=name, part=part)
            if part == "seg":
                label = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 4).astype(np.uint8)
                write_nifti(path, np.where(label == 3, enhancing, label).astype(np.uint8))
            else:
                write_nifti(path, image_of(name + part).astype(np.int16))
    return folder


def spoil(path: Path) -> Path:
    """Make a file that nothing can read."""
    path.write_bytes(b"not a scan")
    return path


def truncate(path: Path) -> Path:
    """Cut off the end of a file, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    return path
