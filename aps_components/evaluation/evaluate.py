"""Evaluate a model on whole scans, on each scan's own grid, by every one of its predictors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch import Tensor
from tqdm import tqdm

from aps_components.data import LoadVolumed, case_name
from aps_components.data.label_values import LabelValues
from aps_components.evaluation.doubt.held_out import answer_record
from aps_components.evaluation.doubt.measures import look_of
from aps_components.evaluation.doubt.second_view import agreement, second_view
from aps_components.evaluation.metrics import (
    ClassMetrics,
    Region,
    dice,
    foreground_regions,
    region_masks,
    region_metrics,
)
from aps_components.evaluation.predictors import PREDICTORS, prompt_precision
from aps_components.evaluation.report import VARIANTS, EvaluationReport
from aps_components.evaluation.scan_record import Answered, WorstCases, band_of, doubt, scan_record
from aps_components.evaluation.truth import Truth
from aps_components.files import ensure_writable
from aps_components.inference import InvertToLabelMapd, PromptedSlidingWindowInferer, PromptPoint
from aps_components.inference.temperature import calibrated
from aps_components.models import TwoModels
from aps_components.options import Pieces
from aps_components.ownership import alone_in

logger = logging.getLogger(__name__)


class Evaluation:
    """Segments labelled scans and compares: A, B and their average, raw and without the pieces that inference drops.

    With a network whose predictor is ``a``, neither Model B nor the samples for its prompts run; A alone is measured.
    Of a label that is not whole the labelled voxels count, and the classes that were drawn.

    Args:
        items: with ``image`` and ``label`` files; those without a label are passed over.
        network: with its weights.
        inferer: the sliding window.
        preprocessing: of the image alone; it is inverted, so the comparison is on the scan's own grid.
        labels: class value to name, background included.
        device: to run on.
        output_dir: receives ``metrics.csv``, ``metrics.json`` and pictures of the worst cases.
        split: name of the part that is evaluated, for the report.
        answering: the predictor whose answer inference gives with this checkpoint, for the report.
        context: more to write down (checkpoint, seed, ...).
        regions: name to classes, as in {"whole tumour": [1, 2, 3]}; if given, these are measured instead of the
            classes, and the largest component is that of each region.
        label_values: value in the label files to class, see ``LoadVolumed``.
        largest_component: the pieces that inference keeps, for the report.
        pictures: number of the worst cases that are drawn, by mean Dice of the answer that inference gives.
    """

    def __init__(
        self,
        *,
        items: Sequence[Mapping[str, Any]],
        network: TwoModels,
        inferer: PromptedSlidingWindowInferer,
        preprocessing: Compose,
        labels: Mapping[int, str],
        device: torch.device | str,
        output_dir: str | Path,
        split: str = "test",
        answering: str | None = None,
        context: Mapping[str, Any] | None = None,
        regions: Mapping[str, Sequence[int]] | None = None,
        label_values: LabelValues = None,
        largest_component: Pieces = False,
        pictures: int = 8,
    ) -> None:
        items = [item for item in items if "label" in item]
        if not items:
            raise ValueError(
                f"there are no {split} cases with labels to evaluate: choose another part with --split, or name some "
                "in the datalist"
            )
        self.items, self.network, self.inferer, self.preprocessing = items, network, inferer, preprocessing
        self.labels = {int(value): name for value, name in labels.items()}
        self.device, self.output_dir, self.split = torch.device(device), ensure_writable(output_dir), split
        self.answering, self.context = answering, dict(context or {})
        self.regions = foreground_regions(self.labels, regions)
        self.load_label = LoadVolumed("label", num_classes=len(self.labels), label_values=label_values)
        self.to_label_map = InvertToLabelMapd("pred", preprocessing, confidence="confidence")
        self.pieces = largest_component
        self.answering_variant = VARIANTS[bool(largest_component)]
        self.worst_cases = WorstCases(self.output_dir, most=pictures)
        self.scans: list[dict[str, Any]] = []

    def run(self) -> EvaluationReport:
        """Evaluate every case, write the report and print its table.

        Raises:
            FolderInUseError: another process writes into ``output_dir``.
        """
        with alone_in(self.output_dir):
            return self._run()

    def _run(self) -> EvaluationReport:
        report, self.scans = EvaluationReport(), []
        self.network.to(self.device).eval()
        for item in tqdm(self.items, desc=f"evaluating {self.split}", unit="scan"):
            self._add(report, item)
        answering = {"inference_predictor": self.answering} if self.answering else {}
        answering |= {"inference_variant": self.answering_variant}
        context = {"split": self.split, "cases": len(self.items), **answering, **self.context}
        scans = [scan | {"picture": self.worst_cases.picture(scan["case"])} for scan in self.scans]
        files = report.write(self.output_dir, context=context, scans=scans)
        print(report.table())
        if self.answering:
            print(f"with this checkpoint inference uses predictor {self.answering}")
        print("\n".join(f"written: {file}" for file in files))
        return report

    def _add(self, report: EvaluationReport, item: Mapping[str, Any]) -> None:
        data = self.preprocessing({"image": item["image"]})
        truth = Truth.load(item, self.load_label)
        regions = [region for region in self.regions if truth.tells(region)]
        image = data["image"].as_tensor()[None].to(self.device)
        probabilities, points, doubts = self._predict(image)
        view = second_view(image, self.network, self.inferer)
        to_voxel = np.linalg.inv(truth.affine) @ np.asarray(data["image"].affine)
        precision = [prompt_precision(points, truth.label_map, region=r, to_voxel=to_voxel) for r in regions]
        answering = self.answering if self.answering in probabilities else next(iter(probabilities))
        answers: dict[str, Any] = {}
        answered: Answered | None = None
        for predictor in list(probabilities):  # one after the other: on the scan's own grid they are large
            said = probabilities.pop(predictor)
            own = self.to_label_map({"pred": said, "image": data["image"]})
            label_map = np.asarray(own["pred"][0])
            band = band_of(label_map, truth)
            answers[predictor] = answer_record(said, truth.label_map, band, to_voxel=to_voxel)
            answers[predictor]["agreement"] = None if view is None else agreement(said, view)
            measured = self._measured(label_map, truth, regions)
            answers[predictor]["dice"] = self._dice_of_classes(label_map, truth, measured[self.answering_variant])
            for variant, metrics in measured.items():
                for entry, share in zip(metrics, precision, strict=True):
                    report.add(case_name(item), [entry], variant=variant, predictor=predictor, prompt_precision=share)
            if predictor == answering:
                answered = Answered(item, label_map, self._confidence(said, own, data["image"]), truth, band)
                if not regions:
                    continue
                mean = float(np.mean([entry.dice for entry in measured[self.answering_variant]]))
                self.worst_cases.add(answered, dice=mean, labels=self.labels, largest_component=self.pieces)
        assert answered is not None
        # Soft Dice of a whole scan is not to be compared with Dice of a part of it.
        held_out = {"look": look_of(data["image"]), "answers": answers if truth.is_whole else {}}
        self.scans.append(scan_record(answered, doubts=doubts, predictor=answering, held_out=held_out))

    def _dice_of_classes(self, answer: np.ndarray, truth: Truth, measured: Sequence[ClassMetrics]) -> list[float]:
        """Of each class from 1 on, of the pieces that inference keeps: what is measured may be regions."""
        known = {entry.label: entry.dice for entry in measured}
        others = [region for region in foreground_regions(self.labels) if region.label not in known]
        masks = region_masks(answer, others, largest_component=self.pieces)
        known |= {
            region.label: dice(mask, region.mask(truth.label_map)) for region, mask in zip(others, masks, strict=True)
        }
        return [known[value] for value in sorted(self.labels) if value]

    def _confidence(self, said: Tensor, own: Mapping[Any, Any], image: Any) -> np.ndarray:
        """Of the likeliest class at the network's temperature, on the scan's own grid."""
        temperature = float(getattr(self.network, "temperature", 1.0))
        if temperature != 1:
            own = self.to_label_map({"pred": calibrated(said, temperature, dim=0), "image": image})
        return np.asarray(own["confidence"][0])

    def _predict(self, image: Tensor) -> tuple[dict[str, Tensor], Sequence[PromptPoint], dict[str, float | None]]:
        """Of the one scan [1, in_channels, D, H, W]: probabilities [C, D, H, W] by predictor, prompts, uncertainty."""
        if self.network.predictor == "a":
            with torch.inference_mode():
                return {"a": self.inferer(image, self.network)[0].cpu()}, (), {}
        prediction = self.inferer.predict(image, self.network)
        probabilities = {name: getattr(prediction, field)[0].cpu() for name, field in PREDICTORS.items()}
        return probabilities, prediction.prompts, doubt(prediction)

    def _measured(
        self, prediction: np.ndarray, truth: Truth, regions: Sequence[Region]
    ) -> dict[str, list[ClassMetrics]]:
        """Every region, by variant."""
        measured: dict[str, list[ClassMetrics]] = {variant: [] for variant in VARIANTS}
        labeled = None if truth.covers_scan else truth.labeled
        kept = region_masks(prediction, regions, largest_component=self.pieces or True)
        for region, largest in zip(regions, kept, strict=True):
            mask, true_mask = region.mask(prediction), region.mask(truth.label_map)
            measure = partial(region_metrics, truth=true_mask, region=region, spacing=truth.spacing, labeled=labeled)
            raw = measure(mask)
            of_largest = raw if np.array_equal(mask, largest) else measure(largest)
            for variant, metrics in zip(VARIANTS, (raw, of_largest), strict=True):
                measured[variant].append(metrics)
        return measured
