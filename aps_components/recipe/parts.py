"""The parts of a plan: what each takes besides its iterations, and its share of the time that is left for these."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aps_components.recipe.facts import Facts, Pace, Shape, Step, Tempo
from aps_components.recipe.settings import FROM_EARLIER, Recipe

PROMPT_STEP = "Model B beside it"
FIRST_STEP, CHECK_STEP, JUDGE_STEP = "first round", "is a second round better?", "are Model B's answers better?"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Of a plan: ``turns`` trainings one after another, each of ``iterations`` at ``tempo``."""

    name: str
    what: str | Callable[[int], str]  # perhaps by the number of iterations
    share: float = 0.0
    turns: int = 1
    tempo: Tempo = field(default_factory=Tempo)
    recipe: Recipe = field(default_factory=Recipe)
    overhead: float = 0.0

    def iterations(self, usable: float) -> int:
        """Of each training, in the seconds that all iterations have together."""
        fitting = int(self.tempo.iterations(self.share * usable / self.turns)) if self.share else 0
        return min(self.recipe.most_iterations, fitting)

    def step(self, usable: float) -> Step:
        """As it is printed, with those iterations."""
        count = self.iterations(usable)
        seconds = self.overhead + self.tempo.seconds(count) * self.turns
        what = self.what if isinstance(self.what, str) else self.what(count)
        return Step(name=self.name, what=what.format(iterations=f"{run_of(count, self.recipe):,}"), seconds=seconds)


