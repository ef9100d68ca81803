"""What a whole training was, did and measured, as one file that a report reads: ``OUT/training.json``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from aps_components.files import replace_text
from aps_components.plain_json import read_object

RESULTS_FILE = "training.json"
FORMAT = 1
MEND = "run aps train again with the same options, which writes it anew"
Part = TypeVar("Part", "PlannedStage", "StageRecord", "HeldOut", "ChoiceRecord")


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A line of the plan, as it was printed before the training began.

    Attributes:
        name: of the stage.
        what: it does, in words.
        seconds: that it was to take.
    """

    name: str
    what: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PrintedPlan:
    """The plan as printed.

    Attributes:
        data: what there is to learn from: ``folder``, ``labelled``, ``unlabelled``, ``groups`` (patients), ...
        bundle: the dataset block of the bundle.
        stages: in their order.
        seconds: that all of it was to take.
        unknown: what no figure of this training can say, a sentence each.
    """

    data: dict[str, Any] = field(default_factory=dict)
    bundle: dict[str, Any] = field(default_factory=dict)
    stages: list[PlannedStage] = field(default_factory=list)
    seconds: float = 0.0
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One command that was run, or is to be.

    Attributes:
        name: of the stage.
        command: as a list of arguments; empty for a step that is no command of its own.
        seconds: that it took so far, over all its beginnings.
        done: whether it has ended well.
        folder: where a training wrote its ``history.jsonl``, relative to OUT; None for other commands.
    """

    name: str
    command: list[str]
    seconds: float
    done: bool
    folder: str | None = None


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """One labelled scan, answered by a model that did not learn from it.

    Attributes:
        case: name of the scan.
        fold: in which it is kept apart, from 0 on; -1 for a scan that the datalist names for validation.
        round: 1, or 2 for models that learned from pseudo-labels, too.
        predictor: ``a``, ``b`` or ``average``.
        mirrored: whether every window was seen turned, too.
        calibrated: whether the model's offsets were set on whole scans.
        dice: by class name, 0 to 1; NaN where it is not defined is None.
        nsd: likewise; None where it was not measured.
        picture: of its worst error, relative to OUT; None where there is none.
        evaluation: the folder of the evaluation that says it, relative to OUT.
    """

    case: str
    fold: int
    round: int
    predictor: str
    mirrored: bool
    calibrated: bool = False
    dice: dict[str, float | None]
    nsd: dict[str, float | None] | None = None
    picture: str | None = None
    evaluation: str | None = None

    @property
    def mean_dice(self) -> float:
        """Over the classes; NaN where none is defined."""
        defined = [value for value in self.dice.values() if value is not None]
        return math.fsum(defined) / len(defined) if defined else math.nan


@dataclass(frozen=True, kw_only=True)
class ChoiceRecord:
    """What was decided by the held-out scans.

    Attributes:
        name: what is decided, such as ``predictor``.
        chosen: one of the options.
        figures: mean Dice in percent by option; empty where nothing was measured.
        note: why, or why nothing could be measured.
    """

    name: str
    chosen: str
    figures: dict[str, float]
    note: str


@dataclass(frozen=True, kw_only=True)
class TrainingResults:
    """All of it.

    Attributes:
        command: all of it, as it was typed; empty where that is not known.
        worked: seconds that passed while it worked; None where that is not known.
    """

    plan: PrintedPlan = field(default_factory=PrintedPlan)
    stages: list[StageRecord] = field(default_factory=list)
    held_out: list[HeldOut] = field(default_factory=list)
    choices: list[ChoiceRecord] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    worked: float | None = None

    @property
    def seconds(self) -> float:
        """That was worked so far, command by command; those that ran beside each other all count."""
        return math.fsum(stage.seconds for stage in self.stages)


def write_results(out: str | os.PathLike[str], results: TrainingResults) -> Path:
    """Write ``OUT/training.json``, whole or not at all."""
    file = Path(out) / RESULTS_FILE
    content = {"format": FORMAT, **asdict(results)}
    replace_text(file, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return file


def read_results(out: str | os.PathLike[str]) -> TrainingResults:
    """Read ``OUT/training.json``; entries that this version does not know are passed over.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a later format.
    """
    file = Path(out) / RESULTS_FILE
    content = read_object(file, keys=("format", "plan"), mend=MEND)
    if content["format"] != FORMAT:
        raise ValueError(f"{file}: format {content['format']!r} where {FORMAT} is read; take a newer version of this")
    try:
        plan = dict(content["plan"])
        plan["stages"] = _parts(PlannedStage, plan.get("stages", []))
        return TrainingResults(
            plan=PrintedPlan(**_known(PrintedPlan, plan)),
            stages=_parts(StageRecord, content.get("stages", [])),
            held_out=_parts(HeldOut, content.get("held_out", [])),
            choices=_parts(ChoiceRecord, content.get("choices", [])),
            machine=dict(content.get("machine", {})),
            versions=dict(content.get("versions", {})),
            command=str(content.get("command", "")),
            worked=content.get("worked"),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file}: is no record of a training ({error}); {MEND}") from error


def _parts(kind: type[Part], entries: Sequence[Mapping[str, Any]]) -> list[Part]:
    return [kind(**_known(kind, entry)) for entry in entries]


def _known(kind: type, entry: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {key: value for key, value in entry.items() if key in names}
