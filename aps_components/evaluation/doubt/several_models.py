"""Models that learned from different scans, such as those of folds: where they disagree, their answer is poor.

Disagreement of an ensemble as a measure of doubt: Lakshminarayanan et al. 2017 (arXiv:1612.01474); by Dice of pairs of
answers: Roy et al. 2019 (arXiv:1811.09800). It sees mistakes of which every single model is sure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from aps_components.csv_table import comma_separated
from aps_components.evaluation.doubt.expected import worst_first

SCAN, MEAN = "scan", "mean"  # columns
ByClass = list[float | None]


def pairwise_agreement(answers: Sequence[Tensor], *, classes: int) -> ByClass:
    """Mean Dice of all pairs, of each foreground class from 1 on; None of a class that nobody answers.

    Args:
        answers: label maps of one scan, integers, all [D, H, W].
        classes: background included.

    Raises:
        ValueError: fewer than two answers.
    """
    if len(answers) < 2:
        raise ValueError(f"{len(answers)} answer(s) agree with nothing: give two or more")
    dice = torch.stack([_dice(one.flatten(), other.flatten(), classes) for one, other in combinations(answers, 2)])
    return [None if value != value else value for value in dice.nanmean(dim=0)[1:].tolist()]


def _dice(one: Tensor, other: Tensor, classes: int) -> Tensor:
    """Of every class, [C]; NaN where neither has it."""
    first, second, both = (torch.bincount(each, minlength=classes) for each in (one, other, one[one == other]))
    return 2 * both.double() / (first + second)


def mean_of(agreement: ByClass) -> float | None:
    """Over the classes that there are."""
    known = [value for value in agreement if value is not None]
    return sum(known) / len(known) if known else None


def least_agreed_first(agreements: Mapping[str, ByClass]) -> dict[str, ByClass]:
    """By scan, in the order of their means; those in which no model finds anything as :func:`of_silence` says."""
    names = list(agreements)
    return {names[place]: agreements[names[place]] for place in worst_first([mean_of(agreements[n]) for n in names])}


def agreement_table(agreements: Mapping[str, ByClass], classes: Sequence[str]) -> str:
    """As CSV: a row for each scan, with its mean and each foreground class."""
    rows = [[scan, *map(_cell, [mean_of(values), *values])] for scan, values in agreements.items()]
    return comma_separated([[SCAN, MEAN, *classes], *rows])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
