"""Label maps: what pseudo-labels, inference and evaluation all need of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from aps_components.options import OF_EACH_CLASS, OF_THE_FOREGROUND, Pieces

RUNS_AT_ONCE = 1_000_000
SMALLEST = 1e-6  # probability whose logarithm is taken


def likeliest_class(scores: Tensor, *, dim: int) -> Tensor:
    """The class with the highest score at each voxel, the first of equal ones; ``dim`` stays, with size 1.

    What ``argmax`` gives, whose kernel for an axis that is not the last one takes 4 to 14 times as long on a CPU
    (torch 2.13; ``benchmarks/likeliest_class.py``).

    Args:
        scores: logits or probabilities, such as [B, C, D, H, W] with ``dim=1`` or [C, D, H, W] with ``dim=0``.
        dim: the axis of the classes.

    Returns:
        int64, such as [B, 1, D, H, W].
    """
    return scores.max(dim=dim, keepdim=True).indices


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Their logarithms, which stand in the place of logits: of any shape, none below that of :data:`SMALLEST`."""
    return probabilities.clamp_min(SMALLEST).log()


def class_boxes(label_map: NDArray[np.integer], *, num_classes: int = 0) -> list[tuple[slice, ...] | None]:
    """The box of each class from 1 on; None where a class has no voxel.

    ``scipy.ndimage.find_objects`` walks along the last axis, and is twenty times slower where memory lies otherwise, as
    that of a NIfTI file does.

    Args:
        label_map: [D, H, W].
        num_classes: background included; as many as there are, if 0.
    """
    order = sorted(range(label_map.ndim), key=lambda axis: -abs(label_map.strides[axis]))
    boxes = ndimage.find_objects(label_map.transpose(order), max_label=max(num_classes - 1, 0))
    return [None if box is None else tuple(box[order.index(axis)] for axis in range(len(order))) for box in boxes]


def keep_largest_component(label_map: NDArray[np.integer], *, num_classes: int) -> NDArray[np.integer]:
    """Keep the largest connected component of each foreground class; the rest becomes background.

    Voxels that touch by a face, an edge or a corner are connected (26 neighbours in 3-D), as in skimage.measure.label
    and MONAI's KeepLargestConnectedComponent by default. Of equally large components the first in scan order stays.
    Runs of equal voxels along the last axis are joined, of all classes at once: a scan has a hundred times fewer of
    them than voxels, and MONAI's transform needs scikit-image.

    Args:
        label_map: [D, H, W], labels from 0 to `num_classes` - 1.
        num_classes: background included.

    Returns:
        A new label map of the same type.
    """
    label_map = np.asarray(label_map)
    if label_map.size and not 0 <= label_map.min() <= label_map.max() < num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, got {label_map.min()}..{label_map.max()} in label_map"
        )
    kept = np.array(label_map, order="C")
    if kept.size:
        volume = kept.reshape((1,) * (3 - kept.ndim) + kept.shape)
        runs = _runs(volume)
        component = _components(runs, width=volume.shape[1])
        sizes = np.bincount(component, weights=runs.last - runs.first + 1)
        order = np.lexsort((np.arange(len(sizes)), -sizes))  # largest first, and of equal ones the first
        _, firsts = np.unique(_class_of(component, runs.label, len(sizes))[order], return_index=True)
        is_largest = np.zeros(len(sizes), dtype=bool)
        is_largest[order[firsts]] = True
        _clear(volume, runs, np.flatnonzero(~is_largest[component]))
    return kept


