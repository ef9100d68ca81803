"""Who answers, and whether the points that Model B was given lie where they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aps_components.evaluation.metrics import Region
from aps_components.inference import PromptPoint
from aps_components.inference.points import in_their_class

PREDICTORS = {"average": "probabilities", "a": "probabilities_a", "b": "probabilities_b"}


def prompt_precision(points: Sequence[PromptPoint], truth: Any, *, region: Region, to_voxel: Any) -> float:
    """Share of the points of a region's classes that lie in it, of those on labelled voxels; NaN without such points.

    Args:
        points: on the network's grid.
        truth: label map on the scan's own grid, [D, H, W].
        region: one class or several.
        to_voxel: from the network's voxels to the truth's, [4, 4].
    """
    there = [_moved(point, to_voxel, size=truth.shape) for point in points if point.label in region.classes]
    hits = in_their_class(there, truth, together=region.classes)
    return float(np.mean(hits)) if hits else float("nan")


def _moved(point: PromptPoint, to_voxel: Any, *, size: Sequence[int]) -> PromptPoint:
    """A point at the nearest voxel of another grid (D, H, W)."""
    d, h, w = np.rint(to_voxel @ np.append(point.voxel, 1.0))[:3].clip(0, np.array(size) - 1).astype(int).tolist()
    return point._replace(voxel=(d, h, w))
