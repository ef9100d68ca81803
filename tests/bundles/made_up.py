"""Datasets of several classes and of several modalities, on disk, laid out and named as the challenges have them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (40, 33, 36)  # x, y, z; y is no multiple of anything
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
PARTS = {"training": 4, "validation": 1, "test": 1}


def write_abdomens(folder: Path) -> Path:
    """CT-like scans at 1.5 x 1.5 x 2 mm in which each of 15 organs is a box of its own brightness."""
    datalist = {"name": "abdomens", "labels": {str(value): f"class {value}" for value in range(16)}}
    number = 0
    for part, count in PARTS.items():
        datalist[part] = []
        for _ in range(count):
            label = _boxes(number, classes=15)
            image = np.random.default_rng(number).normal(-60, 15, SHAPE) + 18.0 * label
            case = {"image": f"images/amos_{number:04d}.nii.gz", "label": f"labels/amos_{number:04d}.nii.gz"}
            _save(folder / case["image"], image.astype(np.int16), (1.5, 1.5, 2.0))
            _save(folder / case["label"], label, (1.5, 1.5, 2.0))
            datalist[part].append(case)
            number += 1
    return _write_datalist(folder, datalist)


def write_tumours(folder: Path) -> Path:
    """Four files of a modality each and a label numbered 1, 2, 4 per case, in a folder per case."""
    datalist = {"name": "tumours", "labels": {str(value): f"class {value}" for value in range(4)}}
    number = 0
    for part, count in PARTS.items():
        datalist[part] = []
        for _ in range(count):
            case = f"BraTS-GLI-{number:05d}-000"
            classes = _boxes(number, classes=3)
            files = {modality: f"{case}/{case}-{modality}.nii.gz" for modality in MODALITIES}
            for channel, file in enumerate(files.values()):
                image = np.random.default_rng([number, channel]).normal(100, 5, SHAPE) + 20.0 * (classes > channel)
                image[:3] = 0  # air, which zscore_nonzero passes over
                _save(folder / file, image.astype(np.float32))
            label = f"{case}/{case}-seg.nii.gz"
            _save(folder / label, np.array([0, 1, 2, 4], dtype=np.uint8)[classes])
            # Listed in another order than the bundle's modalities.
            datalist[part].append({"image": sorted(files.values()), "label": label})
            number += 1
    return _write_datalist(folder, datalist)


def _boxes(seed: int, *, classes: int) -> np.ndarray:
    """Boxes of 8 x 8 x 8 voxels side by side; the seed moves all of them."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    offset = np.random.default_rng(seed).integers(0, 5, size=3)
    for index in range(classes):
        x, y, z = offset + np.array([index // 6, index // 3 % 2, index % 3]) * 11
        label[x : x + 8, y : y + 8, z : z + 8] = index + 1
    return label


def _save(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)


def _write_datalist(folder: Path, datalist: dict) -> Path:
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder
