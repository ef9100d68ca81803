"""Splits depend on the names alone."""

import hashlib
import random

import pytest

from aps_components.data import DataError
from aps_components.data.preparation.cases import RawCase
from aps_components.data.preparation.split import digest, divide, hide_labels, shares, shuffled

CASES = [RawCase(f"case_{index:03d}", (f"i{index}",), f"l{index}") for index in range(40)]


def test_the_order_is_that_of_the_hashes():
    expected = sorted(CASES, key=lambda case: hashlib.sha256(b"7:" + case.name.encode()).digest())
    assert shuffled(CASES, seed=7) == expected


def test_the_order_of_the_files_does_not_matter_and_the_seed_does():
    other = random.Random(0).sample(CASES, len(CASES))
    published = {"training": 30, "validation": 5, "test": 10}
    first, second, third = (
        divide(cases, published=published, seed=seed, validation=None, name="x").parts
        for cases, seed in ((CASES, 0), (other, 0), (CASES, 1))
    )
    assert first == second
    assert first != third
    assert sorted(case.name for part in first.values() for case in part) == [case.name for case in CASES]


@pytest.mark.parametrize(
    ("count", "published", "expected"),
    [
        (335, (250, 25, 60), [250, 25, 60]),
        (369, (250, 25, 60), [275, 28, 66]),
        (1251, (250, 25, 60), [934, 93, 224]),
        (200, (180, 20), [180, 20]),
        (240, (216, 24), [216, 24]),
        (5, (250, 25, 60), [3, 1, 1]),
        (3, (250, 25, 60), [1, 1, 1]),
        (2, (250, 25, 60), [2, 0, 0]),
        (2, (180, 20), [1, 1]),
        (1, (180, 20), [1, 0]),
        (0, (180, 20), [0, 0]),
    ],
)
def test_shares(count, published, expected):
    assert shares(count, published) == expected


def test_another_number_of_cases_is_said():
    split = divide(CASES, published={"training": 30, "validation": 10}, seed=0, validation=None, name="of x")
    assert split.notes == []
    split = divide(CASES[:8], published={"training": 30, "validation": 10}, seed=0, validation=None, name="of x")
    assert [len(split.parts[part]) for part in ("training", "validation", "unlabeled")] == [6, 2, 0]
    (note,) = split.notes
    assert "8 case(s) with a label where the split of x (30/10 training, validation) has 40" in note


def test_cases_without_a_label_are_unlabeled():
    bare = CASES[3].without_label()
    split = divide([*CASES[:3], bare], published={"training": 2, "validation": 1}, seed=0, validation=None, name="x")
    assert split.parts["unlabeled"] == [bare]


def test_hidden_labels_leave_no_path_behind():
    split = divide(CASES, published={"training": 30, "validation": 10}, seed=0, validation=4, name="x")
    hidden = hide_labels(split, 5)
    assert hidden.parts["training"] == split.parts["training"][:5]
    assert [case.name for case in hidden.parts["unlabeled"]] == [case.name for case in split.parts["training"][5:]]
    assert all(case.label is None for case in hidden.parts["unlabeled"])
    assert len(hidden.parts["validation"]) == 4
    with pytest.raises(DataError, match="labeled 37 is outside 1 to 36"):
        hide_labels(split, 37)


@pytest.mark.parametrize("count", [40, -1])
def test_validation_leaves_a_training_case(count):
    with pytest.raises(DataError, match=f"validation {count} is outside 0 to 39"):
        divide(CASES, published={"training": 30, "validation": 10}, seed=0, validation=count, name="x")


def test_the_digest_follows_names_parts_and_order():
    expected = hashlib.sha256(b'{"test": ["c"], "training": ["a", "b"]}').hexdigest()
    assert digest({"training": ["a", "b"], "test": ["c"]}) == expected
    assert digest({"training": ["b", "a"], "test": ["c"]}) != expected
    assert digest({"training": ["a"], "test": ["b", "c"]}) != expected
