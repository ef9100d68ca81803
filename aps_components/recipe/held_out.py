"""Figures of held-out scans, read from what the evaluations wrote."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from aps_components.evaluation.report import VARIANTS
from aps_components.options import Pieces
from aps_components.plain_json import read_object
from aps_components.recipe.results import HeldOut

METRICS = "metrics.json"


def read_held_out(
    folder: Path,
    *,
    out: Path,
    fold: int,
    round: int,
    largest_component: Pieces,
    mirrored: bool = False,
    calibrated: bool = False,
) -> list[HeldOut]:
    """Every scan and predictor of one evaluation.

    Args:
        folder: that it was written into.
        out: that pictures are named from.
        fold, round, mirrored, calibrated: as of :class:`HeldOut`.
        largest_component: the pieces that inference keeps.
    """
    content = read_object(folder / METRICS, keys=("cases",))
    pictures = {
        scan["case"]: Path(os.path.relpath(folder / scan["picture"], out)).as_posix()
        for scan in content.get("scans", [])
        if scan.get("picture")
    }
    found: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in content["cases"]:
        if row["variant"] == VARIANTS[bool(largest_component)]:
            found[row["case"], row["predictor"]].append(row)
    return [
        HeldOut(
            case=case,
            fold=fold,
            round=round,
            predictor=predictor,
            mirrored=mirrored,
            calibrated=calibrated,
            dice={row["class"]: row["dice"] for row in of_case},
            nsd={row["class"]: row["nsd"] for row in of_case} if "nsd" in of_case[0] else None,
            picture=pictures.get(case),
            evaluation=Path(os.path.relpath(folder, out)).as_posix(),
        )
        for (case, predictor), of_case in found.items()
    ]
