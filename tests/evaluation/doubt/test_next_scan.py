from collections import Counter

import pytest

from aps_components.evaluation.doubt.next_scan import STRATEGIES, ScanScore, next_scans


def score(left=0.1, right=0.1, **more):
    return ScanScore(entropy={"left": left, "right": right}, **{"answered": ["left"], **more})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_scan_comes_once_and_a_seed_gives_the_same_order(strategy):
    scores = {f"scan{number}": score(left=0.1 + 0.01 * number) for number in range(17)}
    order = next_scans(strategy, scores, seed=3, round=1)
    assert sorted(order) == sorted(scores)
    assert order == next_scans(strategy, scores, seed=3, round=1)


def test_late_rounds_ask_for_the_most_doubtful_of_each_class():
    scores = {f"scan{number}": score() for number in range(17)} | {"l": score(left=0.4), "r": score(right=0.3)}
    for seed in range(10):
        assert set(next_scans("doubt", scores, seed=seed, round=9)[:2]) == {"l", "r"}


def test_first_rounds_are_spread():
    scores = {f"scan{number}": score(left=0.1 + 0.01 * number) for number in range(17)}
    first = Counter(next_scans("doubt", scores, seed=seed, round=0)[0] for seed in range(100))
    late = Counter(next_scans("doubt", scores, seed=seed, round=9)[0] for seed in range(100))
    assert len(first) > 10
    assert late["scan16"] > 2 * first["scan16"]


def test_the_worst_answer_first_and_before_it_what_is_unlike_the_training():
    scores = {
        "good": score(predicted_dice=0.9),
        "poor": score(predicted_dice=0.6),
        "odd": score(predicted_dice=0.8, unlike_training=True),
        "nothing": score(answered=[]),
    }
    assert next_scans("predicted_dice", scores) == ["odd", "nothing", "poor", "good"]


def test_where_most_answers_hold_nothing_that_is_no_exception():
    empty = {f"scan{number}": score(answered=[]) for number in range(3)}
    scores = empty | {"good": score(predicted_dice=0.9), "poor": score(predicted_dice=0.6)}
    assert next_scans("predicted_dice", scores)[:2] == ["poor", "good"]


def test_without_a_prediction_soft_dice_says_it():
    scores = {"good": score(soft_dice=0.9), "poor": score(soft_dice=0.6)}
    assert next_scans("predicted_dice", scores) == ["poor", "good"]


def test_scans_in_which_something_was_found_come_before_the_others():
    scores = {f"scan{number}": score(answered=["right"] if number % 3 == 0 else []) for number in range(17)}
    order = next_scans("foreground", scores)
    assert {int(name[4:]) % 3 for name in order[:6]} == {0}


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="foreground"):
        next_scans("epistemic", {})


def test_scores_come_back_from_json():
    one = score(predicted_dice=0.5, soft_dice=0.7, unlike_training=True)
    assert ScanScore.from_json(one.as_json()) == one
