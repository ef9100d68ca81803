"""What an evaluation keeps of a scan as a whole, and pictures of the scans that it found worst."""

from __future__ import annotations

import bisect
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import case_name
from aps_components.data.datalist import files_of
from aps_components.data.nifti import channels_of, read_scan
from aps_components.evaluation.preview import save_preview
from aps_components.evaluation.reliability import Calibration
from aps_components.evaluation.surface_band import surface_band
from aps_components.evaluation.truth import Truth
from aps_components.inference import VolumePrediction
from aps_components.label_map import kept_pieces, likeliest_class
from aps_components.options import Pieces

WORST_CASES = "worst_cases"  # the pictures' folder
BAND_MM = 10.0  # around the surfaces of truth and answer, in which calibration is measured: far from them all is sure
MM3_PER_ML = 1000.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Answered:
    """A scan, a model's answer to it, and the truth, on the scan's own grid."""

    item: Mapping[str, Any]
    label_map: NDArray[np.integer]
    confidence: NDArray[np.floating]
    """Of the likeliest class, [D, H, W]."""
    truth: Truth
    band: NDArray[np.bool_]
    """Near the surfaces of truth and answer, where the true class is known."""

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.truth.affine[:3, :3])) / MM3_PER_ML)


def scan_record(
    scan: Answered, *, doubts: Mapping[str, float | None], predictor: str, held_out: Mapping[str, Any]
) -> dict[str, Any]:
    """Shape, voxel size, mean uncertainty and calibration near the surfaces, of JSON's types.

    Args:
        scan: answered by ``predictor``.
        doubts: see :func:`doubt`.
        predictor: whose answer it is.
        held_out: of every predictor and of the image, from which predicted Dice is calibrated.
    """
    truth = scan.truth.label_map
    bins = Calibration.of(scan.confidence[scan.band], (scan.label_map == truth)[scan.band])
    return {
        "case": case_name(scan.item),
        "shape": list(truth.shape),
        "spacing_mm": [round(size, 4) for size in scan.truth.spacing],
        "voxel_ml": scan.voxel_ml,
        "uncertainty": dict(doubts),
        "calibration": {
            "predictor": predictor,
            "band_mm": BAND_MM,
            "ece": bins.error(),
            "overconfidence": bins.overconfidence(),
            "voxels": bins.voxels.tolist(),
            "confidence": bins.confidence.tolist(),
            "correct": bins.correct.tolist(),
        },
        "held_out": dict(held_out),
    }


def band_of(label_map: NDArray[np.integer], truth: Truth) -> NDArray[np.bool_]:
    """Within :data:`BAND_MM` of a surface of an answer or its truth, where the true class is known."""
    near = surface_band(truth.completed(label_map), label_map, reach_mm=BAND_MM, spacing=truth.spacing)
    return near & truth.certain


def doubt(prediction: VolumePrediction) -> dict[str, float | None]:
    """Mean of both uncertainty maps over what is segmented; None where nothing is."""
    segmented = likeliest_class(prediction.probabilities, dim=1) > 0  # [1, 1, D, H, W]
    means = {
        name: float(getattr(prediction, name)[segmented].double().mean()) for name in ("epistemic", "aleatoric")
    }  # of nothing NaN
    return {name: None if math.isnan(mean) else mean for name, mean in means.items()}


class WorstCases:
    """Pictures of the cases with the lowest Dice so far; that of one that no longer is among them goes.

    Args:
        output_dir: their folder is made in it.
        most: number that is kept.
    """

    def __init__(self, output_dir: Path, *, most: int) -> None:
        self.folder, self.most = output_dir / WORST_CASES, most
        self._kept: list[tuple[float, str]] = []

    def picture(self, case: str) -> str | None:
        """The picture's path relative to the evaluation's folder; None without one."""
        kept = any(name == case for _, name in self._kept)
        return f"{WORST_CASES}/{case}.png" if kept and self._file(case).is_file() else None

    def add(self, scan: Answered, *, dice: float, labels: Mapping[int, str], largest_component: Pieces) -> None:
        """Draw a scan through its worst error, if it is one of the worst so far.

        Args:
            scan: answered.
            dice: mean over its classes.
            labels: class to name.
            largest_component: which pieces of the answer are drawn.
        """
        if self.most < 1 or (len(self._kept) == self.most and dice >= self._kept[-1][0]):
            return
        name = case_name(scan.item)
        bisect.insort(self._kept, (dice, name))
        for _, other in self._kept[self.most :]:
            self._file(other).unlink(missing_ok=True)
        del self._kept[self.most :]
        try:
            _draw(self._file(name), scan, dice, labels, largest_component)
        except Exception as error:  # a picture is a help: where it fails, the evaluation does not
            logger.warning("no picture of %s: %s: %s", name, type(error).__name__, error)

    def _file(self, case: str) -> Path:
        return self.folder / f"{case}.png"


def _draw(file: Path, scan: Answered, dice: float, labels: Mapping[int, str], largest_component: Pieces) -> None:
    label_map = kept_pieces(np.asarray(scan.label_map).astype(np.uint8), largest_component, num_classes=len(labels))
    sizes = np.bincount(label_map.ravel(), minlength=len(labels))
    save_preview(
        file,
        image=channels_of(read_scan(files_of(scan.item["image"])[0]))[0],
        label_map=label_map,
        affine=scan.truth.affine,
        volumes={label: (name, sizes[label] * scan.voxel_ml) for label, name in labels.items() if label > 0},
        truth=scan.truth.completed(label_map),
        title=f"{case_name(scan.item)}, Dice {100 * dice:.1f} %",
        note="In colour: the answer. Dashed, white: the truth. All planes go through the thickest error.",
    )
