import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aps_components.networks.feature_fusion import ChannelAlignmentFusion, ConcatenationFusion, build_fusion

B, A_CHANNELS, B_CHANNELS, WIDTH = 2, 5, 7, 6
D, H, W = 3, 4, 2


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def features():
    return torch.randn(B, A_CHANNELS, D, H, W), torch.randn(B, B_CHANNELS, D, H, W)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("a", "b", "cosine"),
    [
        ((1.0, 2.0, -1.0), (3.0, 6.0, -3.0), 1.0),  # parallel
        ((1.0, 2.0, -1.0), (-0.5, -1.0, 0.5), -1.0),  # opposite
        ((1.0, 2.0, -1.0), (2.0, -1.0, 0.0), 0.0),  # orthogonal
        ((3.0, 0.0, 4.0), (1.0, 0.0, 0.0), 0.6),
        ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), 0.0),
    ],
)
def test_gate_is_the_sigmoid_of_the_cosine(a, b, cosine):
    fusion = ChannelAlignmentFusion(3, 3, width=3)
    a, b = (torch.tensor(v).view(1, 3, 1, 1, 1).expand(B, 3, D, H, W) for v in (a, b))
    torch.testing.assert_close(fusion.gate(a, b), torch.full((B, 1, D, H, W), sigmoid(cosine)))


def test_gate_is_made_voxel_by_voxel():
    a = torch.randn(1, 3, D, H, W)
    b = a.clone()
    b[..., 1, 3, 0] *= -2
    gate = ChannelAlignmentFusion(3, 3, width=3).gate(a, b)
    expected = torch.full((1, 1, D, H, W), sigmoid(1))
    expected[..., 1, 3, 0] = sigmoid(-1)
    torch.testing.assert_close(gate, expected)


def test_fusion_equals_its_formula():
    fusion = ChannelAlignmentFusion(A_CHANNELS, B_CHANNELS, width=WIDTH)
    a, b = features()
    fused = fusion(a, b)
    assert fused.shape == (B, B_CHANNELS, D, H, W)
    pa = torch.einsum("oi,bidhw->bodhw", fusion.project_a.weight[..., 0, 0, 0], a)
    pa = pa + fusion.project_a.bias.view(1, -1, 1, 1, 1)
    pb = torch.einsum("oi,bidhw->bodhw", fusion.project_b.weight[..., 0, 0, 0], b)
    pb = pb + fusion.project_b.bias.view(1, -1, 1, 1, 1)
    cosine = (pa * pb).sum(1, keepdim=True) / (pa.norm(dim=1, keepdim=True) * pb.norm(dim=1, keepdim=True))
    gate = 1 / (1 + (-cosine).exp())
    joined = F.conv3d(torch.cat([gate * pa, (1 - gate) * pb], 1), fusion.fuse[0].weight, fusion.fuse[0].bias, padding=1)
    normalised = nn.InstanceNorm3d(B_CHANNELS)(joined)
    torch.testing.assert_close(fused, normalised.clamp_min(0), atol=1e-4, rtol=1e-4)


def test_concatenation_is_the_gate_at_one_half():
    cafa = ChannelAlignmentFusion(A_CHANNELS, B_CHANNELS, width=WIDTH)
    concatenation = ConcatenationFusion(A_CHANNELS, B_CHANNELS, width=WIDTH)
    concatenation.load_state_dict(cafa.state_dict())
    a, b = features()
    assert torch.equal(concatenation.gate(a, b), torch.full((B, 1, D, H, W), 0.5))
    joined = torch.cat([cafa.project_a(a), cafa.project_b(b)], dim=1) / 2
    torch.testing.assert_close(concatenation(a, b), cafa.fuse(joined))
    assert not torch.allclose(concatenation(a, b), cafa(a, b), atol=1e-3)


@pytest.mark.parametrize("kind", ["cafa", "concatenation"])
def test_gradients_reach_both_sides_and_every_parameter(kind):
    fusion = build_fusion(kind, a_channels=A_CHANNELS, b_channels=B_CHANNELS, width=WIDTH)
    a, b = (x.requires_grad_() for x in features())
    fused = fusion(a, b)
    (fused * torch.randn_like(fused)).sum().backward()
    parameters = {"a": a, "b": b} | dict(fusion.named_parameters())
    assert [name for name, p in parameters.items() if p.grad is None or not p.grad.isfinite().all()] == []
    # the norm takes the bias of the convolution before it out again
    assert [name for name, p in parameters.items() if name != "fuse.0.bias" and not p.grad.any()] == []


def test_two_items_are_two_batches_of_one():
    fusion = ChannelAlignmentFusion(A_CHANNELS, B_CHANNELS, width=WIDTH)
    a, b = features()
    alone = torch.cat([fusion(a[i : i + 1], b[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(fusion(a, b), alone, atol=1e-5, rtol=1e-5)


def test_gradient_is_finite_for_features_that_are_zero():
    fusion = ChannelAlignmentFusion(A_CHANNELS, B_CHANNELS, width=WIDTH)
    nn.init.zeros_(fusion.project_a.bias)
    a = torch.zeros(1, A_CHANNELS, D, H, W, requires_grad=True)
    fusion(a, torch.randn(1, B_CHANNELS, D, H, W)).sum().backward()
    assert a.grad.isfinite().all()


def test_bf16_autocast_is_near_float32():
    fusion = ChannelAlignmentFusion(A_CHANNELS, B_CHANNELS, width=WIDTH)
    a, b = features()
    exact = fusion(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        near = fusion(a, b)
    assert (near.float() - exact).std() < 0.05 * exact.std()


def test_kinds_by_name():
    assert build_fusion("none", a_channels=5, b_channels=7) is None
    assert type(build_fusion("cafa", a_channels=5, b_channels=7)) is ChannelAlignmentFusion
    assert type(build_fusion("concatenation", a_channels=5, b_channels=7)) is ConcatenationFusion
    assert build_fusion("cafa", a_channels=5, b_channels=7, width=9).project_a.weight.shape == (9, 5, 1, 1, 1)
    with pytest.raises(ValueError, match=r"fusion 'sum' must be one of .*'cafa', 'concatenation', 'none'"):
        build_fusion("sum", a_channels=5, b_channels=7)
