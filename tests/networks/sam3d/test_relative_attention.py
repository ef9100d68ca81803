import pytest
import torch
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn

from aps_components.networks.sam3d.relative_attention import (
    RelativeAttention3d,
    axis_indicators,
    mean_over_cubes,
    relative_positions,
)

GRID = (3, 5, 2)


def _randomise(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


def _explicit(attention: RelativeAttention3d, x: Tensor) -> Tensor:
    """The same attention with its bias written out, tokens x tokens."""
    batch, d, h, w, _ = x.shape
    heads, width = attention.num_heads, attention.head_dim
    q, k, v = attention.qkv(x).view(batch, -1, 3, heads, width).permute(2, 0, 3, 1, 4)
    at = torch.cartesian_prod(torch.arange(d), torch.arange(h), torch.arange(w))  # [N, 3]
    tables = (attention.rel_pos_d, attention.rel_pos_h, attention.rel_pos_w)
    scores = q @ k.mT * width**-0.5
    for axis, (size, table) in enumerate(zip((d, h, w), tables, strict=True)):
        offsets = get_rel_pos(size, size, table)[at[:, None, axis], at[None, :, axis]]  # [N, N, width]
        scores = scores + torch.einsum("bnqc,qkc->bnqk", q, offsets)
    out = scores.softmax(-1) @ v
    return attention.proj(out.transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("table_grid", [GRID, (4, 3, 3)])
def test_equals_an_explicit_bias(table_grid):
    attention = RelativeAttention3d(14, num_heads=2, grid=table_grid)
    _randomise(attention)
    x = torch.randn(2, *GRID, 14)
    torch.testing.assert_close(attention(x), _explicit(attention, x), atol=1e-4, rtol=1e-4)


def test_gradients_equal_those_of_an_explicit_bias():
    attention = RelativeAttention3d(14, num_heads=2, grid=GRID).double()
    _randomise(attention)
    x, weight = torch.randn(2, *GRID, 14).double(), torch.randn(2, *GRID, 14).double()
    parameters = list(attention.parameters())
    ours = torch.autograd.grad((attention(x) * weight).sum(), parameters)
    explicit = torch.autograd.grad((_explicit(attention, x) * weight).sum(), parameters)
    for got, want in zip(ours, explicit, strict=True):
        torch.testing.assert_close(got, want)


def test_equals_the_official_attention_on_one_slice():
    official = Attention(12, num_heads=3, use_rel_pos=True, input_size=(5, 7))
    _randomise(official)
    ours = RelativeAttention3d(12, num_heads=3, grid=(1, 5, 7))
    missing = ours.load_state_dict(official.state_dict(), strict=False)
    assert missing.missing_keys == ["rel_pos_d"]
    x = torch.randn(2, 5, 7, 12)
    torch.testing.assert_close(ours(x[:, None])[:, 0], official(x), atol=1e-4, rtol=1e-4)


def test_merged_keys_have_the_mean_score_and_value_of_their_tokens():
    attention = RelativeAttention3d(14, num_heads=2, grid=GRID, key_stride=2)
    _randomise(attention)
    x = torch.randn(1, *GRID, 14)
    q, k, v = attention.qkv(x).view(1, -1, 3, 2, 7).permute(2, 0, 3, 1, 4)
    at = torch.cartesian_prod(*[torch.arange(extent) for extent in GRID])
    scores = q @ k.mT * 7**-0.5
    for axis, table in enumerate((attention.rel_pos_d, attention.rel_pos_h, attention.rel_pos_w)):
        offsets = relative_positions(table, GRID[axis])[at[:, None, axis], at[None, :, axis]]
        scores = scores + torch.einsum("bnqc,qkc->bnqk", q, offsets)
    cube = (at // 2 * torch.tensor([3, 1, 1])).sum(-1)  # cubes of 2 x 3 x 1, numbered in order
    member = torch.nn.functional.one_hot(cube).float()
    member = member / member.sum(0)  # [N, cubes]
    expected = (scores @ member).softmax(-1) @ (member.T @ v)
    expected = attention.proj(expected.transpose(1, 2).reshape(x.shape))
    torch.testing.assert_close(attention(x), expected, atol=1e-4, rtol=1e-4)


def test_mean_over_cubes_at_the_far_end_counts_only_what_is_there():
    tokens = torch.tensor([1.0, 3.0, 7.0]).view(3, 1)
    assert mean_over_cubes(tokens, (3, 1, 1), stride=2).flatten().tolist() == [2.0, 7.0]


def test_axis_indicators():
    columns = axis_indicators(GRID, like=torch.zeros(()))
    assert columns.shape == (30, 10)
    d, h, w = 2, 1, 1
    expected = torch.zeros(10)
    expected[[d, 3 + h, 3 + 5 + w]] = 1
    assert columns[(d * 5 + h) * 2 + w].equal(expected)


@pytest.mark.parametrize("size", [2, 5, 7])
def test_relative_positions_are_sams(size):
    table = torch.randn(9, 4)
    torch.testing.assert_close(relative_positions(table, size), get_rel_pos(size, size, table))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads 3 must divide dim 14"):
        RelativeAttention3d(14, num_heads=3, grid=GRID)
