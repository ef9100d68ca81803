"""A whole training, from measured pace to the model in the bundle: rounds, and the choices between them."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import aps_components
from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.describe import with_performance
from aps_components.data.datalist import case_name
from aps_components.data.identity import seen_items
from aps_components.evaluation.doubt.evaluated import calibration_of
from aps_components.evaluation.machine import machine
from aps_components.files import replace_text
from aps_components.models import read_checkpoint, read_settings, save_model, save_settings, trained_cases
from aps_components.recipe.card import performance, summary_line
from aps_components.recipe.choices import Answer, calibrated_after_all, choose_answer, choose_predictor, choose_round
from aps_components.recipe.datasets import Learning
from aps_components.recipe.display import Display
from aps_components.recipe.evaluations import Evaluations
from aps_components.recipe.facts import Asked, Facts, Pace, TimePlan
from aps_components.recipe.journal import Journal, typed_command
from aps_components.recipe.measure import measure_pace
from aps_components.recipe.parts import first_tempo, learns_unlabelled, run_of
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
from aps_components.recipe.rounds import Rounds
from aps_components.recipe.settings import Recipe
from aps_components.recipe.stages import CALIBRATED, MODEL, Commands, Stage, run_chains
from aps_components.recipe.told import ROUNDS, told_rounds
from aps_components.training.history import HISTORY_FILE, read_history

PACKAGES = ("torch", "monai", "numpy")
PACE = "pace_"  # begins the name of a folder in which the pace is measured


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
        self.facts = facts_of(learning, self.block, jobs=asked.jobs, pretrained=commands.pretrained)
        self.display = Display(self._left)
        self.choices: list[ChoiceRecord] = []
        self.evaluations = Evaluations(commands, journal, self.block)

    def run(self) -> TrainingResults:
        """Everything that is not done yet, up to the model in the bundle."""
        self.learning.write(self.work / "all")
        self._first_round()
        answer, choices = choose_answer(
            self.evaluations.held_out(), least_gain=self.recipe.least_gain, can_mirror=self.facts.can_mirror
        )
        self.choices = choices
        self._judge_second_round(answer)
        second, choice = choose_round(
            self.evaluations.held_out(),
            answer=answer,
            possible=self.plan.shape.second,
            unlabelled=self.facts.unlabelled,
            least_teacher=self.recipe.least_teacher,
        )
        self.choices = [*choices, choice]
        last = replace(answer, calibrated=self.rounds.calibrated(answer, second=second))
        if last.calibrated and not answer.calibrated:
            self.choices = list(map(calibrated_after_all, self.choices))
        self._judge_model_b(last, second=second)
        if self.plan.shape.prompted:
            judged_in = 2 if second and self.plan.shape.checked else 1  # beside the folds' latest Model A
            predictor, choice = choose_predictor(
                self.evaluations.held_out(), answer=last, round=judged_in, least_gain=self.recipe.least_gain
            )
            self.choices, last = [choice, *self.choices], replace(last, predictor=predictor)
        if second:
            self._complete(answer)
            self._run([[self.rounds.labelling(answer)]], alone=True)
        iterations = self._last_iterations(second=second)
        self._run([[self.rounds.last(second=second, iterations=iterations)]], alone=True)
        iterations = self._prompt_iterations(second=second) if self.plan.shape.prompted else 0
        self._run([self.rounds.prompted(last, second=second, iterations=iterations)], alone=True)
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
            for left in self.work.glob(f"{PACE}*"):  # by a call that was killed
                shutil.rmtree(left, ignore_errors=True)
            with TemporaryDirectory(prefix=PACE, dir=self.work) as folder:
                found = asdict(measured_pace(self.asked, self.commands, self.learning, Path(folder), facts=self.facts))
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
    def rounds(self) -> Rounds:
        """The trainings of the plan."""
        return Rounds(
            self.asked,
            commands=self.commands,
            learning=self.learning,
            evaluations=self.evaluations,
            plan=self.plan,
            flip_axes=self.block.flip_axes,
            work=self.work,
        )

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

    def _first_round(self) -> None:
        if self.rounds.folds:
            chains = [self.rounds.fold(index) for index in range(len(self.rounds.folds))]
            self._run(chains, alone=self.plan.shape.single)
        elif self.plan.shape.seeds:
            self._run([[self.rounds.seeded(index)] for index in range(self.plan.shape.seeds)])

    def _judge_second_round(self, answer: Answer) -> None:
        if self.plan.shape.checked:
            self._run([self.rounds.second_of_fold(index, answer) for index in range(self.plan.shape.checked)])

    def _judge_model_b(self, answer: Answer, *, second: bool) -> None:
        if self.plan.shape.judged:
            self._run([self.rounds.b_of_fold(index, answer, second=second) for index in range(self.plan.shape.judged)])

    def _complete(self, answer: Answer) -> None:
        """The models of the folds learn from the scans that they were judged on, too: better teachers."""
        if self.plan.complete:
            self._run([self.rounds.completed(index, answer) for index in range(len(self.rounds.folds))])

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
        count = max(1, self.plan.first)
        planned = first_tempo(self.plan.shape, self.facts, pace, self.recipe).seconds(count) / count
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
        by_models = len(self.rounds.drawn(self.learning.unlabelled))
        others = f"{by_models} that the models of the first round labelled" if second else ""
        iterations, shape = self._last_iterations(second=second), replace(self.plan.shape, second=second)
        if learns_unlabelled(iterations, shape=shape, facts=self.facts, recipe=self.recipe):
            others = f"{self.facts.unlabelled} without a label"
        scans = " and ".join(filter(None, [f"{self.facts.labelled} labelled scans", others]))
        return f"{run_of(iterations, self.recipe):,} iterations on {scans}"

    def _deploy(self, answer: Answer) -> None:
        """The last model, and how it answers, into the bundle."""
        target = self.commands.bundle / "models" / MODEL
        if self.journal.recall("deployed") and target.is_file():
            return
        folder = self.rounds.deployed_from()
        source = folder / (CALIBRATED if answer.calibrated else MODEL)
        answering = {f"inference_{key}": value for key, value in self.rounds.answering(answer).items()}
        settings = {**read_settings(source), **answering, ROUNDS: told_rounds(self.work)}
        save_model(read_checkpoint(source), settings, target)
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
            stored = calibration_of(answers, labels=labels, source="held out")
            save_settings({**read_settings(model), **stored}, model)

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
            command=typed_command(),
            worked=round(self.journal.worked, 1),
        )


def facts_of(learning: Learning, block: DatasetBlock, *, jobs: int, pretrained: Path | None = None) -> Facts:
    """What there is to plan for."""
    known = seen_items(learning.labelled, trained_cases(pretrained)) if pretrained else []
    return Facts(
        labelled=len(learning.labelled),
        unlabelled=len(learning.unlabelled),
        patients=len({learning.patient(case_name(item)) for item in learning.labelled}),
        validation=len(learning.validation),
        can_mirror=bool(block.flip_axes),
        jobs=jobs,
        known=len(known),
    )


def measured_pace(asked: Asked, commands: Commands, learning: Learning, folder: Path, *, facts: Facts) -> Pace:
    """Of this machine, with as many trainings at once as there will be."""
    return measure_pace(
        commands,
        learning,
        folder,
        jobs=asked.jobs,
        threads=asked.threads,
        all_threads=asked.cores,
        hold_out=not facts.known,
    )


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


def _versions() -> dict[str, str]:
    ours = {"aps_components": aps_components.__version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in PACKAGES}
