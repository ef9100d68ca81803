"""Sliding-window inference that keeps everything the model knows: probabilities, uncertainty maps and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any, NamedTuple

import torch
from monai.inferers import SlidingWindowInferer, sliding_window_inference
from torch import Tensor, nn
from torch.nn import functional as F

from aps_components.models import AutoPromptSeg, Precision, autocast
from aps_components.options import Axes, axis_groups
from aps_components.prompts import PAD_LABEL, PointPrompts


class PromptPoint(NamedTuple):
    """A point prompt in a whole volume."""

    label: int
    voxel: tuple[int, int, int]
    """(d, h, w) on the grid that the network sees."""
    score: float
    """In (0, 1]."""


class VolumePrediction(NamedTuple):
    """Everything that is known of one volume; maps are [1, C or 1, D, H, W], float32."""

    probabilities: Tensor
    probabilities_a: Tensor
    probabilities_b: Tensor
    epistemic: Tensor
    aleatoric: Tensor
    prompts: list[PromptPoint]
    """The points of all the windows; a voxel that several windows chose for a class stands once, at its best."""


class PromptedSlidingWindowInferer(SlidingWindowInferer):
    """MONAI's sliding window over windows that prompt themselves.

    Windows are blended as probabilities, not as logits. Volumes smaller than the window are padded on both sides, as in
    training. The answer does not depend on ``sw_batch_size``: all windows share the networks that one ``mc_seed``
    thinned.

    With ``mirror_axes`` every window is seen in all its mirror images, and the maps are averaged, as nnU-Net does in
    inference (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z); 2, 4 or 8 times the work. The prompts are those of
    the window as it is.

    Args:
        roi_size: the window (D, H, W); every size divisible by the network's stride.
        sw_batch_size: windows at once.
        overlap: of neighbouring windows, in [0, 1).
        precision: ``auto``, ``bf16`` or ``fp32``; see ``models.precision``.
        mirror_axes: of the window, some of 0, 1, 2, along which training flipped, too; those in a list of their own are
            flipped together. None by default.
        kwargs: of MONAI's ``SlidingWindowInferer``.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 1,
        overlap: float = 0.5,
        *,
        precision: Precision = "auto",
        mode: str = "gaussian",
        mirror_axes: Axes = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(roi_size, sw_batch_size, overlap, mode=mode, **kwargs)
        self.mirror_axes = axis_groups("mirror_axes", mirror_axes)
        autocast("cpu", precision)  # refuses an unknown precision now, not in the first window
        self.precision = precision

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Probabilities of any network that gives logits: [B, in_channels, D, H, W] -> [B, C, D, H, W], float32."""

        def probabilities(patch: Tensor) -> dict[str, Tensor]:
            with autocast(patch.device, self.precision):
                return {"probabilities": network(patch, *args, **kwargs).float().softmax(dim=1)}

        def window(patch: Tensor) -> Tensor:
            return self._mirrored(patch, probabilities)["probabilities"]

        padded = self._padded(inputs)
        return self._cropped(super().__call__(padded, window), inputs)

    @torch.inference_mode()
    def predict(self, inputs: Tensor, network: AutoPromptSeg) -> VolumePrediction:
        """All that the model knows of one volume [1, in_channels, D, H, W].

        ``probabilities`` is to the bit what calling the inferer gives.
        """
        if inputs.shape[0] != 1:
            raise ValueError(f"predict takes one volume at a time, not a batch of {inputs.shape[0]}")
        points: list[PromptPoint] = []
        padding = [missing // 2 for missing in self._missing(inputs)]

        def window(patch: Tensor, positions: Sequence[Sequence[slice]]) -> dict[str, Tensor]:
            prompts: list[PointPrompts] = []
            averages = self._mirrored(patch, lambda mirrored: maps_of(mirrored, prompts))
            starts = [
                [axis.start - before for axis, before in zip(position[-3:], padding, strict=True)]
                for position in positions
            ]
            points.extend(_in_volume(prompts[0], starts))
            return averages

        def maps_of(patch: Tensor, prompts: list[PointPrompts]) -> dict[str, Tensor]:
            with autocast(patch.device, self.precision):
                prediction = network.predict(patch)
            prompts.append(prediction.prompts)
            return {
                "probabilities": prediction.logits.float().softmax(dim=1),
                "probabilities_a": prediction.logits_a.float().softmax(dim=1),
                "probabilities_b": prediction.logits_b.float().softmax(dim=1),
                "epistemic": prediction.epistemic.float(),
                "aleatoric": prediction.aleatoric.float(),
            }

        padded = self._padded(inputs)
        maps = sliding_window_inference(
            padded,
            self.roi_size,
            self.sw_batch_size,
            window,
            self.overlap,
            self.mode,
            self.sigma_scale,
            self.padding_mode,
            self.cval,
            self.sw_device,
            self.device,
            self.progress,
            with_coord=True,
        )
        cropped = {name: self._cropped(volume, inputs) for name, volume in maps.items()}
        return VolumePrediction(**cropped, prompts=_unique(points, inputs.shape[2:]))

    def _mirrored(self, patch: Tensor, maps_of: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The mean of the maps of all mirror images, each turned back; the first is of the patch as it is."""
        groups = self.mirror_axes
        maps = maps_of(patch)
        flips = list(chain.from_iterable(combinations(groups, count) for count in range(1, len(groups) + 1)))
        for flip in flips:
            dims = [2 + axis for axis in chain.from_iterable(flip)]
            for name, mirrored in maps_of(patch.flip(dims)).items():
                maps[name] = maps[name] + mirrored.flip(dims)
        return {name: total / (1 + len(flips)) for name, total in maps.items()} if flips else maps

    def _missing(self, inputs: Tensor) -> list[int]:
        """By how much each axis is smaller than the window."""
        return [max(0, roi - size) for roi, size in zip(self.roi_size, inputs.shape[2:], strict=True)]

    def _padded(self, inputs: Tensor) -> Tensor:
        """At least as large as the window; with 0 on both sides, as MONAI's SpatialPad in training."""
        missing = self._missing(inputs)
        if not any(missing):
            return inputs
        pad = [amount for axis in reversed(missing) for amount in (axis // 2, axis - axis // 2)]
        return F.pad(inputs, pad)

    def _cropped(self, volume: Any, inputs: Tensor) -> Tensor:
        starts = [missing // 2 for missing in self._missing(inputs)]
        inside = [slice(start, start + size) for start, size in zip(starts, inputs.shape[2:], strict=True)]
        return torch.as_tensor(volume)[:, :, inside[0], inside[1], inside[2]]


def _in_volume(prompts: PointPrompts, starts: Sequence[Sequence[int]]) -> list[PromptPoint]:
    """The real points of a batch of windows, moved by where each window starts."""
    coords = prompts.point_coords.long() + torch.tensor(starts, device=prompts.point_coords.device)[:, None]
    real = prompts.point_labels != PAD_LABEL
    return [
        PromptPoint(label, (voxel[0], voxel[1], voxel[2]), score)
        for label, voxel, score in zip(
            prompts.point_labels[real].tolist(), coords[real].tolist(), prompts.scores[real].tolist(), strict=True
        )
    ]


def _unique(points: Sequence[PromptPoint], size: Sequence[int]) -> list[PromptPoint]:
    """Each (class, voxel) once, by class and then best first; points in the padding are dropped."""
    best: dict[tuple[int, tuple[int, int, int]], PromptPoint] = {}
    for point in sorted(points, key=lambda point: point.score):
        if all(0 <= index < length for index, length in zip(point.voxel, size, strict=True)):
            best[point.label, point.voxel] = point
    return sorted(best.values(), key=lambda point: (point.label, -point.score, point.voxel))
