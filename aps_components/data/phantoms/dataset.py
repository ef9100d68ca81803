"""Phantoms as a dataset folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from aps_components.data.datalist import DATALIST, scans_in
from aps_components.data.errors import DataError
from aps_components.data.nifti import write_nifti
from aps_components.data.phantoms.anatomy import draw_phantom
from aps_components.data.phantoms.rendering import check_grid, render_phantom
from aps_components.files import expanded, replace_text
from aps_components.options import SEED, whole
from aps_components.ownership import alone_in
from aps_components.plain_json import read_object

NAME, PREFIX = "phantoms", "phantom_"
MOST_CASES = 10_000


def write_phantoms(
    out_dir: str | os.PathLike[str],
    *,
    labeled: int,
    unlabeled: int,
    validation: int,
    test: int,
    shape: Sequence[int] = (72, 64, 48),
    spacing: Sequence[float] = (1.25, 1.25, 1.25),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write phantoms as NIfTI files with a MONAI datalist.

    Case i depends on `seed` and i only: asking for more cases, or for other parts, leaves its scan as it was.
    Cases in "unlabeled" get no label file.

    Returns:
        The path of datalist.json, whose own paths are relative to `out_dir`.

    Raises:
        DataError: the folder holds scans or a datalist of others.
    """
    sizes = {"training": labeled, "unlabeled": unlabeled, "validation": validation, "test": test}
    sizes = {part: whole(least=0, most=MOST_CASES)(f"number of {part} cases", size) for part, size in sizes.items()}
    seed = SEED("seed", seed)
    check_grid(shape, spacing)
    folder = expanded(out_dir)
    _refuse_foreign(folder)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        return _written(folder, sizes, shape=shape, spacing=spacing, seed=seed, progress=progress)


def _written(
    folder: Path,
    sizes: Mapping[str, int],
    *,
    shape: Sequence[int],
    spacing: Sequence[float],
    seed: int,
    progress: bool,
) -> Path:
    path = folder / DATALIST
    path.unlink(missing_ok=True)  # a run that is stopped must leave none beside pairs of two seeds
    parts = [part for part, size in sizes.items() for _ in range(size)]
    cases: dict[str, list[dict[str, str]]] = {part: [] for part in sizes}
    for index, part in enumerate(tqdm(parts, desc="phantoms", unit="scan", disable=not progress)):
        parameters = draw_phantom(np.random.default_rng([seed, index]))
        image, label = render_phantom(parameters, shape=shape, spacing=spacing)
        case = {"image": f"images/{PREFIX}{index:03d}.nii.gz", "label": f"labels/{PREFIX}{index:03d}.nii.gz"}
        if part == "unlabeled":
            (folder / case.pop("label")).unlink(missing_ok=True)  # left by an earlier run with other sizes
        else:
            _save(folder / case["label"], label, spacing)
        _save(folder / case["image"], image.round().astype(np.int16), spacing)
        cases[part].append(case)

    datalist = {"name": NAME, "labels": {"0": "background", "1": "left atrium"}, **cases}
    replace_text(path, json.dumps(datalist, indent=2) + "\n")
    return path


def _refuse_foreign(folder: Path) -> None:
    """Phantoms replace phantoms, and nothing else."""
    if (listing := folder / DATALIST).exists():
        try:
            if read_object(listing, keys=("name",))["name"] == NAME:
                return
        except (OSError, ValueError):
            pass
        raise DataError(f"{listing} is there and lists other scans than phantoms: give another folder")
    for place in (folder / "images", folder / "labels"):
        if other := [file for file in scans_in(place) if not file.name.startswith(PREFIX)]:
            raise DataError(f"{other[0]} is there and is no phantom: give another folder")


def _save(path: Path, volume: NDArray[np.int16] | NDArray[np.uint8], spacing: Sequence[float]) -> None:
    write_nifti(path, volume, np.diag([*spacing, 1.0]))
