"""How large each class is, and how bright."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.csv_table import comma_separated
from aps_components.data.nifti import read_channels, read_geometry
from aps_components.files import replace_text
from aps_components.label_map import class_boxes
from aps_components.plain_json import read_object
from aps_components.segmentation.expected import BOUNDS, DICE, UNLIKE, expected_of
from aps_components.segmentation.outputs import Outputs
from aps_components.terminal import shown

CUBIC_MM_PER_ML = 1000.0
NOWHERE = (slice(0),) * 3  # the box of a class that is not there
MEASURES = ("mean", "std", "min", "max")
POSTFIX = "statistics"
COLUMNS = ("scan", "label", "class", "voxels", "volume_ml")
BEGINNING, TABLE_BEGINNING = '{\n "scan": ', ",".join(COLUMNS)  # by which own files are known


def class_statistics(
    label_map: NDArray[np.integer],
    channels: Mapping[str, NDArray[Any]],
    *,
    voxel_ml: float,
    labels: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Size and intensity of every class but the background, as dictionaries for JSON.

    Args:
        label_map: [D, H, W].
        channels: name to the scan's own intensities, [D, H, W] each.
        voxel_ml: volume of a voxel in ml.
        labels: class value to name.

    Returns:
        For each class ``label``, ``name``, ``voxels``, ``volume_ml`` and ``intensity``: of each channel the ``mean``,
        ``std`` (of the voxels, divided by their number), ``min`` and ``max``, all None where the class has no voxel.
    """
    entries = []
    boxes = class_boxes(label_map, num_classes=max(labels) + 1)
    for label, name in sorted(labels.items()):
        if label > 0:
            box = boxes[label - 1] or NOWHERE
            inside = label_map[box] == label
            voxels = int(inside.sum())
            entries.append(
                {
                    "label": label,
                    "name": name,
                    "voxels": voxels,
                    "volume_ml": voxels * voxel_ml,
                    "intensity": {channel: _intensity(values[box][inside]) for channel, values in channels.items()},
                }
            )
    return entries


def channel_names(files: Sequence[str], modalities: Sequence[str] | None) -> list[str]:
    """Of the channels of a scan: its modalities, or "image", or "channel 0" and so on."""
    count = sum(read_geometry(file).channels for file in files)
    if modalities is not None and len(modalities) == count:
        return [str(name) for name in modalities]
    return ["image"] if count == 1 else [f"channel {index}" for index in range(count)]


def load_channels(files: Sequence[str], modalities: Sequence[str] | None) -> dict[str, NDArray[np.float32]]:
    """The scan's channels by name, [D, H, W] each: 3-D files one after another, or the last axis of a 4-D one."""
    channels = [channel for file in files for channel in read_channels(file)]
    return dict(zip(channel_names(files, modalities), channels, strict=True))


def write_statistics(path: Path, content: Mapping[str, Any]) -> None:
    """Write a scan's statistics, whole or not at all; of a name, what can be read of it."""
    replace_text(path, json.dumps(_readable(content), indent=1) + "\n")


def _readable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {shown(key): _readable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(entry) for entry in value]
    return shown(value) if isinstance(value, str) else value


def read_statistics(path: Path) -> dict[str, Any] | None:
    """What `write_statistics` wrote; None where there is nothing of the kind."""
    try:
        content = read_object(path, keys=("scan", "classes"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content["classes"], list) and all(map(_is_entry, content["classes"])) else None


def folder_statistics(outputs: Outputs, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The statistics of every scan in a folder, those of earlier calls too; of a single file those of this call.

    Args:
        outputs: where they are.
        found: by this call.
    """
    if outputs.stem is not None:
        return list(found)
    files = sorted(outputs.folder.glob(f"*_{POSTFIX}.json"))
    return [content for file in files if (content := read_statistics(file)) is not None]


def _is_entry(entry: Any) -> bool:
    """Whether a class's statistics are such as `class_statistics` gives: a stray file of that name is none."""
    if not isinstance(entry, dict) or not {"label", "name", "voxels", "volume_ml", "intensity"} <= entry.keys():
        return False
    numbers = all(type(entry[key]) in (int, float) for key in ("label", "voxels", "volume_ml"))
    channels = entry["intensity"]
    return numbers and isinstance(channels, dict) and all(isinstance(x, dict) for x in channels.values())


def write_table(path: Path, scans: Iterable[Mapping[str, Any]]) -> None:
    """Statistics of several scans as CSV, a line a scan and class; with several channels, columns of each."""
    scans = sorted(scans, key=lambda scan: str(scan["scan"]))
    channels = list(dict.fromkeys(name for scan in scans for entry in scan["classes"] for name in entry["intensity"]))
    columns = [(channel, measure) for channel in channels for measure in MEASURES]
    heads = [measure if channels == ["image"] else f"{measure} {channel}" for channel, measure in columns]
    expected = any(UNLIKE in scan for scan in scans)
    more = [*(f"{DICE} {bound}" for bound in BOUNDS), UNLIKE] if expected else []
    rows: list[list[Any]] = [[*COLUMNS, *heads, *more]]
    for scan in scans:
        for entry in scan["classes"]:
            values = [entry["intensity"].get(channel, {}).get(measure) for channel, measure in columns]
            values += _expected_values(scan, entry) if expected else []
            rows.append([scan["scan"], *(entry[key] for key in ("label", "name", "voxels", "volume_ml")), *values])
    replace_text(path, comma_separated(rows))


def _expected_values(scan: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Any]:
    found = expected_of(entry) or {}
    return [*(found.get(bound) for bound in BOUNDS), scan.get(UNLIKE)]


def _intensity(values: NDArray[Any]) -> dict[str, float | None]:
    if not values.size:
        return dict.fromkeys(MEASURES)
    values = values.astype(np.float64)
    return {measure: float(getattr(values, measure)()) for measure in MEASURES}
