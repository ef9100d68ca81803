"""Held-out answers, read from what an evaluation wrote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_components.evaluation.doubt.held_out import calibration
from aps_components.evaluation.report import VARIANTS
from aps_components.options import Pieces
from aps_components.plain_json import read_object

METRICS_FILE = "metrics.json"
HELD_OUT = "held_out"


@dataclass(frozen=True, kw_only=True)
class HeldOutAnswer:
    """A predictor's answer to one scan that it did not learn from.

    Attributes:
        case: name of the scan.
        record: what ``held_out.answer_record`` says of it.
        look: of the image.
        dice: by class; None where it is not defined.
    """

    case: str
    record: dict[str, Any]
    look: list[list[float]]
    dice: dict[int, float | None]


def read_answers(folder: str | Path, *, predictor: str, largest_component: Pieces) -> list[HeldOutAnswer]:
    """Every scan of an evaluation of which enough was written; those of earlier versions have nothing.

    Its table may be of regions, which may have the names of classes. Where a record does not say the classes' own Dice,
    as those of earlier versions, only that of regions of a single class is known.

    Args:
        folder: that it was written into.
        predictor: whose answers.
        largest_component: the pieces that inference keeps.

    Raises:
        ValueError: the file is damaged.
    """
    file = Path(folder) / METRICS_FILE
    content = read_object(file, keys=("cases",))
    dice: defaultdict[str, dict[int, float | None]] = defaultdict(dict)
    try:
        for row in content["cases"]:
            wanted = (row["predictor"], row["variant"]) == (predictor, VARIANTS[bool(largest_component)])
            if wanted and isinstance(row["label"], int):
                dice[row["case"]][row["label"]] = row["dice"]
        return [
            HeldOutAnswer(
                case=scan["case"],
                record=record,
                look=scan[HELD_OUT]["look"],
                dice=dice[scan["case"]] | dict(enumerate(record.get("dice", ()), start=1)),
            )
            for scan in content.get("scans", [])
            if (record := scan.get(HELD_OUT, {}).get("answers", {}).get(predictor)) is not None
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: no evaluation of this version ({error!r}); evaluate again") from error


def calibration_of(answers: Sequence[HeldOutAnswer], *, labels: Mapping[int, str], source: str) -> dict[str, Any]:
    """``temperature`` and ``doubt`` of a model's settings; see :func:`calibration`."""
    return calibration(
        [answer.record for answer in answers],
        [answer.dice for answer in answers],
        [answer.look for answer in answers],
        labels=labels,
        source=source,
    )
