"""Who answers, and whether the points that Model B was given lie where they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aps_components.data.partial import NOT_LABELED
from aps_components.evaluation.metrics import Region
from aps_components.inference import PromptPoint

PREDICTORS = {"average": "probabilities", "a": "probabilities_a", "b": "probabilities_b"}


def prompt_precision(points: Sequence[PromptPoint], truth: Any, *, region: Region, to_voxel: Any) -> float:
    """Share of the points of a region's classes that lie in it, of those on labelled voxels; NaN without such points.

    Args:
        points: on the network's grid.
        truth: label map on the scan's own grid, [D, H, W].
        region: one class or several.
        to_voxel: from the network's voxels to the truth's, [4, 4].
    """
    hits: list[bool] = []
    for point in points:
        if point.label in region.classes:
            voxel = np.rint(to_voxel @ np.append(point.voxel, 1.0))[:3].astype(int)
            voxel = np.clip(voxel, 0, np.array(truth.shape) - 1)
            if truth[tuple(voxel)] != NOT_LABELED:
                hits.append(int(truth[tuple(voxel)]) in region.classes)
    return float(np.mean(hits)) if hits else float("nan")
