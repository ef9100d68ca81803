import itertools
import math

import pytest
import torch

from aps_components.uncertainty import (
    decouple,
    entropy,
    expected_entropy,
    mutual_information,
    predictive_entropy,
    propagated_variance,
    softmax_variance,
)

T, B, C, D, H, W = 5, 2, 3, 4, 7, 6


def everywhere(*samples):
    """Samples [T] of probabilities [C] at every voxel, [T, B, C, D, H, W]."""
    return torch.tensor(samples)[:, None, :, None, None, None].expand(-1, B, -1, D, H, W)


def random_samples():
    return torch.randn(T, B, C, D, H, W, generator=torch.Generator().manual_seed(0)).mul(2).softmax(dim=2)


def constant(value):
    return torch.full((B, 1, D, H, W), value)


@pytest.mark.parametrize(
    ("samples", "predictive", "expected", "variance"),
    [
        # two certain samples that disagree: everything is the model's
        (((1.0, 0.0), (0.0, 1.0)), math.log(2), 0.0, 0.5),
        # three that disagree: each class has variance 1/3 - 1/9
        (((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), math.log(3), 0.0, 2 / 3),
        # two that are unsure alike: everything is the data's
        (((0.5, 0.5), (0.5, 0.5)), math.log(2), math.log(2), 0.0),
        # two certain ones that agree
        (((0.0, 1.0), (0.0, 1.0)), 0.0, 0.0, 0.0),
        # one certain, one unsure: H(3/4, 1/4), half of log 2, and 2 * (1/4)^2
        (
            ((1.0, 0.0), (0.5, 0.5)),
            0.75 * math.log(4 / 3) + 0.25 * math.log(4),
            math.log(2) / 2,
            0.125,
        ),
        # T = 1: no disagreement
        (
            ((0.25, 0.75),),
            0.25 * math.log(4) + 0.75 * math.log(4 / 3),
            0.25 * math.log(4) + 0.75 * math.log(4 / 3),
            0.0,
        ),
    ],
)
def test_closed_forms(samples, predictive, expected, variance):
    probabilities = everywhere(*samples)
    torch.testing.assert_close(predictive_entropy(probabilities), constant(predictive))
    torch.testing.assert_close(expected_entropy(probabilities), constant(expected))
    torch.testing.assert_close(mutual_information(probabilities), constant(predictive - expected))
    torch.testing.assert_close(softmax_variance(probabilities), constant(variance))


def test_entropy_over_any_axis():
    probabilities = torch.tensor([[0.5, 1.0], [0.5, 0.0]])
    torch.testing.assert_close(entropy(probabilities, dim=0), torch.tensor([[math.log(2), 0.0]]))
    torch.testing.assert_close(entropy(probabilities, dim=1), torch.tensor([[math.log(2) / 2], [math.log(2) / 2]]))


def test_measures_equal_sums_over_the_samples_and_classes():
    p = random_samples()
    mean = sum(p[t] for t in range(T)) / T
    total = -sum(mean[:, c] * mean[:, c].log() for c in range(C))[:, None]
    own = -sum(p[t, :, c] * p[t, :, c].log() for c in range(C) for t in range(T))[:, None] / T
    spread = sum((p[t, :, c] - mean[:, c]) ** 2 for c in range(C) for t in range(T))[:, None] / T
    torch.testing.assert_close(predictive_entropy(p), total)
    torch.testing.assert_close(expected_entropy(p), own)
    torch.testing.assert_close(softmax_variance(p), spread)
    torch.testing.assert_close(mutual_information(p), total - own, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mutual_information(p) + expected_entropy(p), predictive_entropy(p))


def test_bounds():
    p = random_samples()
    assert (mutual_information(p) > 0).all()
    assert (mutual_information(p) <= predictive_entropy(p)).all()
    assert (predictive_entropy(p) <= math.log(C) + 1e-6).all()


def test_agreeing_samples_are_never_negative():
    same = random_samples()[:1].expand(T, -1, -1, -1, -1, -1)
    assert (mutual_information(same) >= 0).all()
    torch.testing.assert_close(mutual_information(same), constant(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(softmax_variance(same), constant(0.0))


def test_order_of_samples_and_classes_does_not_matter():
    p = random_samples()
    for measure in (predictive_entropy, expected_entropy, mutual_information, softmax_variance):
        torch.testing.assert_close(measure(p[torch.randperm(T)][:, :, torch.randperm(C)]), measure(p))


def test_voxels_are_apart():
    p = everywhere((1.0, 0.0), (1.0, 0.0)).clone()
    p[1, 1, :, 2, 5, 3] = torch.tensor([0.0, 1.0])
    expected = constant(0.0)
    expected[1, 0, 2, 5, 3] = math.log(2)
    torch.testing.assert_close(mutual_information(p), expected)


def test_propagated_variance_is_the_delta_method():
    """The derivative of the softmax by autograd, squared, times the variance."""
    probabilities = random_samples()[:1, :, :, :2, :3, :5]
    logits, variance = probabilities.log(), torch.rand(1, B, 1, 2, 3, 5)
    found = propagated_variance(probabilities, variance)
    for batch, place in itertools.product(range(B), itertools.product(range(2), range(3), range(5))):
        vector = logits[(0, batch, slice(None), *place)]
        jacobian = torch.autograd.functional.jacobian(lambda z: z.softmax(dim=0), vector)
        expected = variance[(0, batch, 0, *place)] * jacobian.square().sum()
        assert found[(batch, 0, *place)].item() == pytest.approx(
            expected.item(), rel=1e-3
        )  # the log has few digits near 1


def test_propagated_variance_is_that_of_noisy_logits():
    probabilities = torch.tensor([0.6, 0.3, 0.1]).reshape(1, 1, 3, 1, 1, 1)
    deviation = 0.05
    noisy = probabilities.log().flatten() + deviation * torch.randn(
        400_000, 3, generator=torch.Generator().manual_seed(0)
    )
    measured = noisy.softmax(dim=1).var(dim=0).sum()
    found = propagated_variance(probabilities, torch.full((1, 1, 1, 1, 1, 1), deviation**2))
    assert found.item() == pytest.approx(measured.item(), rel=0.02)


def test_propagated_variance_keeps_its_digits_where_the_answer_is_almost_certain():
    """Of two classes it is 4 p^2 (1 - p)^2 s2, with p = 1 - 1e-7 here."""
    probabilities = torch.tensor([1 - 1e-7, 1e-7]).reshape(1, 1, 2, 1, 1, 1)
    found = propagated_variance(probabilities, torch.ones(1, 1, 1, 1, 1, 1))
    assert found.item() == pytest.approx(4e-14, rel=1e-4)


def test_propagated_variance_is_zero_where_the_answer_is_certain():
    certain = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1, 1)
    assert propagated_variance(certain, torch.full((1, 1, 1, 1, 1, 1), 9.0)).item() == 0


def test_forms_of_decoupling():
    p = random_samples()
    variance = torch.arange(1.0, T + 1).view(T, 1, 1, 1, 1, 1).expand(T, B, 1, D, H, W)
    published = decouple(p, variance, form="variance")
    torch.testing.assert_close(published.epistemic, softmax_variance(p))
    torch.testing.assert_close(published.aleatoric, constant(3.0))  # mean of 1..5
    propagated = decouple(p, variance, form="propagated")
    assert torch.equal(propagated.epistemic, published.epistemic)
    assert torch.equal(propagated.aleatoric, propagated_variance(p, variance))
    by_entropy = decouple(p, variance, form="entropy")
    torch.testing.assert_close(by_entropy.epistemic, mutual_information(p))
    torch.testing.assert_close(by_entropy.aleatoric, expected_entropy(p))


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="uncertainty form 'std' must be one of"):
        decouple(random_samples(), torch.ones(T, B, 1, D, H, W), form="std")
