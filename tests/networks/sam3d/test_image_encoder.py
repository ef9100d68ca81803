import functools
import re

import pytest
import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Block
from torch import nn

from aps_components.networks.sam3d.image_encoder import Block3d, ImageEmbedding, ImageEncoder3d
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
    assert embedding.tokens.shape == (2, 10, *(extent // 8 for extent in size))
    assert embedding[1:] == (None, None, None)


@pytest.mark.parametrize(
    ("strides", "size", "half", "quarter", "tokens"),
    [
        (((2, 2, 2),) * 3, (24, 40, 16), (12, 20, 8), (6, 10, 4), (3, 5, 2)),
        (((2, 2, 1),) * 3, (24, 40, 7), (12, 20, 7), (6, 10, 7), (3, 5, 7)),
        (((2, 2, 1), (2, 2, 1), (2, 2, 2)), (24, 40, 14), (12, 20, 14), (6, 10, 14), (3, 5, 7)),
        (((1, 2, 2), (2, 2, 2), (2, 2, 2)), (12, 40, 56), (12, 20, 28), (6, 10, 14), (3, 5, 7)),
    ],
)
def test_every_level_has_its_strides(strides, size, half, quarter, tokens):
    image = torch.randn(2, 2, *size)
    embedding = _encoder(stem_channels=(4, 6), strides=strides, reference_grid=tokens)(image)
    assert embedding.half.shape == (2, 4, *half)
    assert embedding.quarter.shape == (2, 6, *quarter)
    assert embedding.tokens.shape == (2, 10, *tokens)
    assert embedding.image is image


def test_kernels_along_thick_slices_see_no_neighbours():
    """With strides and kernels of 1 along the last axis, what the stem sees in a slice is of that slice alone."""
    kernels = ((3, 3, 1),) * 3
    encoder = _encoder(stem_channels=(4, 6), strides=((2, 2, 1),) * 3, kernel_sizes=kernels, reference_grid=(3, 5, 7))
    changes = []
    encoder.stem.to_half[0].register_forward_hook(lambda *call: changes.append(call[-1]))  # before its norm
    image = torch.randn(1, 2, 24, 40, 7)
    changed = image.clone()
    changed[..., 3] += torch.randn(24, 40)
    encoder(image)
    encoder(changed)
    moved = (changes[0] != changes[1]).any(dim=(0, 1, 2, 3))
    assert moved.tolist() == [False, False, False, True, False, False, False]


def test_the_stem_reaches_the_tokens():
    encoder = _encoder(stem_channels=(4, 6))
    image = torch.randn(1, 2, *SIZE)
    before = encoder(image).tokens
    torch.nn.init.zeros_(encoder.stem.to_tokens.weight)
    assert not torch.allclose(encoder(image).tokens, before, atol=1e-3)


def test_embedding_of_some_of_the_volumes():
    whole = _encoder(stem_channels=(4, 6))(torch.randn(5, 2, *SIZE))
    some = whole.of(torch.tensor([4, 1]))
    for part, expected in zip(some, whole, strict=True):
        assert torch.equal(part, torch.stack([expected[4], expected[1]]))
    without = ImageEmbedding(whole.tokens).of(torch.tensor([2]))
    assert torch.equal(without.tokens, whole.tokens[2:3])
    assert without[1:] == (None, None, None)


@pytest.mark.parametrize(
    ("strides", "size", "stride"),
    [
        (((2, 2, 2),) * 3, (24, 41, 16), (8, 8, 8)),
        (((2, 2, 1),) * 3, (24, 44, 7), (8, 8, 1)),
        (((2, 2, 1), (2, 2, 1), (2, 2, 2)), (24, 40, 7), (8, 8, 2)),
    ],
)
def test_size_not_divisible_by_the_stride_is_refused(strides, size, stride):
    with pytest.raises(ValueError, match=re.escape(f"{size} must be divisible by {stride}")):
        _encoder(strides=strides)(torch.randn(1, 2, *size))


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
