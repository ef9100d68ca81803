import math

import pytest
import torch
from torch.nn import functional as F

from aps_components.losses import HeteroscedasticCrossEntropy

B, C, D, H, W = 2, 3, 5, 4, 7


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_case():
    logits, label = 2 * torch.randn(B, C, D, H, W), torch.randint(0, C, (B, 1, D, H, W))
    return logits, label


def variance_of(value):
    return torch.full((B, 1, D, H, W), value)


def loss_at(logits, variance, label, samples=400):
    return HeteroscedasticCrossEntropy(samples=samples)(logits, variance_of(variance), label).item()


@pytest.mark.parametrize("samples", [2, 6])
def test_without_noise_it_is_cross_entropy(samples):
    logits, label = random_case()
    loss = HeteroscedasticCrossEntropy(samples=samples)
    torch.testing.assert_close(loss(logits, variance_of(1e-14), label), F.cross_entropy(logits, label[:, 0]))
    torch.testing.assert_close(loss(logits, variance_of(0.0), label), F.cross_entropy(logits, label[:, 0]))


def test_one_antithetic_pair_by_hand():
    logits, label = random_case()
    variance = torch.rand(B, 1, D, H, W)
    torch.manual_seed(5)
    loss = HeteroscedasticCrossEntropy()(logits, variance, label)
    torch.manual_seed(5)
    noise = variance.sqrt() * torch.randn(B, C, D, H, W)
    likelihood = sum((logits + sign * noise).softmax(1).gather(1, label) for sign in (1, -1)) / 2
    torch.testing.assert_close(loss, -likelihood.log().mean())


def test_many_samples_approach_the_integral():
    """Two classes, deviation s: the likelihood is the mean of sigmoid(gap + sqrt(2) s z) over normal z."""
    gap, variance = 1.5, 4.0
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    exact = -math.log(torch.trapezoid(torch.sigmoid(gap + math.sqrt(2 * variance) * z) * density, z).item())
    logits = torch.tensor([0.0, gap]).view(1, 2, 1, 1, 1).expand(B, 2, D, H, W)
    loss = loss_at(logits, variance, torch.ones(B, 1, D, H, W, dtype=torch.long), samples=2000)
    assert loss == pytest.approx(exact, rel=0.01)


def test_noise_forgives_the_wrong_and_taxes_the_right():
    logits = torch.zeros(B, C, D, H, W)
    logits[:, 1] = 6.0
    wrong, right = (torch.full((B, 1, D, H, W), label) for label in (2, 1))
    wrong_losses, right_losses = ([loss_at(logits, v, label) for v in (0.0, 2.0, 20.0)] for label in (wrong, right))
    assert wrong_losses == sorted(wrong_losses, reverse=True)
    assert right_losses == sorted(right_losses)
    assert wrong_losses[2] < 0.7 * wrong_losses[0]


def test_gradient_reaches_variance_with_the_right_sign():
    logits = torch.zeros(B, C, D, H, W)
    logits[:, 1] = 6.0
    label = torch.ones(B, 1, D, H, W, dtype=torch.long)
    label[0] = 2  # the first case is wrong everywhere
    logits.requires_grad_()
    variance = variance_of(2.0).requires_grad_()
    HeteroscedasticCrossEntropy(samples=200)(logits, variance, label).backward()
    assert (variance.grad[0] < 0).all()  # descent raises it
    assert (variance.grad[1] > 0).all()
    assert logits.grad.any()


def test_variance_that_underflows_has_a_finite_gradient():
    raw = torch.full((B, 1, D, H, W), -120.0, requires_grad=True)  # softplus gives 0 in float32
    logits, label = random_case()
    HeteroscedasticCrossEntropy()(logits, F.softplus(raw), label).backward()
    assert raw.grad.isfinite().all()


def test_huge_logits_and_variance_stay_finite():
    logits, label = random_case()
    variance = variance_of(1e6).requires_grad_()
    loss = HeteroscedasticCrossEntropy()(1e4 * logits, variance, label)
    loss.backward()
    assert loss.isfinite()
    assert variance.grad.isfinite().all()


def test_mask_picks_the_voxels():
    logits, label = random_case()
    mask = torch.rand(B, 1, D, H, W) < 0.3
    per_voxel = F.cross_entropy(logits, label[:, 0], reduction="none")
    loss = HeteroscedasticCrossEntropy()
    torch.testing.assert_close(loss(logits, variance_of(0.0), label, mask), per_voxel[mask[:, 0]].mean())
    variance = variance_of(1.0).requires_grad_()
    loss(logits.requires_grad_(), variance, label, mask).backward()
    assert (variance.grad[~mask] == 0).all()
    assert (logits.grad.masked_select(~mask) == 0).all()
    assert (variance.grad[mask] != 0).all()


def test_empty_mask_gives_nothing():
    logits, label = random_case()
    variance = variance_of(1.0).requires_grad_()
    loss = HeteroscedasticCrossEntropy()(logits, variance, label, torch.zeros(B, 1, D, H, W, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not variance.grad.any()


def test_half_precision_is_computed_in_float32():
    logits, label = random_case()
    loss = HeteroscedasticCrossEntropy()(logits.bfloat16(), variance_of(1.0).bfloat16(), label.byte())
    assert loss.dtype == torch.float32


def test_stride_takes_one_voxel_of_each_cube():
    logits, label = random_case()
    loss = HeteroscedasticCrossEntropy(stride=3)
    per_voxel = F.cross_entropy(logits, label[:, 0], reduction="none")
    means = [per_voxel[:, d::3, h::3, w::3].mean() for d in range(3) for h in range(3) for w in range(3)]
    seen = set()
    for _ in range(300):
        value = loss(logits, variance_of(0.0), label)
        near = [index for index, mean in enumerate(means) if torch.isclose(value, mean, rtol=1e-5)]
        assert len(near) == 1
        seen.update(near)
    assert seen == set(range(27))


def test_stride_thins_the_mask_alike():
    logits, label = random_case()
    mask = torch.rand(B, 1, D, H, W) < 0.5
    variance = variance_of(1e-12).requires_grad_()
    loss = HeteroscedasticCrossEntropy(stride=2)(logits.requires_grad_(), variance, label, mask)
    loss.backward()
    counted = variance.grad != 0
    assert not (counted & ~mask).any()
    d, h, w = counted.nonzero()[:, 2:].remainder(2).unique(dim=0)[0].tolist()
    chosen = torch.zeros_like(mask)
    chosen[..., d::2, h::2, w::2] = True
    per_voxel = F.cross_entropy(logits, label[:, 0], reduction="none")[:, None]
    torch.testing.assert_close(loss, per_voxel[chosen & mask].mean())


def test_stride_wider_than_the_volume():
    logits, label = random_case()
    assert HeteroscedasticCrossEntropy(stride=50)(logits, variance_of(1.0), label).isfinite()


def test_stride_that_is_none_is_refused():
    with pytest.raises(ValueError, match="stride 0 must be at least 1"):
        HeteroscedasticCrossEntropy(stride=0)


@pytest.mark.parametrize("samples", [0, 1, 3, -2])
def test_odd_samples_are_refused(samples):
    with pytest.raises(ValueError, match=f"samples {samples} must be even"):
        HeteroscedasticCrossEntropy(samples=samples)
