"""A whole volume's answer in tiles: the inferer's prediction, in the memory of a few windows.

Model A's points are chosen over the whole volume, so Model B runs after Model A has seen all of it. In between are kept
what B needs of A in each window, A's candidates for points, and, where the answer is the mean of both, A's own answer.
Sums are made in the inferer's order: the answer is its own, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from aps_components.data.room import TILES
from aps_components.inference.points import PromptPoint, listed, mirrored_prompts, prompts_in
from aps_components.inference.tiles import Index, TiledBlend, TiledMaps, TileStore, Tiling, Window, moved
from aps_components.memory import large_blocks_apart, return_freed_memory
from aps_components.models import Seen, TwoModels, autocast, together
from aps_components.networks.sam3d import Prompts
from aps_components.uncertainty import DecoupledUncertainty, MonteCarloSamples

if TYPE_CHECKING:
    from aps_components.inference.inferer import PromptedSlidingWindowInferer

IN_MEMORY = TILES  # bytes; further tiles lie in a file
FEW_WINDOWS = 16  # in which the heap does not grow by much
SHARE_OF_GPU = 0.5  # of its free memory, for tiles
NOTHING = (torch.empty(0), MonteCarloSamples(*[torch.empty(0)] * 2), DecoupledUncertainty(*[torch.empty(0)] * 2))


class StoredPrediction(NamedTuple):
    """What is known of a volume."""

    probabilities: TiledMaps
    epistemic: TiledMaps | None = None
    aleatoric: TiledMaps | None = None
    prompts: list[PromptPoint] | None = None
    """Model A's own points; None where nobody needs them."""


def predict_stored(
    inferer: PromptedSlidingWindowInferer, inputs: Tensor, network: nn.Module, *, maps: bool = False
) -> StoredPrediction:
    """What ``inferer(inputs, network)`` gives, or, with maps, ``inferer.predict``, in tiles.

    Args:
        inferer: its windows, order and precision.
        inputs: [1, in_channels, D, H, W].
        network: in eval mode.
        maps: keep the uncertainties and the points, too; for an ``TwoModels``.
    """
    if inputs.shape[0] != 1:
        raise ValueError(f"one volume at a time, not a batch of {inputs.shape[0]}")
    return_freed_memory()
    work = _Work(inferer, inputs)
    with large_blocks_apart() if len(work.windows) > FEW_WINDOWS else nullcontext():
        if not maps and getattr(network, "predictor", "a") == "a":
            return StoredPrediction(work.alone(network))
        own = cast(TwoModels, network)
        first = _ByA(work, own, maps=maps)
        probabilities = first.maps["a"] if own.predictor == "a" else _by_b(work, own, first)
    return StoredPrediction(probabilities, first.maps.get("epistemic"), first.maps.get("aleatoric"), first.points)


def tile_store(device: torch.device, folder: str | Path | None) -> TileStore:
    """For the tiles of one volume on a device."""
    budget: float = IN_MEMORY
    if device.type == "cuda":
        budget = SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]
    return TileStore(budget=budget, folder=folder, device=device)


class _Work:
    """One volume, its windows and where its tiles are."""

    def __init__(self, inferer: PromptedSlidingWindowInferer, inputs: Tensor) -> None:
        self.inferer = inferer
        self.size = (inputs.shape[2], inputs.shape[3], inputs.shape[4])
        self.image, self.padding = inferer.padded(inputs), inferer.padding(self.size)
        self.windows, self.flips = inferer.windows(self.image), inferer.flips()
        self.tiling = Tiling(self.windows)
        self.importance = inferer.importance(self.image.device)
        self.store = tile_store(self.image.device, inferer.scratch_dir)

    def chunks(self) -> Iterator[tuple[int, list[Window], Tensor]]:
        """Windows that go through the network together: number of the chunk, places, patches."""
        at_once = self.inferer.sw_batch_size
        firsts = range(0, len(self.windows), at_once)
        for number, first in enumerate(self.inferer.progressing(firsts)):
            chunk = self.windows[first : first + at_once]
            yield number, chunk, torch.cat([self.image[(slice(None), slice(None), *window)] for window in chunk])

    def views(self, patches: Tensor) -> Iterator[tuple[int, list[int], Tensor]]:
        """The patches in each mirror image: its number, the dimensions that are flipped, the patches."""
        for number, flip in enumerate(self.flips):
            dims = [2 + axis for axis in flip]
            yield number, dims, patches.flip(dims)

    def kept(self, name: str, channels: int) -> TiledMaps:
        """Maps that are to be filled in."""
        return TiledMaps(self.store, name, self.tiling, channels=channels, padding=self.padding, size=self.size)

    def blend(self, name: str, finished: Callable[[Index, Tensor], None], *, times: int) -> TiledBlend:
        """Of maps of all windows."""
        return TiledBlend(self.store, name, self.windows, times=times, tiling=self.tiling, finished=finished)

    def alone(self, network: nn.Module) -> TiledMaps:
        """Probabilities of a network that needs no prompts."""
        maps = self.kept("probabilities", getattr(network, "num_classes", 0))
        blend = self.blend("probabilities", maps.fill, times=1)
        for _, chunk, patches in self.chunks():
            found = self.inferer.probabilities(patches, network)
            maps.channels = found.shape[1]
            for row, window in enumerate(chunk):
                blend.add(found[row], window, weight=self.importance)
        return maps


