import numpy as np
import pytest

from aps_components.evaluation.doubt.predicted import LEVEL, CrossFitted, DicePredictor


def scans(count, *, seed, spread):
    """Soft Dice, and the Dice that they turn out to be: lower by 0.03, and by the more off the lower they are."""
    rng = np.random.default_rng(seed)
    soft = rng.uniform(0.75, 0.95, count)
    return soft, np.clip(soft - 0.03 + spread * (1 - soft) * rng.normal(size=count), 0, 1)


def test_answers_on_a_line_are_predicted_by_it():
    soft = np.linspace(0.7, 0.95, 12)
    estimate = DicePredictor(soft, 1.2 * soft - 0.25)(0.8)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.71, 0.71, 0.71), abs=0.003)


def test_of_twenty_alike_answers_the_interval_leaves_out_one_at_either_end():
    """Mean 0.595 of 0.5, 0.51 to 0.69: the 19th of 20 ends on either side, each of a scan missed without itself.

    The lowest Dice is missed by 0.1 from the others' mean of 0.6, so its upper end is 0.7; the next one is 0.69.
    """
    estimate = DicePredictor([0.8] * 20, 0.5 + 0.01 * np.arange(20))(0.8)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.5, 0.595, 0.69), abs=1e-9)


@pytest.mark.parametrize("count", [4, 9, 20])
def test_the_interval_holds_as_often_as_it_says(count):
    held = []
    for seed in range(400):
        soft, dice = scans(count + 1, seed=seed, spread=0.15)
        estimate = DicePredictor(soft[:-1], dice[:-1])(soft[-1])
        held.append(estimate.low <= dice[-1] <= estimate.high)
    assert np.mean(held) == pytest.approx(LEVEL, abs=0.06)


def test_a_poor_answer_may_be_missed_by_more():
    soft, dice = scans(30, seed=1, spread=0.2)
    good, poor = (DicePredictor(soft, dice)(value) for value in (0.94, 0.76))
    assert poor.high - poor.low > 2 * (good.high - good.low)


def test_a_better_answer_is_never_predicted_to_be_worse():
    soft, dice = scans(5, seed=2, spread=0.2)
    predictor = DicePredictor(soft, dice[::-1].copy())  # few scans, and nothing to be learned from them
    values = [predictor(value).value for value in np.linspace(0, 1, 21)]
    assert values == sorted(values)


def test_what_is_predicted_is_a_dice():
    soft, dice = scans(12, seed=3, spread=0.2)
    for value in (0.0, 0.5, 1.0):
        estimate = DicePredictor(soft, dice)(value)
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize(
    ("soft", "dice"),
    [
        ([0.9, 0.8], [0.9, 0.8]),
        ([0.9, 0.8, 0.7], [0.9, 0.8]),
        ([0.9, 0.8, float("nan")], [0.9] * 3),
        ([0.9] * 3, [1.2] * 3),
    ],
)
def test_too_little_or_no_dice_is_refused(soft, dice):
    with pytest.raises(ValueError, match="soft Dice"):
        DicePredictor(soft, dice)


def test_a_second_view_tells_where_soft_dice_does_not():
    rng = np.random.default_rng(4)
    soft, agreement = rng.uniform(0.85, 0.9, 30), rng.uniform(0.6, 0.95, 30)
    dice = agreement - 0.05 + rng.normal(0, 0.005, 30)
    alone, both = CrossFitted.of(soft, dice), CrossFitted.of(soft, dice, agreement)
    assert both.correlation > 0.95
    assert both.width < alone.width / 4
    assert DicePredictor(soft, dice, agreement)(0.87, 0.7).value == pytest.approx(0.65, abs=0.02)


def test_each_scan_is_judged_without_itself():
    """One that lies apart is missed by far, and by no other reason than that."""
    soft = np.full(9, 0.8)
    dice = np.array([0.75] * 8 + [0.3])
    found = CrossFitted.of(soft, dice)
    assert found.coverage == pytest.approx(8 / 9)
    assert found.error > 0.45 / 9
