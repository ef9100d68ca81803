from unittest.mock import patch

import numpy as np
import pytest
import torch
from aps_components.evaluation.uncertainty.listening import PROMPTS, WrongClasses, answers_by_prompts, prompted_by
from workflows import LA

from aps_components.evaluation.trained import load_trained
from aps_components.evaluation.uncertainty.scan import measure_scan
from aps_components.prompts import PointPrompts, PromptGenerator

ANSWERS = "aps_components.evaluation.uncertainty.scan.answers_by_prompts"


@pytest.fixture
def model(phantoms, tiny_checkpoint, tiny_options):
    """With random weights, under which Model A finds points of both classes."""
    return load_trained(LA, dataset_dir=phantoms, checkpoint=tiny_checkpoint(), options=tiny_options | {"overlap": 0})


@pytest.fixture
def image(model):
    return model.preprocessing(model.items[0])["image"].as_tensor()[None]


def test_wrong_classes_are_the_next_ones_and_pads_stay():
    points = PointPrompts(torch.rand(1, 4, 3), torch.tensor([[0, 1, 2, -1]]), torch.rand(1, 4))
    wrong = WrongClasses(lambda _: points, 3)("probabilities")
    assert wrong.point_labels.tolist() == [[1, 2, 0, -1]]
    assert wrong.point_coords is points.point_coords


def test_the_network_gets_its_generator_back_even_after_an_error(model):
    own, other = model.network.prompt_generator, PromptGenerator(points_per_class=0)

    def fail():
        with prompted_by(model.network, other):
            assert model.network.prompt_generator is other
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert model.network.prompt_generator is own


def test_a_network_that_sees_no_prompts_answers_the_same(model, image):
    """Nothing of a point is left in its token: positions and classes are 0. Only whether there are tokens is told."""
    encoder = model.network.model_b.prompt_encoder
    with torch.no_grad():
        encoder.class_embeddings.weight.zero_()
    answers = answers_by_prompts(image, model.network, model.inferer)
    own = model.inferer.predict(image, model.network).probabilities_b
    assert torch.equal(answers["wrong"], own)
    assert not torch.equal(answers["none"], own)


def test_what_other_prompts_change_is_measured(model, image):
    """Without prompts everything stays here; with wrong ones every voxel is of the other class."""
    own = model.inferer.predict(image, model.network).probabilities_b
    with patch(ANSWERS, lambda *_: {"none": own, "wrong": own.flip(1)}):
        figures = measure_scan(model.items[0], model, noises=[0.0], band_mm=4.0, seed=0)["listening"]
    truth = np.asarray(model.preprocessing(model.items[0])["label"][0])
    found = own[0].argmax(dim=0).numpy()
    dice, opposite = (2 * (each & truth).sum() / (each.sum() + truth.sum()) for each in (found, 1 - found))
    expected = {"own": (dice, 0.0), "none": (dice, 0.0), "wrong": (opposite, 1.0)}
    assert list(expected) == list(PROMPTS)
    for name, (score, changed) in expected.items():
        assert figures[name] == {"dice": pytest.approx(score), "changed": changed}
