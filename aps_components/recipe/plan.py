"""From a time to a plan: which trainings, of how many iterations, and how long each step takes. Numbers in and out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from aps_components.recipe.settings import FROM_EARLIER, Recipe

FIRST_STEP, CHECK_STEP, JUDGE_STEP = "first round", "is a second round better?", "are Model B's answers better?"
SLACK = 0.03  # of the time, for what no measurement foresaw


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What there is to plan for.

    Attributes:
        labelled, unlabelled: scans to learn from.
        patients: of the labelled scans.
        validation: scans that the dataset keeps apart, to be measured on at the end.
        can_mirror: whether training flips patches, so that windows may be turned.
        jobs: trainings at once.
    """

    labelled: int
    unlabelled: int
    patients: int
    validation: int = 0
    can_mirror: bool = True
    jobs: int = 1


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds, measured on this machine.

    Attributes:
        start: of a training before its first iteration: libraries, reading of all scans.
        labeled: of an iteration on labelled patches alone, as many trainings at once as there will be.
        joint: of one on labelled and unlabelled patches.
        alone: of one on labelled patches in a training that has the machine for itself.
        prompt: of an iteration of Model B beside a Model A, as many trainings at once as there will be.
        scan: to answer a scan by Model A, and to measure the answer.
        scan_b: the same by A, B and both.
    """

    start: float
    labeled: float
    joint: float
    alone: float
    prompt: float
    scan: float
    scan_b: float

    def first(self, recipe: Recipe) -> float:
        """Of a mean iteration of the first round."""
        return recipe.warmup_share * self.labeled + (1 - recipe.warmup_share) * self.joint

    def first_alone(self, recipe: Recipe) -> float:
        """The same, in a training that has the machine for itself."""
        return self.first(recipe) * self.alone / self.labeled

    @property
    def prompt_alone(self) -> float:
        """Of an iteration of Model B in a training that has the machine for itself."""
        return self.prompt * self.alone / self.labeled


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a plan has, before it is known how long each part is.

    Attributes:
        folds: trainings of the first round, each without some labelled scans.
        checked: folds on which a second round is judged.
        second: whether there is one.
        calibrated, mirrored: whether offsets and turned windows are judged.
        seeds: trainings of the first round on all labelled scans, where there are no folds.
        prompted: whether Model B is trained.
        judged: folds on which its answers are judged.
    """

    folds: int
    checked: int = 0
    second: bool = False
    calibrated: bool = False
    mirrored: bool = False
    seeds: int = 0
    prompted: bool = False
    judged: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """Trainings of one kind, one after another or beside each other, with what judges them."""

    name: str
    what: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """Which trainings, of how many iterations.

    Attributes:
        shape: what there is.
        first, check, last: iterations of each first-round training, of each that judges the second round, and of the
            last training, which becomes the bundle's Model A.
        complete: of each model of a fold once its answers are judged, on all labelled scans.
        judge, prompt: of each training that judges Model B, and of the bundle's Model B.
        unlabelled: scans that models label for the second round.
        steps: in their order, with their seconds.
        overhead: seconds of all that is no iteration.
    """

    shape: Shape
    first: int
    check: int
    judge: int
    last: int
    prompt: int
    unlabelled: int
    complete: int = 0
    steps: list[Step]
    overhead: float

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return math.fsum(step.seconds for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Of JSON's types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TimePlan:
        """Of what :meth:`as_json` gives."""
        steps = [Step(**step) for step in content["steps"]]
        return cls(**{**content, "shape": Shape(**content["shape"]), "steps": steps})


def make_time_plan(facts: Facts, pace: Pace, *, seconds: float, recipe: Recipe, spent: float = 0.0) -> TimePlan:
    """The richest plan that fits the time.

    Args:
        facts: what there is to learn from.
        pace: measured here.
        seconds: that all of it may take.
        recipe: how the time is shared.
        spent: seconds of these that are gone, for looking at the scans and measuring the pace.

    Raises:
        ValueError: not even a single training fits; how much it needs.
    """
    left = seconds * (1 - SLACK) - spent
    for shape in shapes(facts, seconds=seconds, recipe=recipe):
        plan = _filled(shape, facts, pace, left=left, whole=seconds, recipe=recipe)
        if _enough(plan, recipe) and plan.overhead <= recipe.most_overhead * seconds:
            return plan
    single = _filled(Shape(folds=0), facts, pace, left=left, whole=seconds, recipe=recipe)
    if single.last < recipe.least_iterations:
        iteration = pace.first_alone(recipe) if facts.unlabelled else pace.alone
        needed = (spent + single.overhead + recipe.least_iterations * iteration) / (1 - SLACK)
        raise ValueError(
            f"time {duration(seconds)} is too short: one training of {recipe.least_iterations} iterations alone takes "
            f"{duration(needed)} on this machine; give --time {math.ceil(needed / 60)}m or more"
        )
    return single


def _enough(plan: TimePlan, recipe: Recipe) -> bool:
    """Whether each training has the iterations that it needs."""
    shape, least, enough = plan.shape, recipe.least_iterations, recipe.enough_iterations
    wanted = [
        (shape.folds or shape.seeds, plan.first, enough),
        (shape.checked, plan.check, enough),
        (shape.judged, plan.judge, least),
        (shape.prompted, plan.prompt, least),
        (1, plan.last, enough if shape.folds else least),
    ]
    return all(count >= needed for there, count, needed in wanted if there)


def shapes(facts: Facts, *, seconds: float, recipe: Recipe) -> Iterator[Shape]:
    """Plans from the richest to a single training, as far as data and time allow them at all."""
    second = facts.unlabelled > 0 and seconds >= recipe.short
    single = [Shape(folds=0, prompted=True), Shape(folds=0)]
    if facts.patients < recipe.fewest_patients:
        if second:
            yield Shape(folds=0, seeds=recipe.seeds, second=True, prompted=True)
        yield from single
        return
    most = min(recipe.folds, facts.patients)
    if seconds >= recipe.short:
        for folds in dict.fromkeys((most, min(recipe.quick_folds, most))):
            yield from _with_folds(folds, facts, second=second, seconds=seconds, recipe=recipe)
    quick = Shape(folds=min(recipe.quick_folds, most), calibrated=True, prompted=True)
    yield quick
    yield replace(quick, calibrated=False)
    yield replace(quick, calibrated=False, prompted=False)
    yield from single


def _with_folds(folds: int, facts: Facts, *, second: bool, seconds: float, recipe: Recipe) -> Iterator[Shape]:
    """What is judged on folds, from everything to nothing: turned windows go first, the second round's check last."""
    plain = Shape(folds=folds, second=second, calibrated=True, prompted=True)
    checked = min(recipe.checked_folds, folds) if second and seconds >= recipe.checked_from else 0
    judged = min(recipe.judged_folds, folds)
    for checks in dict.fromkeys((checked, 0)):
        yield replace(plain, checked=checks, judged=judged, mirrored=facts.can_mirror)
        yield replace(plain, checked=checks, judged=judged)
        yield replace(plain, checked=checks)
    yield replace(plain, calibrated=False)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Of a plan: ``turns`` trainings one after another, each of ``iterations`` that take ``pace`` seconds."""

    name: str
    what: str
    share: float = 0.0
    turns: int = 1
    pace: float = 0.0
    most: int = 0
    overhead: float = 0.0

    def iterations(self, usable: float) -> int:
        return min(self.most, int(self.share * usable / self.turns / self.pace)) if self.share else 0

    def step(self, usable: float) -> Step:
        count = self.iterations(usable)
        seconds = self.overhead + count * self.pace * self.turns
        return Step(name=self.name, what=self.what.format(iterations=f"{count:,}"), seconds=seconds)


def _filled(shape: Shape, facts: Facts, pace: Pace, *, left: float, whole: float, recipe: Recipe) -> TimePlan:
    """A shape with iterations in all the time that starting, judging and labelling leave."""
    unlabelled = _most_labelled(shape, facts, pace, whole=whole, recipe=recipe) if shape.second else 0
    parts = {
        "first": _first(shape, facts, pace, recipe=recipe),
        "check": _check(shape, facts, pace, unlabelled=unlabelled, recipe=recipe),
        "judge": _judge(shape, facts, pace, recipe=recipe),
        "complete": _complete(shape, facts, pace, recipe=recipe),
        "label": _label(shape, facts, pace, unlabelled=unlabelled),
        "last": _last(shape, facts, pace, recipe=recipe),
        "prompt": _prompt(shape, facts, pace, recipe=recipe),
        "measure": _measure(shape, facts, pace),
    }
    there = {name: part for name, part in parts.items() if part is not None}
    overhead = _overhead(there.values())
    usable = max(0.0, left - overhead)
    counts = {name: part.iterations(usable) for name, part in there.items()}
    return TimePlan(
        shape=shape,
        first=counts.get("first", 0),
        check=counts.get("check", 0),
        judge=counts.get("judge", 0),
        last=counts["last"],
        prompt=counts.get("prompt", 0),
        complete=counts.get("complete", 0),
        unlabelled=unlabelled,
        steps=[part.step(usable) for part in there.values()],
        overhead=overhead,
    )


def _first(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> _Part | None:
    trainings = shape.folds or shape.seeds
    if not trainings:
        return None
    turns = math.ceil(trainings / facts.jobs)
    judging = _judging(shape, facts, pace, recipe=recipe) if shape.folds else 0.0
    views = ["plain", *(["calibrated"] if shape.calibrated else []), *(["turned"] if shape.mirrored else [])]
    judged = f"; each answers the scans that it did not see: {', '.join(views)}"
    return _Part(
        name=FIRST_STEP,
        what=f"{trainings} trainings of {{iterations}} iterations{judged if shape.folds else ' on all labelled scans'}",
        share=_shares(shape, recipe)["first"],
        most=recipe.most_iterations,
        turns=turns,
        pace=pace.first(recipe) if facts.unlabelled else pace.labeled,
        overhead=turns * (pace.start + judging),
    )


def _check(shape: Shape, facts: Facts, pace: Pace, *, unlabelled: int, recipe: Recipe) -> _Part | None:
    """Of each fold whose second round is judged: labels by its own model, a training, answers."""
    if not shape.checked:
        return None
    turns, labelling = math.ceil(shape.checked / facts.jobs), _labelling(facts, pace, 1, unlabelled)
    scans = math.ceil(facts.labelled / shape.folds) * pace.scan
    return _Part(
        name=CHECK_STEP,
        what=f"the same for a second round on {shape.checked} folds, {{iterations}} iterations each",
        share=_shares(shape, recipe)["check"],
        most=recipe.most_iterations,
        turns=turns,
        pace=pace.labeled,
        overhead=turns * (labelling + _calibrating(facts, pace, recipe=recipe) + 2 * pace.start + scans),
    )


def _judge(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> _Part | None:
    """Of each fold whose Model B is judged: a training beside its Model A, offsets, answers."""
    if not shape.judged:
        return None
    turns = math.ceil(shape.judged / facts.jobs)
    scans = math.ceil(facts.labelled / shape.folds) * pace.scan_b
    return _Part(
        name=JUDGE_STEP,
        what=f"Model B beside Model A on {shape.judged} folds, {{iterations}} iterations each; A, B and their average",
        share=_shares(shape, recipe)["judge"],
        most=recipe.most_iterations,
        turns=turns,
        pace=pace.prompt,
        overhead=turns * (2 * pace.start + scans + _calibrating(facts, pace, recipe=recipe, with_b=True)),
    )


def _complete(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> _Part | None:
    """Of each fold, now that it is judged: a training on all labelled scans, and offsets."""
    if not _is_completed(shape, recipe):
        return None
    turns = math.ceil(shape.folds / facts.jobs)
    calibrating = _calibrating(facts, pace, recipe=recipe) if shape.calibrated else 0.0
    return _Part(
        name="the held-out scans, too",
        what=f"{shape.folds} trainings go on with all labelled scans, {{iterations}} iterations each",
        share=_shares(shape, recipe)["complete"],
        most=recipe.most_iterations,
        turns=turns,
        pace=pace.first(recipe),
        overhead=turns * (pace.start + calibrating),
    )


def _is_completed(shape: Shape, recipe: Recipe) -> bool:
    """Whether the models of the folds learn from all labelled scans before they label others."""
    return shape.second and shape.folds > 0 and recipe.last_from == FROM_EARLIER


def _label(shape: Shape, facts: Facts, pace: Pace, *, unlabelled: int) -> _Part | None:
    if not shape.second:
        return None
    models = shape.folds or shape.seeds
    what = f"{models} models label {unlabelled:,} scans together"
    return _Part(name="labels by models", what=what, overhead=_labelling(facts, pace, models, unlabelled))


def _last(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> _Part:
    scans = "those labels and the labelled scans" if shape.second else "all labelled scans"
    scans += " and the unlabelled ones" if not shape.second and facts.unlabelled else ""
    return _Part(
        name="last training",
        what=f"Model A, {{iterations}} iterations on {scans}",
        share=_shares(shape, recipe)["last"],
        most=recipe.most_iterations,
        pace=_last_pace(shape, facts, pace, recipe),
        overhead=pace.start + (0.0 if shape.prompted else _calibrating(facts, pace, recipe=recipe)),
    )


def _prompt(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> _Part | None:
    if not shape.prompted:
        return None
    return _Part(
        name="Model B beside it",
        what="{iterations} iterations of answers to points and clicks, then calibration",
        share=_shares(shape, recipe)["prompt"],
        most=recipe.most_iterations,
        pace=pace.prompt_alone,
        overhead=pace.start + _calibrating(facts, pace, recipe=recipe, with_b=True),
    )


def _measure(shape: Shape, facts: Facts, pace: Pace) -> _Part | None:
    if not facts.validation:
        return None
    seconds = pace.start + facts.validation * (pace.scan_b if shape.prompted else pace.scan)
    return _Part(name="validation scans", what=f"answers {facts.validation} scans kept apart", overhead=seconds)


def last_iterations(shape: Shape, facts: Facts, pace: Pace, *, left: float, recipe: Recipe) -> int:
    """Iterations of the last Model A, when all before it is done.

    Args:
        shape: of the plan; ``second`` says whether it learns from labels by models after all.
        facts: what there is.
        pace: as it turned out.
        left: seconds to the end.
        recipe: of the whole.
    """
    prompt, measure = _prompt(shape, facts, pace, recipe=recipe), _measure(shape, facts, pace)
    usable = left - _overhead([_last(shape, facts, pace, recipe=recipe), prompt, measure])
    shares = _shares(shape, recipe)
    share = shares["last"] / (shares["last"] + shares["prompt"])
    return _within(share * usable / _last_pace(shape, facts, pace, recipe), recipe)


def prompt_iterations(shape: Shape, facts: Facts, pace: Pace, *, left: float, recipe: Recipe) -> int:
    """Iterations of Model B beside the last Model A, when all before it is done; arguments of `last_iterations`."""
    usable = left - _overhead([_prompt(shape, facts, pace, recipe=recipe), _measure(shape, facts, pace)])
    return _within(usable / pace.prompt_alone, recipe)


def _overhead(parts: Iterable[_Part | None]) -> float:
    return math.fsum(part.overhead for part in parts if part is not None)


def _within(iterations: float, recipe: Recipe) -> int:
    return min(recipe.most_iterations, max(recipe.least_iterations, int(iterations)))


def unknown(shape: Shape, facts: Facts, recipe: Recipe) -> list[str]:
    """What no figure of a plan can say, a sentence each."""
    lines = []
    if not shape.folds and facts.patients < recipe.fewest_patients:
        lines.append(
            f"There are labelled scans of {facts.patients} patient(s), and none is kept apart: nobody will know how "
            "good the model is on other scans, nor which predictor, windows and calibration are best."
        )
    elif not shape.folds:
        lines.append("The time is too short for folds: nothing will be known of how good the model is on other scans.")
    if shape.folds and not shape.checked and shape.second:
        lines.append(
            "Whether the second round brings something is not measured in this time; it is kept if the first has Dice "
            f"{recipe.least_teacher:g} % or more on held-out scans."
        )
    if shape.folds and shape.prompted and not shape.judged:
        lines.append("Whether Model B's answers, or the average of both, are better is not measured: Model A answers.")
    if not shape.prompted:
        lines.append("The time is too short for Model B: the model answers no clicks.")
    if shape.folds and not shape.mirrored and facts.can_mirror:
        lines.append("Whether turned windows bring something is not measured; they are not turned.")
    if shape.folds:
        lines.append(
            "Held-out figures are of the trainings on folds, with fewer labelled scans and iterations than the last "
            "training has: expect that one to be a little better."
        )
    return lines


def epochs_of(iterations: int, recipe: Recipe) -> tuple[int, int, int]:
    """Epochs, iterations of each, and epochs on labelled patches alone, for about this number of iterations."""
    epochs = max(1, min(recipe.epochs, iterations))
    warmup = min(max(0, epochs - 1), round(recipe.warmup_share * epochs))
    return epochs, max(1, round(iterations / epochs)), warmup


def duration(seconds: float) -> str:
    """As one says it: ``2 h 05 min``, ``12 min``, ``40 s``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _shares(shape: Shape, recipe: Recipe) -> dict[str, float]:
    """Of the time for iterations, by part; what others do not take is the last training's."""
    first = recipe.first_share if shape.second else recipe.quick_share
    shares = {
        "first": first if shape.folds or shape.seeds else 0.0,
        "check": recipe.check_share if shape.checked else 0.0,
        "judge": recipe.judge_share if shape.judged else 0.0,
        "complete": recipe.complete_share if _is_completed(shape, recipe) else 0.0,
        "prompt": (recipe.prompt_share if shape.folds else recipe.single_prompt_share) if shape.prompted else 0.0,
    }
    return {**shares, "last": 1 - sum(shares.values())}


def _last_pace(shape: Shape, facts: Facts, pace: Pace, recipe: Recipe) -> float:
    return pace.alone if shape.second or not facts.unlabelled else pace.first_alone(recipe)


def _judging(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> float:
    """Of one fold: answers plain, calibrated and with turned windows, each in a command of its own."""
    scans = math.ceil(facts.labelled / shape.folds) * pace.scan
    plain = pace.start + scans
    calibrated = _calibrating(facts, pace, recipe=recipe) + plain if shape.calibrated else 0.0
    return plain + calibrated + (pace.start + 2 * scans if shape.mirrored else 0.0)


def _calibrating(facts: Facts, pace: Pace, *, recipe: Recipe, with_b: bool = False) -> float:
    return pace.start + min(recipe.calibrated_cases, facts.labelled) * (pace.scan_b if with_b else pace.scan)


def _labelling(facts: Facts, pace: Pace, models: int, unlabelled: int) -> float:
    """The labelled scans, too, are answered, to set the volumes."""
    return pace.start + models * (facts.labelled + unlabelled) * pace.scan


def _most_labelled(shape: Shape, facts: Facts, pace: Pace, *, whole: float, recipe: Recipe) -> int:
    scans = recipe.labelling_share * whole / (max(1, shape.folds or shape.seeds) * pace.scan)
    return min(facts.unlabelled, max(1, int(scans) - facts.labelled))
