import pytest
import torch
from torch.nn import functional as F

from aps_components.losses import intersection_over_union, iou_loss

B, C, D, H, W = 2, 3, 5, 4, 7


def line(*values):
    return torch.tensor(values).view(1, 1, 1, 1, -1)


ALL = torch.ones(1, 1, 1, 1, 6, dtype=torch.bool)


def test_by_hand():
    prediction, label = line(0, 0, 1, 1, 1, 2), line(0, 1, 1, 1, 0, 0)
    # class 0: 1 of {0, 1, 4, 5}; class 1: {2, 3} of {1, 2, 3, 4}; class 2: nothing of {5}; class 3: both empty
    iou = intersection_over_union(prediction, label, num_classes=4, mask=ALL)
    torch.testing.assert_close(iou, torch.tensor([[0.25, 0.5, 0.0, 1.0]]))


def test_by_hand_inside_a_mask():
    prediction, label = line(0, 0, 1, 1, 1, 2), line(0, 1, 1, 1, 0, 0)
    mask = line(True, False, True, True, True, False)
    iou = intersection_over_union(prediction, label, num_classes=4, mask=mask)
    torch.testing.assert_close(iou, torch.tensor([[0.5, 2 / 3, 1.0, 1.0]]))


def test_cases_are_apart_and_the_mask_is_that_of_each():
    torch.manual_seed(0)
    prediction, label = torch.randint(0, C, (2, B, 1, D, H, W))
    mask = torch.rand(B, 1, D, H, W) < 0.5
    iou = intersection_over_union(prediction.byte(), label.byte(), num_classes=C, mask=mask)
    assert iou.shape == (B, C)
    for b in range(B):
        for c in range(C):
            mine, true = ({*((x[b] == c) & mask[b]).flatten().nonzero()[:, 0].tolist()} for x in (prediction, label))
            assert iou[b, c].item() == pytest.approx(len(mine & true) / len(mine | true))


def test_empty_mask_counts_as_agreement():
    iou = intersection_over_union(line(0, 1), line(1, 0), num_classes=2, mask=line(False, False))
    assert iou.tolist() == [[1.0, 1.0]]


def test_loss_by_hand():
    label, prediction = line(0, 1, 1, 1, 0, 0), line(0, 0, 1, 1, 1, 0)
    logits = 5 * F.one_hot(prediction[:, 0], 2).movedim(-1, 1).float()
    # true values: class 0 {0, 5} of {0, 1, 4, 5} = 0.5; class 1 {2, 3} of {1, 2, 3, 4} = 0.5
    opinion = torch.tensor([[0.9, 0.2]], requires_grad=True)
    loss = iou_loss(opinion, logits.requires_grad_(), label, ALL)
    assert loss.item() == pytest.approx((0.4**2 + 0.3**2) / 2)
    loss.backward()
    torch.testing.assert_close(opinion.grad, torch.tensor([[0.4, -0.3]]))  # 2 (opinion - truth) / 2
    assert logits.grad is None  # the masks are judged, not taught


def test_loss_of_a_true_opinion_is_nothing():
    label = line(0, 1, 1, 1, 0, 0)
    logits = F.one_hot(label[:, 0], 3).movedim(-1, 1).float()
    assert iou_loss(torch.ones(1, 3).bfloat16(), logits, label, ALL) == 0
