"""The rules by which a dataset's settings are chosen; docs/explanation/planning.md gives their reasons.

Many follow nnU-Net's (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). Every choice carries a reason with the
numbers that it rests on. Axes are x, y, z of the scan turned to RAS: left-right, back-front, down-up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data.fingerprint import IntensityFacts
from aps_components.data.voxel_size import SAME_SPACING
from aps_components.networks.voxel_shape import (
    FAR_COARSER,
    HALVINGS,
    by_axis,
    listed_triples,
    most_halvings,
    network_shape,
)

BUDGETS = {"gpu": 112 * 112 * 80, "cpu": 64 * 64 * 48}  # voxels of a patch
ANISOTROPY = 3.0  # coarsest over finest, from where the coarsest axis is planned apart
STEP = 2**HALVINGS  # of a patch's sizes, along axes that are halved at every level
FEW_SLICES = 16  # thick ones; a patch holds that many
FEWEST_SLICES = 4  # to which a patch of few thick slices is cut for a CPU
AROUND = 1.35  # sides of a patch in the plane of thick slices, over those of the largest object
LEAST_AROUND = 96  # voxels of such a side, if the scan has them: a network needs some surroundings
COARSER, COARSER_THICK = 2.0, 1.25  # how much larger voxels may become for a CPU
CT_MINIMUM, CT_LOW, CT_MIDDLE, CT_HIGH = -200, -100, (-1100, 1000), 4000
WINDOW_MARGIN, WINDOW_STEP, WINDOW_LEAST = 0.25, 25, 100  # share of the width, HU, HU
ZERO_SHARE = 0.25
MOST = 0.5  # "most scans"
NEARLY_ALL = 0.9
APART, APART_CAUTIOUS = 0.10, 0.05  # of the scan's extent
FEW_CASES = 3
IMBALANCE = 10.0
WEIGHT_RANGE = (0.5, 4.0)
COVERAGE, RARE_FOREGROUND = 0.5, 0.01
CROPS, CROPS_RARE = 0.33, 0.5
ONE_PIECE = 0.99
AXES = ("x (left-right)", "y (back-front)", "z (down-up)")

Centres = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class Choice:
    """A setting's value and why it was chosen."""

    value: Any
    reason: str


def propose_label_values(values: Sequence[int]) -> Choice:
    """Classes are numbered 1 to K; files that have other numbers are mapped."""
    mapping = {str(value): index for index, value in enumerate(values, start=1) if value != index}
    if not mapping:
        return Choice(
            None, "the values in the files are 1, 2, ... already" if len(values) > 1 else "the value is 1 already"
        )
    return Choice(mapping, f"the files have the values {listed(values, most=20)}; a bundle's classes are 1, 2, ...")


def propose_regions(regions: Mapping[str, Sequence[int]], values: Sequence[int]) -> Choice:
    """Regions of classes, from those of label values, as nnU-Net declares them."""
    classes = {value: index for index, value in enumerate(values, start=1)}
    found = {name: [classes[value] for value in of if value in classes] for name, of in regions.items()}
    return Choice(
        {name: of for name, of in found.items() if of},
        "the regions of dataset.json: evaluation reports them instead of the classes, which the network learns",
    )


def propose_spacing(spacings: NDArray[np.float64]) -> Choice:
    """Voxel size from those of all scans, [N, 3]: the median.

    It is set where all scans agree, too: they are left as they are, and a later scan of another size is resampled. On
    the coarsest axis of anisotropic scans it is the 10th percentile, but not finer than the other axes, as in nnU-Net:
    the median would blur the scans that are sharper there.
    """
    low, high = spacings.min(axis=0), spacings.max(axis=0)
    target = np.median(spacings, axis=0)
    if (high <= SAME_SPACING * low).all():
        return Choice([_short(size) for size in target], "all scans have it; one of another size is resampled")
    reason = f"the median; scans have {by(low)} to {by(high)} mm"
    coarsest = int(target.argmax())
    if target[coarsest] > ANISOTROPY * target.min():
        others = np.delete(target, coarsest).max()
        target[coarsest] = max(np.percentile(spacings[:, coarsest], 10), others)
        reason += f", and the 10th percentile along {AXES[coarsest]}, which is the coarsest by far"
    return Choice([_short(size) for size in target], reason)


