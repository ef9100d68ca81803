"""The file of a scan's prompts, ``NAME_prompts.json``: what inference writes, and a person or a viewer edits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.inference.inferer import PromptPoint

MODEL, USER = "model", "user"
KINDS = ("points", "boxes", "scribbles")
FAR = 1e9  # mm or voxels: no scan reaches so far
WORLD = "RAS"  # which way mm count: towards right, anterior, superior, as in NIfTI


def prompt_file_text(
    scan: str,
    *,
    shape: Sequence[int],
    affine: NDArray[np.floating],
    points: Sequence[Mapping[str, Any]] = (),
    boxes: Sequence[Mapping[str, Any]] = (),
    scribbles: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The content of the file, a line for each prompt.

    Args:
        scan: its name.
        shape: (X, Y, Z) of its own grid.
        affine: of that grid, [4, 4], voxel to mm, RAS+.
        points: see :func:`prompts_in_world`.
        boxes: with ``label``, ``name``, ``source``, and two corners as ``voxel``.
        scribbles: the same, with places as ``voxel``.
    """
    entries = {"points": points, "boxes": boxes, "scribbles": scribbles}
    head = {
        "scan": scan,
        "shape": [int(size) for size in shape],
        "affine": np.asarray(affine, dtype=float).tolist(),
        "world": WORLD,
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for kind in KINDS:
        inner = ",\n".join(f"  {json.dumps(dict(entry))}" for entry in entries[kind])
        lines.append(f' "{kind}": [\n{inner}\n ]' if inner else f' "{kind}": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def prompts_in_world(
    points: list[PromptPoint],
    *,
    affine: NDArray[np.floating],
    original_affine: NDArray[np.floating],
    labels: Mapping[int, str],
) -> list[dict[str, Any]]:
    """The model's own points, on the network's grid, as entries of the file.

    Args:
        points: from the inferer.
        affine: of the grid that the network saw, [4, 4], voxel to mm.
        original_affine: of the scan's own grid.
        labels: class value to name.
    """
    entries = []
    for point in points:
        world = affine @ np.append(point.voxel, 1.0)
        voxel = np.linalg.solve(original_affine, world)
        entry = {
            "label": point.label,
            "name": labels[point.label],
            "voxel": [round(float(value), 2) + 0.0 for value in voxel[:3]],
            "world_mm": [round(float(value), 3) + 0.0 for value in world[:3]],
            "score": round(point.score, 4),
            "source": MODEL,
        }
        entries.append({**entry, "mark": mark_of(entry)})
    return entries


def mark_of(entry: Mapping[str, Any]) -> str:
    """A checksum of a point's class and place: with it a point that was edited is told from one as it was written.

    Whoever writes the file anew may write 204.0 as 204, or with digits that rounding leaves: numbers count to the
    digits that are written here.
    """
    said = [_as_written(entry.get(key)) for key in ("label", "name", "voxel", "world_mm")]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]


def _as_written(said: Any) -> Any:
    """Places as floats of 3 digits, and whole numbers elsewhere as such."""
    if isinstance(said, list):
        near = [isinstance(value, float | int) and abs(value) < FAR for value in said]
        return [round(float(value), 3) + 0.0 if is_near else value for value, is_near in zip(said, near, strict=True)]
    return int(said) if isinstance(said, float) and said.is_integer() else said
