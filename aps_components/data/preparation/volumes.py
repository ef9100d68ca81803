"""Volumes of the official downloads: reading NRRD and HDF5, checking NIfTI, writing NIfTI in one step."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps_components.data.checks import GRID_TOLERANCE, header_faults, label_faults
from aps_components.data.errors import DataError
from aps_components.data.nifti import Scan, read_scan
from aps_components.data.nifti import write_nifti as write_volume
from aps_components.data.preparation.cases import Outcome, RawCase
from aps_components.errors import system_fault

# NRRD names its directions; NIfTI's are right, anterior, superior.
TO_RAS = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
}
TO_RAS |= {"ras": TO_RAS["right-anterior-superior"], "las": TO_RAS["left-anterior-superior"]}
TO_RAS |= {"lps": TO_RAS["left-posterior-superior"]}


class Volume(NamedTuple):
    """A volume and where its voxels lie (RAS, mm); `assumed` says what of that the file does not."""

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    assumed: str = ""


def require(module: str) -> ModuleType:
    """Import an optional dependency, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeError(f'{module} is not installed; run: pip install "aps-components[prepare]"') from error


def read_nrrd(file: str, *, default_spacing: float) -> Volume:
    """Read a 3-D NRRD file; `default_spacing` (mm) is for a file that states none."""
    nrrd = require("nrrd")
    try:
        voxels, header = nrrd.read(file)
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(_broken(file, "NRRD", error)) from error
    if voxels.ndim != 3:
        raise DataError(f"{file}: a {voxels.ndim}-D image of shape {voxels.shape}; a 3-D scan is wanted")
    affine, assumed = _nrrd_affine(header, default_spacing)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{file}: its space directions {affine[:3].tolist()} have no inverse; download it again")
    return Volume(voxels, affine, assumed)


def read_h5(file: str, key: str, *, spacing: float) -> Volume:
    """Read one dataset of an HDF5 file, its axes as they are; it has no geometry, so `spacing` (mm) is assumed."""
    h5py = require("h5py")
    try:
        with h5py.File(file, "r") as content:
            if key not in content:
                raise DataError(f"{file}: no dataset {key!r}; it has {', '.join(content) or 'none'}")
            voxels = np.asarray(content[key])
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(_broken(file, "HDF5", error)) from error
    if voxels.ndim != 3:
        raise DataError(f"{file}: {key!r} is a {voxels.ndim}-D array of shape {voxels.shape}; a 3-D scan is wanted")
    return Volume(voxels, np.diag([spacing, spacing, spacing, 1.0]), f"{spacing} mm and identity directions")


def h5_has(file: str, key: str) -> bool:
    """Whether an HDF5 file has a dataset; a broken file counts as having it, and is reported when it is read."""
    h5py = require("h5py")
    try:
        with h5py.File(file, "r") as content:
            return key in content
    except OSError:
        return True


def image_fault(file: str, voxels: NDArray[Any], *, slope: float = 1.0, intercept: float = 0.0) -> str:
    """What is wrong with an image's values, as float32; empty if nothing is."""
    if voxels.size == 0:
        return f"{file}: empty, its shape is {voxels.shape}; download it again"
    if voxels.dtype.kind not in "biuf":
        return f"{file}: its voxels are of type {voxels.dtype}; a scan of one number per voxel is wanted"
    with np.errstate(over="ignore", invalid="ignore"):
        if voxels.dtype.kind == "f":
            broken = int((~np.isfinite(voxels)).sum()) or int((~np.isfinite(_scaled(voxels, slope, intercept))).sum())
        else:  # integers go wrong through their scaling alone, and first at their ends
            ends = np.array([voxels.min(), voxels.max()], dtype=np.float64)
            broken = 0 if np.isfinite(_scaled(ends, slope, intercept)).all() else voxels.size
    if broken:
        return f"{file}: {broken} voxels are NaN or infinite; download it again, or leave the case out"
    return ""


def check_nifti(case: RawCase, out: Path, *, num_classes: int, rename: Mapping[int, int] | None = None) -> Outcome:
    """Read a case of NIfTI files in full; nothing is written.

    Args:
        case: one file per channel.
        out: what the item's paths are relative to.
        num_classes: background included.
        rename: label value -> class, for values that go by another number.
    """
    item: dict[str, Any] = {"image": case.images[0] if len(case.images) == 1 else list(case.images)}
    item |= {"label": case.label} if case.label else {}
    _refuse(header_faults(item, in_channels=len(case.images)))
    for file in case.images:
        scan = read_scan(file, scaled=False)
        _refuse([image_fault(file, scan.voxels, slope=scan.slope, intercept=scan.intercept)])
    spacing = [round(size, 4) for size in scan.geometry.spacing]
    facts: dict[str, Any] = {"shape": list(scan.geometry.shape), "spacing": spacing}
    notes = []
    if case.label:
        values = np.unique(_scaled_label(read_scan(case.label, scaled=False)))
        _refuse(_label_values_faults(case.label, values, num_classes, rename or {}))
        facts["label_values"] = [int(np.rint(value)) for value in values]
        if not np.any(values > 0.5):
            notes.append(f"{case.label}: no foreground")
    relative = {key: _relative(entry, out) for key, entry in item.items()}
    return Outcome(relative, facts=facts, notes=notes)


