import math

import pytest
import torch

from aps_components.inference.temperature import calibrated, calibrated_tiles
from aps_components.inference.tiles import TiledMaps, TileStore, Tiling

C, D, H, W = 3, 17, 24, 40


def probabilities():
    return torch.randn(C, D, H, W, generator=torch.Generator().manual_seed(0)).mul(4).softmax(dim=0)


def test_two_classes_are_divided_in_logits():
    found = calibrated(torch.tensor([[0.9], [0.1]]), 2.0, dim=0)
    odds = math.sqrt(9)
    torch.testing.assert_close(found, torch.tensor([[odds / (1 + odds)], [1 / (1 + odds)]]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.3636])
def test_the_order_of_the_classes_stays_and_they_sum_to_one(temperature):
    before = probabilities()
    after = calibrated(before, temperature, dim=0)
    assert torch.equal(after.argmax(dim=0), before.argmax(dim=0))
    torch.testing.assert_close(after.sum(dim=0), torch.ones(D, H, W))
    sure = after.amax(dim=0).mean() - before.amax(dim=0).mean()
    assert sure.sign() == math.copysign(temperature != 1, 1 - temperature)


def test_tiles_hold_what_the_whole_does_and_the_first_ones_stay():
    windows = [(slice(0, 17), slice(0, 24), slice(0, 30)), (slice(0, 17), slice(0, 24), slice(20, 40))]
    tiling, whole = Tiling(windows), probabilities()
    maps = TiledMaps(TileStore(budget=10_000), "answer", tiling, channels=C, size=(D, H, W))
    for tile in tiling.tiles:
        maps.fill(tile, whole[(slice(None), *tiling.place(tile))].clone())
    torch.testing.assert_close(calibrated_tiles(maps, 2.0).whole(), calibrated(whole, 2.0, dim=0))
    assert torch.equal(maps.whole(), whole)
    assert calibrated_tiles(maps, 1.0) is maps
