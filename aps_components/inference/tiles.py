"""Maps of a volume in tiles, of which only some are in memory: what does not fit lies in a file without a name.

Windows overlap, so each of their voxels is added to several times. The volume is cut where windows begin and end; a
window is then made of whole tiles, a tile is finished when its last window was added, and of a large volume the tiles
in work are few.
"""

from __future__ import annotations

import math
import mmap
import tempfile
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

Window = tuple[slice, slice, slice]
Index = tuple[int, int, int]

SIDE = 32


class TileStore:
    """Tensors by key: those last used in memory, the others in a file, which the system removes with the process.

    Args:
        budget: bytes to hold in memory; the tensor in use is held in any case.
        folder: for the file; the system's folder for temporary files where
            there is none of that name.
        device: where tensors are held.
    """

    def __init__(self, *, budget: float, folder: str | Path | None = None, device: torch.device | str = "cpu") -> None:
        self.budget, self.device = budget, torch.device(device)
        self.folder = folder if folder is not None and Path(folder).is_dir() else None
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._changed: set[Hashable] = set()
        self._places: dict[Hashable, tuple[int, torch.dtype, torch.Size]] = {}
        self._free: dict[int, list[int]] = {}
        self._bytes = 0
        self._end = 0
        self._file: BinaryIO | None = None

    def zeros(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor to keep; on a CPU in memory of its own, apart from what comes and goes with every window.

        Between kept blocks of the heap a window's own, which are larger, find no place: the heap would grow on.
        """
        count = math.prod(shape)
        if self.device.type != "cpu" or not count:
            return torch.zeros(*shape, dtype=dtype, device=self.device)
        return torch.frombuffer(_own_memory(count * dtype.itemsize), dtype=dtype).view(*shape)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held or key in self._places

    @property
    def spilled(self) -> int:
        """Bytes of the file."""
        return self._end

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Keep a tensor; a changed one has to be put again."""
        former = self._held.pop(key, None)
        self._bytes += tensor.nbytes - (0 if former is None else former.nbytes)
        self._held[key] = tensor
        self._changed.add(key)
        self._make_room()

    def get(self, key: Hashable) -> Tensor:
        """A tensor that was put."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        offset, dtype, shape = self._places[key]
        tensor = self.zeros(shape, dtype)
        buffer = tensor if tensor.device.type == "cpu" else torch.empty(shape, dtype=dtype)
        file = self._opened()
        file.seek(offset)
        file.readinto(_bytes_of(buffer))  # type: ignore[attr-defined]
        if buffer is not tensor:
            tensor.copy_(buffer)
        self._held[key] = tensor
        self._bytes += tensor.nbytes
        self._make_room()
        return tensor

    def pop(self, key: Hashable) -> Tensor:
        """A tensor that was put, and is not needed any more."""
        tensor = self.get(key)
        if key in self._held:
            self._bytes -= tensor.nbytes
            del self._held[key]
        self._changed.discard(key)
        if (place := self._places.pop(key, None)) is not None:
            self._free.setdefault(tensor.nbytes, []).append(place[0])
        return tensor

    def _make_room(self) -> None:
        """The one that was used last stays."""
        while self._bytes > self.budget and len(self._held) > 1:
            key, tensor = self._held.popitem(last=False)
            self._bytes -= tensor.nbytes
            if key in self._changed:
                self._write(key, tensor.cpu().contiguous())
                self._changed.discard(key)

    def _write(self, key: Hashable, tensor: Tensor) -> None:
        if key not in self._places:
            free = self._free.get(tensor.nbytes)
            offset = free.pop() if free else self._end
            self._end = max(self._end, offset + tensor.nbytes)
            self._places[key] = (offset, tensor.dtype, tensor.shape)
        file = self._opened()
        file.seek(self._places[key][0])
        try:
            file.write(_bytes_of(tensor))
        except OSError as error:
            place = self.folder or tempfile.gettempdir()
            raise OSError(
                f"{place}: no room for the maps of a large scan ({error.strerror}); free some there"
            ) from error

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        return self._file


def _own_memory(size: int) -> mmap.mmap:
    """Zeros, apart from the C library's heap."""
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


def _bytes_of(tensor: Tensor) -> Any:
    return memoryview(tensor.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]


class Tiling:
    """How windows cut a volume.

    Args:
        windows: all of them; together they cover the volume.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        self.cuts = [
            sorted({edge for window in windows for edge in (window[axis].start, window[axis].stop)})
            for axis in range(3)
        ]

    @property
    def tiles(self) -> Iterator[Index]:
        """All of them, the last axis fastest."""
        yield from product(*(range(len(cuts) - 1) for cuts in self.cuts))

    def place(self, tile: Index) -> Window:
        """Where a tile lies."""
        d, h, w = (slice(cuts[i], cuts[i + 1]) for cuts, i in zip(self.cuts, tile, strict=True))
        return d, h, w

    def within(self, region: Window) -> Iterator[Index]:
        """The tiles that have a part in a region."""
        ranges = []
        for cuts, side in zip(self.cuts, region, strict=True):
            first = bisect_left(cuts, side.start + 1) - 1
            last = bisect_left(cuts, side.stop)
            ranges.append(range(max(first, 0), min(last, len(cuts) - 1)))
        yield from product(*ranges)


class TiledMaps:
    """Finished maps [C, D, H, W] of a volume, in tiles.

    Args:
        store: of the tiles.
        name: under which they are kept there.
        tiling: of the volume with its padding.
        channels: C.
        padding: before the first voxel of each axis.
        size: (D, H, W) without padding.
    """

    def __init__(
        self,
        store: TileStore,
        name: str,
        tiling: Tiling,
        *,
        channels: int,
        padding: Sequence[int] = (0, 0, 0),
        size: Sequence[int],
    ) -> None:
        self.store, self.name, self.tiling = store, name, tiling
        self.channels, self.padding, self.size = channels, tuple(padding), tuple(size)

    def fill(self, tile: Index, maps: Tensor) -> None:
        """Put a tile's maps, [C, d, h, w]."""
        self.store.put((self.name, tile), maps)

    def region(self, region: Window, channels: slice = slice(None)) -> Tensor:
        """A part of the maps, [C, d, h, w].

        Args:
            region: in voxels of the volume without padding.
            channels: some of them.
        """
        inner = moved(region, self.padding)
        tiles = list(self.tiling.within(inner))
        shape = [side.stop - side.start for side in region]
        result: Tensor | None = None
        for tile in tiles:
            part = self.store.get((self.name, tile))[channels]
            source, target = _common(self.tiling.place(tile), inner)
            if len(tiles) == 1:
                return part[(slice(None), *source)]
            if result is None:
                result = part.new_empty(len(part), *shape)
            result[(slice(None), *target)] = part[(slice(None), *source)]
        assert result is not None
        return result

    def whole(self, channels: slice = slice(None)) -> Tensor:
        """All of it, [C, D, H, W]."""
        d, h, w = (slice(0, size) for size in self.size)
        return self.region((d, h, w), channels).clone()

    @property
    def blocks(self) -> Iterator[Window]:
        """The volume in blocks that lie in a tile each, tile after tile."""
        for tile in self.tiling.tiles:
            sides = []
            for side, before, size in zip(self.tiling.place(tile), self.padding, self.size, strict=True):
                sides.append(slice(max(side.start - before, 0), min(side.stop - before, size)))
            yield from blocks_of((sides[0], sides[1], sides[2]))


class TiledBlend:
    """A weighted mean of what overlapping windows say, tile by tile; the sums are those of ``Blend``, to the bit.

    Args:
        store: for the sums.
        name: under which they are kept there.
        windows: all that will be added.
        times: how often each of them.
        tiling: theirs, where it is there already.
        finished: is given a tile and its mean [C, d, h, w] as soon as the last window was added.
    """

    def __init__(
        self,
        store: TileStore,
        name: str,
        windows: Sequence[Window],
        *,
        times: int = 1,
        tiling: Tiling | None = None,
        finished: Callable[[Index, Tensor], None],
    ) -> None:
        self.store, self.name, self.tiling, self.finished = store, name, tiling or Tiling(windows), finished
        self.missing: dict[Index, int] = {}
        for window in windows:
            for tile in self.tiling.within(window):
                self.missing[tile] = self.missing.get(tile, 0) + times

    def add(self, maps: Tensor, window: Window, *, weight: Tensor) -> None:
        """One window's maps, [C, *roi], and the weight of its voxels, [roi]."""
        weighted = maps.float() * weight
        for tile in self.tiling.within(window):
            place = self.tiling.place(tile)
            source, target = _common(window, place)
            key = (f"{self.name} sums", tile)
            shape = [side.stop - side.start for side in place]
            sums = self.store.get(key) if key in self.store else self.store.zeros((len(weighted) + 1, *shape))
            sums[:-1][(slice(None), *target)] += weighted[(slice(None), *source)]
            sums[-1][target] += weight[source]
            self.missing[tile] -= 1
            if self.missing[tile]:
                self.store.put(key, sums)
            else:
                if key in self.store:
                    self.store.pop(key)
                mean = sums[:-1]
                mean /= sums[-1:].clamp_min(torch.finfo(torch.float32).tiny)
                self.finished(tile, mean)


def blocks_of(box: Window) -> Iterator[Window]:
    """A box in blocks of at most :data:`SIDE` voxels a side: few classes are in one."""
    for starts in product(*(range(side.start, side.stop, SIDE) for side in box)):
        d, h, w = (slice(start, min(start + SIDE, side.stop)) for start, side in zip(starts, box, strict=True))
        yield d, h, w


def moved(window: Window, by: Sequence[int]) -> Window:
    """The same window in a frame whose origin lies that much before."""
    d, h, w = (slice(side.start + further, side.stop + further) for side, further in zip(window, by, strict=True))
    return d, h, w


def _common(one: Window, other: Window) -> tuple[Window, Window]:
    """What two boxes share, in voxels of each."""
    starts = [max(a.start, b.start) for a, b in zip(one, other, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(one, other, strict=True)]

    def seen_from(box: Window) -> Window:
        d, h, w = (
            slice(start - side.start, stop - side.start) for start, stop, side in zip(starts, stops, box, strict=True)
        )
        return d, h, w

    return seen_from(one), seen_from(other)
