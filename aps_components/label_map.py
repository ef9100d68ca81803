"""Label maps: what pseudo-labels, inference and evaluation all need of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor


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


def keep_largest_component(label_map: NDArray[np.integer], *, num_classes: int) -> NDArray[np.integer]:
    """Keep the largest connected component of each foreground class; the rest becomes background.

    Voxels that touch by a face, an edge or a corner are connected (26 neighbours in 3-D), as in skimage.measure.label
    and MONAI's KeepLargestConnectedComponent by default. Of equally large components the first in scan order stays.
    scipy labels them, because MONAI's transform needs scikit-image.

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
    neighbours = ndimage.generate_binary_structure(label_map.ndim, label_map.ndim)
    kept = np.zeros_like(label_map)
    for index, box in enumerate(ndimage.find_objects(label_map, max_label=num_classes - 1), start=1):
        if box is not None:  # a class that is there; its box alone is searched, as classes are often small
            components, _ = ndimage.label(label_map[box] == index, structure=neighbours)
            sizes = np.bincount(components.ravel())
            kept[box][components == 1 + sizes[1:].argmax()] = index
    return kept
