import json
import math

import numpy as np
import pytest
import torch

from aps_components.evaluation.doubt.expected import Expected
from aps_components.evaluation.doubt.held_out import (
    TEMPERATURES,
    answer_record,
    best_temperature,
    calibration,
    calibration_errors,
)
from aps_components.evaluation.doubt.measures import (
    class_doubts,
    look_of,
    soft_dice_by_temperature,
    surprise_by_temperature,
)
from aps_components.evaluation.doubt.predicted import DicePredictor
from aps_components.evaluation.doubt.second_view import agreement
from aps_components.evaluation.doubt.unlike import KnownLooks
from aps_components.inference.own_grid import WholeMaps
from aps_components.inference.temperature import calibrated
from aps_components.models import CheckpointError

C, D, H, W = 3, 17, 24, 40
LABELS = {0: "background", 1: "left", 2: "right"}


def answers(seed=0, sharpness=3.0):
    return torch.randn(C, D, H, W, generator=torch.Generator().manual_seed(seed)).mul(sharpness).softmax(dim=0)


class TestClassDoubts:
    def test_soft_dice_is_the_dice_to_expect(self):
        """Truths drawn from the probabilities have the soft Dice on average."""
        probabilities = answers()
        answer = probabilities.argmax(dim=0)
        draws = torch.multinomial(probabilities.flatten(1).T, 20, replacement=True, generator=torch.Generator())
        for label, doubt in enumerate(class_doubts(probabilities), start=1):
            found = (answer == label).flatten()[:, None]
            true = draws == label
            dice = 2 * (found & true).sum(dim=0) / (found.sum() + true.sum(dim=0))
            assert doubt.soft_dice == pytest.approx(float(dice.mean()), abs=0.003)

    def test_closed_form_and_a_class_that_is_nowhere(self):
        probabilities = torch.zeros(C, 1, 2, 2)
        probabilities[0], probabilities[1] = 0.25, 0.75
        left, right = class_doubts(probabilities)
        assert left.soft_dice == pytest.approx(2 * 3 / (3 + 4))
        assert left.entropy == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), rel=1e-5)
        assert (right.soft_dice, right.entropy) == (None, 0.0)

    def test_each_temperature_as_if_it_were_the_only_one(self):
        table = soft_dice_by_temperature(answers(), TEMPERATURES)
        for place in (0, 4, 16):
            alone = class_doubts(answers(), temperature=TEMPERATURES[place])
            assert [row[place] for row in table] == [doubt.soft_dice for doubt in alone]


