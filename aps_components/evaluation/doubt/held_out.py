"""Answers to scans with a truth, as a model's doubt is calibrated on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aps_components.evaluation.doubt.measures import (
    calibration_error_by_temperature,
    soft_dice_by_temperature,
    surprise_by_temperature,
    thinned,
)
from aps_components.evaluation.doubt.predicted import CrossFitted
from aps_components.evaluation.doubt.unlike import KnownLooks

TEMPERATURES = tuple(round(2 ** (step / 4), 4) for step in range(-4, 13))  # 0.5 to 8
NO_TEMPERATURE = TEMPERATURES.index(1.0)
KEY, FORMAT = "doubt", 1  # in a model's settings
TEMPERATURE = "temperature"
Record = dict[str, Any]


def answer_record(
    probabilities: Tensor, truth: NDArray[np.integer], band: NDArray[np.bool_], *, to_voxel: NDArray[np.floating]
) -> Record:
    """Of one answer at each temperature: ``soft_dice`` of each class; near the borders ``surprise`` (mean negative
    log-probability of the truth, nats) and ``calibration_error`` (expected calibration error).

    Args:
        probabilities: on the network's grid, [C, D, H, W].
        truth: on the scan's own grid.
        band: near a surface, on that grid.
        to_voxel: from the network's voxels to the scan's, [4, 4].
    """
    some, stride = thinned(probabilities.float())
    places = _places(some.shape[1:], stride, to_voxel)
    inside = np.logical_and.reduce(
        [(at >= 0) & (at < size) for at, size in zip(places, truth.shape, strict=True)]
    )  # padding has no truth
    places = tuple(at[inside] for at in places)
    near = band[places]
    chosen = np.flatnonzero(inside)[near]
    classes = torch.from_numpy(truth[places][near].astype(np.int64))
    sampled = some.flatten(1)[:, torch.from_numpy(chosen)]
    known = bool(len(chosen))
    return {
        "soft_dice": soft_dice_by_temperature(some, TEMPERATURES),
        "surprise": surprise_by_temperature(sampled, classes, TEMPERATURES) if known else None,
        "calibration_error": calibration_error_by_temperature(sampled, classes, TEMPERATURES) if known else None,
    }


def _places(size: Sequence[int], stride: int, to_voxel: NDArray[np.floating]) -> tuple[NDArray[np.int64], ...]:
    """The scan's voxel at each of the network's, three times [N]."""
    grid = np.indices(size).reshape(3, -1) * stride
    there = np.rint(to_voxel[:3, :3] @ grid + to_voxel[:3, 3:]).astype(np.int64)
    return tuple(there)


def best_temperature(records: Sequence[Record]) -> float:
    """That at which held-out truths are least surprising, all scans counting alike; 1 where nothing is known."""
    surprises = [record["surprise"] for record in records if record.get("surprise")]
    if not surprises:
        return 1.0
    return TEMPERATURES[int(np.mean(surprises, axis=0).argmin())]


def calibration_errors(records: Sequence[Record]) -> tuple[float, float]:
    """Mean expected calibration error without a temperature, and with that which the other scans find; NaN of few."""
    known = [record for record in records if record.get("calibration_error")]
    if len(known) < 2:
        return math.nan, math.nan
    without = [record["calibration_error"][NO_TEMPERATURE] for record in known]
    others = ([*known[:index], *known[index + 1 :]] for index in range(len(known)))
    at = [TEMPERATURES.index(best_temperature(rest)) for rest in others]
    with_it = [record["calibration_error"][place] for record, place in zip(known, at, strict=True)]
    return float(np.mean(without)), float(np.mean(with_it))


def calibration(
    records: Sequence[Record],
    dices: Sequence[Mapping[int, float | None]],
    looks: Sequence[Sequence[Sequence[float]]],
    *,
    labels: Mapping[int, str],
    source: str,
) -> dict[str, Any]:
    """What a model's settings say of its doubt, from held-out answers.

    Args:
        records: of the answers, as :func:`answer_record` gives them.
        dices: what they turned out to be worth, by class; None where it is not defined.
        looks: of scans that are of the kind that the model knows.
        labels: class value to name, background included.
        source: which scans they were, in words.

    Returns:
        ``temperature`` and ``doubt``, to be stored.
    """
    temperature = best_temperature(records)
    at = TEMPERATURES.index(temperature)
    classes = {}
    for value, name in sorted(labels.items()):
        if value > 0:
            found = [
                (
                    record["soft_dice"][value - 1][at],
                    dice.get(value),
                    (record.get("agreement") or {value - 1: None})[value - 1],
                )
                for record, dice in zip(records, dices, strict=True)
            ]
            classes[name] = _points(found)
    known = KnownLooks.of(looks)
    before, after = calibration_errors(records)
    doubt = {
        "format": FORMAT,
        "scans": len(records),
        "source": source,
        "calibration_error": None if math.isnan(before) else [round(before, 5), round(after, 5)],
        "classes": classes,
        "looks": None if known is None else known.as_json(),
    }
    return {TEMPERATURE: temperature, KEY: doubt}


def _points(found: Sequence[tuple[float | None, float | None, float | None]]) -> dict[str, list[float] | None]:
    """Soft Dice, Dice and agreement where they are defined; no agreement unless all answers have one."""
    known = [each for each in found if each[0] is not None and each[1] is not None and math.isfinite(each[1])]
    soft, dice, agreement = ([each[index] for each in known] for index in range(3))
    return {
        "soft_dice": _rounded(soft),
        "dice": _rounded(dice),
        "agreement": None if any(value is None for value in agreement) else _rounded(agreement),
    }


def _rounded(values: Sequence[float | None]) -> list[float]:
    return [round(value, 5) for value in values if value is not None]


def said(stored: Mapping[str, Any]) -> list[str]:
    """What :func:`calibration` found, a line each, for the user; each scan judged without itself."""
    doubt = stored[KEY]
    lines = [f"temperature {stored[TEMPERATURE]:g}, from {doubt['scans']} scans ({doubt['source']})"]
    if doubt["calibration_error"]:
        before, after = (100 * value for value in doubt["calibration_error"])
        lines.append(f"expected calibration error near borders: {before:.2f} % without, {after:.2f} % with it")
    for name, points in doubt["classes"].items():
        count, found = len(points["dice"]), CrossFitted.of(points["soft_dice"], points["dice"], points["agreement"])
        if found is None:
            lines.append(f"predicted Dice of {name}: {count} held-out answers, too few to judge it")
        else:
            lines.append(
                f"predicted Dice of {name}: {count} held-out answers; rank correlation with the true one "
                f"{found.correlation:.2f}, off by {found.error:.3f}, interval {found.width:.3f} wide, holds in "
                f"{100 * found.coverage:.0f} %"
            )
    return lines
