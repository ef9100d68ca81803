"""Which scan to label next: an order of the unlabelled ones, from what a model says of each.

``by doubt`` is the class-stratified, scheduled power predictive entropy of Lüth et al. 2026 (arXiv:2601.13677), for
whole scans instead of patches: the classes take turns, so that a rare one is asked about, too; within a class a scan
is drawn by its entropy to a power that rises with the rounds (noise of the logarithm that decays), so that first picks
are spread and late ones are the doubtful. Others found that hardly any strategy beats drawing among scans in which
there is something to label (arXiv:2511.19183), which is here as well. With a simulated annotator the lowest predicted
Dice first did best (``docs/results/next-scan.md``), so it is the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from aps_components.evaluation.doubt.expected import of_silence

FIRST_POWER, LAST_POWER = 1.0, 100.0  # of the entropy, in the first round and from the last one on
ROUNDS = 5  # in which the power rises
LEAST_ENTROPY = 1e-6  # nats: surer ones are alike
DOUBT, PREDICTED, FOREGROUND, RANDOM = "doubt", "predicted_dice", "foreground", "random"


@dataclass(frozen=True, kw_only=True)
class ScanScore:
    """What a model says of one scan.

    Attributes:
        entropy: of each class by name: mean over the voxels that the answer gives it, nats; 0 where there is none.
        answered: names of the classes that the answer holds.
        soft_dice: mean over the classes that are answered; None where none is.
        predicted_dice: mean over the classes; None of a model that does not predict it.
        unlike_training: see ``expected.Expectation``.
    """

    entropy: dict[str, float]
    answered: list[str] = field(default_factory=list)
    soft_dice: float | None = None
    predicted_dice: float | None = None
    unlike_training: bool = False

    def as_json(self) -> dict[str, Any]:
        """To be stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ScanScore:
        """What was stored; errors are KeyError and TypeError."""
        return cls(**{entry.name: content[entry.name] for entry in fields(cls)})


Scores = Mapping[str, ScanScore]
Strategy = Callable[..., list[str]]


def by_doubt(scores: Scores, *, rng: np.random.Generator, round: int = 0) -> list[str]:
    """Class-stratified entropy with noise that decays from round to round; names of scans, the next one first."""
    power = FIRST_POWER * (LAST_POWER / FIRST_POWER) ** min(round / max(ROUNDS - 1, 1), 1.0)
    classes = sorted({name for score in scores.values() for name in score.entropy})
    orders = []
    for number in rng.permutation(len(classes)):
        name = classes[number]
        worth = {
            scan: power * math.log(max(score.entropy.get(name, 0.0), LEAST_ENTROPY)) + float(rng.gumbel())
            for scan, score in scores.items()
        }
        orders.append(sorted(worth, key=lambda scan, worth=worth: -worth[scan]))  # type: ignore[misc]
    return _in_turns(orders) if orders else by_chance(scores, rng=rng)


def by_predicted_dice(scores: Scores, *, rng: np.random.Generator, round: int = 0) -> list[str]:
    """The lowest predicted Dice first, those unlike the training before; where none is predicted, by soft Dice.

    A scan in which nothing is found is an exception, and comes before the others, where most hold something.
    """
    predicted = any(score.predicted_dice is not None for score in scores.values())
    worth = {scan: score.predicted_dice if predicted else score.soft_dice for scan, score in scores.items()}
    silent = of_silence(list(worth.values()))

    def rank(scan: str) -> tuple[bool, float]:
        said = worth[scan]
        return not scores[scan].unlike_training, silent if said is None else said

    return sorted(by_chance(scores, rng=rng), key=rank)


def with_foreground(scores: Scores, *, rng: np.random.Generator, round: int = 0) -> list[str]:
    """By chance, those first in which the model finds something."""
    return sorted(by_chance(scores, rng=rng), key=lambda scan: not scores[scan].answered)


def by_chance(scores: Mapping[str, Any], *, rng: np.random.Generator, round: int = 0) -> list[str]:
    """By chance alone."""
    names = sorted(scores)
    return [names[index] for index in rng.permutation(len(names))]


STRATEGIES: Mapping[str, Strategy] = {
    PREDICTED: by_predicted_dice,
    DOUBT: by_doubt,
    FOREGROUND: with_foreground,
    RANDOM: by_chance,
}
NEED_SCORES = (DOUBT, PREDICTED, FOREGROUND)


def next_scans(strategy: str, scores: Scores, *, seed: int = 0, round: int = 0) -> list[str]:
    """Names of all scans, the next one first.

    Args:
        strategy: one of :data:`STRATEGIES`.
        scores: of the scans that have no label yet.
        seed: of the draw; the same one gives the same order.
        round: how many times a model was trained on what was labelled before, from 0 on.

    Raises:
        ValueError: there is no such strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} must be one of {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy](scores, rng=np.random.default_rng([seed, round]), round=round)


def _in_turns(orders: Sequence[Sequence[str]]) -> list[str]:
    """One of each order after the other, each scan once."""
    return list(dict.fromkeys(scan for places in zip(*orders, strict=True) for scan in places))
