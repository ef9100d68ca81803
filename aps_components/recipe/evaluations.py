"""Answers to held-out scans: which evaluations there are, and what those that have ended say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from aps_components.bundle.block import DatasetBlock
from aps_components.evaluation.doubt.evaluated import HeldOutAnswer, read_answers
from aps_components.recipe.choices import Answer, answered_so
from aps_components.recipe.held_out import read_held_out
from aps_components.recipe.journal import Journal
from aps_components.recipe.measure import seconds_a_scan
from aps_components.recipe.results import HeldOut
from aps_components.recipe.stages import CALIBRATED, MODEL, Commands, Stage
from aps_components.report.training import VALIDATION

PLAIN, WITH_OFFSETS, TURNED = "plain", "calibrated", "turned"
VIEWS: dict[str, dict[str, bool]] = {PLAIN: {}, WITH_OFFSETS: {"calibrated": True}, TURNED: {"mirrored": True}}


@dataclass(frozen=True, kw_only=True)
class _View:
    """One evaluation of held-out scans."""

    stage: Stage
    folder: Path
    fold: int
    round: int
    calibrated: bool = False
    mirrored: bool = False
    with_b: bool = False


class Evaluations:
    """All of one training, in the order in which they were asked for.

    Args:
        commands: of its bundle.
        journal: says which have ended.
        block: of its bundle.
    """

    def __init__(self, commands: Commands, journal: Journal, block: DatasetBlock) -> None:
        self.commands, self.journal, self.block = commands, journal, block
        self._views: dict[str, _View] = {}
        self._read: dict[str, list[HeldOut]] = {}

    def of_fold(
        self, view: str, folder: Path, *, name: str, fold: int, round: int, scans: Path | None = None, b: bool = False
    ) -> Stage:
        """A fold's held-out scans, answered by a training of its ``folder``.

        Args:
            view: one of :data:`VIEWS`.
            folder: of the training.
            name: of the training.
            fold: from 0 on.
            round: 1 or 2.
            scans: the dataset, if it is not the training's own.
            b: by Model B and the average, too.
        """
        stage = self.commands.evaluating(
            f"{name}, answers {view}",
            folder / view,
            dataset=scans or folder / "scans",
            checkpoint=folder / "models" / (CALIBRATED if view == WITH_OFFSETS else MODEL),
            mirror_axes=self.block.flip_axes[:1] if view == TURNED else (),
            with_b=b,
        )
        return self._asked(stage, folder / view, fold=fold, round=round, with_b=b, **VIEWS[view])

    def of_bundle(self, folder: Path, *, dataset: Path, with_b: bool) -> Stage:
        """The scans that the dataset keeps apart, answered by the bundle's model."""
        checkpoint = self.commands.bundle / "models" / MODEL
        stage = self.commands.evaluating(
            "scans kept apart", folder, dataset=dataset, checkpoint=checkpoint, with_b=with_b
        )
        return self._asked(stage, folder, fold=VALIDATION, round=1)

    def _asked(self, stage: Stage, folder: Path, **kind: Any) -> Stage:
        self._views.setdefault(stage.name, _View(stage=stage, folder=folder, **kind))
        return stage

    def held_out(self) -> list[HeldOut]:
        """Of every evaluation that has ended; what Model A answers stays the same with a Model B beside it."""
        done = [view for view in self._views.values() if self.journal.is_done(view.stage.name)]
        seen: dict[tuple[object, ...], HeldOut] = {}
        for entry in (entry for view in done for entry in self._entries(view)):
            kind = (entry.case, entry.fold, entry.round, entry.predictor, entry.mirrored, entry.calibrated)
            seen.setdefault(kind, entry)
        return list(seen.values())

    def _entries(self, view: _View) -> list[HeldOut]:
        """Of one that has ended, so that its file is read once."""
        if view.stage.name not in self._read:
            self._read[view.stage.name] = read_held_out(
                view.folder,
                out=self.commands.bundle.parent,
                fold=view.fold,
                round=view.round,
                largest_component=self.block.largest_component,
                mirrored=view.mirrored,
                calibrated=view.calibrated,
            )
        return self._read[view.stage.name]

    def answers(self, answer: Answer, round: int) -> list[HeldOutAnswer]:
        """Those nearest to how the bundle answers, of every scan one; also of scans that the bundle's model answered.

        Model A answers every fold's scans, and the same once more where a Model B was trained beside it. Others answer
        in those folds alone.
        """
        chosen = answered_so(self.held_out(), answer, round=round)
        kinds = {(entry.fold, entry.calibrated, entry.mirrored) for entry in chosen}
        found: dict[tuple[int, str], HeldOutAnswer] = {}
        for view in self._views.values():
            kind = (view.fold, view.calibrated, view.mirrored)
            if view.fold == VALIDATION or (view.round == round and kind in kinds):
                for one in read_answers(
                    view.folder, predictor=answer.predictor, largest_component=self.block.largest_component
                ):
                    found.setdefault((view.fold, one.case), one)
        return list(found.values())

    def seconds_a_scan(self, *, with_b: bool) -> float | None:
        """Of those without turned windows; None where there was none."""
        plain = [view for view in self._views.values() if view.with_b == with_b and not view.mirrored]
        seconds = [found for view in plain if (found := seconds_a_scan(view.stage.log))]
        return fmean(seconds) if seconds else None
