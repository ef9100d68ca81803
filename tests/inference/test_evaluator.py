import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from pipelines import configured
from torch import nn

from aps_components.data.partial import NOT_LABELED
from aps_components.inference import PromptedEvaluator, PromptedSlidingWindowInferer, PromptPoint, VolumePrediction
from aps_components.models import build_auto_prompt_seg
from aps_components.training import dice_metric

VALIDATION = {
    "postprocessing": "postprocessing",
    "key_val_metric": "key_metric",
    "additional_metrics": "additional_metrics",
}
C, D, H, W = 3, 5, 7, 11  # sizes that cannot be confused
rng = np.random.default_rng(0)
LABELS = [rng.integers(0, C, (D, H, W)) for _ in range(2)]
GUESSES = {key: [rng.integers(0, C, (D, H, W)) for _ in range(2)] for key in ("average", "a", "b")}


def probabilities(guess):
    """[1, C, D, H, W], each voxel's class just ahead."""
    one_hot = nn.functional.one_hot(torch.from_numpy(guess), C).movedim(-1, 0)[None].float()
    return (1 + 0.1 * one_hot) / (C + 0.1)


class Inferer(PromptedSlidingWindowInferer):
    """Knows the answers: the image of case i is filled with i."""

    def __init__(self):
        super().__init__((16, 16, 16))

    def __call__(self, inputs, network):
        return self.predict(inputs, network).probabilities

    def predict(self, inputs, network):
        assert not network.training
        case = int(inputs.unique())
        points = [PromptPoint(c, (d, 2, 10), 0.5) for c in range(C) for d in range(D)] if case else []
        return VolumePrediction(
            *(probabilities(GUESSES[key][case]) for key in ("average", "a", "b")),
            torch.full((1, 1, D, H, W), 0.25),
            torch.full((1, 1, D, H, W), 0.75),
            points,
        )


def make_evaluator(*, label=True, cases=(0, 1), **options):
    items = [
        {"image": torch.full((1, D, H, W), float(case))}
        | ({"label": torch.from_numpy(LABELS[case])[None].to(torch.uint8)} if label else {})
        for case in cases
    ]
    network = nn.Conv3d(1, 1, 1).train()
    loader = DataLoader(Dataset(items), batch_size=1)
    return PromptedEvaluator(device="cpu", val_data_loader=loader, network=network, inferer=Inferer(), **options)


def validation(num_classes=C):
    """What train.json has behind the network in a validation."""
    return {argument: configured(f"validate#{key}", num_classes=num_classes) for argument, key in VALIDATION.items()}


def foreground_dice(guess, label):
    """Independent of MONAI: 2 |P n T| / (|P| + |T|), mean over the foreground classes."""
    shares = [2 * np.sum((guess == c) & (label == c)) / (np.sum(guess == c) + np.sum(label == c)) for c in (1, 2)]
    return float(np.mean(shares))


def test_metrics_are_the_mean_over_cases_of_each_predictor():
    evaluator = make_evaluator(**validation())
    evaluator.run()
    metrics = evaluator.state.metrics
    assert evaluator.state.key_metric_name == "dice_average"
    assert set(metrics) == {"dice_average", "dice_a", "dice_b", "prompt_precision"}
    for key, guesses in GUESSES.items():
        expected = np.mean([foreground_dice(guess, label) for guess, label in zip(guesses, LABELS, strict=True)])
        assert metrics[f"dice_{key}"] == pytest.approx(expected, abs=1e-6)
    hits = [int(LABELS[1][d, 2, 10]) == c for c in range(C) for d in range(D)]
    assert metrics["prompt_precision"] == pytest.approx(np.mean(hits))


def test_a_second_run_starts_from_nothing():
    evaluator = make_evaluator(**validation())
    evaluator.run(1)
    first = dict(evaluator.state.metrics)
    evaluator.run(2)
    assert evaluator.state.epoch == 2
    assert evaluator.state.metrics == first


def test_without_points_the_precision_is_undefined():
    evaluator = make_evaluator(**validation(), cases=(0,))
    evaluator.run()
    assert math.isnan(evaluator.state.metrics["prompt_precision"])


@pytest.mark.parametrize("label", [True, False])
def test_output_keeps_everything(label):
    evaluator = make_evaluator(label=label, cases=(1,))
    evaluator.run()
    (output,) = evaluator.state.output
    maps = {"pred", "pred_a", "pred_b", "epistemic", "aleatoric", "probabilities"}
    assert set(output) == {*maps, "prompts", *(["label"] if label else [])}
    for key, name in (("pred", "average"), ("pred_a", "a"), ("pred_b", "b")):
        np.testing.assert_array_equal(output[key].argmax(0), GUESSES[name][1])
    assert output["epistemic"].shape == output["aleatoric"].shape == (1, D, H, W)
    assert (output["epistemic"] == 0.25).all()
    assert (output["aleatoric"] == 0.75).all()
    assert len(output["prompts"]) == C * D


def test_without_everything_only_the_prediction_is_made():
    evaluator = make_evaluator(everything=False, cases=(0,))
    evaluator.run()
    (output,) = evaluator.state.output
    assert set(output) == {"pred", "label"}
    np.testing.assert_array_equal(output["pred"].argmax(0), GUESSES["average"][0])


def test_dice_metric_leaves_the_background_out():
    label = torch.zeros(1, D, H, W, dtype=torch.uint8)
    label[0, :2], label[0, 2:] = 1, 2
    guess = torch.zeros(D, H, W, dtype=torch.long)
    guess[:2] = 1  # class 1 is right, all of class 2 is missed
    output = [{"pred": guess[None], "label": label}]
    engine = Engine(lambda *_: output)
    dice_metric("pred", num_classes=C).attach(engine, "dice")
    assert engine.run([0]).metrics["dice"] == pytest.approx(0.5)


def test_voxels_without_a_label_do_not_count_and_the_answer_stays():
    label = torch.full((1, D, H, W), NOT_LABELED, dtype=torch.uint8)
    label[0, :2], label[0, 2] = 1, 2
    guess = torch.full((1, D, H, W), 2, dtype=torch.uint8)
    guess[:, 0] = 1  # half of class 1 is right, and of class 2 one slice of two that are labelled
    output = [{"pred": guess.clone(), "label": label}]
    engine = Engine(lambda *_: output)
    dice_metric("pred", num_classes=C).attach(engine, "dice")
    assert engine.run([0]).metrics["dice"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert torch.equal(output[0]["pred"], guess)


def test_a_real_model_goes_through():
    torch.manual_seed(0)
    network = build_auto_prompt_seg(
        num_classes=2, roi_size=(32, 32, 32), filters=4, sam_variant="tiny", prompts={"min_probability": 0.1}
    )
    items = [{"image": torch.randn(1, 20, 32, 40), "label": torch.ones(1, 20, 32, 40, dtype=torch.uint8)}]
    evaluator = PromptedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(items), batch_size=1),
        network=network,
        inferer=PromptedSlidingWindowInferer((32, 32, 32), overlap=0.0, precision="fp32"),
        **validation(2),
    )
    evaluator.run()
    (output,) = evaluator.state.output
    assert output["pred"].shape == (1, 20, 32, 40)  # a label map by now
    assert 0 <= evaluator.state.metrics["prompt_precision"] <= 1
