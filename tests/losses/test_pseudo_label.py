import torch
from torch.nn import functional as F

from aps_components.losses import pseudo_label

B, C, D, H, W = 2, 4, 6, 5, 9


def logits_of(label):
    return 3 * F.one_hot(label[:, 0], C).movedim(-1, 1).float()


def label_with_islands():
    label = torch.zeros(B, 1, D, H, W, dtype=torch.long)
    label[0, 0, 0:2, 0:2, 0:2] = 1  # eight voxels
    label[0, 0, 4:6, 3:5, 7] = 1  # four, apart
    label[0, 0, 3, 0, 4] = 2
    label[0, 0, 3, 4, 4:6] = 2
    label[1, 0, 1, 1, 1] = 1
    label[1, 0, 5, 4, 8] = 3
    return label


def test_is_the_most_likely_class():
    torch.manual_seed(0)
    logits = torch.randn(B, C, D, H, W)
    label = pseudo_label(logits.requires_grad_(), largest_component=False)
    assert label.shape == (B, 1, D, H, W)
    assert torch.equal(label[:, 0], logits.argmax(dim=1))
    assert not label.requires_grad
    assert not label.is_floating_point()


def test_keeps_the_largest_part_of_each_class_and_case():
    label = label_with_islands()
    assert torch.equal(pseudo_label(logits_of(label), largest_component=False), label)
    expected = label.clone()
    expected[0, 0, 4:6, 3:5, 7] = 0
    expected[0, 0, 3, 0, 4] = 0
    kept = pseudo_label(logits_of(label))
    assert torch.equal(kept, expected)
    assert kept.dtype == label.dtype


def test_two_cases_are_two_batches_of_one():
    torch.manual_seed(0)
    logits = F.avg_pool3d(torch.randn(B, C, D, H, W), 3, stride=1, padding=1)
    alone = torch.cat([pseudo_label(logits[b : b + 1]) for b in range(B)])
    assert torch.equal(pseudo_label(logits), alone)


def test_background_only():
    logits = torch.zeros(B, C, D, H, W)
    logits[:, 0] = 1
    assert not pseudo_label(logits).any()
