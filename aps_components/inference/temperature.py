"""Probabilities that are as right as they are sure: one temperature for all voxels of an answer.

Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv:1706.04599). It acts on the answer, after windows are
blended and Models A and B are averaged: on probabilities, whose logarithms are logits. The order of the classes at a
voxel stays, so that no label map changes; Model B's prompts and earlier answers are what they were in training.
"""

from __future__ import annotations

from torch import Tensor

from aps_components.inference.tiles import TiledMaps

LEAST = 1e-7  # a probability below it counts as this much: nothing is known of how much less it is


def calibrated(probabilities: Tensor, temperature: float, *, dim: int) -> Tensor:
    """Probabilities at a temperature: ``p ** (1 / T)``, summing to 1 over ``dim`` again.

    Args:
        probabilities: such as [C, D, H, W] with ``dim=0``.
        temperature: above 1 less sure, below 1 surer; 1 changes nothing.
        dim: the axis of the classes.
    """
    if temperature == 1:
        return probabilities
    return probabilities.clamp_min(LEAST).log().div_(temperature).softmax(dim=dim)


def calibrated_tiles(maps: TiledMaps, temperature: float) -> TiledMaps:
    """The same, tile by tile, kept where the maps are."""
    if temperature == 1:
        return maps
    result = TiledMaps(
        *(maps.store, f"calibrated {maps.name}", maps.tiling),
        channels=maps.channels,
        padding=maps.padding,
        size=maps.size,
    )
    for tile in maps.tiling.tiles:
        result.fill(tile, calibrated(maps.store.get((maps.name, tile)), temperature, dim=0))
    return result
