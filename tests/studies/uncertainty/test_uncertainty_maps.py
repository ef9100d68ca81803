import numpy as np
import pytest
import torch

from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.models import build_auto_prompt_seg
from aps_components.studies.uncertainty.maps import SAMPLED, every_map, sampled_maps
from aps_components.uncertainty import DEFINITIONS, MonteCarloSamples, decouple, expected_entropy, propagated_variance

T, B, C = 3, 2, 4
SIZE = (2, 3, 5)


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(T, B, C, *SIZE, generator=generator)
    return MonteCarloSamples(logits.softmax(dim=2), torch.rand(T, B, 1, *SIZE, generator=generator))


def test_channels_are_the_forms_that_the_network_knows(samples):
    undropped = MonteCarloSamples(*(part[:1].flip(-1) for part in samples))
    maps = dict(zip(SAMPLED, sampled_maps(samples, undropped).split(1, dim=1), strict=True))
    for name in SAMPLED:
        definition = DEFINITIONS[name]
        if definition.form:
            decoupled = decouple(*samples, form=definition.form)
            expected = decoupled.aleatoric if definition.kind == "aleatoric" else decoupled.epistemic
            assert torch.equal(maps[name], expected), name
    assert torch.equal(maps["entropy_undropped"], expected_entropy(undropped.probabilities))
    assert torch.equal(maps["propagated_undropped"], propagated_variance(*undropped))
    torch.testing.assert_close(maps["mutual_information"] + maps["expected_entropy"], maps["predictive_entropy"])


@pytest.mark.parametrize("form", ["variance", "propagated", "entropy", "predictive_entropy"])
def test_maps_are_those_of_inference_voxel_for_voxel(form):
    torch.manual_seed(0)
    network = build_auto_prompt_seg(
        num_classes=3, roi_size=(32, 16, 16), filters=4, sam_variant="tiny", uncertainty_form=form
    ).eval()
    inferer = PromptedSlidingWindowInferer((32, 16, 16), overlap=0.25, precision="fp32")
    image = torch.randn(1, 1, 17, 24, 40)
    plain, (prediction, maps) = inferer.predict(image, network), every_map(image, network, inferer)
    for name, definition in DEFINITIONS.items():
        assert maps[name].shape == (17, 24, 40)
        if definition.form == form:
            kind = "aleatoric" if definition.kind == "aleatoric" else "epistemic"
            np.testing.assert_array_equal(maps[name], getattr(plain, kind)[0, 0].numpy())
    assert torch.equal(prediction.probabilities, plain.probabilities)
    assert prediction.prompts == plain.prompts
    assert set(maps) == set(DEFINITIONS)
    np.testing.assert_array_equal(maps["least_confidence"], 1 - plain.probabilities[0].amax(dim=0).numpy())


def test_without_dropout_the_windows_see_the_whole_of_model_a():
    """One window: the maps follow from Model A's own output."""
    torch.manual_seed(0)
    network = build_auto_prompt_seg(num_classes=3, roi_size=(32, 16, 16), filters=4, sam_variant="tiny").eval()
    image = torch.randn(1, 1, 32, 16, 16)
    _, maps = every_map(image, network, PromptedSlidingWindowInferer((32, 16, 16), precision="fp32"))
    with torch.inference_mode():
        whole = network.model_a(image)
    probabilities = whole.logits.softmax(dim=1)[None]
    expected = propagated_variance(probabilities, whole.variance[None])[0, 0].numpy()
    np.testing.assert_allclose(maps["propagated_undropped"], expected, rtol=1e-4)
    np.testing.assert_allclose(maps["entropy_undropped"], expected_entropy(probabilities)[0, 0].numpy(), rtol=1e-4)
