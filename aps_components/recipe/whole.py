"""A whole training, from measured pace to the model in the bundle: rounds, and the choices between them."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import aps_components
from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.describe import with_performance
from aps_components.data.datalist import Item, case_name
from aps_components.evaluation.doubt.evaluated import calibration_of
from aps_components.evaluation.machine import machine
from aps_components.files import replace_text
from aps_components.models import read_checkpoint, read_settings, save_model, save_settings
from aps_components.recipe.card import performance, summary_line
from aps_components.recipe.choices import Answer, choose_answer, choose_predictor, choose_round
from aps_components.recipe.datasets import Learning
from aps_components.recipe.display import Display
from aps_components.recipe.evaluations import PLAIN, TURNED, WITH_OFFSETS, Evaluations
from aps_components.recipe.facts import Facts, Pace, TimePlan
from aps_components.recipe.folds import make_folds
from aps_components.recipe.journal import Journal
from aps_components.recipe.measure import measure_pace
from aps_components.recipe.plan import (
    SLACK,
    last_iterations,
    make_time_plan,
    prompt_iterations,
    unknown,
)
from aps_components.recipe.results import (
    ChoiceRecord,
    PlannedStage,
    PrintedPlan,
    StageRecord,
    TrainingResults,
    write_results,
)
from aps_components.recipe.settings import FROM_EARLIER, Recipe
from aps_components.recipe.stages import CALIBRATED, MODEL, Commands, Stage, run_chains
from aps_components.training.history import HISTORY_FILE, read_history

OF_MODEL_A = ("model_a.", "decision.")  # of the network's weights
PACKAGES = ("torch", "monai", "numpy")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a whole training is to be done.

    Attributes:
        seconds: that it may take.
        seed: of its draws.
        recipe: its numbers.
        jobs, threads, cores: trainings at once, threads of each, and those of one alone.
    """

    seconds: float
    seed: int
    recipe: Recipe
    jobs: int
    threads: int
    cores: int