class TestTemperature:
    @pytest.mark.parametrize("true", [0.5, 1.0, 2.8284])
    def test_the_one_that_makes_answers_right_is_found(self, true):
        """Probabilities too sure by a known temperature, and truths drawn from the right ones."""
        right = calibrated(answers(sharpness=4.0), 2.0, dim=0)
        draw = torch.multinomial(right.flatten(1).T, 1, generator=torch.Generator().manual_seed(1))
        truth = draw.view(D, H, W).numpy().astype(np.uint8)
        said = calibrated(right, 1 / true, dim=0)
        record = answer_record(said, truth, np.ones_like(truth, dtype=bool), to_voxel=np.eye(4))
        assert best_temperature([record]) == true

    def test_a_few_truths_called_impossible_do_not_make_right_answers_less_sure(self):
        """One voxel in a thousand: the least probability counts the same at every temperature."""
        probabilities = answers().flatten(1)
        truth = torch.multinomial(probabilities.T, 1, generator=torch.Generator().manual_seed(1))[:, 0]
        probabilities[:, ::1000] = torch.tensor([1.0, 0.0, 0.0])[:, None]
        truth[::1000] = 1
        surprise = surprise_by_temperature(probabilities, truth, TEMPERATURES)
        assert TEMPERATURES[int(np.argmin(surprise))] == 1.0

    def test_truth_is_looked_up_on_its_own_grid(self):
        """The network's grid has half the voxels of the scan's, turned around along the first axis."""
        truth = np.zeros((2 * D, H, W), dtype=np.uint8)
        truth[:D] = 1
        probabilities = torch.zeros(C, D, H, W)
        probabilities[1, D // 2 + 1 :], probabilities[0, : D // 2 + 1] = 1.0, 1.0
        to_voxel = np.diag([-2.0, 1.0, 1.0, 1.0])
        to_voxel[0, 3] = 2 * D - 1
        record = answer_record(probabilities, truth, np.ones_like(truth, dtype=bool), to_voxel=to_voxel)
        assert record["surprise"][TEMPERATURES.index(1.0)] == pytest.approx(0, abs=1e-5)

    def test_each_scan_is_judged_at_the_temperature_that_the_others_find(self):
        """It is half-way between theirs: steps 10, 8 and 4; without a temperature it is step 4."""
        steps = range(len(TEMPERATURES))
        records = [
            {
                "surprise": [(step - best) ** 2 for step in steps],
                "calibration_error": [(number + 1) * step / 100 for step in steps],
            }
            for number, best in enumerate((2, 6, 14))
        ]
        assert calibration_errors(records) == pytest.approx((0.08, 0.38 / 3))

    def test_without_a_border_nothing_is_known(self):
        empty = np.zeros((D, H, W), dtype=bool)
        record = answer_record(answers(), empty.astype(np.uint8), empty, to_voxel=np.eye(4))
        assert record["surprise"] is None
        assert best_temperature([record]) == 1.0


class TestUnlike:
    def looks(self, count, seed=0):
        rng = np.random.default_rng(seed)
        return [look_of(rng.normal(size=(1, 17, 24, 40)).astype(np.float32)) for _ in range(count)]

    def test_scans_of_the_same_kind_are_alike(self):
        known = KnownLooks.of(self.looks(12))
        assert sum(known.is_unlike(look) for look in self.looks(40, seed=1)) <= 2

    @pytest.mark.parametrize(
        "change",
        [lambda x: -np.abs(x), lambda x: 3 * x, lambda x: np.cumsum(x, axis=3) / 6, lambda x: np.round(x)],
        ids=["other contrast", "other scale", "smooth", "few values"],
    )
    def test_another_kind_is_seen(self, change):
        known = KnownLooks.of(self.looks(12))
        image = np.random.default_rng(9).normal(size=(1, 17, 24, 40)).astype(np.float32)
        assert not known.is_unlike(look_of(image))
        assert known.is_unlike(look_of(change(image)))

    def test_few_scans_allow_more(self):
        few, many = (KnownLooks.of(self.looks(count)) for count in (4, 40))
        assert few.limit > 2 * many.limit
        assert KnownLooks.of(self.looks(3)) is None

    def test_each_channel_counts(self):
        two = [look_of(np.random.default_rng(i).normal(size=(2, 17, 24, 40)).astype(np.float32)) for i in range(9)]
        image = np.random.default_rng(99).normal(size=(2, 17, 24, 40)).astype(np.float32)
        image[1] *= 4
        known = KnownLooks.of(two)
        assert known.is_unlike(look_of(image))
        with pytest.raises(ValueError, match="other channels"):
            known.is_unlike(look_of(image[:1]))


class TestStored:
    def stored(self, count=10):
        """Held-out answers, some surer than others, whose Dice is their soft Dice less 0.05."""
        records, dices, looks = [], [], []
        for seed in range(count):
            probabilities = answers(seed, sharpness=2 + 0.3 * seed)
            truth = probabilities.argmax(dim=0).numpy().astype(np.uint8)
            records.append(answer_record(probabilities, truth, np.ones_like(truth, dtype=bool), to_voxel=np.eye(4)))
            records[-1]["surprise"] = [float(value != 1) for value in TEMPERATURES]
            doubts = class_doubts(probabilities)
            dices.append({label: doubts[label - 1].soft_dice - 0.05 for label in LABELS if label})
            looks.append(TestUnlike().looks(1, seed=seed)[0])
        return calibration(records, dices, looks, labels=LABELS, source="here")

    def test_a_new_answer_is_predicted_from_what_was_kept_in_json(self):
        settings = json.loads(json.dumps(self.stored()))
        probabilities = answers(77, sharpness=3.5)
        image = np.random.default_rng(6).normal(size=(1, 17, 24, 40))
        expectation = Expected.of(settings, where="model.json")(probabilities, image)
        for label in (1, 2):
            soft = class_doubts(probabilities)[label - 1].soft_dice
            assert expectation.dice[LABELS[label]].value == pytest.approx(soft - 0.05, abs=0.01)
        assert not expectation.unlike_training

    def test_each_class_has_points_of_its_own_and_the_second_view_counts(self):
        """Read at the best temperature, the sixth step, alone; a new answer's measures are put into their place."""
        soft = {"left": [0.9, 0.85, 0.8, 0.75], "right": [0.6, 0.52, 0.65, 0.5]}
        agreed = {"left": [0.95, 0.7, 0.9, 0.6], "right": [0.55, 0.75, 0.4, 0.7]}
        dice = {"left": [0.92, 0.78, 0.87, 0.7], "right": [0.5, 0.61, 0.45, 0.58]}
        steps, best = range(len(TEMPERATURES)), 6
        records = [
            {
                "soft_dice": [[soft[name][scan] if step == best else 0.1 for step in steps] for name in soft],
                "agreement": [agreed[name][scan] for name in agreed],
                "surprise": [abs(step - best) for step in steps],
            }
            for scan in range(4)
        ]
        dices = [{2: dice["right"][scan], 1: dice["left"][scan]} for scan in range(4)]
        stored = calibration(records, dices, [], labels=dict(reversed(LABELS.items())), source="here")
        assert stored["temperature"] == TEMPERATURES[best]
        assert stored["doubt"]["classes"] == {
            name: {"soft_dice": soft[name], "dice": dice[name], "agreement": agreed[name]} for name in soft
        }
        said = (answers(77).log() + torch.tensor([0.0, 0.0, 1.0]).view(C, 1, 1, 1)).softmax(dim=0)
        other, moved = said.clone(), (said.argmax(dim=0) == 2) & (torch.arange(D) < 8).view(D, 1, 1)
        other[:, moved] = torch.tensor([1.0, 0.0, 0.0])[:, None]  # the other view has less of class 2
        expected = Expected.of(stored, where="model.json")
        same, doubts = agreement(said, WholeMaps(other)), class_doubts(said, temperature=TEMPERATURES[best])
        assert same[0] == 1
        assert same[1] < 0.75
        assert expected(said, np.zeros((1, D, H, W)), view=WholeMaps(other)).dice == {
            name: DicePredictor(soft[name], dice[name], agreed[name])(doubts[place].soft_dice, same[place])
            for place, name in enumerate(soft)
        }
        assert expected.needs_second_view
        assert expected(said, np.zeros((1, D, H, W))).dice == {"left": None, "right": None}

    def test_an_answer_far_worse_than_any_is_unlike_the_training(self):
        expected = Expected.of(self.stored(), where="model.json")
        image = np.random.default_rng(5).normal(size=(1, 17, 24, 40))
        assert expected(answers(3, sharpness=0.1), image).unlike_training

    def test_two_answers_of_a_class_predict_nothing(self):
        expectation = Expected.of(self.stored(2), where="model.json")(answers(), np.zeros((1, D, H, W)))
        assert expectation.dice == {"left": None, "right": None}
        assert expectation.mean is None

    def test_a_model_that_was_not_calibrated_says_nothing(self):
        assert Expected.of({"labels": {}}, where="model.json") is None

    @pytest.mark.parametrize(
        "damage",
        [{"format": 2}, {"classes": {"left": {"soft_dice": [1, 2, 3]}}}, {"classes": 3}, {"looks": {"mean": "x"}}],
    )
    def test_damaged_settings_are_refused_by_name(self, damage):
        settings = self.stored(3)
        settings["doubt"] |= damage
        with pytest.raises(CheckpointError, match=r"model\.json"):
            Expected.of(settings, where="model.json")
