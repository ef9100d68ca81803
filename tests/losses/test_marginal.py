"""The background of a case in which some classes alone were drawn."""

import pytest
import torch
from torch.nn import functional as F

from aps_components.losses import DiceCrossEntropy, HeteroscedasticCrossEntropy, iou_loss, merged_logits

B, C, D, H, W = 2, 4, 3, 5, 7
NOBODY = torch.zeros(B, C, dtype=torch.bool)


def drawn_in_second(*classes):
    undrawn = NOBODY.clone()
    undrawn[1, [index for index in range(1, C) if index not in classes]] = True
    return undrawn


@pytest.fixture
def logits():
    return torch.randn(B, C, D, H, W, generator=torch.Generator().manual_seed(0), requires_grad=True)


def test_the_background_has_the_sum_of_what_nobody_drew(logits):
    probabilities, merged = logits.softmax(1), merged_logits(logits, drawn_in_second(2)).softmax(1)
    torch.testing.assert_close(merged[0], probabilities[0])
    torch.testing.assert_close(merged[1, 0], probabilities[1, [0, 1, 3]].sum(0))
    torch.testing.assert_close(merged[1, 2], probabilities[1, 2])
    assert not merged[1, [1, 3]].any()


def test_cross_entropy_of_the_background_by_hand():
    logits = torch.tensor([0.2, 0.3, 0.5]).log().view(1, 3, 1, 1, 1).requires_grad_()
    undrawn = torch.tensor([[False, True, False]])
    loss = F.cross_entropy(merged_logits(logits, undrawn), torch.zeros(1, 1, 1, 1, dtype=torch.long))
    assert loss.item() == pytest.approx(-torch.tensor(0.5).log().item())
    loss.backward()
    # Of -log(p0 + p1): p_k - p_k / (p0 + p1) for k = 0 and 1, p2 for the drawn class.
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([0.2 - 0.4, 0.3 - 0.6, 0.5]))


def test_a_class_that_nobody_drew_may_be_there_at_no_cost():
    answer = torch.full((1, 3, D, H, W), -20.0)
    answer[:, 2] = 20.0
    undrawn = torch.tensor([[False, False, True]])
    background = torch.zeros(1, 1, D, H, W, dtype=torch.long)
    supervised = DiceCrossEntropy()
    assert supervised(merged_logits(answer, undrawn), background).item() == pytest.approx(0, abs=1e-4)
    assert supervised(answer, background).item() > 1


def test_noise_is_added_before_classes_are_merged(logits):
    """By hand: of each of two opposite noises the likelihood, in which the background has all that nobody drew."""
    generator, undrawn = torch.Generator().manual_seed(2), drawn_in_second(1)
    label = torch.randint(2, (B, 1, D, H, W), generator=generator)
    variance = 1 + 3 * torch.rand(B, 1, D, H, W, generator=generator)
    torch.manual_seed(7)
    found = HeteroscedasticCrossEntropy()(logits, variance, label, undrawn=undrawn)
    torch.manual_seed(7)
    noise = variance.sqrt() * torch.randn_like(logits)
    likelihoods = []
    for probabilities in ((logits + noise).softmax(1), (logits - noise).softmax(1)):
        background = probabilities[:, :1] + (probabilities * undrawn[:, :, None, None, None]).sum(1, keepdim=True)
        likelihoods.append(torch.where(label == 0, background, probabilities.gather(1, label)))
    torch.testing.assert_close(found, -torch.stack(likelihoods).mean(dim=0).log().mean())


def test_without_noise_it_is_the_cross_entropy_of_merged_classes(logits):
    torch.manual_seed(0)
    label, variance = torch.zeros(B, 1, D, H, W, dtype=torch.long), torch.full((B, 1, D, H, W), 1e-12)
    found = HeteroscedasticCrossEntropy()(logits, variance, label, undrawn=drawn_in_second(1))
    expected = F.cross_entropy(merged_logits(logits, drawn_in_second(1)), label[:, 0])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    found.backward()
    assert logits.grad.isfinite().all()


def test_an_opinion_of_what_nobody_drew_is_not_judged(logits):
    label, mask = torch.zeros(B, 1, D, H, W, dtype=torch.long), torch.ones(B, 1, D, H, W, dtype=torch.bool)
    known = torch.tensor([[True, True, True, True], [False, False, True, False]])
    opinion = torch.full((B, C), 0.3, requires_grad=True)
    iou_loss(opinion, logits.detach(), label, mask, known=known).backward()
    assert torch.equal(opinion.grad != 0, known)