def propose_roi_size(
    shape: Sequence[float], *, spacing: Sequence[float], budget: str, extent: Sequence[float] | None = None
) -> Choice:
    """The median shape in steps that the network divides, cut down to a number of voxels, as nnU-Net cuts its patch.

    Along an axis of thick slices a patch is never larger than the scan, and has all of up to 16 slices. On a CPU, where
    that would cut it down in their plane, a patch that holds the one object there is learns fastest. If no object is
    known, so few slices give way first, down to 4: a network that hardly looks across them learns more from a whole
    plane.

    Args:
        shape: the median shape after resampling.
        spacing: of a voxel after resampling, mm.
        budget: ``gpu`` or ``cpu``; the most voxels that a patch may have are :data:`BUDGETS`.
        extent: of the largest object after resampling, where all classes together are one, and whatever else the
            network finds is dropped.
    """
    cpu = budget == "cpu"
    of = partial(_in_steps, spacing=spacing, voxels=BUDGETS[budget])
    if cpu and thick_axes(spacing) and extent is not None:
        size, cut = of(_around(shape, extent, spacing=spacing), few_first=False)
        return Choice(size, f"the object, at most {by([round(side) for side in extent])} voxels, with a margin{cut}")
    size, cut = of(shape, few_first=cpu)
    steps, covered = by_axis(_steps(shape, spacing)), percent(coverage(size, shape))
    return Choice(size, f"{covered} of the median scan, {by(shape)} voxels, in steps of {steps}{cut}")


def _around(shape: Sequence[float], extent: Sequence[float], *, spacing: Sequence[float]) -> list[float]:
    """All thick slices, and as much of their plane as the object takes, with a margin."""
    thick = thick_axes(spacing)
    sides = [
        length if axis in thick else min(length, max(AROUND * side, LEAST_AROUND))
        for axis, (length, side) in enumerate(zip(shape, extent, strict=True))
    ]
    plane = [axis for axis in range(3) if axis not in thick]
    longest = max(sides[axis] for axis in plane)
    nearly_equal = longest - min(sides[axis] for axis in plane) <= STEP
    if nearly_equal and longest <= min(shape[axis] for axis in plane):  # so that patches can be turned by quarters
        for axis in plane:
            sides[axis] = longest
    return sides


def _steps(shape: Sequence[float], spacing: Sequence[float]) -> list[int]:
    """By which a patch of a shape grows along each axis."""
    return [2 ** most_halvings(size, length, finest=min(spacing)) for size, length in zip(spacing, shape, strict=True)]


def _in_steps(
    shape: Sequence[float], *, spacing: Sequence[float], voxels: int, few_first: bool
) -> tuple[list[int], str]:
    """A shape in steps that the network divides, cut down to a number of voxels; and what to say of the cut.

    Args:
        shape: the largest that the patch may be.
        spacing: of a voxel, mm.
        voxels: the most.
        few_first: few thick slices give way before their plane does.
    """
    thick, steps = thick_axes(spacing), _steps(shape, spacing)
    first = [axis for axis in thick if shape[axis] <= FEW_SLICES and few_first]
    least = [FEWEST_SLICES if axis in first else FEW_SLICES if axis in thick else steps[axis] for axis in range(3)]
    size = [
        max(step, step * math.floor(length / step + (0 if axis in thick else 0.5)))
        for axis, (length, step) in enumerate(zip(shape, steps, strict=True))
    ]
    if size == steps:  # the network needs more than one voxel at its bottom
        size[int(np.argmax(shape))] *= 2
    cut = f", cut down to {voxels:,} voxels" if math.prod(size) > voxels else ""
    while math.prod(size) > voxels:
        axis = _axis_to_cut(size, shape, steps=steps, least=least, first=first)
        if axis is None:
            break
        size[axis] -= steps[axis]
    # Patches are turned by quarters only where these two agree; of other steps one size may not be divided.
    if cut and shape[0] == shape[1] and steps[0] == steps[1]:
        size[:2] = [min(size[:2])] * 2
    return size, cut


