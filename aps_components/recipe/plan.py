"""From a time to a plan: which trainings, of how many iterations, and how long each step takes. Numbers in and out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from aps_components.recipe import parts
from aps_components.recipe.facts import Facts, Pace, Shape, TimePlan
from aps_components.recipe.settings import Recipe
from aps_components.report.reading import duration

SLACK = 0.03  # of the time, for what no measurement foresaw


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
        least = parts.last_tempo(single.shape, facts, pace, recipe).seconds(recipe.least_iterations)
        needed = (spent + single.overhead + least) / (1 - SLACK)
        raise ValueError(
            f"time {duration(seconds)} is too short: one training of {recipe.least_iterations} iterations alone takes "
            f"{duration(needed)} on this machine; give --time {math.ceil(needed / 60)}m or more"
        )
    return single


def _enough(plan: TimePlan, recipe: Recipe) -> bool:
    """Whether each training has the iterations that it needs: folds are paid for by the last training."""
    shape, least = plan.shape, recipe.least_iterations
    enough = recipe.enough_of_one if shape.single else recipe.enough_iterations
    wanted = [
        (shape.folds, plan.first, enough),
        (shape.seeds, plan.first, enough // 2),
        (shape.checked, plan.check, enough // 2),
        (shape.judged, plan.judge, least),
        (shape.prompted, plan.prompt, least),
        (1, plan.last, 2 * enough if shape.folds else least),
    ]
    return all(count >= min(needed, recipe.most_iterations) for there, count, needed in wanted if there)


def shapes(facts: Facts, *, seconds: float, recipe: Recipe) -> Iterator[Shape]:
    """Plans from the richest to a single training, as far as data and time allow them at all."""
    second = facts.unlabelled > 0 and seconds >= recipe.short
    single = [Shape(folds=0, prompted=True), Shape(folds=0)]
    if not facts.can_hold_out(recipe):
        if second:
            yield Shape(folds=0, seeds=recipe.seeds, second=True, prompted=True)
        yield from single
        return
    most = min(recipe.folds, facts.patients)
    if seconds >= recipe.short:
        fewest = min(recipe.quick_folds, most)
        # More folds come after the check of a second round: so more time never means fewer of them.
        many = most if not second or seconds >= recipe.checked_from else fewest
        for folds in dict.fromkeys((many, fewest)):
            yield from _with_folds(folds, facts, parts=most, second=second, seconds=seconds, recipe=recipe)
    quick = Shape(folds=min(recipe.quick_folds, most), parts=most, calibrated=True, prompted=True)
    yield quick
    one = replace(quick, folds=1)
    yield one
    yield replace(one, calibrated=False)
    yield replace(one, prompted=False)
    yield from single


def _with_folds(
    folds: int, facts: Facts, *, parts: int, second: bool, seconds: float, recipe: Recipe
) -> Iterator[Shape]:
    """What is judged on folds, from everything to little: turned windows go first. Fewer folds come before no check of
    the second round, where there is time for one. Each is without one of all the parts, be there ever so few folds: a
    model of half of eight labelled scans is a poor teacher."""
    plain = Shape(folds=folds, parts=parts, second=second, calibrated=True, prompted=True)
    checked = min(recipe.checked_folds, folds) if second and seconds >= recipe.checked_from else 0
    judged = min(recipe.judged_folds, folds)
    for checks in [checked] if folds > recipe.quick_folds else dict.fromkeys((checked, 0)):
        yield replace(plain, checked=checks, judged=judged, mirrored=facts.can_mirror)
        yield replace(plain, checked=checks, judged=judged)
        yield replace(plain, checked=checks)


def _filled(shape: Shape, facts: Facts, pace: Pace, *, left: float, whole: float, recipe: Recipe) -> TimePlan:
    """A shape with iterations in all the time that starting, judging and labelling leave."""
    unlabelled = _most_labelled(shape, facts, pace, whole=whole, recipe=recipe) if shape.second else 0
    planned = {
        "first": parts.first(shape, facts, pace, recipe=recipe),
        "check": parts.check(shape, facts, pace, unlabelled=unlabelled, recipe=recipe),
        "judge": parts.judge(shape, facts, pace, recipe=recipe),
        "complete": parts.complete(shape, facts, pace, recipe=recipe),
        "label": parts.label(shape, facts, pace, unlabelled=unlabelled),
        "last": parts.last(shape, facts, pace, recipe=recipe),
        "prompt": parts.prompt(shape, facts, pace, recipe=recipe),
        "measure": parts.measure(shape, facts, pace),
    }
    overhead = parts.overhead(planned.values())
    usable = max(0.0, left - overhead)
    for_prompt = parts.least_prompt(pace, recipe) / usable if usable else 0.0
    shares = parts.shares(shape, recipe, for_prompt=for_prompt)
    there = {
        name: replace(part, share=shares.get(name, part.share)) for name, part in planned.items() if part is not None
    }
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


def last_iterations(shape: Shape, facts: Facts, pace: Pace, *, left: float, recipe: Recipe) -> int:
    """Iterations of the last Model A, when all before it is done.

    Args:
        shape: of the plan; ``second`` says whether it learns from labels by models after all.
        facts: what there is.
        pace: as it turned out.
        left: seconds to the end.
        recipe: of the whole.
    """
    prompt, measure = parts.prompt(shape, facts, pace, recipe=recipe), parts.measure(shape, facts, pace)
    usable = left - parts.overhead([parts.last(shape, facts, pace, recipe=recipe), prompt, measure])
    shares = parts.shares(shape, recipe)
    of_prompt = shares["prompt"] / (shares["last"] + shares["prompt"])
    if shape.prompted and usable > 0:
        of_prompt = min(1.0, max(of_prompt, parts.least_prompt(pace, recipe) / usable))
    return _within(parts.last_tempo(shape, facts, pace, recipe).iterations((1 - of_prompt) * usable), recipe)


def prompt_iterations(shape: Shape, facts: Facts, pace: Pace, *, left: float, recipe: Recipe) -> int:
    """Iterations of Model B beside the last Model A, when all before it is done; arguments of `last_iterations`."""
    usable = left - parts.overhead([parts.prompt(shape, facts, pace, recipe=recipe), parts.measure(shape, facts, pace)])
    return _within(usable / pace.prompt_alone, recipe)


def _within(iterations: float, recipe: Recipe) -> int:
    return min(recipe.most_iterations, max(recipe.least_iterations, int(iterations)))


def unknown(shape: Shape, facts: Facts, recipe: Recipe) -> list[str]:
    """What no figure of a plan can say, a sentence each."""
    lines = []
    if not shape.folds and not facts.can_hold_out(recipe):
        why = f"There are labelled scans of {facts.patients} patient(s)"
        if facts.known:
            why = f"The model to begin with has learned from {facts.known} of the {facts.labelled} labelled scans"
        lines.append(
            f"{why}, and none is held out: nobody will know "
            f"{'' if facts.validation else 'how good the model is on other scans, nor '}which predictor and "
            "calibration are best."
        )
    elif not shape.folds:
        left = (
            "which predictor and calibration are best" if facts.validation else "how good the model is on other scans"
        )
        lines.append(f"The time is too short to hold scans out: nobody will know {left}.")
    if not facts.can_hold_out(recipe) and facts.unlabelled and not shape.second:
        lines.append("The time is too short for a second round, which learns from labels by two models.")
    if shape.folds < shape.divided:
        answered = math.ceil(facts.labelled * shape.folds / shape.divided)
        lines.append(
            f"The time is too short to hold out every labelled scan once: about {answered} of {facts.labelled} are "
            "answered by a model that did not learn from them, and choices rest on these few."
        )
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
            "Held-out figures are of trainings with fewer labelled scans and iterations than the last one has: expect "
            "that one to be a little better."
        )
    return lines


def _most_labelled(shape: Shape, facts: Facts, pace: Pace, *, whole: float, recipe: Recipe) -> int:
    scans = recipe.labelling_share * whole / (max(1, shape.folds or shape.seeds) * pace.scan)
    return min(facts.unlabelled, max(1, int(scans) - facts.labelled))
