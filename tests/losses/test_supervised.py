import math

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional as F

from aps_components.losses import DiceCrossEntropy

B, C, D, H, W = 2, 3, 5, 4, 7


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_case():
    return torch.randn(B, C, D, H, W), torch.randint(0, C, (B, 1, D, H, W))


def random_mask():
    return torch.rand(B, 1, D, H, W) < 0.4


def two_voxels():
    """Class 1 has probability 0.8 where it is true and 0.4 where it is not."""
    probability = torch.tensor([0.8, 0.4])
    logits = torch.stack([(1 - probability).log(), probability.log()]).view(1, 2, 1, 1, 2)
    return logits, torch.tensor([1, 0]).view(1, 1, 1, 1, 2)


def test_by_hand():
    cross_entropy = -(math.log(0.8) + math.log(0.6)) / 2
    dice = 1 - 2 * 0.8 / (0.8 + 0.4 + 1)
    for ce_weight, dice_weight in ((1.0, 0.0), (0.0, 1.0), (0.6, 1.4)):
        loss = DiceCrossEntropy(ce_weight=ce_weight, dice_weight=dice_weight)(*two_voxels())
        assert loss.item() == pytest.approx(ce_weight * cross_entropy + dice_weight * dice, abs=1e-5)
    assert DiceCrossEntropy()(*two_voxels()).item() == pytest.approx(0.6 * cross_entropy + 1.4 * dice, abs=1e-5)


def test_by_hand_inside_a_mask():
    mask = torch.tensor([True, False]).view(1, 1, 1, 1, 2)
    expected = 0.6 * -math.log(0.8) + 1.4 * (1 - 2 * 0.8 / (0.8 + 1))
    assert DiceCrossEntropy()(*two_voxels(), mask).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("ce_weight", "dice_weight"), [(0.6, 1.4), (1.0, 0.5)])
def test_without_a_mask_is_monais(ce_weight, dice_weight):
    logits, label = random_case()
    monai = DiceCELoss(
        to_onehot_y=True,
        softmax=True,
        include_background=False,
        batch=True,
        lambda_ce=ce_weight,
        lambda_dice=dice_weight,
    )
    ours = DiceCrossEntropy(ce_weight=ce_weight, dice_weight=dice_weight)
    torch.testing.assert_close(ours(logits, label), monai(logits, label))
    torch.testing.assert_close(ours(logits, label, torch.ones_like(label, dtype=torch.bool)), monai(logits, label))


def test_masked_loss_is_that_of_the_voxels_inside():
    logits, label = random_case()
    mask = random_mask()
    inside = logits.movedim(1, -1)[mask[:, 0]].T[None, :, None, None]  # [1, C, 1, 1, N]
    expected = DiceCrossEntropy()(inside, label[mask][None, None, None, None])
    torch.testing.assert_close(DiceCrossEntropy()(logits, label, mask), expected)


def test_several_regions_at_once_are_each_by_itself():
    logits, label = random_case()
    mask, loss = random_mask(), DiceCrossEntropy(class_weights=[1, 2, 3])
    together = loss.by_region(logits, label, [mask, None, ~mask])
    for value, region in zip(together, (mask, None, ~mask), strict=True):
        torch.testing.assert_close(value, loss(logits, label, region))


def test_what_lies_outside_the_mask_has_no_part():
    logits, label = random_case()
    mask = random_mask()
    results = []
    for other in (False, True):
        given = torch.where(mask | (not other), logits, 50 * torch.randn_like(logits)).requires_grad_()
        truth = torch.where(mask | (not other), label, (label + 1) % C)
        loss = DiceCrossEntropy()(given, truth, mask)
        loss.backward()
        results.append((loss.detach(), given.grad))
    torch.testing.assert_close(results[0], results[1])
    assert (results[1][1].masked_select(~mask) == 0).all()
    assert (results[1][1].masked_select(mask) != 0).any()


def test_empty_mask_gives_nothing():
    logits, label = random_case()
    loss = DiceCrossEntropy()(logits.requires_grad_(), label, torch.zeros(B, 1, D, H, W, dtype=torch.bool))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_item_with_an_empty_mask_adds_nothing():
    logits, label = random_case()
    mask = torch.tensor([True, False]).view(2, 1, 1, 1, 1).expand(B, 1, D, H, W)
    torch.testing.assert_close(DiceCrossEntropy()(logits, label, mask), DiceCrossEntropy()(logits[:1], label[:1]))


def test_class_weights_scale_each_voxel_by_its_class():
    logits, label = random_case()
    mask, weights = random_mask(), torch.tensor([0.5, 2.0, 7.0])
    loss = DiceCrossEntropy(ce_weight=1, dice_weight=0, class_weights=weights.tolist())
    per_voxel = -logits.log_softmax(1).gather(1, label) * weights[label]
    torch.testing.assert_close(loss(logits, label), per_voxel.mean())
    torch.testing.assert_close(loss(logits, label, mask), per_voxel[mask].mean())
    assert loss.state_dict() == {}  # a setting, not a weight
    dice, weighted = (
        DiceCrossEntropy(ce_weight=0, dice_weight=1, class_weights=given)(logits, label) for given in (None, [1, 2, 3])
    )
    torch.testing.assert_close(weighted, dice)


def test_perfect_prediction_costs_nothing_and_a_wrong_one_much():
    _, label = random_case()
    right = 40 * F.one_hot(label[:, 0], C).movedim(-1, 1).float()
    assert DiceCrossEntropy()(right, label).item() == pytest.approx(0, abs=1e-5)
    assert DiceCrossEntropy()(right, (label + 1) % C).item() == pytest.approx(0.6 * 40 + 1.4, abs=1e-3)


def test_bf16_logits_and_byte_labels():
    logits, label = random_case()
    loss = DiceCrossEntropy()(logits.bfloat16(), label.byte())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, DiceCrossEntropy()(logits.bfloat16().float(), label))
