"""The sliding windows that are compared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch

from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.options import Axes, axis_groups, choice, number
from aps_components.options import whole as whole_number

Blending = Literal["gaussian", "constant"]
Overlap = float | tuple[float, ...]
# A stride of 18 x 18 x 4 voxels of a window of 112 x 112 x 80, as published figures have it (Yu et al. 2019,
# arXiv:1907.07034), windows counting alike; the same share of the window where that has another size.
REFERENCE_OVERLAP = (1 - 18 / 112, 1 - 18 / 112, 1 - 4 / 80)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to move a window over a scan.

    Args:
        overlap: of neighbouring windows, for all axes or for each; None makes the whole scan one window.
        batch: windows at once.
        blending: of windows that overlap.
        predictor: whose answer: ``a``, the V-Net alone, or ``average``.
        mirror_axes: every window is seen in all its mirror images along these, groups of axes flipped together.
    """

    overlap: Overlap | None
    batch: int = 1
    blending: Blending = "gaussian"
    predictor: str = "average"
    mirror_axes: tuple[tuple[int, ...], ...] = ()

    @property
    def is_reference(self) -> bool:
        """Whether the others are compared with it."""
        return self == REFERENCE

    @property
    def window(self) -> str:
        """The overlap and the mirror images, for people."""
        if self.overlap is None:
            name = "whole scan"
        else:
            name = "reference" if self.overlap == REFERENCE_OVERLAP else f"overlap {self.overlap:g}"
        return f"{name}, {self.images} mirror images" if self.mirror_axes else name

    @property
    def images(self) -> int:
        """Times that the network sees a window."""
        return 2 ** len(self.mirror_axes)

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from the others, of JSON's types."""
        return asdict(self)

    def inferer(
        self, trained: PromptedSlidingWindowInferer, image_size: Sequence[int], *, stride: Sequence[int]
    ) -> PromptedSlidingWindowInferer:
        """The inferer for a volume (D, H, W).

        Args:
            trained: gives the window and the precision.
            image_size: of the volume.
            stride: of the network along each axis, which divides the sizes of every window.
        """
        whole = [math.ceil(size / step) * step for size, step in zip(image_size, stride, strict=True)]
        return PromptedSlidingWindowInferer(
            whole if self.overlap is None else trained.roi_size,
            self.batch,
            0.0 if self.overlap is None else self.overlap,  # type: ignore[arg-type]
            precision=trained.precision,
            mode=self.blending,
            mirror_axes=self.mirror_axes,
        )


REFERENCE = Setting(overlap=REFERENCE_OVERLAP, blending="constant")


def grid(
    *,
    overlaps: Sequence[float],
    batches: Sequence[int],
    blendings: Sequence[str],
    predictors: Sequence[str],
    whole: bool = False,
    mirror_axes: Axes = (),
) -> list[Setting]:
    """Every combination; with ``whole``, also the scan as one window, once for each predictor; with ``mirror_axes``,
    each of them with mirror images, too.

    Raises:
        ValueError: a value that does not fit, by name.
    """
    for name, values, kind in (
        ("overlaps", overlaps, number(least=0, below=1)),
        ("batches", batches, whole_number(least=1)),
        ("blendings", blendings, choice(*get_args(Blending))),
        ("predictors", predictors, choice("a", "b", "average")),
    ):
        if not values:
            raise ValueError(f"{name} {list(values)} is empty: see aps benchmark --help")
        for value in values:
            kind(name, value)
    combinations = itertools.product(predictors, overlaps, blendings, batches)
    settings = [
        Setting(overlap=float(overlap), batch=batch, blending=blending, predictor=predictor)  # type: ignore[arg-type]
        for predictor, overlap, blending, batch in combinations
    ]
    settings += [Setting(overlap=None, blending="constant", predictor=name) for name in predictors if whole]
    if mirror_axes:
        groups = tuple(axis_groups("mirror_axes", mirror_axes))
        settings += [replace(setting, mirror_axes=groups) for setting in settings]
    return list(dict.fromkeys(settings))


def window_count(image_size: Sequence[int], inferer: PromptedSlidingWindowInferer) -> int:
    """Windows that an inferer moves over a volume (D, H, W)."""
    shape_alone = torch.empty(1, 1, *image_size, device="meta")
    return len(inferer.windows(inferer.padded(shape_alone)))
