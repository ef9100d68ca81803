"""From a dataset's fingerprint to its settings: every rule of ``rules`` applied, in the form of a dataset block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.rules import (
    BUDGETS,
    COARSER_THICK,
    COVERAGE,
    FEW_CASES,
    Centres,
    Choice,
    coarser,
    listed,
    propose_augmentation,
    propose_backbone,
    propose_balanced_crops,
    propose_class_weights,
    propose_flip_axes,
    propose_intensity,
    propose_label_values,
    propose_largest_component,
    propose_network,
    propose_regions,
    propose_roi_size,
    propose_spacing,
    thick_axes,
)
from aps_components.data.errors import DataError
from aps_components.data.fingerprint import CaseFacts, Fingerprint
from aps_components.data.partial import SLICES
from aps_components.options import OF_THE_FOREGROUND, Pieces

MIXED_SLICES = 'give these files "labeled_slices" in a datalist: other labels are whole, or drawn along another axis'


@dataclass(frozen=True)
class Plan:
    """All settings that follow from a fingerprint.

    Attributes:
        block: as it goes into the bundle.
        values: the value in the label files of each class, background left out: class k is ``values[k - 1]``.
        choices: setting to its value and reason, in the order of the block.
        cpu: the settings that differ for training on a CPU.
        warnings: what a user should look at.
    """

    block: DatasetBlock
    values: list[int]
    choices: dict[str, Choice]
    cpu: dict[str, Any]
    warnings: list[str]


def make_plan(
    fingerprint: Fingerprint,
    *,
    names: Mapping[int, str] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    channel_tokens: Sequence[str] = (),
    budget: str = "gpu",
    spacing: Sequence[float] | None = None,
    roi_size: Sequence[int] | None = None,
    ignore: int | None = None,
    largest_component: Pieces | None = None,
) -> Plan:
    """Apply every rule.

    Args:
        fingerprint: with at least one labelled case.
        names: value in the label files to class name, 0 included or not; None names them by their numbers.
        regions: name to values in the label files, which are reported together.
        channel_tokens: what the image files end in, where they do.
        budget: "gpu" or "cpu": how many voxels a patch may have, and whether patches are flipped.
        spacing, roi_size: taken instead of those that the rules give.
        ignore: value in the label files of a voxel that nobody labelled.
        largest_component: the pieces that inference keeps; None for those that the rules give.

    Raises:
        ValueError: no class, a value that `names` lacks, an unknown budget, or a block that does not fit.
    """
    if budget not in BUDGETS:
        raise ValueError(f"budget {budget!r} must be one of {', '.join(BUDGETS)}")
    values = class_values(fingerprint, names)
    class_names = [(names or {}).get(value, f"label {value}") for value in values]
    labelled = fingerprint.labelled
    voxels = {value: fingerprint.voxels_of(value) for value in values}
    by_name = dict(zip(values, class_names, strict=True))
    pieces = _pieces(fingerprint, by_name) if largest_component is None else Choice(largest_component, "as given")
    one = pieces.value in OF_THE_FOREGROUND or (pieces.value is True and len(values) == 1)
    extent = _object_extent(fingerprint) if one else None
    grid = plan_grid(fingerprint, budget=budget, spacing=spacing, roi_size=roi_size, extent=extent)
    voxel = voxel_size(fingerprint, grid["spacing"].value)
    flips = partial(propose_flip_axes, [_centres(facts) for facts in labelled], names=by_name)
    choices = {
        "label_values": propose_label_values(values),
        "in_channels": Choice(fingerprint.channels, "what the images have"),
        **grid,
        "backbone": propose_backbone(voxel),
        "intensity": propose_intensity(fingerprint.intensities),
        "flip_axes": flips(spacing=voxel, budget=budget),
        "augmentation": propose_augmentation(voxel),
        "balanced_crops": _crops(fingerprint, voxels, spacing=grid["spacing"].value, roi_size=grid["roi_size"].value),
        "class_weights": propose_class_weights(list(voxels.values())),
        "largest_component": pieces,
    }
    if regions and any(len(region) > 1 for region in regions.values()):
        choices["regions"] = propose_regions(regions, values)
    if ignore is not None:
        choices["ignore"] = Choice(ignore, "the value of voxels that nobody labelled, as given")
    block = DatasetBlock(
        labels={str(index): name for index, name in enumerate([(names or {}).get(0, "background"), *class_names])},
        modalities=list(channel_tokens) if len(channel_tokens) > 1 else None,
        labeled_count=None,
        validation_count=0,
        **{key: choice.value for key, choice in choices.items()},
    )
    return Plan(
        block=block,
        values=values,
        choices=choices,
        cpu=_cpu_options(fingerprint, block, voxels=voxels, extent=extent, flips=flips),
        warnings=_warnings(fingerprint, voxels, by_name),
    )


def class_values(fingerprint: Fingerprint, names: Mapping[int, str] | None) -> list[int]:
    """The values of the foreground classes: those that are named, or else those that occur."""
    found = fingerprint.values
    if not found:
        empty = listed(str(facts.case.label) for facts in fingerprint.labelled)
        raise DataError(f"no label holds anything but 0, the background: draw a class in {empty}")
    if not names:
        return found
    if unknown := sorted(set(found) - set(names)):
        files = [str(facts.case.label) for facts in fingerprint.labelled if set(unknown) & set(facts.classes or {})]
        raise DataError(
            f"values {listed(unknown)} occur in {listed(files)} but only {listed(sorted(set(names) - {0}))} are "
            f'named; name all of them, such as --labels "{",".join(f"{value}:NAME" for value in found[:4])}"'
        )
    return sorted(set(names) - {0})


def plan_grid(
    fingerprint: Fingerprint,
    *,
    budget: str = "gpu",
    spacing: Sequence[float] | None = None,
    roi_size: Sequence[int] | None = None,
    extent: Sequence[float] | None = None,
) -> dict[str, Choice]:
    """`spacing`, `roi_size`, `strides` and `kernel_sizes`, which hang together; arguments as of :func:`make_plan`.

    ``extent`` is that of the one object that all classes make, along x, y, z, mm; None where they are no such object.
    For a CPU a patch that would be too large is taken at a coarser voxel size, so that it shows about the same anatomy,
    and from thick slices, which are few and show most within their plane, rather as a smaller one.
    """
    size = Choice(list(spacing), "as given") if spacing else propose_spacing(fingerprint.spacings)
    patch = _patch(fingerprint, size, budget="gpu")
    excess = math.prod(patch.value) / BUDGETS["cpu"]
    if budget == "cpu" and excess > 1:
        if not spacing:
            size = _for_cpu(fingerprint, size, excess=excess, extent=extent)
        patch = _patch(fingerprint, size, budget="cpu", extent=extent)
    patch = Choice(list(roi_size), "as given") if roi_size else patch
    return {"spacing": size, "roi_size": patch, **propose_network(voxel_size(fingerprint, size.value), patch.value)}


def _for_cpu(fingerprint: Fingerprint, size: Choice, *, excess: float, extent: Sequence[float] | None) -> Choice:
    """Coarser voxels; in thick slices hardly, and not at all where a smaller patch shows half of their width, or all of
    the object."""
    own = voxel_size(fingerprint, size.value)
    thick = thick_axes(own)
    if not thick:
        return Choice(coarser(own, excess=excess), f"{size.reason}; coarser for a CPU")
    patch = _patch(fingerprint, size, budget="cpu", extent=extent).value
    enough = [COVERAGE * length for length in median_shape(fingerprint, size.value)]
    if extent is not None:
        enough = [min(side / step, half) for side, step, half in zip(extent, own, enough, strict=True)]
    if all(patch[axis] >= enough[axis] for axis in range(3) if axis not in thick):
        return size
    return Choice(coarser(own, excess=excess, most=COARSER_THICK), f"{size.reason}; a little coarser for a CPU")


def _patch(fingerprint: Fingerprint, size: Choice, *, budget: str, extent: Sequence[float] | None = None) -> Choice:
    spacing = voxel_size(fingerprint, size.value)
    if extent is not None:
        extent = [side / step for side, step in zip(extent, spacing, strict=True)]
    return propose_roi_size(median_shape(fingerprint, size.value), spacing=spacing, budget=budget, extent=extent)


def _pieces(fingerprint: Fingerprint, names: Mapping[int, str]) -> Choice:
    whole = [facts for facts in fingerprint.labelled if facts.is_whole]
    return propose_largest_component(
        {name: _largest_shares(fingerprint, value) for value, name in names.items()},
        [facts.joined_share for facts in whole if facts.joined_share is not None],
    )


def _object_extent(fingerprint: Fingerprint) -> list[float] | None:
    """Of the box around all classes, mm, the largest along each axis; None where nobody has labelled a whole scan."""
    found = [
        np.multiply(facts.extent, facts.spacing)
        for facts in fingerprint.labelled
        if facts.is_whole and facts.extent is not None
    ]
    return np.max(found, axis=0).tolist() if found else None


def voxel_size(fingerprint: Fingerprint, spacing: Sequence[float] | None) -> list[float]:
    """In mm, after resampling; where there is none, the median of the scans."""
    return list(spacing) if spacing else np.median(fingerprint.spacings, axis=0).tolist()


def median_shape(fingerprint: Fingerprint, spacing: Sequence[float] | None) -> list[float]:
    """Of all scans, after resampling."""
    shapes = fingerprint.shapes
    return np.median(shapes if spacing is None else shapes * fingerprint.spacings / spacing, axis=0).tolist()


def _crops(
    fingerprint: Fingerprint,
    voxels: Mapping[int, int],
    *,
    spacing: Sequence[float] | None,
    roi_size: Sequence[int],
) -> Choice:
    """How many patches have a class in their middle; ``voxels`` are those of each class in all cases."""
    return propose_balanced_crops(
        list(voxels.values()),
        roi_size=roi_size,
        shape=median_shape(fingerprint, spacing),
        foreground_share=sum(voxels.values()) / sum(facts.labeled_voxels for facts in fingerprint.labelled),
    )


def _cpu_options(
    fingerprint: Fingerprint,
    block: DatasetBlock,
    *,
    voxels: Mapping[int, int],
    extent: Sequence[float] | None,
    flips: Callable[..., Choice],
) -> dict[str, Any]:
    choices: dict[str, Choice] = {}
    size = block.spacing
    if math.prod(block.roi_size) > BUDGETS["cpu"]:
        choices = plan_grid(fingerprint, budget="cpu", extent=extent)
        size, roi_size = choices["spacing"].value, choices["roi_size"].value
        choices["balanced_crops"] = _crops(fingerprint, voxels, spacing=size, roi_size=roi_size)
    voxel = voxel_size(fingerprint, size)
    choices |= {"backbone": propose_backbone(voxel), "augmentation": propose_augmentation(voxel)}
    choices["flip_axes"] = flips(spacing=voxel, budget="cpu")
    return {key: choice.value for key, choice in choices.items() if choice.value != getattr(block, key)}


def _centres(facts: CaseFacts) -> Centres:
    return {value: entry.centre for value, entry in (facts.classes or {}).items()}


def _largest_shares(fingerprint: Fingerprint, value: int) -> list[float] | None:
    """Of a class, in scans that are labelled all over; None where it is in others alone: how slices hang together
    nobody knows."""
    covered = [facts.classes for facts in fingerprint.labelled if facts.covers_scan and facts.classes]
    shares = [classes[value].largest_share for classes in covered if value in classes]
    return None if fingerprint.of_class(value) and not shares else shares


def _warnings(fingerprint: Fingerprint, voxels: Mapping[int, int], names: Mapping[int, str]) -> list[str]:
    lines = []
    if missing := [f"{value} ({names[value]})" for value, count in voxels.items() if not count]:
        lines.append(f"class {listed(missing)} is named but occurs in no label file")
    if empty := [str(facts.case.label) for facts in fingerprint.labelled if not facts.classes]:
        lines.append(f"{listed(empty)} hold nothing but background: remove them if nobody has labelled these scans")
    for axis in range(3):
        if otherwise := [facts for facts in fingerprint.labelled if facts.sliced == axis and SLICES in facts.case.said]:
            files = listed(str(facts.case.label) for facts in otherwise)
            lines.append(
                f"{files}: no two slices with a label are neighbours along axis {axis}, and {SLICES} names another "
                f"axis, along which most slices would count as labelled: say drawn:{axis}, or "
                f'{{"axis": {axis}, "indices": "drawn"}} in a datalist'
            )
    if sliced := [
        facts for facts in fingerprint.labelled if facts.sliced is not None and SLICES not in facts.case.said
    ]:
        axes = {facts.sliced for facts in fingerprint.labelled if facts.classes}
        option = f"say --labeled_slices drawn:{sliced[0].sliced}" if len(axes) == 1 else MIXED_SLICES
        files = listed(str(facts.case.label) for facts in sliced)
        lines.append(
            f"{files}: no two slices with a label are neighbours. The empty ones count as background; if nobody "
            f"labelled them, {option}"
        )
    count = len(fingerprint.labelled)
    if count < FEW_CASES:
        lines.append(f"only {count} labelled case(s): look twice at flip_axes and largest_component")
    return lines
