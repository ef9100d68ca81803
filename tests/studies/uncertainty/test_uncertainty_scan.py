import json
import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from workflows import LA

from aps_components.evaluation.listening import ALTERATIONS
from aps_components.evaluation.surface_band import surface_band
from aps_components.evaluation.trained import load_trained
from aps_components.inference import PromptPoint, VolumePrediction
from aps_components.studies.uncertainty.scan import measure_scan
from aps_components.uncertainty import DEFINITIONS

EVERY_MAP = "aps_components.studies.uncertainty.scan.every_map"


@pytest.fixture
def model(phantoms, tiny_checkpoint, tiny_options):
    return load_trained(LA, dataset_dir=phantoms, checkpoint=tiny_checkpoint(), options=tiny_options)


def truth_of(model):
    return np.asarray(model.preprocessing(model.items[0])["label"][0])


def as_probabilities(label_map, confidence):
    foreground = torch.where(torch.from_numpy(label_map) == 1, confidence, 1 - confidence)
    return torch.stack([1 - foreground, foreground])[None]


def measured(model, *, answer, maps, points=(), confidence=0.9, noises=(0.0,)):
    """With a network that gives this answer, these maps and points whatever the image, and notes the images."""
    probabilities, images = as_probabilities(answer, confidence), []
    nothing = torch.zeros(1, 1, *answer.shape)

    def every_map(image, network, inferer):
        images.append(image.clone())
        prediction = VolumePrediction(probabilities, probabilities, probabilities, nothing, nothing, list(points))
        return prediction, maps if isinstance(maps, dict) else maps(image)

    with patch(EVERY_MAP, every_map):
        return measure_scan(model.items[0], model, noises=noises, band_mm=4.0, seed=3), images


def test_a_map_of_the_errors_finds_them_and_one_of_nothing_does_not(model):
    truth = truth_of(model)
    answer = truth.copy()
    answer[tuple(np.argwhere(truth == 1)[0])] = 0
    answer[0, 0, 0] = 1  # far away: outside a band around the truth, inside one around the answer
    error = (answer != truth).astype(np.float32)
    maps = dict.fromkeys(DEFINITIONS, np.zeros_like(error)) | {"softmax_variance": error, "noise_variance": -error}
    figures, _ = measured(model, answer=answer, maps=maps)
    found = figures["detection"]
    for area in ("all", "band"):
        assert (found["softmax_variance"][area]["auroc"], found["softmax_variance"][area]["e_aurc"]) == (1, 0)
        assert found["noise_variance"][area]["auroc"] == 0
        assert found["mutual_information"][area]["auroc"] == 0.5
        assert found["mutual_information"][area]["aurc"] == pytest.approx(
            found["mutual_information"][area]["error_rate"]
        )
    spacing = [float(size) for size in model.preprocessing(model.items[0])["image"].pixdim]
    band = surface_band(truth, answer, reach_mm=4.0, spacing=spacing)
    assert found["softmax_variance"]["band"]["error_rate"] == pytest.approx(2 / band.sum())
    assert found["softmax_variance"]["all"]["error_rate"] == pytest.approx(2 / truth.size)
    assert found["softmax_variance"]["all"]["risk"][-1] == pytest.approx(2 / truth.size)
    dice = 2 * (truth.sum() - 1) / (2 * truth.sum())
    assert figures["levels"][0]["dice"] == pytest.approx(dice)


def test_calibration_is_that_of_the_confidence(model):
    """Sure to 0.9 and always right: 0.1 off, everywhere."""
    truth = truth_of(model)
    figures, _ = measured(model, answer=truth, maps=dict.fromkeys(DEFINITIONS, np.zeros(truth.shape)))
    for predictor in ("a", "b", "average"):
        for area in ("all", "band"):
            entry = figures["calibration"][predictor][area]
            assert entry["ece"] == pytest.approx(0.1, abs=1e-6)
            assert entry["overconfidence"] == pytest.approx(-0.1, abs=1e-6)
    assert math.isnan(figures["detection"]["softmax_variance"]["all"]["auroc"])


def test_prompts_are_counted_by_class(model):
    truth = truth_of(model)
    inside, outside = (tuple(map(int, np.argwhere(truth == value)[0])) for value in (1, 0))
    points = [PromptPoint(1, inside, 0.9), PromptPoint(1, outside, 0.8), PromptPoint(0, outside, 0.7)]
    figures, _ = measured(model, answer=truth, maps=dict.fromkeys(DEFINITIONS, np.zeros(truth.shape)), points=points)
    assert figures["prompts"] == {
        "background": {"points": 1, "precision": 1.0},
        "left atrium": {"points": 2, "precision": 0.5},
    }


def test_noise_is_added_to_the_normalised_image_and_read_off_near_the_true_surface(model):
    truth = truth_of(model)

    def maps(image):
        return dict.fromkeys(DEFINITIONS, image[0, 0].square().numpy())

    noises = (0.0, 0.5, 1.0)
    figures, images = measured(model, answer=np.zeros_like(truth), maps=maps, noises=noises)
    clean = model.preprocessing(model.items[0])["image"].as_tensor()[None]
    assert torch.equal(images[0], clean)
    noise = images[2] - clean
    torch.testing.assert_close(images[1] - clean, noise / 2, atol=1e-5, rtol=0)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    spacing = [float(size) for size in model.preprocessing(model.items[0])["image"].pixdim]
    band = surface_band(truth, reach_mm=4.0, spacing=spacing)
    for level, image in zip(figures["levels"], images, strict=True):
        expected = image[0, 0].double().square().numpy()[band].mean()
        assert level["mean"]["noise_variance"] == pytest.approx(expected, rel=1e-6)
    assert [level["noise"] for level in figures["levels"]] == list(noises)


def test_a_real_network_gives_the_same_figures_twice_and_they_are_json(phantoms, tiny_checkpoint, tiny_options):
    checkpoint = tiny_checkpoint(spacing=[2.0, 2.0, 2.0])  # a scan is one window
    model = load_trained(LA, dataset_dir=phantoms, checkpoint=checkpoint, options=tiny_options)
    arguments = {"noises": (0.0, 0.3), "band_mm": 4.0, "seed": 0}
    first, again = (measure_scan(model.items[0], model, **arguments) for _ in range(2))
    assert json.dumps(first) == json.dumps(again)
    assert first["levels"][0]["mean"] != first["levels"][1]["mean"]
    alone = measure_scan(model.items[0], model, **arguments | {"noises": (0.0,)})
    assert alone["detection"] == first["detection"]
    assert measure_scan(model.items[0], model, **arguments | {"seed": 1})["levels"][1] != first["levels"][1]


def test_what_other_prompts_and_no_image_change_is_measured(model):
    """Without points everything stays here; with wrong ones, or without an image, every voxel is of the other class."""
    truth = truth_of(model)
    own = torch.rand(1, 2, *truth.shape, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    answers = {name: own if name in ("own", "no_points") else own.flip(1) for name in ALTERATIONS}
    with patch("aps_components.studies.uncertainty.scan.answers_by_alteration", lambda *_: answers):
        figures, _ = measured(model, answer=truth, maps=dict.fromkeys(DEFINITIONS, np.zeros(truth.shape)))
    found = own[0].argmax(dim=0).numpy()
    dice, opposite = (2 * (each & truth).sum() / (each.sum() + truth.sum()) for each in (found, 1 - found))
    for name, entry in figures["listening"].items():
        kept = name in ("own", "no_points")
        assert entry == {"dice": pytest.approx(dice if kept else opposite), "changed": 0.0 if kept else 1.0}
    assert list(figures["listening"]) == list(ALTERATIONS)
