"""Does Model B listen to its prompts, and does it look at the image? Its answers when one of them is taken away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from aps_components.inference import PromptedSlidingWindowInferer, PromptPoint
from aps_components.inference.inferer import SeenVolume
from aps_components.models import TwoModels
from aps_components.networks.sam3d import ImageEmbedding

OWN, NO_POINTS, FLIPPED, ZEROED, ZEROED_TOKENS = "own", "no_points", "flipped", "zeroed", "zeroed_tokens"
ALTERATIONS = {
    OWN: "its own points",
    NO_POINTS: "no points",
    FLIPPED: "its own points, each of the next class",
    ZEROED: "its own points, the image embedding zeroed",
    ZEROED_TOKENS: "its own points, the tokens alone zeroed",
}


def answers_by_alteration(
    volume: SeenVolume, network: TwoModels, inferer: PromptedSlidingWindowInferer
) -> dict[str, Tensor]:
    """Model B's probabilities [1, C, D, H, W] of a scan that was seen, with each of :data:`ALTERATIONS`.

    Args:
        volume: what was seen.
        network: in eval mode.
        inferer: over the whole scan.
    """
    flipped = [point._replace(label=(point.label + 1) % network.num_classes) for point in volume.points]

    def answer(seen: SeenVolume, points: Sequence[PromptPoint]) -> Tensor:
        return inferer.answer(seen, network, own=points)[volume.inside]

    return {
        OWN: answer(volume, volume.points),
        NO_POINTS: answer(volume, []),
        FLIPPED: answer(volume, flipped),
        ZEROED: answer(without_image(volume), volume.points),
        ZEROED_TOKENS: answer(without_image(volume, tokens_alone=True), volume.points),
    }


def without_image(volume: SeenVolume, *, tokens_alone: bool = False) -> SeenVolume:
    """The same scan, of which Model B sees nothing: its embedding is 0.

    Args:
        volume: what was seen.
        tokens_alone: leave it the fine features.
    """

    def blind(embedding: ImageEmbedding) -> ImageEmbedding:
        if tokens_alone:
            return embedding._replace(tokens=torch.zeros_like(embedding.tokens))
        parts = embedding._asdict().items()
        zeros = {name: None if part is None else torch.zeros_like(part) for name, part in parts}
        return embedding._replace(**zeros)  # type: ignore[arg-type]

    views = [[seen._replace(embedding=blind(seen.embedding)) for seen in window] for window in volume.seen]
    return volume._replace(seen=views)


def border_band(truth: NDArray[np.integer], *, voxels: float = 8) -> NDArray[np.bool_]:
    """Voxels within some voxels of the true surface, on either side of it.

    Args:
        truth: [D, H, W].
        voxels: reach, between voxel centres: those next to the surface are 1 from the nearest voxel beyond it.
    """
    band = np.zeros(truth.shape, dtype=bool)
    for label in np.unique(truth):
        mask = truth == label
        if not mask.all():
            band |= mask & (ndimage.distance_transform_edt(mask) <= voxels)
    return band
