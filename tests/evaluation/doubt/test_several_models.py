"""Agreement of several models' answers."""

import csv

import pytest
import torch

from aps_components.evaluation.doubt.several_models import (
    agreement_table,
    least_agreed_first,
    mean_of,
    pairwise_agreement,
)

D, H, W = 17, 24, 40


def box(low, high, value=1):
    label_map = torch.zeros(D, H, W, dtype=torch.long)
    label_map[2:12, 3:20, low:high] = value
    return label_map


def test_the_mean_dice_of_all_pairs():
    """Slabs of 20, 20 and 10: Dice 10 / 20, 20 / 30 and 0."""
    found = pairwise_agreement([box(0, 20), box(10, 30), box(0, 10)], classes=2)
    assert found == pytest.approx([(0.5 + 20 / 30 + 0.0) / 3])


def test_a_class_counts_in_the_pairs_that_have_it():
    one, nothing = box(0, 20) + box(20, 30, 3), torch.zeros(D, H, W, dtype=torch.long)
    found = pairwise_agreement([one, one, nothing], classes=4)
    assert found == [pytest.approx(1 / 3), None, pytest.approx(1 / 3)]
    assert pairwise_agreement([nothing, nothing], classes=2) == [None]
    assert pairwise_agreement([one, one], classes=4) == [1.0, None, 1.0]


def test_one_answer_agrees_with_nothing():
    with pytest.raises(ValueError, match=r"1 answer\(s\)"):
        pairwise_agreement([box(0, 20)], classes=2)


def test_those_without_an_answer_come_first_where_most_have_one_and_then_the_least_agreed_on():
    agreements = {"a, b": [0.9, 0.5], "nothing": [None, None], "worst": [0.25, None], "002": [1.0, 0.75]}
    assert [mean_of(values) for values in agreements.values()] == [pytest.approx(0.7), None, 0.25, 0.875]
    ranked = least_agreed_first(agreements)
    assert ranked == agreements
    assert list(ranked) == ["nothing", "worst", "a, b", "002"]


def test_the_table_can_be_read_again():
    text = agreement_table({"a, b": [0.9, 0.5], "nothing": [None, None], "c": [0.25, None]}, ["liver", "spleen"])
    assert list(csv.DictReader(text.splitlines())) == [
        {"scan": "a, b", "mean": "0.7000", "liver": "0.9000", "spleen": "0.5000"},
        {"scan": "nothing", "mean": "", "liver": "", "spleen": ""},
        {"scan": "c", "mean": "0.2500", "liver": "0.2500", "spleen": ""},
    ]
