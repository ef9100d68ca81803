import pytest
import torch

from aps_components.models import AutoPromptSeg, TwoModels, build_auto_prompt_seg
from aps_components.models.vnet_pair import VNetPair


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return build_auto_prompt_seg(num_classes=3, roi_size=(32, 16, 48), in_channels=2, filters=4, model_b="vnet")


def test_two_networks_of_their_own_learn(pair):
    assert isinstance(pair, VNetPair)
    starts = [torch.cat([p.flatten() for p in model.parameters()]) for model in (pair.model_a, pair.model_b)]
    assert starts[0].shape == starts[1].shape
    assert not torch.equal(*starts)
    output = pair.train().training_forward(torch.randn(2, 2, 32, 16, 48))
    assert output.logits_a.shape == output.logits_b.shape == (2, 3, 32, 16, 48)
    output.logits_b.square().mean().backward()
    assert all(parameter.grad is None for parameter in pair.model_a.parameters())
    heads = [name for name, parameter in pair.model_b.named_parameters() if parameter.grad is None]
    assert all("variance" in name for name in heads)


def test_prediction_holds_both_and_no_points(pair):
    image = torch.randn(1, 2, 32, 16, 48)
    with torch.no_grad():
        prediction = pair.eval().predict(image)
        torch.testing.assert_close(prediction.logits_a, pair.model_a(image).logits)
        torch.testing.assert_close(prediction.logits_b, pair.model_b(image).logits)
    mean = (prediction.logits_a.softmax(1) + prediction.logits_b.softmax(1)) / 2
    torch.testing.assert_close(prediction.logits.softmax(1), mean)
    assert prediction.prompts.point_coords.shape == (1, 0, 3)
    assert prediction.epistemic.shape == (1, 1, 32, 16, 48)


def test_it_is_used_as_the_other_and_has_nothing_of_a_sam(pair):
    assert isinstance(pair, TwoModels)
    assert not isinstance(pair, AutoPromptSeg)
    assert not hasattr(pair, "fusion")
    with torch.no_grad():
        assert pair.eval().see(torch.randn(2, 2, 32, 16, 48)).of(1).logits_a.shape == (1, 3, 32, 16, 48)


def test_model_a_alone(pair):
    output = pair.train().training_forward(torch.randn(1, 2, 32, 16, 48), with_b=False)
    assert output.logits_b is None


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_model_b_alone(norm):
    pair = build_auto_prompt_seg(num_classes=3, roi_size=(32, 16, 48), filters=4, model_b="vnet", norm=norm).train()
    before = {key: value.clone() for key, value in pair.model_a.state_dict().items()}
    output = pair.training_forward(torch.randn(2, 1, 32, 16, 48), with_a=False)
    assert not output.logits_a.requires_grad
    assert output.logits_b.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in pair.model_a.state_dict().items())


def test_an_unknown_model_b_is_refused():
    with pytest.raises(ValueError, match="model_b 'unet' must be 'sam' or 'vnet'"):
        build_auto_prompt_seg(num_classes=2, roi_size=(32, 32, 32), model_b="unet")
