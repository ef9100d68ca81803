import pytest
import torch

from aps_components.losses import softmax_mse

B, C, D, H, W = 2, 3, 5, 4, 7


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def probabilities():
    return torch.randn(B, C, D, H, W).softmax(dim=1)


def test_closed_form():
    certain = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1).expand(B, 2, D, H, W)
    unsure = torch.tensor([0.7, 0.3]).view(1, 2, 1, 1, 1).expand(B, 2, D, H, W)
    assert softmax_mse(certain, unsure).item() == pytest.approx(0.09)
    assert softmax_mse(certain, 1 - certain).item() == pytest.approx(1.0)
    assert softmax_mse(certain, certain) == 0


def test_target_is_detached_and_the_gradient_is_the_difference():
    student, teacher = probabilities().requires_grad_(), probabilities().requires_grad_()
    softmax_mse(student, teacher).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / student.numel())


def test_without_detaching_each_side_learns_from_the_other():
    one, other = probabilities().requires_grad_(), probabilities().requires_grad_()
    softmax_mse(one, other, detach=False).backward()
    torch.testing.assert_close(one.grad, 2 * (one - other).detach() / one.numel())
    torch.testing.assert_close(other.grad, -one.grad)


def test_mask_is_the_mean_over_its_voxels():
    student, teacher = probabilities().requires_grad_(), probabilities()
    mask = torch.rand(B, 1, D, H, W) < 0.3
    loss = softmax_mse(student, teacher, mask)
    expected = torch.stack([(student[:, c] - teacher[:, c])[mask[:, 0]] ** 2 for c in range(C)]).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (student.grad.masked_select(~mask) == 0).all()
    torch.testing.assert_close(softmax_mse(student, teacher, torch.ones_like(mask)), softmax_mse(student, teacher))


def test_empty_mask_gives_nothing():
    student = probabilities().requires_grad_()
    loss = softmax_mse(student, probabilities(), torch.zeros(B, 1, D, H, W, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not student.grad.any()