class _ByA:
    """Model A's answer to a volume, kept as far as it is needed."""

    def __init__(self, work: _Work, network: TwoModels, *, maps: bool) -> None:
        self.work, self.network, self.classes = work, network, network.num_classes
        self.with_answer = network.predictor != "b"
        self.maps = {name: work.kept(name, count) for name, count in self._wanted(maps).items()}
        thinned = _Thinned(work.windows, work.padding, work.size, network.prompt_stride)
        self.candidates = _Candidates(network, thinned, device=work.image.device)
        self._see(thinned)
        self.points = self.candidates.points()

    def _wanted(self, maps: bool) -> dict[str, int]:
        answer = {"a": self.classes} if self.with_answer else {}
        return answer | ({"epistemic": 1, "aleatoric": 1} if maps else {})

    def _see(self, thinned: _Thinned) -> None:
        work, times = self.work, len(self.work.flips)
        blends = {name: work.blend(name, maps.fill, times=times) for name, maps in self.maps.items()}
        points = TiledBlend(work.store, "points", thinned.windows, times=times, finished=self.candidates.take)
        weight = (1 / times) * work.importance
        for number, chunk, patches in work.chunks():
            for view, dims, seen_patches in work.views(patches):
                with autocast(patches.device, work.inferer.precision):
                    seen = self.network.see_a(seen_patches)
                if seen.for_b is not None and self.network.predictor != "a":
                    work.store.put(("for b", number, view), seen.for_b)
                maps = {
                    "a": seen.logits_a.float().softmax(dim=1),
                    "samples": seen.samples.probabilities.mean(dim=0),
                    "epistemic": seen.uncertainty.epistemic.float(),
                    "aleatoric": seen.uncertainty.aleatoric.float(),
                }
                if dims:
                    maps = {name: each.flip(dims) for name, each in maps.items()}
                for row, window in enumerate(chunk):
                    for name, blend in blends.items():
                        blend.add(maps[name][row], window, weight=weight)
                    place, inner = thinned.of(window)
                    together = [each[row][(slice(None), *inner)] for each in maps.values()]
                    points.add(torch.cat(together), place, weight=weight[inner])


