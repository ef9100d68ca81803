"""Every number of the recipe in one place: how a time is shared, and how the trainings differ from the bundle's own.

Change a default here by measurement, or one of them for a single call: ``aps train ... --recipe "{'folds':3}"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from aps_components.options import Kind, choice, meant, number, whole

FROM_SCRATCH, FROM_EARLIER = "scratch", "earlier"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How scans become a model.

    Attributes:
        folds: parts of the labelled scans, at most one for each patient. A training of the first round is without one
            of them, and answers it; there is one for each part where there is time.
        quick_folds: such trainings where there is not. Where even these would take too much of the time, there is a
            single one, and the last training goes on from there.
        seeds: first-round trainings on all labelled scans where there are too few for folds.
        fewest_patients: that folds are made of.
        short: seconds below which there is one round alone.
        checked_from: seconds from which the second round, too, is judged on folds.
        checked_folds: number of these folds.
        first_share: of the time for iterations, that of the first round.
        check_share: that of judging the second round.
        quick_share: that of the first round where there is no second one.
        one_fold_share: that of the first round where it is a single training.
        complete_share: that of the folds' models on all labelled scans, before they label others.
        judge_share: that of judging Model B's answers.
        prompt_share: that of Model B beside the last Model A.
        single_prompt_share: the same where there are no folds.
        most_prompt_share: that Model B may take, where its share holds fewer than ``least_iterations``.
        least_iterations: of any training; with fewer the time is too short.
        enough_iterations: of a Model A on each of several folds. The last training needs twice as many, a fold's second
            round half as many, and so does each training of a first round without folds. A plan that has fewer is made
            simpler.
        enough_of_one: of a Model A that is alone in the first round; the last training needs twice as many.
        most_iterations: of a training, however long the time.
        most_overhead: of the time, what starting, judging and labelling may take; a plan with more is made simpler.
        epochs: of every training; after each it can go on if it was killed.
        warmup_share: of a first-round training, its part on labelled patches alone.
        warmup_patches: labelled patches that it sees before the unlabelled ones at least, as many in an iteration as
            of both later: a teacher that knows less teaches errors (docs/results/aps-train.md).
        labeled_batch, unlabeled_batch: patches of an iteration of the first round; together those of the second.
        prompt_batch: patches of an iteration of Model B.
        judged_folds: that Model B's answers are judged on.
        learning_rate: of the first round, falling to 0 over its iterations.
        complete_learning_rate: of the folds' models on all labelled scans.
        second_learning_rate: of the second round.
        prompt_learning_rate: of Model B.
        last_from: ``scratch``, or ``earlier``: trainings after the first round begin with the weights of one before.
        second_decision_interval: of the second round, as ``decision_interval`` of train.json; 0 for never.
        labelling_share: of the whole time, what models may take to label scans; others are left out by a draw.
        least_gain: Dice points that windows seen twice, or another extra, must bring on held-out scans.
        least_teacher: Dice, in percent, that the first round must have on held-out scans for its labels to be learned
            from where no second round is judged.
        calibrated_cases: labelled scans that offsets are set on.
        probe_iterations: of each phase of the short training that measures the pace.
    """

    folds: int = 4
    quick_folds: int = 2
    seeds: int = 2
    fewest_patients: int = 3
    short: float = 20 * 60.0
    checked_from: float = 90 * 60.0
    checked_folds: int = 2
    first_share: float = 0.4
    check_share: float = 0.15
    quick_share: float = 0.4
    one_fold_share: float = 0.35
    complete_share: float = 0.12
    judge_share: float = 0.08
    prompt_share: float = 0.12
    single_prompt_share: float = 0.25
    most_prompt_share: float = 0.25
    least_iterations: int = 100
    enough_iterations: int = 2000
    enough_of_one: int = 200
    most_iterations: int = 50_000
    most_overhead: float = 0.45
    epochs: int = 30
    warmup_share: float = 1 / 3
    warmup_patches: int = 1200
    labeled_batch: int = 2
    unlabeled_batch: int = 2
    prompt_batch: int = 1
    judged_folds: int = 2
    learning_rate: float = 1e-3
    complete_learning_rate: float = 5e-4
    second_learning_rate: float = 1e-3
    prompt_learning_rate: float = 1e-3
    last_from: str = FROM_EARLIER
    second_decision_interval: int = 0
    labelling_share: float = 0.15
    least_gain: float = 0.1
    least_teacher: float = 86.0
    calibrated_cases: int = 20
    probe_iterations: int = 3

    @property
    def warmup_iterations(self) -> int:
        """The least on labelled patches alone."""
        return math.ceil(self.warmup_patches / (self.labeled_batch + self.unlabeled_batch))


_SHARE, _SECONDS, _RATE = number(least=0, below=1), number(least=0), number(above=0)
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("first_share", "check_share", "quick_share", "judge_share", "prompt_share"), _SHARE),
    **dict.fromkeys(("complete_share", "one_fold_share"), _SHARE),
    **dict.fromkeys(("labelling_share", "most_overhead", "most_prompt_share", "single_prompt_share"), _SHARE),
    **dict.fromkeys(("learning_rate", "second_learning_rate", "prompt_learning_rate"), _RATE),
    "complete_learning_rate": _RATE,
    "folds": whole(least=2),
    "quick_folds": whole(least=2),
    "fewest_patients": whole(least=2),
    "unlabeled_batch": whole(least=0),
    "warmup_patches": whole(least=0),
    "second_decision_interval": whole(least=0),
    "warmup_share": number(least=0, most=1),
    "least_teacher": number(least=0, most=100),
    "last_from": choice(FROM_SCRATCH, FROM_EARLIER),
}
_BY_TYPE: dict[type, Kind] = {int: whole(least=1), float: _SECONDS}


# On a CPU small batches: there is time for few iterations.
ON_CPU = {"labeled_batch": 1, "unlabeled_batch": 1}


def recipe_of(given: Mapping[str, Any] | None = None, *, on_gpu: bool = True) -> Recipe:
    """The recipe with some of its numbers changed.

    Args:
        given: numbers by name.
        on_gpu: else the defaults of a CPU hold.

    Raises:
        ValueError: an unknown name, a value that does not fit, or shares that leave no time for the last training.
    """
    known, types = {entry.name for entry in fields(Recipe)}, get_type_hints(Recipe)
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"recipe {given!r} must be an object, such as --recipe \"{{'folds':3}}\"")
    values: dict[str, Any] = {} if on_gpu else dict(ON_CPU)
    for name, value in (given or {}).items():
        if name not in known:
            raise ValueError(f"no option --recipe#{name}; {meant(name, known, inside='recipe')}")
        values[name] = _KINDS.get(name, _BY_TYPE.get(types[name]))(f"recipe#{name}", value)  # type: ignore[misc]
    recipe = Recipe(**values)
    others = {name: getattr(recipe, name) for name in ("check_share", "complete_share", "judge_share", "prompt_share")}
    for name in ("prompt_share", "most_prompt_share"):
        if recipe.one_fold_share + getattr(recipe, name) >= 1:
            raise ValueError(
                f"recipe#one_fold_share {recipe.one_fold_share} and {name} {getattr(recipe, name)} leave nothing for "
                "the last training: together below 1"
            )
    if max(recipe.first_share, recipe.quick_share) + sum(others.values()) >= 1:
        raise ValueError(
            f"recipe#first_share {recipe.first_share} or quick_share {recipe.quick_share}, with "
            f"{' and '.join(f'{name} {value}' for name, value in others.items())}, leave nothing for the last "
            "training: together below 1"
        )
    return recipe
