import functools

import pytest
import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Block
from torch import nn

from aps_components.networks.sam3d.image_encoder import Block3d, ImageEncoder3d
from aps_components.networks.sam3d.layer_norm import LayerNorm3d

SIZE, GRID = (24, 40, 16), (3, 5, 2)


def _encoder(**changes) -> ImageEncoder3d:
    sizes = {
        "in_channels": 2,
        "embed_dim": 12,
        "depth": 2,
        "num_heads": 3,
        "out_channels": 10,
        "reference_grid": GRID,
        "window_size": 2,
        "global_blocks": (1,),
    }
    return ImageEncoder3d(**{**sizes, **changes})


@pytest.mark.parametrize("size", [SIZE, (16, 8, 56)])
def test_embedding_is_an_eighth_of_the_volume_on_any_grid(size):
    embedding = _encoder()(torch.randn(2, 2, *size))
    assert embedding.shape == (2, 10, *(extent // 8 for extent in size))


def test_size_not_divisible_by_the_stride_is_refused():
    with pytest.raises(ValueError, match=r"\(24, 41, 16\) must be divisible by 8"):
        _encoder()(torch.randn(1, 2, 24, 41, 16))


def test_global_block_beyond_depth_is_refused():
    with pytest.raises(ValueError, match=r"\[5\] must be below depth 2"):
        _encoder(global_blocks=(1, 5))


@pytest.mark.parametrize("window_size", [0, 2])
def test_block_equals_the_official_block_on_one_slice(window_size):
    official = Block(
        12,
        3,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=window_size,
        input_size=(4, 6),
    )
    for parameter in official.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = Block3d(12, num_heads=3, reference_grid=(1, 4, 6), window_size=window_size)
    assert ours.load_state_dict(official.state_dict(), strict=False).missing_keys == ["attn.rel_pos_d"]
    x = torch.randn(2, 4, 6, 12)
    torch.testing.assert_close(ours(x[:, None])[:, 0], official(x), atol=1e-4, rtol=1e-4)


def test_windows_keep_their_tokens_apart():
    block = Block3d(12, num_heads=3, reference_grid=(4, 4, 2), window_size=2)
    x = torch.randn(1, 4, 4, 2, 12)
    changed = x.clone()
    changed[0, 3, 3, 1] += torch.randn(12)
    difference = (block(x) - block(changed)).abs().sum(-1)[0]
    assert (difference[2:, 2:] > 0).all()
    assert (difference[:2] == 0).all()
    assert (difference[:, :2] == 0).all()


def test_layer_norm_is_the_official_one_slice_by_slice():
    official, ours = LayerNorm2d(5), LayerNorm3d(5)
    nn.init.normal_(official.weight)
    nn.init.normal_(official.bias)
    ours.load_state_dict(official.state_dict())
    x = torch.randn(2, 5, 3, 7, 2)
    expected = torch.stack([official(x[:, :, index]) for index in range(3)], dim=2)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