def first(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> Part | None:
    """Trainings without some labelled scans, which each of them answers; or on all scans, with other seeds."""
    trainings = shape.folds or shape.seeds
    if not trainings:
        return None
    turns = math.ceil(trainings / facts.jobs)
    judging = _judging(shape, facts, pace, recipe=recipe) if shape.folds else 0.0
    views = ["plain", *(["calibrated"] if shape.calibrated else []), *(["turned"] if shape.mirrored else [])]
    judged = f"; each answers the scans that it did not see: {', '.join(views)}"
    what = f"{trainings} trainings of {{iterations}} iterations{judged if shape.folds else ' on all labelled scans'}"
    if shape.single:
        what = f"{{iterations}} iterations without a part of the labelled scans, which it answers: {', '.join(views)}"
    return Part(
        name=FIRST_STEP,
        what=what,
        share=shares(shape, recipe)["first"],
        recipe=recipe,
        turns=turns,
        tempo=first_tempo(shape, facts, pace, recipe),
        overhead=turns * (pace.start + judging),
    )


def check(shape: Shape, facts: Facts, pace: Pace, *, unlabelled: int, recipe: Recipe) -> Part | None:
    """Of each fold whose second round is judged: labels by its own model, a training, answers."""
    if not shape.checked:
        return None
    turns, labelling = math.ceil(shape.checked / facts.jobs), _labelling(facts, pace, 1, unlabelled)
    scans = _held_out(shape, facts) * pace.scan
    return Part(
        name=CHECK_STEP,
        what=f"the same for a second round on {shape.checked} folds, {{iterations}} iterations each",
        share=shares(shape, recipe)["check"],
        recipe=recipe,
        turns=turns,
        tempo=Tempo(pace.labeled),
        overhead=turns * (labelling + _calibrating(facts, pace, recipe=recipe) + 2 * pace.start + scans),
    )


def judge(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> Part | None:
    """Of each fold whose Model B is judged: a training beside its Model A, offsets, answers."""
    if not shape.judged:
        return None
    turns = math.ceil(shape.judged / facts.jobs)
    scans = _held_out(shape, facts) * pace.scan_b
    return Part(
        name=JUDGE_STEP,
        what=f"Model B beside Model A on {shape.judged} folds, {{iterations}} iterations each; A, B and their average",
        share=shares(shape, recipe)["judge"],
        recipe=recipe,
        turns=turns,
        tempo=Tempo(pace.prompt),
        overhead=turns * (2 * pace.start + scans + _calibrating(facts, pace, recipe=recipe, with_b=True)),
    )


def complete(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> Part | None:
    """Of each fold, now that it is judged: a training on all labelled scans, and offsets."""
    if not _is_completed(shape, recipe):
        return None
    turns = math.ceil(shape.folds / facts.jobs)
    calibrating = _calibrating(facts, pace, recipe=recipe) if shape.calibrated else 0.0
    return Part(
        name="the held-out scans, too",
        what=f"{shape.folds} trainings go on with all labelled scans, {{iterations}} iterations each",
        share=shares(shape, recipe)["complete"],
        recipe=recipe,
        turns=turns,
        tempo=Tempo(pace.joint),
        overhead=turns * (pace.start + calibrating),
    )


def _is_completed(shape: Shape, recipe: Recipe) -> bool:
    """Whether the models of the folds learn from all labelled scans before they label others."""
    return shape.second and shape.folds > 0 and recipe.last_from == FROM_EARLIER


def label(shape: Shape, facts: Facts, pace: Pace, *, unlabelled: int) -> Part | None:
    """Labels by all models of the first round together."""
    if not shape.second:
        return None
    models = shape.folds or shape.seeds
    what = f"{models} models label {unlabelled:,} scans together"
    return Part(name="labels by models", what=what, overhead=_labelling(facts, pace, models, unlabelled))


def last(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> Part:
    """The training that becomes the bundle's Model A."""

    def what(iterations: int) -> str:
        scans = "those labels and the labelled scans" if shape.second else "all labelled scans"
        if learns_unlabelled(iterations, shape=shape, facts=facts, recipe=recipe):
            scans += " and the unlabelled ones"
        return f"Model A, {{iterations}} iterations on {scans}"

    return Part(
        name="last training",
        what=what,
        share=shares(shape, recipe)["last"],
        recipe=recipe,
        tempo=last_tempo(shape, facts, pace, recipe),
        overhead=pace.start + (0.0 if shape.prompted else _calibrating(facts, pace, recipe=recipe)),
    )


def prompt(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> Part | None:
    """The bundle's Model B."""
    if not shape.prompted:
        return None
    return Part(
        name=PROMPT_STEP,
        what="{iterations} iterations of answers to points and clicks, then calibration",
        share=shares(shape, recipe)["prompt"],
        recipe=recipe,
        tempo=Tempo(pace.prompt_alone),
        overhead=pace.start + _calibrating(facts, pace, recipe=recipe, with_b=True),
    )


def measure(shape: Shape, facts: Facts, pace: Pace) -> Part | None:
    """Answers to scans that the dataset keeps apart."""
    if not facts.validation:
        return None
    seconds = pace.start + facts.validation * (pace.scan_b if shape.prompted else pace.scan)
    return Part(name="validation scans", what=f"answers {facts.validation} scans kept apart", overhead=seconds)


def overhead(parts: Iterable[Part | None]) -> float:
    """Seconds of all that is no iteration."""
    return math.fsum(part.overhead for part in parts if part is not None)


def shares(shape: Shape, recipe: Recipe, *, for_prompt: float = 0.0) -> dict[str, float]:
    """Of the time for iterations, by part; what others do not take is the last training's.

    Args:
        shape: of the plan.
        recipe: its numbers.
        for_prompt: of the time, what Model B needs at least; it gets that as far as it may have so much.
    """
    quick = recipe.quick_share if shape.folds > 1 else recipe.one_fold_share
    first = recipe.first_share if shape.second else quick
    prompt = recipe.prompt_share if shape.folds else recipe.single_prompt_share
    taken = {
        "first": first if shape.folds or shape.seeds else 0.0,
        "check": recipe.check_share if shape.checked else 0.0,
        "judge": recipe.judge_share if shape.judged else 0.0,
        "complete": recipe.complete_share if _is_completed(shape, recipe) else 0.0,
        "prompt": max(prompt, min(for_prompt, recipe.most_prompt_share)) if shape.prompted else 0.0,
    }
    return {**taken, "last": 1 - sum(taken.values())}


def least_prompt(pace: Pace, recipe: Recipe) -> float:
    """Seconds that Model B needs to learn anything."""
    return (recipe.least_iterations + 1) * pace.prompt_alone


def first_tempo(shape: Shape, facts: Facts, pace: Pace, recipe: Recipe) -> Tempo:
    """Of the first round; a single training has the machine for itself."""
    if shape.single:
        return pace.first_alone(recipe) if facts.unlabelled else Tempo(pace.alone)
    return pace.first(recipe) if facts.unlabelled else Tempo(pace.labeled)


def last_tempo(shape: Shape, facts: Facts, pace: Pace, recipe: Recipe) -> Tempo:
    """Of the last training."""
    if shape.second or not facts.unlabelled:
        return Tempo(pace.alone)
    return Tempo(pace.joint_alone) if shape.goes_on(recipe) else pace.first_alone(recipe)


def learns_unlabelled(iterations: int, *, shape: Shape, facts: Facts, recipe: Recipe) -> bool:
    """Whether a last training of so many iterations gets to scans without a label."""
    epochs, _, warmup = epochs_of(iterations, recipe)
    gets_there = shape.goes_on(recipe) or warmup < epochs
    return not shape.second and facts.unlabelled > 0 and recipe.unlabeled_batch > 0 and gets_there


def epochs_of(iterations: int, recipe: Recipe) -> tuple[int, int, int]:
    """Epochs, iterations of each, and epochs on labelled patches alone, for about this number of iterations."""
    epochs = max(1, min(recipe.epochs, iterations))
    length = max(1, round(iterations / epochs))
    warmup = max(round(recipe.warmup_share * epochs), math.ceil(recipe.warmup_iterations / length))
    return epochs, length, min(epochs, warmup)


def run_of(iterations: int, recipe: Recipe) -> int:
    """How many run where about so many are asked for: whole epochs, of equal length."""
    epochs, length, _ = epochs_of(iterations, recipe)
    return epochs * length if iterations else 0


def _held_out(shape: Shape, facts: Facts) -> int:
    """Labelled scans that a fold does not learn from, at most."""
    return math.ceil(facts.labelled / shape.divided)


def _judging(shape: Shape, facts: Facts, pace: Pace, *, recipe: Recipe) -> float:
    """Of one fold: answers plain, calibrated and with turned windows, each in a command of its own."""
    scans = _held_out(shape, facts) * pace.scan
    plain = pace.start + scans
    calibrated = _calibrating(facts, pace, recipe=recipe) + plain if shape.calibrated else 0.0
    return plain + calibrated + (pace.start + 2 * scans if shape.mirrored else 0.0)


def _calibrating(facts: Facts, pace: Pace, *, recipe: Recipe, with_b: bool = False) -> float:
    return pace.start + min(recipe.calibrated_cases, facts.labelled) * (pace.scan_b if with_b else pace.scan)


def _labelling(facts: Facts, pace: Pace, models: int, unlabelled: int) -> float:
    """The labelled scans, too, are answered, to set the volumes."""
    return pace.start + models * (facts.labelled + unlabelled) * pace.scan
