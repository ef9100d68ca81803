"""All figures of one scan, for one model and one level of noise, as JSON's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aps_components.evaluation.listening import OWN, answers_by_alteration
from aps_components.evaluation.metrics import Region, foreground_regions, mean_dice
from aps_components.evaluation.predictors import PREDICTORS, prompt_precision
from aps_components.evaluation.reliability import Calibration
from aps_components.evaluation.surface_band import surface_band
from aps_components.evaluation.trained import TrainedModel
from aps_components.inference import PromptPoint, VolumePrediction
from aps_components.label_map import likeliest_class
from aps_components.studies.uncertainty.maps import every_map
from aps_components.studies.uncertainty.measures import ErrorRanking

AREAS = ("all", "band")
COVERAGES = np.arange(1, 101) / 100

Volume = NDArray[Any]


def measure_scan(
    item: Mapping[str, Any], model: TrainedModel, *, noises: Sequence[float], band_mm: float, seed: int
) -> dict[str, Any]:
    """Everything about one scan.

    Args:
        item: its files.
        model: with its network and transforms.
        noises: standard deviations of the Gaussian noise added to the normalised image; the first must be 0. All of
            them scale one and the same noise.
        band_mm: reach of the band around a surface.
        seed: of the noise.

    Returns:
        ``levels``: for each noise, Dice and the mean of each map in the band around the true surface; and of the image
        without noise ``detection``, ``calibration``, ``prompts`` and ``listening``. Undefined figures are NaN.
    """
    data = model.preprocessing({key: item[key] for key in ("image", "label")})
    image, truth = data["image"].as_tensor()[None], np.asarray(data["label"][0])
    spacing = [float(size) for size in data["image"].pixdim]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    around_truth = surface_band(truth, reach_mm=band_mm, spacing=spacing)
    levels: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}
    for level in noises:
        prediction, maps = every_map((image + level * noise).to(model.device), model.network, model.inferer)
        answer = _label_map(prediction.probabilities)
        means = {name: _mean(volume[around_truth]) for name, volume in maps.items()}
        levels.append({"noise": level, "dice": _dice(answer, truth, model), "mean": means})
        if not figures:
            band = surface_band(truth, answer, reach_mm=band_mm, spacing=spacing)
            figures = {
                "detection": _detection(maps, answer != truth, band),
                "calibration": _calibration(prediction, truth, band),
                "prompts": _prompts(prediction.prompts, truth, model.labels),
                "listening": _listening(image, truth, band, model),
            }
    return {"levels": levels, **figures}


def _label_map(probabilities: Tensor) -> NDArray[np.integer]:
    return likeliest_class(probabilities, dim=1)[0, 0].to(torch.uint8).cpu().numpy()


def _dice(answer: Volume, truth: Volume, model: TrainedModel) -> float:
    return mean_dice(answer, truth, foreground_regions(model.labels, model.regions))


def _mean(values: Volume) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else float("nan")


def _detection(maps: Mapping[str, Volume], error: Volume, band: Volume) -> dict[str, Any]:
    """Of each map and area: how well it finds the errors, and the risk at :data:`COVERAGES`."""
    return {
        name: {
            area: _ranked(ErrorRanking.of(volume[where], error[where]))
            for area, where in zip(AREAS, (np.ones_like(band), band), strict=True)
        }
        for name, volume in maps.items()
    }


def _ranked(ranking: ErrorRanking) -> dict[str, Any]:
    risk = ranking.risk()
    at = np.ceil(COVERAGES * len(risk)).astype(int) - 1
    return {
        "error_rate": ranking.error_rate,
        "auroc": ranking.auroc(),
        "aurc": ranking.aurc(),
        "e_aurc": ranking.excess_aurc() if len(risk) else float("nan"),
        "risk": risk[at].tolist() if len(risk) else [],
    }


def _calibration(prediction: VolumePrediction, truth: Volume, band: Volume) -> dict[str, Any]:
    """Of each predictor and area: the errors, and the bins to draw."""
    figures: dict[str, Any] = {}
    for predictor, name in PREDICTORS.items():
        probabilities = getattr(prediction, name)
        confidence = probabilities[0].amax(dim=0).cpu().numpy()
        correct = _label_map(probabilities) == truth
        figures[predictor] = {}
        for area, where in zip(AREAS, (np.ones_like(band), band), strict=True):
            bins = Calibration.of(confidence[where], correct[where])
            figures[predictor][area] = {
                "ece": bins.error(),
                "overconfidence": bins.overconfidence(),
                "voxels": bins.voxels.tolist(),
                "confidence": bins.confidence.tolist(),
                "correct": bins.correct.tolist(),
            }
    return figures


def _prompts(points: Sequence[PromptPoint], truth: Volume, labels: Mapping[int, str]) -> dict[str, Any]:
    """Of each class, background included: points, and the share of them that lies in it."""
    return {
        name: {
            "points": sum(point.label == index for point in points),
            "precision": prompt_precision(points, truth, region=Region(name, (index,)), to_voxel=np.eye(4)),
        }
        for index, name in labels.items()
    }


def _listening(image: Tensor, truth: Volume, band: Volume, model: TrainedModel) -> dict[str, Any]:
    """Model B with other prompts or no image: Dice, and the share of the band that gets another class than with its
    own points."""
    volume = model.inferer.see(image.to(model.device), model.network)
    answers = answers_by_alteration(volume, model.network, model.inferer)
    maps = {name: _label_map(probabilities) for name, probabilities in answers.items()}
    return {
        name: {"dice": _dice(answer, truth, model), "changed": _mean((answer != maps[OWN])[band])}
        for name, answer in maps.items()
    }