class _Thinned:
    """The volume's every ``stride``-th voxel, among which points are chosen; the padding has none.

    Args:
        windows: of the padded volume.
        padding: before the first voxel of each axis.
        size: (D, H, W) without padding.
        stride: of each axis.
    """

    def __init__(
        self, windows: Sequence[Window], padding: Sequence[int], size: Sequence[int], stride: Sequence[int]
    ) -> None:
        self.padding, self.stride = padding, stride
        self.size = [-(-extent // step) for extent, step in zip(size, stride, strict=True)]
        self.windows = [self.of(window)[0] for window in windows]

    def of(self, window: Window) -> tuple[Window, tuple[slice, slice, slice]]:
        """Where the window's voxels lie among the thinned ones, and which of its own voxels those are."""
        places, inner = [], []
        for side, before, step, size in zip(window, self.padding, self.stride, self.size, strict=True):
            first = max(-(-(side.start - before) // step), 0)
            last = min(-(-(side.stop - before) // step), size)
            begin = first * step + before - side.start
            places.append(slice(first, last))
            inner.append(slice(begin, begin + (last - first - 1) * step + 1, step))
        return (places[0], places[1], places[2]), (inner[0], inner[1], inner[2])


class _Candidates:
    """Voxels that may become points: a class, where it is likely enough, and both uncertainties everywhere."""

    def __init__(self, network: TwoModels, thinned: _Thinned, *, device: torch.device) -> None:
        self.generator, self.stride, self.classes = network.prompt_generator, network.prompt_stride, network.num_classes
        self.size, self.tiling = thinned.size, Tiling(thinned.windows)
        self.epistemic, self.aleatoric = (torch.zeros(1, 1, *self.size, device=device) for _ in range(2))
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []

    def take(self, tile: Index, mean: Tensor) -> None:
        """Of a tile: Model A's and the samples' probabilities [C], and both uncertainties [1]."""
        place = self.tiling.place(tile)
        answer, samples, epistemic, aleatoric = mean.split([self.classes, self.classes, 1, 1])
        self.epistemic[(0, slice(None), *place)] = epistemic
        self.aleatoric[(0, slice(None), *place)] = aleatoric
        # What only the thinned networks are sure of is no place to point to.
        sure = torch.minimum(samples, answer)
        label, d, h, w = (sure >= self.generator.min_probability).nonzero(as_tuple=True)
        values = sure[label, d, h, w]
        d, h, w = (index + side.start for index, side in zip((d, h, w), place, strict=True))
        flat = (d * self.size[1] + h) * self.size[2] + w
        self.found.append((label.to(torch.uint8), flat.to(torch.int32 if self._few else torch.int64), values))

    @property
    def _few(self) -> bool:
        return self.size[0] * self.size[1] * self.size[2] < 2**31

    def points(self) -> list[PromptPoint]:
        """Chosen a class at a time: classes do not know of each other there."""
        labels, places, values = (torch.cat(each) for each in zip(*self.found, strict=True))
        groups = [[index] for index in range(self.classes)]
        if self.generator.strategy == "random":  # draws a number for each voxel of all classes at once
            groups = [list(range(self.classes))]
        points: list[PromptPoint] = []
        for group in groups:
            sure = torch.zeros(1, len(group), *self.size, device=values.device)
            for row, label in enumerate(group):
                here = labels == label
                sure[0, row].view(-1)[places[here].long()] = values[here]
            if sure.any():
                prompts = self.generator(sure, epistemic=self.epistemic, aleatoric=self.aleatoric, stride=self.stride)
                points += [point._replace(label=group[point.label]) for point in listed(prompts)]
        return points


def _by_b(work: _Work, network: TwoModels, first: _ByA) -> TiledMaps:
    """Model B's answer after Model A's points, or the mean of both."""
    maps = work.kept("probabilities", network.num_classes)

    def finished(tile: Index, mean: Tensor) -> None:
        maps.fill(tile, work.store.pop(("a", tile)).add_(mean).div_(2) if first.with_answer else mean)

    blend = work.blend("b", finished, times=len(work.flips))
    weight = (1 / len(work.flips)) * work.importance
    for number, chunk, patches in work.chunks():
        embeddings = []
        for view, _, seen_patches in work.views(patches):
            key = ("for b", number, view)
            of_a = work.store.pop(key) if key in work.store else None
            with autocast(patches.device, work.inferer.precision):
                embeddings.append(network.embed(seen_patches, of_a))
        for row, window in enumerate(chunk):
            d, h, w = (side.stop - side.start for side in window)
            frame = moved(window, [-before for before in work.padding])
            own = prompts_in(first.points, frame, slots=network.own_slots, device=patches.device)
            prompts = together(Prompts.none(1, device=patches.device), *own)
            for flip, embedding in zip(work.flips, embeddings, strict=True):
                one = embedding.of(torch.arange(row, row + 1, device=patches.device))
                seen = Seen((d, h, w), *NOTHING, one)
                with autocast(patches.device, work.inferer.precision):
                    logits = network.answer(seen, mirrored_prompts(prompts, flip, (d, h, w))).logits
                said = logits.float().softmax(dim=1).flip([2 + axis for axis in flip])
                blend.add(said[0], window, weight=weight)
    return maps
