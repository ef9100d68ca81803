import numpy as np
import pytest
import torch

from aps_components.evaluation.listening import ALTERATIONS, answers_by_alteration, border_band, without_image
from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.models import build_auto_prompt_seg

ROI = (32, 32, 32)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_auto_prompt_seg(
        num_classes=2, roi_size=ROI, filters=4, sam_variant="tiny", prompts={"min_probability": 0.1, "radius": 4}
    ).eval()


@pytest.fixture(scope="module")
def seen(model):
    inferer = PromptedSlidingWindowInferer(ROI, precision="fp32", overlap=0)
    image = torch.randn(1, 1, 17, 24, 40, generator=torch.Generator().manual_seed(0))
    return inferer, inferer.see(image, model), inferer.predict(image, model)


def test_every_alteration_is_an_answer_of_the_scans_size_and_only_its_own_is_inferences(model, seen):
    inferer, volume, prediction = seen
    answers = answers_by_alteration(volume, model, inferer)
    assert list(answers) == list(ALTERATIONS)
    assert torch.equal(answers["own"], prediction.probabilities_b)
    assert {tuple(found.shape) for found in answers.values()} == {(1, 2, 17, 24, 40)}
    for name in ("no_points", "flipped", "zeroed", "zeroed_tokens"):
        assert not torch.equal(answers[name], answers["own"]), name


def test_without_its_image_every_scan_is_the_same(model, seen):
    inferer, volume, _ = seen
    other = inferer.see(torch.randn(1, 1, 17, 24, 40), model)
    one, two = (inferer.answer(without_image(each), model, own=volume.points) for each in (volume, other))
    assert torch.equal(one, two)
    one, two = (
        inferer.answer(without_image(each, tokens_alone=True), model, own=volume.points) for each in (volume, other)
    )
    assert not torch.equal(one, two)  # the fine features are left


def test_a_network_that_cannot_tell_classes_apart_does_not_notice_exchanged_ones(model, seen):
    inferer, volume, _ = seen

    class Deaf:
        num_classes = 2

        def __getattr__(self, name):
            return getattr(model, name)

        def answer(self, seen_window, prompts, **more):
            return model.answer(seen_window, prompts._replace(own_labels=prompts.own_labels.clamp(max=0)), **more)

    answers = answers_by_alteration(volume, Deaf(), inferer)
    assert torch.equal(answers["flipped"], answers["own"])
    assert not torch.equal(answers["no_points"], answers["own"])


def test_the_border_band_is_as_thick_on_either_side():
    truth = np.zeros((40, 5, 7), dtype=np.uint8)
    truth[20:] = 1
    band = border_band(truth, voxels=8)
    assert np.flatnonzero(band[:, 2, 3]).tolist() == list(range(12, 28))
    assert not border_band(np.zeros((5, 6, 7), dtype=np.uint8)).any()