class WholeTraining:
    """All rounds of one training, in one folder: of Model A alone, then Model B beside the last Model A.

    Model B learns to answer prompts beside a Model A that stays as it is, so rounds are of Model A alone: on a CPU that
    is a quarter of the time of both.

    Args:
        asked: how.
        commands: of its bundle.
        learning: what it learns from.
        journal: of its folder.
        data: the dataset's folder, for the record.
    """

    def __init__(self, asked: Asked, *, commands: Commands, learning: Learning, journal: Journal, data: Path) -> None:
        self.asked, self.commands, self.learning, self.journal, self.data = asked, commands, learning, journal, data
        self.recipe, self.work = asked.recipe, journal.work
        self.block = DatasetBlock.read(commands.bundle / "configs" / "train.json")
        self.facts = facts_of(learning, self.block, jobs=asked.jobs)
        self.display = Display(self._left)
        self.choices: list[ChoiceRecord] = []
        self.evaluations = Evaluations(commands, journal, self.block)

    def run(self) -> TrainingResults:
        """Everything that is not done yet, up to the model in the bundle."""
        self.learning.write(self.work / "all")
        self._first_round()
        answer, choices = choose_answer(self.evaluations.held_out(), least_gain=self.recipe.least_gain)
        self.choices = choices
        self._judge_second_round(answer)
        second, choice = choose_round(
            self.evaluations.held_out(),
            answer=answer,
            possible=self.plan.shape.second,
            least_teacher=self.recipe.least_teacher,
        )
        self.choices = [*choices, choice]
        last = replace(answer, calibrated=self._calibrated(answer, second=second))
        self._judge_model_b(last, second=second)
        if self.plan.shape.prompted:
            predictor, choice = choose_predictor(
                self.evaluations.held_out(), answer=last, round=1 + second, least_gain=self.recipe.least_gain
            )
            self.choices, last = [choice, *self.choices], replace(last, predictor=predictor)
        if second:
            self._complete(answer)
            self._run([[self._labelling(answer)]], alone=True)
        self._run([[self._last(second=second)]], alone=True)
        self._run([self._prompted(last, second=second)], alone=True)
        self._deploy(last)
        self._measure_apart()
        self._calibrate_doubt(last)
        results = self._results()
        page = self.commands.bundle / "docs" / "README.md"
        figures = performance(results, last, round=1 + second, last=self._last_said(second=second))
        replace_text(page, with_performance(page.read_text(encoding="utf-8"), figures))
        return results

    @cached_property
    def pace(self) -> Pace:
        """Of this machine; measured once."""
        if (found := self.journal.recall("pace")) is None:
            with TemporaryDirectory(prefix="pace_", dir=self.work) as folder:
                found = asdict(measured_pace(self.asked, self.commands, self.learning, Path(folder)))
            self.journal.remember("pace", found)
        return Pace(**found)

    @cached_property
    def plan(self) -> TimePlan:
        """Made once."""
        if (found := self.journal.recall("plan")) is None:
            plan = make_time_plan(
                self.facts, self.pace, seconds=self.asked.seconds, recipe=self.recipe, spent=self.journal.worked
            )
            self.journal.remember("plan", found := plan.as_json())
        return TimePlan.from_json(found)

    @cached_property
    def folds(self) -> list[list[str]]:
        """Names of the labelled scans that are held out together."""
        patients = {case_name(item): self.learning.patient(case_name(item)) for item in self.learning.labelled}
        count = self.plan.shape.folds
        return make_folds(patients, count, seed=self.asked.seed) if count else []

    def _left(self) -> float:
        return self.asked.seconds * (1 - SLACK) - self.journal.worked

    def _run(self, chains: Sequence[Sequence[Stage]], *, alone: bool = False) -> None:
        asked = self.asked
        run_chains(
            chains,
            jobs=1 if alone else asked.jobs,
            threads=asked.cores if alone else asked.threads,
            journal=self.journal,
            display=self.display,
            after=self._after_stage,
        )
        self._after_stage()

    def _after_stage(self) -> None:
        held_out = self.evaluations.held_out()
        plain = [entry for entry in held_out if entry.predictor == "a" and not entry.mirrored]
        if plain:
            last = plain[-1]
            same = [e for e in plain if (e.fold, e.round, e.calibrated) == (last.fold, last.round, last.calibrated)]
            self.display.dice = summary_line(same)
        write_results(self.journal.out, self._results())

    # The first round.

    def _first_round(self) -> None:
        if self.folds:
            self._run([self._fold(index) for index in range(len(self.folds))])
        elif self.plan.shape.seeds:
            self._run([[self._seed(index)] for index in range(self.plan.shape.seeds)])

    def _seed(self, index: int) -> Stage:
        return self.commands.training(
            f"first round, seed {self.asked.seed + index}",
            self.work / f"seed_{index + 1}",
            dataset=self.work / "all",
            scans=_counts(self.learning),
            iterations=self.plan.first,
            seed=self.asked.seed + index,
        )

    def _fold(self, index: int) -> list[Stage]:
        """Train without some scans, and answer them."""
        folder, name = self._fold_folder(index), f"first round, fold {index + 1}"
        learning = self.learning.without(self.folds[index])
        training = self.commands.training(
            name,
            folder,
            dataset=learning.write(folder / "scans"),
            scans=_counts(learning),
            iterations=self.plan.first,
            seed=self.asked.seed + index,
        )
        calibrating = self._calibrating(folder, name, dataset=folder / "scans")
        shape = self.plan.shape
        views = [PLAIN, *([WITH_OFFSETS] if shape.calibrated else []), *([TURNED] if shape.mirrored else [])]
        stages = {view: self.evaluations.of_fold(view, folder, name=name, fold=index, round=1) for view in views}
        middle = [calibrating, stages[WITH_OFFSETS]] if shape.calibrated else []
        return [training, stages[PLAIN], *middle, *([stages[TURNED]] if shape.mirrored else [])]

    def _fold_folder(self, index: int) -> Path:
        return self.work / f"fold_{index + 1}"

    # The second round.

    def _judge_second_round(self, answer: Answer) -> None:
        if self.plan.shape.checked:
            self._run([self._second_of_fold(index, answer) for index in range(self.plan.shape.checked)])

    def _second_of_fold(self, index: int, answer: Answer) -> list[Stage]:
        """As the last training will be, from labels by the one model that knows nothing of the held-out scans."""
        folder, name = self.work / f"second_{index + 1}", f"second round, fold {index + 1}"
        learning = self.learning.without(self.folds[index])
        drawn = self._drawn(learning.unlabelled)
        teacher = self._model(self._fold_folder(index), answer)
        labelling = self.commands.labelling(
            f"{name}, labels",
            dataset=learning.write(folder / "to_label", unlabelled=drawn),
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
            seed=self.asked.seed + index,
            second=True,
            begins_with=self._fold_folder(index) / "models" / MODEL,
        )
        calibrated = self._calibrated(answer, second=True)
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
        return len(learning.labelled) + len(self._drawn(learning.unlabelled)), 0

    def _calibrated(self, answer: Answer, *, second: bool) -> bool:
        """A second round that adjusts no offsets while it trains gets them afterwards."""
        return answer.calibrated or (second and not self.recipe.second_decision_interval)

    # Model B.

    def _judge_model_b(self, answer: Answer, *, second: bool) -> None:
        if self.plan.shape.judged:
            self._run([self._b_of_fold(index, answer, second=second) for index in range(self.plan.shape.judged)])

    def _b_of_fold(self, index: int, answer: Answer, *, second: bool) -> list[Stage]:
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
            seed=self.asked.seed + index,
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

    def _prompted(self, answer: Answer, *, second: bool) -> list[Stage]:
        """Model B beside the last Model A, and offsets for both."""
        last, folder = self.work / "last", self.work / "beside"
        stages = []
        if self.plan.shape.prompted:
            dataset, scans = self._last_scans(second=second)
            training = self.commands.prompting(
                "Model B beside it",
                folder,
                dataset=dataset,
                scans=scans,
                iterations=self._prompt_iterations(second=second),
                seed=self.asked.seed,
                begins_with=self._with_judged_b(last / "models" / MODEL),
            )
            stages.append(training)
        if answer.calibrated:
            trained = self._deployed_from()
            calibrating = self.commands.calibrating(
                "last training, calibration",
                dataset=self.work / "all",
                checkpoint=trained / MODEL,
                target=trained / CALIBRATED,
                answer=self._answering(answer),
            )
            stages.append(calibrating)
        return stages

    def _deployed_from(self) -> Path:
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

    # Labels by models.

    def _complete(self, answer: Answer) -> None:
        """The models of the folds learn from the scans that they were judged on, too: better teachers."""
        if self.plan.complete:
            self._run([self._completed(index, answer) for index in range(len(self.folds))])

    def _completed(self, index: int, answer: Answer) -> list[Stage]:
        folder, name = self._complete_folder(index), f"all labelled scans, model {index + 1}"
        training = self.commands.training(
            name,
            folder,
            dataset=self.work / "all",
            scans=_counts(self.learning),
            iterations=self.plan.complete,
            seed=self.asked.seed + len(self.folds) + index,
            begins_with=self._fold_folder(index) / "models" / MODEL,
            learning_rate=self.recipe.complete_learning_rate,
        )
        if self._model(folder, answer).name == MODEL:
            return [training]
        return [training, self._calibrating(folder, name, dataset=self.work / "all")]

    def _complete_folder(self, index: int) -> Path:
        """Of a fold's latest model that labels scans."""
        return self.work / f"complete_{index + 1}" if self.plan.complete else self._fold_folder(index)

    def _labelling(self, answer: Answer) -> Stage:
        folders = [self._complete_folder(index) for index in range(len(self.folds))]
        folders = folders or [self.work / f"seed_{index + 1}" for index in range(self.plan.shape.seeds)]
        drawn = self._drawn(self.learning.unlabelled)
        return self.commands.labelling(
            "labels by models",
            dataset=self.learning.write(self.work / "to_label", unlabelled=drawn),
            checkpoints=[self._model(folder, answer) for folder in folders],
            target=self.work / "second",
            predictor=answer.predictor,
        )

    def _model(self, folder: Path, answer: Answer) -> Path:
        calibrated = folder / "models" / CALIBRATED
        return calibrated if answer.calibrated and self.plan.shape.calibrated else folder / "models" / MODEL

    def _drawn(self, items: Sequence[Item]) -> list[Item]:
        """Those that models label, where there is no time for all."""
        order = sorted(items, key=lambda item: hashlib.sha256(f"{self.asked.seed}:{case_name(item)}".encode()).digest())
        kept = {case_name(item) for item in order[: self.plan.unlabelled]}
        return [item for item in items if case_name(item) in kept]

    # The last training, and its model.

    def _last(self, *, second: bool) -> Stage:
        dataset, scans = self._last_scans(second=second)
        return self.commands.training(
            "last training",
            self.work / "last",
            dataset=dataset,
            scans=scans,
            iterations=self._last_iterations(second=second),
            seed=self.asked.seed,
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

    def _last_iterations(self, *, second: bool) -> int:
        """In the time that is left, by the pace that trainings had; kept, as a training cannot be made longer."""
        return self._remembered("last", last_iterations, second=second)

    def _prompt_iterations(self, *, second: bool) -> int:
        """Likewise, of Model B."""
        return self._remembered("prompt", prompt_iterations, second=second)

    def _remembered(self, name: str, count: Callable[..., int], *, second: bool) -> int:
        if (found := self.journal.recall(f"{name}_iterations")) is None:
            shape = replace(self.plan.shape, second=second)
            found = count(shape, self.facts, self._real_pace(), left=self._left(), recipe=self.recipe)
            self.journal.remember(f"{name}_iterations", found)
        return int(found)

    def _real_pace(self) -> Pace:
        """As the trainings so far had it."""
        pace = self.pace
        planned = pace.first(self.recipe) if self.facts.unlabelled else pace.labeled
        slower = (self._seconds_an_iteration("fold_*", "seed_*") or planned) / planned
        return replace(
            pace,
            labeled=pace.labeled * slower,
            joint=pace.joint * slower,
            alone=pace.alone * slower,
            prompt=self._seconds_an_iteration("beside_*") or pace.prompt * slower,
            scan=self.evaluations.seconds_a_scan(with_b=False) or pace.scan,
            scan_b=self.evaluations.seconds_a_scan(with_b=True) or pace.scan_b,
        )

    def _seconds_an_iteration(self, *folders: str) -> float | None:
        """Of the trainings in some folders; None where there was none."""
        found = [folder for pattern in folders for folder in self.work.glob(pattern)]
        lines = [line for folder in found for line in read_history(folder / "training" / HISTORY_FILE)]
        return fmean(line["seconds_per_iteration"] for line in lines) if lines else None

    def _last_said(self, *, second: bool) -> str:
        by_models = len(self._drawn(self.learning.unlabelled))
        others = f"{by_models} that the models of the first round labelled" if second else ""
        others = others or (f"{self.facts.unlabelled} without a label" if self.facts.unlabelled else "")
        scans = " and ".join(filter(None, [f"{self.facts.labelled} labelled scans", others]))
        return f"{self._last_iterations(second=second):,} iterations on {scans}"

    def _answering(self, answer: Answer) -> dict[str, Any]:
        mirror_axes = list(self.block.flip_axes[:1]) if answer.mirrored else []
        return {"predictor": answer.predictor, "mirror_axes": mirror_axes}

    def _deploy(self, answer: Answer) -> None:
        """The last model, and how it answers, into the bundle."""
        if self.journal.recall("deployed"):
            return
        folder = self._deployed_from()
        source = folder / (CALIBRATED if answer.calibrated else MODEL)
        answering = {f"inference_{key}": value for key, value in self._answering(answer).items()}
        settings = {**read_settings(source), **answering}
        save_model(read_checkpoint(source), settings, self.commands.bundle / "models" / MODEL)
        self.journal.remember("deployed", True)

    def _measure_apart(self) -> None:
        if not self.learning.validation:
            return
        folder, with_b = self.work / "validation", self.plan.shape.prompted
        self._run([[self.evaluations.of_bundle(folder, dataset=self.work / "all", with_b=with_b)]], alone=True)

    def _calibrate_doubt(self, answer: Answer) -> None:
        """Temperature and predicted Dice, from the answers of models that had not learned from the scans."""
        model = self.commands.bundle / "models" / MODEL
        answers = max((self.evaluations.answers(answer, round) for round in (2, 1)), key=len)
        if answers:
            labels = {int(value): name for value, name in self.block.labels.items()}
            stored = calibration_of(answers, labels=labels, source="held out, by folds")
            save_settings({**read_settings(model), **stored}, model)

    # The record.

    def printed_plan(self) -> PrintedPlan:
        """As it is printed, and kept."""
        return printed_plan(self.plan, self.facts, self.recipe, block=self.block, data=self.data)

    def _results(self) -> TrainingResults:
        return TrainingResults(
            plan=self.printed_plan(),
            stages=[StageRecord(name=name, **stage) for name, stage in self.journal.stages.items()],
            held_out=self.evaluations.held_out(),
            choices=self.choices,
            machine={**machine(), "cores": self.asked.cores, "trainings_at_once": self.asked.jobs},
            versions=_versions(),
        )


def facts_of(learning: Learning, block: DatasetBlock, *, jobs: int) -> Facts:
    """What there is to plan for."""
    return Facts(
        labelled=len(learning.labelled),
        unlabelled=len(learning.unlabelled),
        patients=len({learning.patient(case_name(item)) for item in learning.labelled}),
        validation=len(learning.validation),
        can_mirror=bool(block.flip_axes),
        jobs=jobs,
    )


def measured_pace(asked: Asked, commands: Commands, learning: Learning, folder: Path) -> Pace:
    """Of this machine, with as many trainings at once as there will be."""
    return measure_pace(commands, learning, folder, jobs=asked.jobs, threads=asked.threads, all_threads=asked.cores)


def printed_plan(plan: TimePlan, facts: Facts, recipe: Recipe, *, block: DatasetBlock, data: Path) -> PrintedPlan:
    """The plan as it is printed."""
    return PrintedPlan(
        data={
            "folder": str(data),
            "labelled": facts.labelled,
            "patients": facts.patients,
            "unlabelled": facts.unlabelled,
            "validation": facts.validation,
        },
        bundle=asdict(block),
        stages=[PlannedStage(name=step.name, what=step.what, seconds=round(step.seconds, 1)) for step in plan.steps],
        seconds=round(plan.seconds, 1),
        unknown=unknown(plan.shape, facts, recipe),
    )


def _counts(learning: Learning) -> tuple[int, int]:
    return len(learning.labelled), len(learning.unlabelled)


def _versions() -> dict[str, str]:
    ours = {"aps_components": aps_components.__version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in PACKAGES}
