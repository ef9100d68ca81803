"""Small scans on disk, good and faulty, for the tests beside this file."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (17, 24, 40)  # x, y, z: sizes that cannot be confused
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def random_image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_label(seed: int = 0, shape: tuple[int, ...] = SHAPE, num_classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, num_classes, size=shape).astype(np.uint8)


def truncate(file: str) -> str:
    """Cut off the end of a file, as a broken download does; the header stays readable."""
    content = Path(file).read_bytes()
    Path(file).write_bytes(content[: len(content) * 2 // 3])
    return file


def _nan(image: np.ndarray) -> np.ndarray:
    image[3, 5, 7] = np.nan
    return image


def _inf(image: np.ndarray) -> np.ndarray:
    image[3, 5, 7:9] = [np.inf, -np.inf]
    return image


# Name, what to write (arguments of make_case), what the error must say; header faults, then faults of the values.
HEADER_FAULTS = {
    "shape_mismatch": ({"label": random_label(shape=(17, 24, 39))}, r"labels/a.nii.gz: shape \(17, 24, 39\) but"),
    "affine_mismatch": (
        {"label_affine": AFFINE + np.diag([0, 0, 0.01, 0])},
        r"labels/a.nii.gz: its affine differs .* by up to 0.01 mm",
    ),
    "wrong_channels": (
        {"image": random_image(shape=(*SHAPE, 2))},
        r"images/a.nii.gz: 2 channel\(s\) where 1 are wanted",
    ),
    "flat_image": ({"image": random_image(shape=(17, 24))}, r"images/a.nii.gz: a 2-D image of shape \(17, 24\)"),
    "five_axes": ({"image": random_image(shape=(17, 24, 40, 1, 3))}, r"images/a.nii.gz: a 5-D image"),
    "singular_affine": (
        {"image_affine": AFFINE[:, [0, 0, 2, 3]]},
        r"images/a.nii.gz: its affine .* has no inverse",
    ),
    "label_channels": (
        {"label": random_label(shape=(*SHAPE, 3))},
        r"labels/a.nii.gz: 3 channel\(s\) where 1 are wanted; a label is one 3-D volume",
    ),
}
LABEL_FAULTS = {
    "label_outside": (
        {"label": random_label(num_classes=5)},
        r"labels/a.nii.gz: label values 3, 4 are outside the classes 0 to 2",
    ),
    "label_negative": (
        {"label": -random_label(num_classes=2).astype(np.int16)},
        r"labels/a.nii.gz: label values -1 are outside",
    ),
    "label_fraction": (
        {"label": random_label().astype(np.float32) * 0.5},
        r"labels/a.nii.gz: label values 0.5 are not whole numbers",
    ),
    "label_nan": ({"label": _nan(random_image() * 0)}, r"labels/a.nii.gz: label values nan are not whole numbers"),
}
IMAGE_FAULTS = {
    "nan": ({"image": _nan(random_image())}, r"images/a.nii.gz: 1 voxels are NaN or infinite"),
    "inf": ({"image": _inf(random_image())}, r"images/a.nii.gz: 2 voxels are NaN or infinite"),
    "beyond_float32": ({"image": np.full(SHAPE, 1e300)}, r"images/a.nii.gz: 16320 voxels are NaN or infinite"),
}
