"""Overlap and surface distance of label maps, as the tables of the field report them.

Surface distances follow medpy.metric.binary with its default connectivity, and the tests compare the two: the
surface of a mask is every voxel of it with a face neighbour outside, beyond the edge of the image counting as
outside; distances run between voxel centres. MONAI's own Hausdorff metric differs: it takes the larger of two
directed percentiles, where `SurfaceDistances.hausdorff_95` pools the distances of both directions (medpy's `hd95`).

Empty masks, for which surface distance has no meaning:

===================  ====  =======  ===  =========  ============
prediction, truth    dice  jaccard  nsd  distances  volume_ratio
===================  ====  =======  ===  =========  ============
both empty           1     1        1    0          1
truth empty          0     0        0    NaN        NaN
prediction empty     0     0        0    NaN        0
===================  ====  =======  ===  =========  ============

A NaN means undefined: `EvaluationReport` leaves it out of means and counts it. So are the distances and the NSD of a
scan whose label is not whole: where its surfaces run on, nobody said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from monai.metrics.utils import get_mask_edges, get_surface_distance
from numpy.typing import NDArray

from aps_components.data.partial import NOT_LABELED
from aps_components.label_map import keep_largest_component, largest_foreground
from aps_components.options import OF_EACH_CLASS, OF_THE_FOREGROUND, Pieces

Mask = NDArray[np.bool_]
NSD_TOLERANCE_MM = 2.0


@dataclass(frozen=True)
class Region:
    """One or more classes that are measured as one, such as a tumour of several tissues."""

    name: str
    classes: tuple[int, ...]

    @property
    def label(self) -> int | str:
        """The class, or several as in "1+2+3"."""
        return self.classes[0] if len(self.classes) == 1 else "+".join(map(str, self.classes))

    def mask(self, label_map: NDArray[np.integer]) -> Mask:
        """Where the label map holds any of the classes."""
        return np.isin(label_map, self.classes)


@dataclass(frozen=True)
class ClassMetrics:
    """How well one class, or region, of one case was segmented."""

    label: int | str
    name: str
    dice: float
    jaccard: float
    hd95_voxel: float
    hd95_mm: float
    asd_voxel: float
    asd_mm: float
    volume_ratio: float
    prediction_voxels: int
    truth_voxels: int
    nsd: float = math.nan  # at NSD_TOLERANCE_MM


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance of each surface voxel of one mask to the nearest surface voxel of the other."""

    prediction_to_truth: NDArray[np.float64]
    truth_to_prediction: NDArray[np.float64]

    @property
    def hausdorff_95(self) -> float:
        """95th percentile of both directions' distances, pooled (medpy's `hd95`)."""
        return float(np.percentile(np.concatenate([self.prediction_to_truth, self.truth_to_prediction]), 95))

    @property
    def average(self) -> float:
        """Mean distance from the prediction's surface to the truth's: directed (medpy's `asd`)."""
        return float(self.prediction_to_truth.mean())

    def within(self, tolerance: float) -> float:
        """Share of both surfaces' voxels that lie no farther from the other one; an undefined distance does not."""
        return float((np.concatenate([self.prediction_to_truth, self.truth_to_prediction]) <= tolerance).mean())

    def scaled(self, size: float) -> SurfaceDistances:
        """In mm, where they are in voxels of that size along every axis."""
        return SurfaceDistances(self.prediction_to_truth * size, self.truth_to_prediction * size)


UNKNOWN_DISTANCES = SurfaceDistances(np.array([math.nan]), np.array([math.nan]))


def case_metrics(
    prediction: NDArray[np.integer], truth: NDArray[np.integer], *, labels: Mapping[int, str], spacing: Sequence[float]
) -> list[ClassMetrics]:
    """Measure every foreground class of one case.

    Args:
        prediction: label map, [D, H, W].
        truth: label map, [D, H, W].
        labels: class names by label; 0 is background and is not measured.
        spacing: of the voxels along D, H and W, mm.

    Returns:
        One entry per foreground class, in the order of `labels`. A class that neither map holds has Dice 1.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    return [
        region_metrics(region.mask(prediction), region.mask(truth), region=region, spacing=spacing)
        for region in foreground_regions(labels)
    ]


def foreground_regions(labels: Mapping[int, str], regions: Mapping[str, Sequence[int]] | None = None) -> list[Region]:
    """What is measured: the named regions, or without any each foreground class by itself.

    Args:
        labels: class names by label, 0 is background.
        regions: name to classes, which must be foreground.
    """
    if regions is None:
        return [Region(name, (index,)) for index, name in labels.items() if index != 0]
    classes = {index for index in labels if index != 0}
    for name, members in regions.items():
        if isinstance(members, int) or not members or not set(members) <= classes or len(set(members)) < len(members):
            raise ValueError(
                f"region {name!r} is {members!r}: list classes of {sorted(classes)}, each once; mend regions or labels"
            )
    if not regions:
        raise ValueError("regions is empty: name at least one, or set it to null to measure the classes")
    return [Region(name, tuple(members)) for name, members in regions.items()]


def region_metrics(
    prediction: Mask, truth: Mask, *, region: Region, spacing: Sequence[float], labeled: Mask | None = None
) -> ClassMetrics:
    """Measure one class or region of one case.

    Args:
        prediction: mask, [D, H, W].
        truth: mask, [D, H, W].
        region: what the masks show.
        spacing: of the voxels along D, H and W, mm.
        labeled: mask of the voxels that count; all where None. With one, surfaces are not known, and their distances
            undefined.
    """
    if labeled is not None:
        prediction, truth = prediction & labeled, truth & labeled
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} must have the same shape")
    if len(spacing) != truth.ndim or min(spacing) <= 0:
        raise ValueError(f"spacing {tuple(spacing)} must be {truth.ndim} positive lengths in mm")
    in_voxels = surface_distances(prediction, truth) if labeled is None else UNKNOWN_DISTANCES
    if labeled is not None:
        in_mm = UNKNOWN_DISTANCES
    elif len(set(spacing)) == 1:
        in_mm = in_voxels.scaled(spacing[0])
    else:
        in_mm = surface_distances(prediction, truth, spacing=spacing)
    return ClassMetrics(
        label=region.label,
        name=region.name,
        dice=dice(prediction, truth),
        jaccard=jaccard(prediction, truth),
        hd95_voxel=in_voxels.hausdorff_95,
        hd95_mm=in_mm.hausdorff_95,
        asd_voxel=in_voxels.average,
        asd_mm=in_mm.average,
        volume_ratio=volume_ratio(prediction, truth),
        prediction_voxels=int(np.count_nonzero(prediction)),
        truth_voxels=int(np.count_nonzero(truth)),
        nsd=in_mm.within(NSD_TOLERANCE_MM) if labeled is None else math.nan,
    )


def dice(prediction: Mask, truth: Mask) -> float:
    """2 |P n T| / (|P| + |T|); 1 if both are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return float(2 * np.count_nonzero(prediction & truth) / total) if total else 1.0


