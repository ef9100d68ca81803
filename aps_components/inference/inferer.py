"""Sliding-window inference that keeps everything the model knows: probabilities, uncertainty maps and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from aps_components.inference.points import Flip, PromptPoint, listed, mirrored_prompts, prompts_in
from aps_components.inference.stored import StoredPrediction, predict_stored
from aps_components.inference.tiles import Window, moved
from aps_components.label_map import log_probabilities
from aps_components.models import Precision, Seen, TwoModels, autocast, together
from aps_components.networks.sam3d import Prompts
from aps_components.options import Axes, axis_groups
from aps_components.uncertainty import every

T = TypeVar("T")


class VolumePrediction(NamedTuple):
    """Everything that is known of one volume; maps are [1, C or 1, D, H, W], float32."""

    probabilities: Tensor
    probabilities_a: Tensor
    probabilities_b: Tensor
    epistemic: Tensor
    aleatoric: Tensor
    prompts: list[PromptPoint]
    """Model A's own points, chosen once over the whole volume."""


class SeenVolume(NamedTuple):
    """A volume after everything that the image alone decides; answering a prompt costs Model B's decoder."""

    image: Tensor
    """[1, in_channels, D, H, W], padded to at least a window."""
    size: tuple[int, int, int]
    """Before padding."""
    padding: tuple[int, int, int]
    """Before the first voxel of each axis."""
    windows: list[Window]
    """In voxels of the volume; they begin before its first voxel where it is padded."""
    seen: Sequence[list[Seen]]
    """Of each window: as it is, then each of its mirror images."""
    flips: list[Flip]
    probabilities_a: Tensor
    epistemic: Tensor
    aleatoric: Tensor
    points: list[PromptPoint]

    @property
    def inside(self) -> tuple[slice, ...]:
        """The volume itself in maps [1, C, D, H, W] of the padded one."""
        sides = zip(self.padding, self.size, strict=True)
        return (slice(None), slice(None), *(slice(first, first + extent) for first, extent in sides))


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
        scratch_dir: for what :meth:`predict_stored` cannot hold in memory; the system's folder for temporary files by
            default.
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
        scratch_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(roi_size, sw_batch_size, overlap, mode=mode, **kwargs)
        self.mirror_axes = axis_groups("mirror_axes", mirror_axes)
        autocast("cpu", precision)  # refuses an unknown precision now, not in the first window
        self.precision = precision
        self.scratch_dir = scratch_dir

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Probabilities of any network that gives logits: [B, in_channels, D, H, W] -> [B, C, D, H, W], float32.

        A network that prompts itself does so over the whole volume.
        """

        def window(patch: Tensor) -> Tensor:
            return self.probabilities(patch, network, *args, **kwargs)

        if getattr(network, "predictor", "a") != "a":
            own = cast(TwoModels, network)
            return torch.cat([self.predict(each, own).probabilities for each in inputs.split(1)])
        padded = self.padded(inputs)
        return self._cropped(super().__call__(padded, window), inputs.shape[2:])

    @torch.inference_mode()
    def predict(self, inputs: Tensor, network: TwoModels) -> VolumePrediction:
        """All that the model knows of one volume [1, in_channels, D, H, W].

        ``probabilities`` is to the bit what calling the inferer gives.
        """
        volume = self.see(inputs, network)
        probabilities_b = self.answer(volume, network, own=volume.points)
        return self.prediction(volume, probabilities_b, network)

    @torch.inference_mode()
    def predict_stored(self, inputs: Tensor, network: nn.Module, *, maps: bool = False) -> StoredPrediction:
        """What calling the inferer gives, to the bit, in tiles that need not all be in memory.

        Args:
            inputs: [1, in_channels, D, H, W].
            network: in eval mode.
            maps: also both uncertainties and the points, as :meth:`predict` gives them.
        """
        return predict_stored(self, inputs, network, maps=maps)

    def prediction(self, volume: SeenVolume, probabilities_b: Tensor, network: TwoModels) -> VolumePrediction:
        """What was seen and Model B's answer to it, cut to the volume's own size."""
        both = {"a": volume.probabilities_a, "b": probabilities_b}
        probabilities = both.get(network.predictor, (volume.probabilities_a + probabilities_b) / 2)
        return VolumePrediction(
            self._cropped(probabilities, volume.size),
            self._cropped(volume.probabilities_a, volume.size),
            self._cropped(probabilities_b, volume.size),
            self._cropped(volume.epistemic, volume.size),
            self._cropped(volume.aleatoric, volume.size),
            volume.points,
        )

    @torch.inference_mode()
    def see(self, inputs: Tensor, network: TwoModels) -> SeenVolume:
        """Model A's answer, both uncertainties and its points over one whole volume, and Model B's embeddings.

        The points are chosen after the windows are blended, so that a voxel is a prompt once, of the class that the
        whole says, and not near the rim of a window.

        Args:
            inputs: [1, in_channels, D, H, W].
            network: in eval mode.
        """
        if inputs.shape[0] != 1:
            raise ValueError(f"predict takes one volume at a time, not a batch of {inputs.shape[0]}")
        image = self.padded(inputs)
        flips = self.flips()
        windows = self.windows(image)
        blended: dict[str, Blend] = {}
        kept: list[list[Seen]] = []
        chunks = [windows[first : first + self.sw_batch_size] for first in range(0, len(windows), self.sw_batch_size)]
        for chunk in self.progressing(chunks):
            patches = torch.cat([image[(slice(None), slice(None), *window)] for window in chunk])
            views: list[list[Seen]] = [[] for _ in chunk]
            for flip in flips:
                dims = [2 + axis for axis in flip]
                with autocast(patches.device, self.precision):
                    together_seen = network.see(patches.flip(dims))
                for row, window in enumerate(chunk):
                    seen = together_seen.of(row)
                    for name, maps in _maps_of(seen).items():
                        blend = blended.setdefault(name, self._blend(image, maps.shape[1]))
                        blend.add(maps.flip(dims), window, share=1 / len(flips))
                    views[row].append(_without_maps(seen))
            kept.extend(views)
        means = {name: blend.mean() for name, blend in blended.items()}
        size = (inputs.shape[2], inputs.shape[3], inputs.shape[4])
        points, padding = self._points(means, network, size), self.padding(size)
        return SeenVolume(
            *(
                image,
                size,
                padding,
                [moved(window, [-before for before in padding]) for window in windows],
                kept,
                flips,
            ),
            *(means["probabilities_a"], means["epistemic"], means["aleatoric"], points),
        )

    def seen_when_asked(self, inputs: Tensor, network: TwoModels, *, mirrored: bool) -> SeenVolume:
        """A volume of which Model B sees a window when that is asked for; it has no points and no maps.

        Args:
            inputs: [1, in_channels, D, H, W].
            network: in eval mode.
            mirrored: whether the mirror images of a window will be asked for, too.
        """
        image, size = self.padded(inputs), (inputs.shape[2], inputs.shape[3], inputs.shape[4])
        windows, padding, flips = self.windows(image), self.padding(size), self.flips()[: None if mirrored else 1]

        @torch.inference_mode()
        def see(index: int) -> list[Seen]:
            patch = image[(slice(None), slice(None), *windows[index])]
            with autocast(image.device, self.precision):
                return [network.see_for_prompts(patch.flip([2 + axis for axis in flip])) for flip in flips]

        frames = [moved(window, [-before for before in padding]) for window in windows]
        nothing = image.new_empty((0,))
        return SeenVolume(
            image, size, padding, frames, WhenAsked(see, len(windows)), flips, nothing, nothing, nothing, []
        )

    def _points(self, maps: dict[str, Tensor], network: TwoModels, size: tuple[int, int, int]) -> list[PromptPoint]:
        stride = network.prompt_stride
        cut = {name: every(self._cropped(each, size), stride) for name, each in maps.items()}
        # What only the thinned networks are sure of is no place to point to.
        sure = torch.minimum(cut["samples"], cut["probabilities_a"])
        prompts = network.prompt_generator(sure, epistemic=cut["epistemic"], aleatoric=cut["aleatoric"], stride=stride)
        return listed(prompts)

    @torch.inference_mode()
    def answer(
        self,
        volume: SeenVolume,
        network: TwoModels,
        *,
        own: Sequence[PromptPoint] = (),
        given: Callable[[Window], Prompts] | None = None,
        asked: Callable[[Window], Prompts] | None = None,
        previous: Tensor | None = None,
        windows: Sequence[int] | None = None,
        mirrored: bool = True,
    ) -> Tensor:
        """Model B's probabilities, [1, C, D, H, W] of the padded volume; 0 where no window was asked.

        Args:
            volume: what was seen.
            network: whose Model B answers.
            own: Model A's points, in voxels of the volume.
            given: a user's prompts that lie in a window of the volume, in voxels of that window.
            asked: those around which the earlier answer may change; all by default.
            previous: probabilities of the earlier answer, [1, C, D, H, W] of the padded volume.
            windows: which ones to ask; all by default.
            mirrored: ask the mirror images of a window, too, as they were seen.
        """
        blend = self._blend(volume.image, network.num_classes)
        for index in range(len(volume.windows)) if windows is None else windows:
            frame = volume.windows[index]
            window = moved(frame, volume.padding)
            prompts = Prompts.none(1, device=volume.image.device) if given is None else given(frame)
            new = None if asked is None else asked(frame)
            prompts = together(prompts, *prompts_in(own, frame, slots=network.own_slots, device=volume.image.device))
            earlier = None if previous is None else log_probabilities(previous[(slice(None), slice(None), *window)])
            size = [side.stop - side.start for side in window]
            views = list(zip(volume.flips, volume.seen[index], strict=True))[: None if mirrored else 1]
            for flip, seen in views:
                dims = [2 + axis for axis in flip]
                mask = None if earlier is None else earlier.flip(dims)
                with autocast(volume.image.device, self.precision):
                    logits = network.answer(
                        seen,
                        mirrored_prompts(prompts, flip, size),
                        mask_inputs=mask,
                        asked=None if new is None else mirrored_prompts(new, flip, size),
                    ).logits
                blend.add(logits.float().softmax(dim=1).flip(dims), window, share=1 / len(views))
        return blend.mean()

    def _blend(self, image: Tensor, channels: int) -> Blend:
        shape = (1, channels, *image.shape[2:])
        return Blend(shape, self.importance(image.device), device=image.device)

    def importance(self, device: torch.device) -> Tensor:
        """Of a window's voxels, [roi]."""
        return compute_importance_map(
            tuple(self.roi_size), mode=self.mode, sigma_scale=self.sigma_scale, device=device, dtype=torch.float32
        ).clamp_min(1e-3)

    def windows(self, image: Tensor) -> list[Window]:
        """Evenly laid over the volume, as MONAI lays them."""
        size, roi = image.shape[2:], self.roi_size
        overlaps = ensure_tuple_rep(self.overlap, len(roi))
        interval = [
            int(window) if window == extent else max(1, int(window * (1 - overlap)))
            for window, extent, overlap in zip(roi, size, overlaps, strict=True)
        ]
        return [(d, h, w) for d, h, w in dense_patch_slices(size, roi, interval)]

    def flips(self) -> list[Flip]:
        """Every mirror image, as the axes that are flipped; the first one is none."""
        groups = self.mirror_axes
        some = (combinations(groups, count) for count in range(len(groups) + 1))
        return [tuple(chain.from_iterable(flip)) for flip in chain.from_iterable(some)]

    def progressing(self, work: Sequence[T]) -> Iterator[T]:
        """The same, with a bar where one is wanted."""
        return iter(tqdm(work, disable=not self.progress))

    def probabilities(self, patch: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Of windows [B, in_channels, *roi] by a network that gives logits: the mean of all mirror images."""
        total: Tensor | None = None
        flips = self.flips()
        for flip in flips:
            dims = [2 + axis for axis in flip]
            with autocast(patch.device, self.precision):
                found = network(patch.flip(dims), *args, **kwargs).float().softmax(dim=1).flip(dims)
            total = found if total is None else total + found
        assert total is not None  # the first one is no flip
        return total / len(flips) if len(flips) > 1 else total

    def _missing(self, size: Sequence[int]) -> list[int]:
        """By how much each axis is smaller than the window."""
        return [max(0, roi - extent) for roi, extent in zip(self.roi_size, size, strict=True)]

    def padding(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Before the first voxel of each axis."""
        d, h, w = (missing // 2 for missing in self._missing(size))
        return d, h, w

    def padded(self, inputs: Tensor) -> Tensor:
        """At least as large as the window; with 0 on both sides, as MONAI's SpatialPad in training."""
        missing = self._missing(inputs.shape[2:])
        if not any(missing):
            return inputs
        pad = [amount for axis in reversed(missing) for amount in (axis // 2, axis - axis // 2)]
        return F.pad(inputs, pad)

    def _cropped(self, volume: Any, size: Sequence[int]) -> Tensor:
        """Without the padding of a volume of this size."""
        inside = [slice(start, start + extent) for start, extent in zip(self.padding(size), size, strict=True)]
        return torch.as_tensor(volume)[:, :, inside[0], inside[1], inside[2]]


class WhenAsked(Sequence[list[Seen]]):
    """A list whose entries are made when they are asked for, each once.

    Args:
        make: an entry from its place.
        count: of entries.
    """

    def __init__(self, make: Callable[[int], list[Seen]], count: int) -> None:
        self._make, self._count = make, count
        self._made: dict[int, list[Seen]] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Of one place; a slice is not taken."""
        place = range(self._count)[index]
        if place not in self._made:
            self._made[place] = self._make(place)
        return self._made[place]


class Blend:
    """A weighted mean of what overlapping windows say.

    Args:
        shape: [1, C, D, H, W] of the whole.
        importance: of a window's voxels, [roi].
        device: where it is held.
    """

    def __init__(self, shape: Sequence[int], importance: Tensor, *, device: torch.device) -> None:
        self.total = torch.zeros(*shape, device=device)
        self.weight = torch.zeros(1, 1, *shape[2:], device=device)
        self.importance = importance

    def add(self, maps: Tensor, window: Window, *, share: float = 1.0) -> None:
        """One window's maps, [1, C, *roi]; ``share`` of 1 in all for each window."""
        place = (slice(None), slice(None), *window)
        self.total[place] += maps.float() * (share * self.importance)
        self.weight[place] += share * self.importance

    def mean(self) -> Tensor:
        """0 where no window was added."""
        return self.total / self.weight.clamp_min(torch.finfo(torch.float32).tiny)


def _maps_of(seen: Seen) -> dict[str, Tensor]:
    return {
        "probabilities_a": seen.logits_a.float().softmax(dim=1),
        "samples": seen.samples.probabilities.mean(dim=0),
        "epistemic": seen.uncertainty.epistemic.float(),
        "aleatoric": seen.uncertainty.aleatoric.float(),
    }


def _without_maps(seen: Seen) -> Seen:
    """What Model B needs for further answers."""
    nothing = seen.logits_a.new_empty((0,))  # a slice would keep all of it
    samples = type(seen.samples)(nothing, nothing)
    return seen._replace(logits_a=nothing, samples=samples, uncertainty=type(seen.uncertainty)(nothing, nothing))
