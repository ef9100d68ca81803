"""Evaluate a model on whole scans, on each scan's own grid, by every one of its predictors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from tqdm import tqdm

from aps_components.data import LoadVolumed, case_name
from aps_components.evaluation.metrics import case_metrics
from aps_components.evaluation.report import EvaluationReport
from aps_components.inference import LabelMapd, PromptedSlidingWindowInferer, PromptPoint, inverted
from aps_components.label_map import keep_largest_component
from aps_components.models import AutoPromptSeg, ensure_writable

PREDICTORS = {"average": "probabilities", "a": "probabilities_a", "b": "probabilities_b"}
logger = logging.getLogger(__name__)


class Evaluation:
    """Segments labelled scans and compares: A, B and their average, raw and with the largest component alone.

    Args:
        items: with ``image`` and ``label`` files; those without a label are passed over.
        network: with its weights.
        inferer: the sliding window.
        preprocessing: of the image alone; it is inverted, so the comparison is on the scan's own grid.
        labels: class value to name, background included.
        device: to run on.
        output_dir: receives ``metrics.csv`` and ``metrics.json``.
        split: name of the part that is evaluated, for the report.
        context: more to write down (checkpoint, seed, ...).
    """

    def __init__(
        self,
        *,
        items: Sequence[Mapping[str, Any]],
        network: AutoPromptSeg,
        inferer: PromptedSlidingWindowInferer,
        preprocessing: Compose,
        labels: Mapping[int, str],
        device: torch.device | str,
        output_dir: str | Path,
        split: str = "test",
        context: Mapping[str, Any] | None = None,
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
        self.context = dict(context or {})
        self.load_label = LoadVolumed("label", num_classes=len(self.labels))
        keys = tuple(PREDICTORS.values())
        self.to_own_grid = Compose([inverted(preprocessing, keys), LabelMapd(keys)])

    def run(self) -> EvaluationReport:
        """Evaluate every case, write the report and print its table."""
        report = EvaluationReport()
        self.network.to(self.device).eval()
        for item in tqdm(self.items, desc=f"evaluating {self.split}", unit="scan"):
            self._add(report, item)
        files = report.write(self.output_dir, context={"split": self.split, "cases": len(self.items), **self.context})
        print(report.table())
        print("\n".join(f"written: {file}" for file in files))
        return report

    def _add(self, report: EvaluationReport, item: Mapping[str, Any]) -> None:
        data = self.preprocessing({"image": item["image"]})
        label = self.load_label({"label": item["label"]})["label"]
        truth = np.asarray(label[0])
        prediction = self.inferer.predict(data["image"].as_tensor()[None].to(self.device), self.network)
        to_voxel = np.linalg.inv(np.asarray(label.affine)) @ np.asarray(data["image"].affine)
        precision = prompt_precision_by_class(prediction.prompts, truth, to_voxel=to_voxel)
        volumes = {name: getattr(prediction, name)[0].cpu() for name in PREDICTORS.values()}
        label_maps = self.to_own_grid({**data, **volumes})
        spacing = [float(size) for size in label.pixdim]
        for predictor, name in PREDICTORS.items():
            raw = np.asarray(label_maps[name][0])
            largest = keep_largest_component(raw, num_classes=len(self.labels))
            for variant, label_map in (("raw", raw), ("largest_component", largest)):
                for metrics in case_metrics(label_map, truth, labels=self.labels, spacing=spacing):
                    report.add(
                        case_name(item),
                        [metrics],
                        variant=variant,
                        predictor=predictor,
                        prompt_precision=precision.get(metrics.label, float("nan")),
                    )


def prompt_precision_by_class(points: Sequence[PromptPoint], truth: Any, *, to_voxel: Any) -> dict[int, float]:
    """Share of each class's points that lie in it.

    Args:
        points: on the network's grid.
        truth: label map on the scan's own grid, [D, H, W].
        to_voxel: from the network's voxels to the truth's, [4, 4].
    """
    hits: dict[int, list[bool]] = {}
    for point in points:
        voxel = np.rint(to_voxel @ np.append(point.voxel, 1.0))[:3].astype(int)
        voxel = np.clip(voxel, 0, np.array(truth.shape) - 1)
        hits.setdefault(point.label, []).append(int(truth[tuple(voxel)]) == point.label)
    return {label: float(np.mean(found)) for label, found in hits.items()}