def mean_dice(
    answer: NDArray[np.integer],
    truth: NDArray[np.integer],
    regions: Sequence[Region],
    *,
    largest_component: Pieces = False,
) -> float:
    """Of two label maps [D, H, W]: the mean over some regions.

    Args:
        answer: a model's.
        truth: the label; its voxels of ``NOT_LABELED`` do not count.
        regions: see :func:`foreground_regions`.
        largest_component: measure the largest connected component of each region of the answer alone; ``joined``: of
            the largest piece of the whole foreground; ``foreground``: what of it lies in that piece.
    """
    found = region_masks(answer, regions, largest_component=largest_component)
    labeled = truth != NOT_LABELED
    values = [dice(mask & labeled, region.mask(truth)) for mask, region in zip(found, regions, strict=True)]
    return float(np.mean(values))


def region_masks(
    answer: NDArray[np.integer], regions: Sequence[Region], *, largest_component: Pieces
) -> list[NDArray[np.bool_]]:
    """Of a label map [D, H, W], each region, of the pieces that stay; arguments as of :func:`mean_dice`."""
    if largest_component in OF_THE_FOREGROUND:
        answer = largest_foreground(answer)
    masks = [region.mask(answer) for region in regions]
    if largest_component not in OF_EACH_CLASS:
        return masks
    return [keep_largest_component(mask.astype(np.uint8), num_classes=2) > 0 for mask in masks]


def normalized_surface_dice(prediction: Mask, truth: Mask, *, spacing: Sequence[float], tolerance_mm: float) -> float:
    """The share of both surfaces' voxels that lie within a tolerance of the other surface (NSD).

    After Nikolov et al. 2021, doi:10.2196/26151; every surface voxel counts the same, as in MONAI. 1 if both masks are
    empty, 0 if one is.

    Args:
        prediction: mask, [D, H, W].
        truth: mask, [D, H, W].
        spacing: of the voxels along D, H and W, mm.
        tolerance_mm: the largest distance that counts as none.
    """
    return surface_distances(prediction, truth, spacing=spacing).within(tolerance_mm)


def jaccard(prediction: Mask, truth: Mask) -> float:
    """|P n T| / |P u T|; 1 if both are empty."""
    union = np.count_nonzero(prediction | truth)
    return float(np.count_nonzero(prediction & truth) / union) if union else 1.0


def volume_ratio(prediction: Mask, truth: Mask) -> float:
    """|P| / |T|; 1 if both are empty, NaN if the truth alone is."""
    predicted, true = np.count_nonzero(prediction), np.count_nonzero(truth)
    if not true:
        return math.nan if predicted else 1.0
    return float(predicted / true)


def surface_distances(prediction: Mask, truth: Mask, *, spacing: Sequence[float] | None = None) -> SurfaceDistances:
    """Distances between the surfaces of two masks; a single 0 or NaN each way where a mask is empty.

    Args:
        prediction: mask, [D, H, W].
        truth: mask, [D, H, W].
        spacing: of the voxels along D, H and W; None measures in voxels.
    """
    if not (prediction.any() and truth.any()):
        undefined = np.array([math.nan if prediction.any() or truth.any() else 0.0])
        return SurfaceDistances(undefined, undefined)
    # MONAI crops to the joint bounding box with a margin of one voxel, which leaves the surfaces as they are.
    prediction_edge, truth_edge = get_mask_edges(prediction, truth)
    there = get_surface_distance(prediction_edge, truth_edge, spacing=spacing)
    back = get_surface_distance(truth_edge, prediction_edge, spacing=spacing)
    return SurfaceDistances(np.asarray(there, dtype=np.float64), np.asarray(back, dtype=np.float64))
