import pytest

from aps_components.recipe.choices import Answer, answered_so, choose_answer, choose_predictor, choose_round, mean_dice
from aps_components.recipe.results import HeldOut


def entries(dice_by_case, *, round=1, predictor="a", mirrored=False, calibrated=False):
    return [
        HeldOut(
            case=case,
            fold=0,
            round=round,
            predictor=predictor,
            mirrored=mirrored,
            calibrated=calibrated,
            dice=dice if isinstance(dice, dict) else {"liver": dice},
        )
        for case, dice in dice_by_case.items()
    ]


PLAIN = entries({"x": 0.80, "y": 0.60})


def test_the_mean_is_of_scans_whatever_classes_each_has():
    found = entries({"x": {"liver": 0.9, "spleen": 0.5}, "y": {"liver": 0.4, "spleen": None}})
    assert mean_dice(found) == pytest.approx(100 * (0.7 + 0.4) / 2)


@pytest.mark.parametrize(("gain", "chosen"), [(0.0009, "a"), (0.0011, "average")])
def test_another_predictor_must_be_better_by_the_gain_on_scans_that_all_answered(gain, chosen):
    b = entries({"x": 0.7}, predictor="b")
    average = entries({"x": 0.80 + gain}, predictor="average")
    predictor, record = choose_predictor([*PLAIN, *b, *average], answer=Answer(), round=1, least_gain=0.1)
    assert predictor == record.chosen == chosen
    assert record.figures == {"a": 80.0, "average": pytest.approx(80 + 100 * gain, abs=0.006), "b": 70.0}


def test_model_a_answers_where_model_b_was_not_judged():
    predictor, record = choose_predictor(PLAIN, answer=Answer(), round=1, least_gain=0.1)
    assert (predictor, record.note, record.figures) == ("a", "not measured", {})


@pytest.mark.parametrize(("gain", "chosen"), [(-0.001, False), (0.0004, True)])
def test_calibration_is_kept_where_it_is_better_at_all(gain, chosen):
    answer, records = choose_answer([*PLAIN, *entries({"x": 0.8 + gain, "y": 0.6}, calibrated=True)], least_gain=0.1)
    assert answer.calibrated is chosen
    assert records[0].note.startswith(f"{50 * gain:+.2f} points (standard error ")


@pytest.mark.parametrize(("gain", "chosen"), [(0.0005, False), (0.002, True)])
def test_turned_windows_must_pay_for_their_time(gain, chosen):
    turned = entries({"x": 0.8 + gain, "y": 0.6 + gain}, mirrored=True)
    answer, _ = choose_answer([*PLAIN, *turned], least_gain=0.1)
    assert answer.mirrored is chosen


def test_nothing_held_out_is_said_and_defaults_are_taken():
    answer, records = choose_answer([], least_gain=0.1)
    assert answer == Answer(predictor="a", mirrored=False, calibrated=True)
    assert all(record.note.startswith("not measured") and not record.figures for record in records)


@pytest.mark.parametrize(("second", "kept"), [({"y": 0.61, "z": 0.9}, True), ({"y": 0.59, "z": 0.9}, False)])
def test_rounds_are_compared_on_the_scans_that_both_answered(second, kept):
    found, record = choose_round(
        [*PLAIN, *entries(second, round=2)], answer=Answer(), possible=True, unlabelled=1, least_teacher=0
    )
    assert found is kept
    assert record.note.endswith("on 1 held-out scans")


def test_a_second_round_with_offsets_is_compared_with_a_first_one_as_it_answers():
    calibrated, second = (entries({"x": dice}, round=round, calibrated=True) for dice, round in ((0.9, 1), (0.85, 2)))
    found = [
        choose_round(
            [*PLAIN, *calibrated, *second], answer=Answer(calibrated=c), possible=True, unlabelled=1, least_teacher=0
        )[0]
        for c in (False, True)
    ]
    assert found == [True, False]  # 85 against 80, and against 90


def test_a_second_round_that_was_not_judged_is_kept_where_there_can_be_one():
    assert choose_round(PLAIN, answer=Answer(), possible=True, unlabelled=1, least_teacher=0)[0] is True
    assert choose_round(PLAIN, answer=Answer(), possible=False, unlabelled=1, least_teacher=0)[0] is False


@pytest.mark.parametrize(("least", "kept"), [(69.9, True), (70.1, False)])
def test_a_second_round_that_was_not_judged_needs_good_teachers(least, kept):
    found, record = choose_round(PLAIN, answer=Answer(), possible=True, unlabelled=1, least_teacher=least)
    assert found is kept
    assert ("70.0" in record.note) is not kept
    assert record.figures == {}


def test_a_second_round_that_was_judged_needs_no_good_teachers():
    second = entries({"x": 0.82, "y": 0.6}, round=2)
    assert choose_round([*PLAIN, *second], answer=Answer(), possible=True, unlabelled=1, least_teacher=99)[0] is True


def test_without_held_out_scans_nobody_knows_the_teachers():
    assert choose_round([], answer=Answer(), possible=True, unlabelled=1, least_teacher=99)[0] is True


def test_figures_are_of_what_was_measured_nearest_to_the_answer():
    calibrated = entries({"x": 0.9}, calibrated=True)
    turned = entries({"x": 0.7}, mirrored=True)
    wanted = Answer(predictor="a", mirrored=True, calibrated=True)
    assert answered_so([*PLAIN, *calibrated, *turned], wanted, round=1) == calibrated
    assert answered_so([*PLAIN, *turned], wanted, round=1) == PLAIN


@pytest.mark.parametrize(("unlabelled", "why"), [(0, "no unlabelled scans"), (3, "no time")])
def test_it_is_said_why_there_is_no_second_round(unlabelled, why):
    record = choose_round(PLAIN, answer=Answer(), possible=False, unlabelled=unlabelled, least_teacher=0)[1]
    assert why in record.note
