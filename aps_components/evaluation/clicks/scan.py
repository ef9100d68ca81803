"""One scan and a simulated annotator, who clicks the deepest voxel of the largest error, again and again."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aps_components.data import LoadVolumed
from aps_components.data.label_values import LabelValues
from aps_components.evaluation.listening import OWN, answers_by_alteration, border_band
from aps_components.evaluation.metrics import Region, mean_dice, normalized_surface_dice
from aps_components.evaluation.truth import Truth
from aps_components.interactive import Answer, Predictor
from aps_components.label_map import likeliest_class
from aps_components.prompts import Click, deepest_error

BAND_VOXELS = 8
HARM = 0.1  # percentage points of Dice that a click may cost

Volume = NDArray[np.integer]
Record = dict[str, Any]
Listening = dict[str, dict[str, float]]


class Correctable(Protocol):
    """Whose answers are corrected: a :class:`Predictor`, or another model with its two methods."""

    def set_image(self, scan: Any) -> None:
        """See a scan, from its file or files."""

    def predict(self, points: Sequence[Any] = ()) -> Answer:
        """The whole answer after these clicks, ``(voxel of the scan, class)``, and all those before them."""


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """Who clicks, and how the answers are measured.

    Args:
        predictor: of the model.
        num_classes: of the labels, background included.
        regions: classes, or several as one, over which Dice is averaged.
        clicks: the most for each scan.
        tolerance_mm: of the surface Dice.
        label_values: value in the label files to class.
        listening: what else to measure before the first click, from the true label map; see :func:`listening`.
    """

    predictor: Correctable
    num_classes: int
    regions: Sequence[Region]
    clicks: int = 10
    tolerance_mm: float = 2.0
    label_values: LabelValues = None
    listening: Callable[[Volume], Listening] | None = None

    def correct(self, item: Mapping[str, Any]) -> Record:
        """Correct one scan until nothing is wrong or the clicks are spent, and measure; of JSON's types.

        Args:
            item: ``image`` and ``label`` files. Of a label that is not whole nothing is clicked where it leaves the
                class open.

        Returns:
            ``dice`` and ``nsd``, percent, before the first and after every click, NaN where a label does not tell; of
            every click whether it was ``obeyed`` at once, ``kept`` ever after and ``harmful``; ``first_ms`` and
            ``click_ms``; ``listening``, None where it is not measured, as on a label that is not whole.
        """
        load = LoadVolumed("label", num_classes=self.num_classes, label_values=self.label_values)
        known = Truth.load(item, load)
        started = time.perf_counter()
        self.predictor.set_image(item["image"])
        answer = self.predictor.predict().label_map
        first_ms = 1000 * (time.perf_counter() - started)
        listening = self.listening(known.label_map) if self.listening is not None and known.is_whole else None
        curve = [self._measured(answer, known)]
        said: list[Click] = []
        obeyed: list[bool] = []
        kept: list[bool] = []
        click_ms: list[float] = []
        while len(said) < self.clicks and (click := _error(answer, known)) is not None:
            started = time.perf_counter()
            answer = self.predictor.predict([(click.voxel, click.label)]).label_map
            click_ms.append(1000 * (time.perf_counter() - started))
            said.append(click)
            obeyed.append(_holds(answer, click))
            kept = [*(was and _holds(answer, one) for was, one in zip(kept, said, strict=False)), obeyed[-1]]
            curve.append(self._measured(answer, known))
        dice, nsd = [part[0] for part in curve], [part[1] for part in curve]
        return {
            "dice": dice,
            "nsd": nsd,
            "obeyed": obeyed,
            "kept": kept,
            "harmful": [after < before - HARM for before, after in itertools.pairwise(dice)],
            "first_ms": first_ms,
            "click_ms": click_ms,
            "listening": listening,
        }

    def _measured(self, answer: Volume, known: Truth) -> tuple[float, float]:
        """Dice and surface Dice in percent, on the scan's own grid; NaN where the label does not tell."""
        truth, regions = known.label_map, [region for region in self.regions if known.tells(region)]
        if not regions:
            return math.nan, math.nan
        dice = 100 * mean_dice(answer, truth, regions)
        if not known.covers_scan:
            return dice, math.nan
        surface = [
            normalized_surface_dice(
                region.mask(answer), region.mask(truth), spacing=known.spacing, tolerance_mm=self.tolerance_mm
            )
            for region in regions
        ]
        return dice, 100 * float(np.mean(surface))


def listening(truth: Volume, *, predictor: Predictor, regions: Sequence[Region]) -> Listening:
    """Model B's Dice in percent with each alteration, and the share of the border band that changes with it.

    Args:
        truth: of the scan that the predictor has seen, [X, Y, Z].
        predictor: before the first click.
        regions: over which Dice is averaged.
    """
    session, model = predictor.session, predictor.model
    on_network = session.grid.nearest(truth)
    band = border_band(on_network, voxels=BAND_VOXELS)
    answers = answers_by_alteration(session.volume.volume, model.network, model.inferer)
    maps = {name: likeliest_class(probabilities, dim=1)[0, 0].cpu().numpy() for name, probabilities in answers.items()}
    return {
        name: {
            "changed": float((found != maps[OWN])[band].mean()) if band.any() else 0.0,
            "dice_b": 100 * mean_dice(found, on_network, regions, largest_component=model.largest_component),
        }
        for name, found in maps.items()
    }


def _error(answer: Volume, known: Truth) -> Click | None:
    return deepest_error(answer, known.completed(answer), spacing=known.spacing)


def _holds(answer: Volume, click: Click) -> bool:
    return bool(answer[click.voxel] == click.label)
