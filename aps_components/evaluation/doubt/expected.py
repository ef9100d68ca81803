"""What a calibrated model says of its own answer to a new scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aps_components.evaluation.doubt.held_out import FORMAT, KEY, TEMPERATURE
from aps_components.evaluation.doubt.measures import class_doubts, look_of
from aps_components.evaluation.doubt.predicted import LEVEL, DicePredictor, Estimate, predictors_of
from aps_components.evaluation.doubt.second_view import agreement
from aps_components.evaluation.doubt.unlike import KnownLooks
from aps_components.inference.own_grid import Maps
from aps_components.models import CheckpointError

UNLIKE_GAP = 0.15  # of Dice below the worst held-out answer, at which no held-out scan says anything of this one


class Expectation(NamedTuple):
    """Of one answer."""

    dice: dict[str, Estimate | None]
    """By class name; None where nothing is answered, or nothing is known of the class."""
    unlike_training: bool

    @property
    def mean(self) -> float | None:
        """Over the classes; None where nothing is known."""
        values = [estimate.value for estimate in self.dice.values() if estimate is not None]
        return float(np.mean(values)) if values else None


class Expected:
    """Reads a model's settings once.

    Args:
        settings: of the model.
        where: they were read from, for messages.

    Raises:
        CheckpointError: what they say of its doubt is damaged, or of a later version.
    """

    def __init__(self, settings: Mapping[str, Any], *, where: str) -> None:
        content = settings[KEY]
        self.temperature = float(settings.get(TEMPERATURE, 1.0))
        try:
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r} where {FORMAT} is read")
            self.names = list(content["classes"])
            self.predictors: list[DicePredictor | None] = predictors_of(list(content["classes"].values()))
            self.looks = None if content["looks"] is None else KnownLooks.from_json(content["looks"])
        except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{where}: {KEY} cannot be read ({error}); run aps calibrate again") from error

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, where: str) -> Expected | None:
        """None for a model that was never calibrated on held-out scans."""
        return cls(settings, where=where) if settings.get(KEY) else None

    @property
    def needs_second_view(self) -> bool:
        """Whether a second view is to be asked for."""
        return any(predictor is not None and predictor.measures.shape[1] > 1 for predictor in self.predictors)

    def __call__(self, probabilities: Any, image: Any, *, view: Maps | None = None) -> Expectation:
        """What is to be expected of an answer.

        Args:
            probabilities: [C, D, H, W], or maps of such, on the network's grid, before the temperature.
            image: that the network got, [in_channels, D, H, W].
            view: ``second_view`` of the scan, where it is needed.
        """
        agreements = [None] * len(self.names) if view is None else agreement(probabilities, view)
        doubts = class_doubts(probabilities, temperature=self.temperature)
        dice: dict[str, Estimate | None] = {}
        doubtful = False
        for name, predictor, doubt, agreed in zip(self.names, self.predictors, doubts, agreements, strict=True):
            dice[name] = None
            if predictor is not None and doubt.soft_dice is not None:
                if predictor.measures.shape[1] > 1 and agreed is None:
                    continue  # no view was given
                estimate = dice[name] = predictor(doubt.soft_dice, agreed)
                doubtful |= estimate.value < predictor.dice.min() - UNLIKE_GAP
        other = self.looks is not None and self.looks.is_unlike(look_of(image))
        return Expectation(dice, bool(other or doubtful))


def worst_first(means: Sequence[float | None]) -> list[int]:
    """Places of answers in the order in which they are to be looked at; see :func:`of_silence`."""
    silent = of_silence(means)
    values = [silent if mean is None else mean for mean in means]
    return sorted(range(len(means)), key=lambda index: (values[index], index))


def of_silence(means: Sequence[float | None]) -> float:
    """What an answer counts of which nothing is said, since it holds nothing: minus infinity, so that it is looked at
    first, where most answers hold something; infinity where many hold nothing, as of scans with and without a lesion.
    """
    silent = sum(mean is None for mean in means)
    return -math.inf if 2 * silent < len(means) else math.inf


__all__ = ["LEVEL", "Expectation", "Expected", "of_silence", "worst_first"]