def write_nifti(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64]) -> int:
    """Write a file that is there in full or not at all. Returns its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, voxels, affine)
    return path.stat().st_size


def storable(voxels: NDArray[Any]) -> NDArray[Any]:
    """The voxels in the smallest type that every NIfTI reader knows and that holds them; floats as float32."""
    if voxels.dtype.kind == "f":
        return voxels.astype(np.float32)
    if voxels.dtype.itemsize <= 2 and voxels.dtype.kind != "b":
        return voxels.astype(voxels.dtype.newbyteorder("="))
    low, high = int(voxels.min()), int(voxels.max())
    types = (np.uint8, np.int16, np.uint16, np.int32)
    kind = next((kind for kind in types if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), np.float32)
    return voxels.astype(kind)


def same_grid_fault(label_file: str, label: Volume, image_file: str, image: Volume, *, directions: bool) -> str:
    """Why a label does not belong to its image; empty if it does. `directions`: compare the headers, too."""
    mend = "check that the two belong together"
    if label.voxels.shape != image.voxels.shape:
        return f"{label_file}: shape {label.voxels.shape} but {image_file} has {image.voxels.shape}; {mend}"
    if not directions or label.assumed or image.assumed:
        return ""
    if (distance := float(np.abs(label.affine - image.affine).max())) > GRID_TOLERANCE:
        return (
            f"{label_file}: its geometry differs from that of {image_file} by up to {distance:.4g} mm; {mend}, "
            "and if they do, use --label_grid image"
        )
    return ""


def _nrrd_affine(header: Mapping[str, Any], default_spacing: float) -> tuple[NDArray[np.float64], str]:
    directions, assumed = header.get("space directions"), []
    affine = np.eye(4)
    if directions is not None:
        affine[:3, :3] = np.asarray(directions, dtype=float).T  # a row per axis -> a column per axis
    else:
        spacings = np.asarray(header.get("spacings", [np.nan] * 3), dtype=float)
        if not np.isfinite(spacings).all():
            spacings = np.full(3, default_spacing)
            assumed.append(f"{default_spacing} mm")
        affine[:3, :3] = np.diag(spacings)
        assumed.append("identity directions")
    affine[:3, 3] = np.asarray(header.get("space origin", (0.0, 0.0, 0.0)), dtype=float)
    space = str(header.get("space", "")).lower()
    if space in TO_RAS:
        affine[:3] *= np.array(TO_RAS[space])[:, None]
    elif directions is not None:
        assumed.append(f"RAS for its space {space!r}")
    return affine, " and ".join(assumed)


def _label_values_faults(file: str, values: NDArray[Any], num_classes: int, rename: Mapping[int, int]) -> Iterator[str]:
    renamed = values.copy()
    for value, target in rename.items():
        if np.isclose(values, value).any() and np.isclose(values, target).any():
            yield f"{file}: label values {target} and {value} stand for the same class; use one of the two"
        renamed[np.isclose(values, value)] = target
    yield from label_faults(file, renamed, num_classes)


def _scaled_label(scan: Scan) -> NDArray[Any]:
    plain = (scan.slope, scan.intercept) == (1.0, 0.0)
    return scan.voxels if plain else scan.voxels * scan.slope + scan.intercept


def _scaled(values: NDArray[Any], slope: float, intercept: float) -> NDArray[np.float32]:
    scaled = values if (slope, intercept) == (1.0, 0.0) else values * np.float64(slope) + np.float64(intercept)
    return scaled.astype(np.float32)


def _refuse(faults: Iterator[str] | list[str]) -> None:
    found = [fault for fault in faults if fault]
    if found:
        raise DataError("; ".join(found))


def _relative(entry: str | list[str], out: Path) -> str | list[str]:
    if isinstance(entry, list):
        return [Path(os.path.relpath(file, out)).as_posix() for file in entry]
    return Path(os.path.relpath(entry, out)).as_posix()


def _broken(file: str, kind: str, error: Exception) -> str:
    if fault := system_fault(error):
        return f"{file}: {fault}"
    return (
        f"{file}: cannot be read as {kind} ({type(error).__name__}: {str(error).strip()[:200]}); "
        "it looks truncated or is another format: copy or download it again"
    )
