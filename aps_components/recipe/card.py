"""The part of a model card about a whole training: measured figures, choices, and what nobody knows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean, pstdev

from aps_components.recipe.choices import PREDICTORS, Answer, answered_so
from aps_components.recipe.parts import CHECK_STEP, FIRST_STEP, JUDGE_STEP
from aps_components.recipe.results import HeldOut, TrainingResults
from aps_components.report.reading import duration
from aps_components.report.training import VALIDATION

JUDGED = (FIRST_STEP, CHECK_STEP, JUDGE_STEP)  # steps of a plan that were done as planned


def performance(results: TrainingResults, answer: Answer, *, round: int, last: str) -> str:
    """The section of the card, in Markdown without its heading.

    Args:
        results: of the whole training.
        answer: how the model of the bundle answers.
        round: that it is of.
        last: what its own training was.
    """
    apart = [entry for entry in results.held_out if entry.fold == VALIDATION]
    folds = [entry for entry in results.held_out if entry.fold != VALIDATION]
    parts = [
        _of_model(apart, answer),
        _of_folds(folds, answer, round=round) if folds or not apart else "",
        "### What was decided\n\n" + _choices(results),
        "### How it was trained\n\n" + _trained(results, last),
    ]
    if results.plan.unknown:
        parts.append("### What is not known\n\n" + "\n".join(f"- {line}" for line in results.plan.unknown))
    return "\n\n".join(filter(None, parts))


def summary_line(entries: Sequence[HeldOut]) -> str:
    """Mean and spread over scans, such as ``Dice 84.2 % (standard deviation 3.1, 8 scans, worst 78.0)``."""
    values = [100 * value for entry in entries if not math.isnan(value := entry.mean_dice)]
    if not values:
        return "no Dice"
    return (
        f"Dice {fmean(values):.1f} % (standard deviation {pstdev(values):.1f} over {len(values)} scans, "
        f"worst {min(values):.1f})"
    )


def _of_model(apart: Sequence[HeldOut], answer: Answer) -> str:
    """Figures of the very model that is in the bundle."""
    found = [entry for entry in apart if entry.predictor == answer.predictor]
    if not found:
        return ""
    return (
        f"The model itself, on {len(found)} scans that the dataset keeps apart for validation and no training saw: "
        f"**{summary_line(found)}**.\n\n{_by_class(found)}"
    )


def _of_folds(folds: Sequence[HeldOut], answer: Answer, *, round: int) -> str:
    if not folds:
        return "No labelled scan was held out, so no figure is known of other scans."
    measured = answered_so(folds, answer, round=1)
    by = ""
    if not measured:  # Model B was judged beside the second round's Model A alone
        measured, by = answered_so(folds, replace(answer, predictor=PREDICTORS[0]), round=1), " (Model A's answers)"
    trainings = len({entry.fold for entry in measured})
    which = "each answered by the one of {} trainings that did not learn from it, or from another scan of its patient"
    if trainings == 1:
        which = "answered by a training that did not learn from them, or from another scan of their patients"
    lines = [
        f"Labelled scans, {which.format(trainings)}{by}: **{summary_line(measured)}**.",
        "The model of the bundle learned from all of them and for longer. These figures say what its kind is worth on "
        "other scans; they are not of its own weights.",
    ]
    if round == 2 and (second := answered_so(folds, answer, round=2)):
        lines.insert(1, f"After a second round, on {len(second)} of these scans: {summary_line(second)}.")
    return "\n".join(lines) + "\n\n" + _by_class(measured)


def _by_class(entries: Sequence[HeldOut]) -> str:
    lines = ["| class | Dice % | worst | NSD % | scans |", "|---|---:|---:|---:|---:|"]
    for name in dict.fromkeys(name for entry in entries for name in entry.dice):
        dice = _percent(entry.dice.get(name) for entry in entries)
        nsd = _percent((entry.nsd or {}).get(name) for entry in entries)
        figures = (f"{fmean(dice):.1f}", f"{min(dice):.1f}") if dice else ("-", "-")
        surface = f"{fmean(nsd):.1f}" if nsd else "-"
        lines.append(f"| {name.replace('|', '/')} | {figures[0]} | {figures[1]} | {surface} | {len(dice)} |")
    return "\n".join(lines)


def _percent(values: Iterable[float | None]) -> list[float]:
    return [100 * value for value in values if value is not None]


def _choices(results: TrainingResults) -> str:
    lines = ["| what | chosen | Dice % on held-out scans | |", "|---|---|---|---|"]
    for record in results.choices:
        figures = ", ".join(f"{option} {value:.2f}" for option, value in record.figures.items()) or "-"
        lines.append(f"| {record.name} | {record.chosen} | {figures} | {record.note} |")
    return "\n".join(lines)


def _trained(results: TrainingResults, last: str) -> str:
    rounds = [f"- {step.name}: {step.what}" for step in results.plan.stages if step.name in JUDGED]
    machine = ", ".join(f"{key} {value}" for key, value in results.machine.items())
    lines = [*rounds, f"- the training of this model: {last}"]
    took = f"{duration(results.worked)}, with " if results.worked is not None else ""
    return "\n".join([*lines, f"- {took}{duration(results.seconds)} of commands in all, on: {machine}"])
