"""Every training of a plan, and its labels, answers and calibration, as stages in folders of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from aps_components.data.datalist import Item, case_name
from aps_components.data.drawn import drawn
from aps_components.models import read_checkpoint, read_settings, save_model
from aps_components.recipe.choices import Answer
from aps_components.recipe.datasets import Learning
from aps_components.recipe.evaluations import PLAIN, TURNED, WITH_OFFSETS, Evaluations
from aps_components.recipe.facts import Asked, TimePlan
from aps_components.recipe.folds import make_folds, most_even
from aps_components.recipe.parts import PROMPT_STEP
from aps_components.recipe.settings import FROM_EARLIER
from aps_components.recipe.stages import CALIBRATED, MODEL, Commands, Stage

OF_MODEL_A = ("model_a.", "decision.")  # of the network's weights


class Rounds:
    """What is to be run, one method for each kind of training; datasets are written here, and nothing is run.

    Args:
        asked: how.
        commands: of the bundle.
        learning: what it learns from.
        evaluations: of this training.
        plan: how many trainings there are, and how long the early ones are.
        flip_axes: along which patches are flipped.
        work: folder of all stages.
    """

    def __init__(
        self,
        asked: Asked,
        *,
        commands: Commands,
        learning: Learning,
        evaluations: Evaluations,
        plan: TimePlan,
        flip_axes: Sequence[int | list[int]],
        work: Path,
    ) -> None:
        self.seed, self.recipe, self.plan, self.flip_axes = asked.seed, asked.recipe, plan, flip_axes
        self.commands, self.learning, self.evaluations, self.work = commands, learning, evaluations, work

    @cached_property
    def folds(self) -> list[list[str]]:
        """Names of the labelled scans that are held out together, by training."""
        patients = {case_name(item): self.learning.patient(case_name(item)) for item in self.learning.labelled}
        shape = self.plan.shape
        if not shape.folds:
            return []
        return most_even(make_folds(patients, shape.divided, seed=self.seed), shape.folds)

    def seeded(self, index: int) -> Stage:
        """A training of the first round on all labelled scans."""
        return self.commands.training(
            f"first round, seed {self.seed + index}",
            self.work / f"seed_{index + 1}",
            dataset=self.work / "all",
            scans=_counts(self.learning),
            iterations=self.plan.first,
            seed=self.seed + index,
        )

    def fold(self, index: int) -> list[Stage]:
        """Train without some scans, and answer them."""
        folder, name = self._fold_folder(index), f"first round, fold {index + 1}"
        learning = self.learning.without(self.folds[index])
        training = self.commands.training(
            name,
            folder,
            dataset=learning.write(folder / "scans"),
            scans=_counts(learning),
            iterations=self.plan.first,
            seed=self.seed + index,
        )
        calibrating = self._calibrating(folder, name, dataset=folder / "scans")
        shape = self.plan.shape
        views = [PLAIN, *([WITH_OFFSETS] if shape.calibrated else []), *([TURNED] if shape.mirrored else [])]
        stages = {view: self.evaluations.of_fold(view, folder, name=name, fold=index, round=1) for view in views}
        middle = [calibrating, stages[WITH_OFFSETS]] if shape.calibrated else []
        return [training, stages[PLAIN], *middle, *([stages[TURNED]] if shape.mirrored else [])]

    def _fold_folder(self, index: int) -> Path:
        return self.work / f"fold_{index + 1}"

    def second_of_fold(self, index: int, answer: Answer) -> list[Stage]:
        """As the last training will be, from labels by the one model that knows nothing of the held-out scans."""
        folder, name = self.work / f"second_{index + 1}", f"second round, fold {index + 1}"
        learning = self.learning.without(self.folds[index])
        to_label = self.drawn(learning.unlabelled)
        teacher = self._model(self._fold_folder(index), answer)
        labelling = self.commands.labelling(
            f"{name}, labels",
            dataset=learning.write(folder / "to_label", unlabelled=to_label),
            checkpoints=[teacher],
            target=folder / "scans",
            predictor=answer.predictor,
        )
        training = self.commands.training(
            name,
            folder,
            dataset=folder / "scans",
            scans=self._labelled_by_models(learning),
            iterations=self.plan.check,
            seed=self.seed + index,
            second=True,
            begins_with=self._fold_folder(index) / "models" / MODEL,
        )
        calibrated = self.calibrated(answer, second=True)
        return [labelling, training, *self._judged(folder, name, fold=index, round=2, calibrated=calibrated)]

    def _judged(
        self, folder: Path, name: str, *, fold: int, round: int, calibrated: bool, b: bool = False
    ) -> list[Stage]:
        """How a further training on a fold answers its held-out scans, with offsets or without."""
        scans = self._fold_folder(fold) / "scans" if b else None  # Model B's training has no dataset of its own
        view = WITH_OFFSETS if calibrated else PLAIN
        answers = self.evaluations.of_fold(view, folder, name=name, fold=fold, round=round, scans=scans, b=b)
        if not calibrated:
            return [answers]
        return [self._calibrating(folder, name, dataset=self._fold_folder(fold) / "scans"), answers]

    def _calibrating(self, folder: Path, name: str, *, dataset: Path) -> Stage:
        """Offsets of a training's model, on the scans that it learned from."""
        models = folder / "models"
        return self.commands.calibrating(
            f"{name}, calibration", dataset=dataset, checkpoint=models / MODEL, target=models / CALIBRATED
        )

    def _labelled_by_models(self, learning: Learning) -> tuple[int, int]:
        """Labelled and unlabelled scans of a dataset in which models have labelled those that were drawn."""
        return len(learning.labelled) + len(self.drawn(learning.unlabelled)), 0

    def calibrated(self, answer: Answer, *, second: bool) -> bool:
        """A second round that adjusts no offsets while it trains gets them afterwards."""
        return answer.calibrated or (second and not self.recipe.second_decision_interval)

    def b_of_fold(self, index: int, answer: Answer, *, second: bool) -> list[Stage]:
        """Model B beside the Model A of a fold, and the answers of both to its held-out scans."""
        folder, name = self._beside_folder(index), f"Model B, fold {index + 1}"
        learning, by_models = self.learning.without(self.folds[index]), self._is_checked(index, second=second)
        begins_with = self._of_fold(index, second=second)
        training = self.commands.prompting(
            name,
            folder,
            dataset=begins_with.parent / "scans",
            scans=self._labelled_by_models(learning) if by_models else _counts(learning),
            iterations=self.plan.judge,
            seed=self.seed + index,
            begins_with=begins_with / MODEL,
        )
        round, calibrated = 1 + by_models, answer.calibrated
        return [training, *self._judged(folder, name, fold=index, round=round, calibrated=calibrated, b=True)]

    def _beside_folder(self, index: int) -> Path:
        return self.work / f"beside_{index + 1}"

    def _of_fold(self, index: int, *, second: bool) -> Path:
        """The ``models`` of a fold's latest training that is as the bundle's model will be."""
        checked = self._is_checked(index, second=second)
        return (self.work / f"second_{index + 1}" if checked else self._fold_folder(index)) / "models"

    def _is_checked(self, index: int, *, second: bool) -> bool:
        """Whether a fold has a second round, and the bundle's model will have one."""
        return second and index < self.plan.shape.checked

    def prompted(self, answer: Answer, *, second: bool, iterations: int) -> list[Stage]:
        """Model B beside the last Model A, and offsets for both."""
        last, folder = self.work / "last", self.work / "beside"
        stages = []
        if self.plan.shape.prompted:
            dataset, scans = self._last_scans(second=second)
            training = self.commands.prompting(
                PROMPT_STEP,
                folder,
                dataset=dataset,
                scans=scans,
                iterations=iterations,
                seed=self.seed,
                begins_with=self._with_judged_b(last / "models" / MODEL),
            )
            stages.append(training)
        if answer.calibrated:
            trained = self.deployed_from()
            calibrating = self.commands.calibrating(
                "last training, calibration",
                dataset=self.work / "all",
                checkpoint=trained / MODEL,
                target=trained / CALIBRATED,
                answer=self.answering(answer),
            )
            stages.append(calibrating)
        return stages

    def deployed_from(self) -> Path:
        """The folder of the model that becomes the bundle's."""
        return self.work / ("beside" if self.plan.shape.prompted else "last") / "models"

    def _with_judged_b(self, model: Path) -> Path:
        """The last Model A, with the Model B of the first fold, if it was trained: to go on from."""
        earlier = self._beside_folder(0) / "models" / MODEL
        if not self.plan.shape.judged or self.recipe.last_from != FROM_EARLIER:
            return model
        target = self.work / "beside" / "start.pt"
        if model.is_file() and not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            of_a = {key: value for key, value in read_checkpoint(model).items() if key.startswith(OF_MODEL_A)}
            save_model({**read_checkpoint(earlier), **of_a}, read_settings(model), target)
        return target

    def completed(self, index: int, answer: Answer) -> list[Stage]:
        """A fold goes on with all labelled scans, once its answers are judged."""
        folder, name = self._complete_folder(index), f"all labelled scans, model {index + 1}"
        training = self.commands.training(
            name,
            folder,
            dataset=self.work / "all",
            scans=_counts(self.learning),
            iterations=self.plan.complete,
            seed=self.seed + len(self.folds) + index,
            begins_with=self._fold_folder(index) / "models" / MODEL,
            learning_rate=self.recipe.complete_learning_rate,
        )
        if self._model(folder, answer).name == MODEL:
            return [training]
        return [training, self._calibrating(folder, name, dataset=self.work / "all")]

    def _complete_folder(self, index: int) -> Path:
        """Of a fold's latest model that labels scans."""
        return self.work / f"complete_{index + 1}" if self.plan.complete else self._fold_folder(index)

    def labelling(self, answer: Answer) -> Stage:
        """Labels for the second round, by all models of the first."""
        folders = [self._complete_folder(index) for index in range(len(self.folds))]
        folders = folders or [self.work / f"seed_{index + 1}" for index in range(self.plan.shape.seeds)]
        to_label = self.drawn(self.learning.unlabelled)
        return self.commands.labelling(
            "labels by models",
            dataset=self.learning.write(self.work / "to_label", unlabelled=to_label),
            checkpoints=[self._model(folder, answer) for folder in folders],
            target=self.work / "second",
            predictor=answer.predictor,
        )

    def _model(self, folder: Path, answer: Answer) -> Path:
        calibrated = folder / "models" / CALIBRATED
        return calibrated if answer.calibrated and self.plan.shape.calibrated else folder / "models" / MODEL

    def drawn(self, items: Sequence[Item]) -> list[Item]:
        """Those that models label, where there is no time for all."""
        order = sorted(items, key=lambda item: drawn(case_name(item), seed=self.seed))
        kept = {case_name(item) for item in order[: self.plan.unlabelled]}
        return [item for item in items if case_name(item) in kept]

    def last(self, *, second: bool, iterations: int) -> Stage:
        """The training that becomes the bundle's Model A."""
        dataset, scans = self._last_scans(second=second)
        return self.commands.training(
            "last training",
            self.work / "last",
            dataset=dataset,
            scans=scans,
            iterations=iterations,
            seed=self.seed,
            second=second,
            begins_with=self._earlier_model(second=second),
        )

    def _last_scans(self, *, second: bool) -> tuple[Path, tuple[int, int]]:
        """The dataset of the last trainings, and how many labelled and unlabelled scans it has."""
        if not second:
            return self.work / "all", _counts(self.learning)
        return self.work / "second", self._labelled_by_models(self.learning)

    def _earlier_model(self, *, second: bool) -> Path | None:
        if not self.folds:
            return self.work / "seed_1" / "models" / MODEL if self.plan.shape.seeds else None
        if second and not self._is_checked(0, second=second):
            return self._complete_folder(0) / "models" / MODEL
        return self._of_fold(0, second=second) / MODEL

    def answering(self, answer: Answer) -> dict[str, Any]:
        """The options with which the model answers."""
        mirror_axes = list(self.flip_axes[:1]) if answer.mirrored else []
        return {"predictor": answer.predictor, "mirror_axes": mirror_axes}


def _counts(learning: Learning) -> tuple[int, int]:
    return len(learning.labelled), len(learning.unlabelled)