def kept_pieces(label_map: NDArray[np.integer], pieces: Pieces, *, num_classes: int) -> NDArray[np.integer]:
    """What stays of an answer where each class, or all of them together, is known to be one piece; the rest goes.

    ``joined`` and ``foreground`` keep the largest piece of all classes together first. A false piece far from the true
    one goes then, even if it holds most of a class. nnU-Net tries the two steps of ``joined`` in this order
    (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).

    Args:
        label_map: [D, H, W], labels from 0 to `num_classes` - 1.
        pieces: False keeps all; True the largest piece of each class (:func:`keep_largest_component`); ``joined`` that
            of the whole foreground, and in it the largest piece of each class; ``foreground`` that of the whole
            foreground, with all that is in it.
        num_classes: background included.
    """
    if pieces in OF_THE_FOREGROUND:
        label_map = largest_foreground(label_map)
    return keep_largest_component(label_map, num_classes=num_classes) if pieces in OF_EACH_CLASS else label_map


def largest_foreground(label_map: NDArray[np.integer]) -> NDArray[np.integer]:
    """A label map [D, H, W] with the largest connected piece of all classes together alone."""
    foreground = keep_largest_component((np.asarray(label_map) > 0).astype(np.uint8), num_classes=2)
    return np.where(foreground > 0, label_map, 0).astype(label_map.dtype)


class _Runs(NamedTuple):
    """Foreground voxels of one class in a row along the last axis, in scan order; [R] each."""

    line: NDArray[np.int32]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    label: NDArray[np.integer]


def _runs(volume: NDArray[np.integer]) -> _Runs:
    """Of a volume [D, H, W], slice by slice."""
    parts = []
    for index, plane in enumerate(volume):
        begins = np.ones(plane.shape, dtype=bool)
        begins[:, 1:] = plane[:, 1:] != plane[:, :-1]
        ends = np.ones(plane.shape, dtype=bool)
        ends[:, :-1] = begins[:, 1:]
        inside = plane > 0
        line, first = np.nonzero(begins & inside)
        last = np.nonzero(ends & inside)[1]
        label = plane[line, first]
        line = line + index * len(plane)
        parts.append((line.astype(np.int32), first.astype(np.int32), last.astype(np.int32), label))
    return _Runs(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _components(runs: _Runs, *, width: int) -> NDArray[np.int32]:
    """The component of each run, numbered in scan order, [R].

    Args:
        runs: of a volume.
        width: H, lines a slice.
    """
    stride = int(runs.last.max(initial=0)) + 3  # so that neighbours of one line's end are no other line's
    begins = runs.line.astype(np.int64) * stride + runs.first + 1
    ends = runs.line.astype(np.int64) * stride + runs.last + 1
    pairs = []
    column = runs.line % width
    for down, across in ((0, 1), (1, -1), (1, 0), (1, 1)):
        there = (column + across >= 0) & (column + across < width)
        one = np.flatnonzero(there)
        moved = (down * width + across) * stride
        low = np.searchsorted(ends, begins[one] + moved - 1)
        high = np.searchsorted(begins, ends[one] + moved + 1, side="right")
        count = np.maximum(high - low, 0)
        left = np.repeat(one, count)
        right = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
        same = runs.label[left] == runs.label[right]
        pairs.append((left[same].astype(np.int32), right[same].astype(np.int32)))
    left, right = (np.concatenate(each) for each in zip(*pairs, strict=True))
    size = len(runs.line)
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(size, size))
    return connected_components(graph, directed=False)[1]


def _clear(volume: NDArray[np.integer], runs: _Runs, dropped: NDArray[np.intp]) -> None:
    """Some runs become background."""
    flat = volume.reshape(-1)
    for some in np.array_split(dropped, 1 + len(dropped) // RUNS_AT_ONCE):
        length = (runs.last[some] - runs.first[some] + 1).astype(np.int64)
        start = runs.line[some].astype(np.int64) * volume.shape[2] + runs.first[some]
        flat[np.arange(length.sum()) + np.repeat(start - np.cumsum(length) + length, length)] = 0


def _class_of(component: NDArray[np.int32], label: NDArray[np.integer], count: int) -> NDArray[np.integer]:
    """[K] of the K components."""
    classes = np.zeros(count, dtype=label.dtype)
    classes[component] = label
    return classes