def _axis_to_cut(
    size: Sequence[int], shape: Sequence[float], *, steps: Sequence[int], least: Sequence[int], first: Sequence[int]
) -> int | None:
    """Which axis of a patch gives way; None where that would leave one voxel at the network's bottom.

    Args:
        size: of the patch.
        shape: the median shape.
        steps: by which each axis is cut.
        least: that stays of each axis.
        first: the axes that give way before all others.
    """
    candidates = [axis for axis in range(3) if size[axis] > max(steps[axis], least[axis])]
    if not candidates or sum(extent // step for extent, step in zip(size, steps, strict=True)) <= 4:
        return None
    # Of equally large shares the longer axis gives way, and of equally long axes the last.
    return max(candidates, key=lambda axis: (axis in first, size[axis] / shape[axis], size[axis], axis))


def thick_axes(spacing: Sequence[float]) -> list[int]:
    """The axes whose voxels are far coarser than the finest: those of thick slices."""
    return [axis for axis, size in enumerate(spacing) if size > FAR_COARSER * min(spacing)]


def propose_network(spacing: Sequence[float], roi_size: Sequence[int]) -> dict[str, Choice]:
    """Strides and kernels that follow the shape of a voxel; None where it is about a cube.

    Args:
        spacing: of a voxel after resampling, mm.
        roi_size: of a patch, voxels.
    """
    shape = network_shape(spacing, roi_size)
    if not thick_axes(spacing):
        reason = f"voxels of {by(spacing)} mm: no axis has more than {FAR_COARSER:g} times the finest"
        return {"strides": Choice(None, reason), "kernel_sizes": Choice(None, reason)}
    reason = f"voxels of {by(spacing)} mm: {listed(AXES[axis] for axis in thick_axes(spacing))} is far coarser"
    return {
        "strides": Choice(listed_triples(shape.strides), f"{reason}, and halved late"),
        "kernel_sizes": Choice(listed_triples(shape.kernel_sizes), f"{reason}, and looked along once it is halved"),
    }


def propose_backbone(spacing: Sequence[float]) -> Choice:
    """nnU-Net's residual encoder where slices are thick, which is where it was measured; else the field's V-Net."""
    if thick_axes(spacing):
        return Choice("residual_encoder", "thick slices: a residual encoder with deep supervision")
    return Choice("vnet", "no thick slices")


def propose_augmentation(spacing: Sequence[float]) -> Choice:
    """nnU-Net's list within thick slices; the field's elsewhere, with turns and scalings where all axes are alike."""
    thick = thick_axes(spacing)
    if thick == [2]:
        return Choice("strong_in_plane", "thick slices: turned, scaled and blurred within their plane alone")
    if thick:
        return Choice("full", f"thick along {listed(AXES[axis] for axis in thick)}: a turn would blur the slices")
    return Choice("affine", "no thick slices: turned and scaled a little, too")


def coverage(roi_size: Sequence[float], shape: Sequence[float]) -> float:
    """Which part of a scan a patch covers."""
    return math.prod(min(1.0, size / length) for size, length in zip(roi_size, shape, strict=True))


def propose_intensity(scans: Sequence[IntensityFacts]) -> Choice:
    """CT by a fixed window, everything else by its own mean and deviation."""
    scores = [looks_like_ct(scan) for scan in scans]
    if sum(scores) > MOST * len(scans):
        labelled = np.concatenate([scan.foreground.ravel() for scan in scans])
        low, high = (float(edge) for edge in np.percentile(labelled, (0.5, 99.5)))
        return Choice(
            {"window": ct_window(low, high)},
            f"CT: {sum(scores)} of {len(scans)} scans have values like Hounsfield units; "
            f"99 % of the labelled voxels lie in {low:.0f} to {high:.0f}, plus a margin",
        )
    zeros = sum(scan.zero_share > ZERO_SHARE for scan in scans)
    if zeros > MOST * len(scans):
        return Choice(
            "zscore_nonzero", f"in {zeros} of {len(scans)} scans over {percent(ZERO_SHARE)} of the voxels are 0"
        )
    return Choice("zscore", "no CT, and no large share of voxels is exactly 0: each scan by its own mean and deviation")


def looks_like_ct(scan: IntensityFacts) -> bool:
    """Whether every channel could be in Hounsfield units: -1000 is air, -100 fat, 0 water, 1000 and more bone.

    A minimum alone would take an MRI with ringing for CT; of CT, more than single voxels lie at fat or below.
    """
    low, middle, high = np.percentile(scan.overall, (0.5, 50, 99.5), axis=1)
    return bool(
        max(scan.minimum) <= CT_MINIMUM
        and (low <= CT_LOW).all()
        and ((CT_MIDDLE[0] <= middle) & (middle <= CT_MIDDLE[1])).all()
        and ((high > low) & (high <= CT_HIGH)).all()
    )


def ct_window(low: float, high: float) -> list[int]:
    """A quarter of the width wider on both sides, at least 100 HU wide, in steps of 25 HU outwards."""
    margin = max(WINDOW_MARGIN * (high - low), (WINDOW_LEAST - (high - low)) / 2)
    edges = math.floor((low - margin) / WINDOW_STEP), math.ceil((high + margin) / WINDOW_STEP)
    return [WINDOW_STEP * edge for edge in edges]


def propose_flip_axes(
    centres: Sequence[Centres],
    *,
    names: Mapping[int, str] | None = None,
    spacing: Sequence[float] = (1, 1, 1),
    budget: str = "gpu",
) -> Choice:
    """The axes along which no two classes keep their order, so that a mirrored scan could be a real one.

    On a CPU there is time for few iterations, in which a network learns the scans as they are better than those and
    their mirror images. Where slices are thick that was not so.

    Args:
        centres: per labelled case, class to its centre as a share of the extent.
        names: of the classes, for the reason.
        spacing: of a voxel after resampling, mm.
        budget: ``gpu`` or ``cpu``.
    """
    if budget == "cpu" and not thick_axes(spacing):
        return Choice([], "for a CPU: in few iterations mirrored patches cost more than they bring")
    names = names or {}
    classes = sorted({value for case in centres for value in case})
    if len(classes) < 2:
        return Choice([0, 1, 2], "one class, which has no other to be confused with")
    ordered: dict[int, str] = {}
    for first, second in combinations(classes, 2):
        for axis in range(3):
            gaps = [case[second][axis] - case[first][axis] for case in centres if first in case and second in case]
            if axis not in ordered and keeps_order(gaps):
                before, after = (first, second) if sum(gaps) > 0 else (second, first)
                ordered[axis] = f"{names.get(before, before)} before {names.get(after, after)}"
    kept = [axis for axis in range(3) if axis not in ordered]
    reason = "; ".join(f"not {AXES[axis]}: {pair}" for axis, pair in sorted(ordered.items()))
    if len(centres) < FEW_CASES:
        reason = "; ".join(filter(None, [reason, f"judged cautiously, from {len(centres)} labelled case(s)"]))
    return Choice(kept, reason or "no two classes keep their order along an axis")


def keeps_order(gaps: Sequence[float]) -> bool:
    """Whether a class nearly always lies on the same side of another.

    Args:
        gaps: per case, the one's centre less the other's. Of fewer than 3 all must be on one side, and half as far
            apart is enough: a flip that was left out costs little, a wrong one teaches to confuse the two.
    """
    if not gaps:
        return False
    few = len(gaps) < FEW_CASES
    apart, share = (APART_CAUTIOUS, 1.0) if few else (APART, NEARLY_ALL)
    return max(sum(gap > apart for gap in gaps), sum(gap < -apart for gap in gaps)) >= share * len(gaps)


def propose_class_weights(voxels: Sequence[int]) -> Choice:
    """Cross-entropy weights, background first: None unless the classes' sizes differ by more than 10 to 1."""
    if len(voxels) == 1:
        return Choice(None, "a single class")
    present = [count for count in voxels if count]
    ratio = max(present) / min(present)
    if ratio <= IMBALANCE:
        return Choice(
            None, f"the largest class has {ratio:.1f} times the voxels of the smallest; up to {IMBALANCE:.0f} is even"
        )
    mean, (low, high) = float(np.mean(present)), WEIGHT_RANGE
    weights = [round(min(high, max(low, (mean / count) ** 0.25)), 2) if count else 1.0 for count in voxels]
    return Choice([1.0, *weights], f"the largest class has {ratio:.0f} times the voxels of the smallest")


def propose_balanced_crops(
    voxels: Sequence[int], *, roi_size: Sequence[int], shape: Sequence[float], foreground_share: float
) -> Choice:
    """How many labelled patches are centred on a class: none where any patch shows most of a scan."""
    covered = coverage(roi_size, shape)
    if covered >= COVERAGE:
        return Choice(0.0, f"a patch covers {percent(covered)} of the median scan anyway")
    present = [count for count in voxels if count]
    if max(present) > IMBALANCE * min(present):
        return Choice(CROPS_RARE, "classes of very different size, and small ones are easily missed")
    if foreground_share < RARE_FOREGROUND:
        return Choice(CROPS_RARE, f"only {100 * foreground_share:.2g} % of the voxels are labelled")
    return Choice(
        CROPS,
        f"a patch covers {percent(covered)} of the median scan: a third of the patches have a class in their middle",
    )


def propose_largest_component(shares: Mapping[str, Sequence[float] | None], joined: Sequence[float] = ()) -> Choice:
    """Which pieces of an answer stay: of each class, of all classes together, of both, or all.

    Args:
        shares: class name to, per case whose whole scan is labelled, the share of the class that lies in its largest
            piece; None where there is no such case.
        joined: per such case, the least share of a class that lies in the largest piece of all classes together.
    """
    known = {name: found for name, found in shares.items() if found is not None}
    if unknown := [name for name in shares if name not in known]:
        return Choice(False, f"no label of a whole scan tells in how many pieces these are: {listed(unknown)}")
    broken = [name for name, found in known.items() if not _in_one_piece(found)]
    touching = len(shares) > 1 and bool(joined) and _in_one_piece(joined)
    if broken:
        reason = f"in several pieces in more than 10 % of the cases: {listed(broken)}"
        if touching:
            return Choice("foreground", f"all classes touch in at least 90 % of the cases; {reason}")
        return Choice(False, reason)
    if touching:
        return Choice("joined", "all classes touch, and each is in one piece, in at least 90 % of the cases")
    return Choice(True, "every class is in one piece in at least 90 % of its cases")


def _in_one_piece(shares: Sequence[float]) -> bool:
    return sum(share >= ONE_PIECE for share in shares) >= NEARLY_ALL * len(shares)


def coarser(spacing: Sequence[float], *, excess: float, most: float = COARSER) -> list[float]:
    """A voxel size that leaves fewer voxels; axes that are coarse already keep theirs.

    Args:
        spacing: mm.
        excess: how many times too many voxels there are.
        most: by how much a voxel may grow.
    """
    sizes = np.asarray(spacing, dtype=float)
    fine = sizes < FAR_COARSER * sizes.min()
    factor = min(most, max(1.0, excess) ** (1 / np.count_nonzero(fine)))
    return [_short(size) for size in np.where(fine, factor * sizes, sizes)]


def listed(entries: Iterable[Any], *, most: int = 5) -> str:
    """The first few, and how many more there are."""
    texts = [str(entry) for entry in entries]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def by(sizes: Iterable[float]) -> str:
    """Sizes along the axes."""
    return " x ".join(f"{size:.4g}" for size in sizes)


def percent(share: float) -> str:
    """A share as it is read."""
    return f"{100 * share:.0f} %"


def _short(size: float) -> float:
    return float(f"{size:.4g}")
