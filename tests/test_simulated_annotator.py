"""The benchmark of the simulated annotator says after how many minutes a Dice is reached."""

import pytest


@pytest.fixture
def benchmark(benchmark):
    return benchmark("simulate_annotator")


def rows(*found, way="whole", strategy="random", seed="0"):
    return [
        {"way": way, "strategy": strategy, "seed": seed, "round": str(number), "minutes": minutes, "dice": dice}
        for number, (minutes, dice) in enumerate(found)
    ]


@pytest.mark.parametrize(
    ("found", "minutes"),
    [
        ([("45.0", "80.00"), ("90.0", "84.00"), ("135.0", "86.00")], 112.5),  # half of the way between two rounds
        ([("45.0", "80.00"), ("90.0", "85.00"), ("135.0", "86.00")], 90.0),
        ([("45.0", "85.50"), ("90.0", "84.00")], 45.0),  # at once
        ([("45.0", "80.00"), ("90.0", "86.00"), ("135.0", "84.00"), ("180.0", "88.00")], 82.5),  # the first time counts
        ([("45.0", "80.00"), ("90.0", "84.90")], None),
    ],
)
def test_minutes_to_a_dice(benchmark, found, minutes):
    assert benchmark.minutes_to(85.0, rows(*found)) == {("whole", "random", "0"): minutes}


def test_chains_are_apart(benchmark):
    table = [
        *rows(("45.0", "86.00")),
        *rows(("45.0", "80.00"), ("81.0", "90.00"), strategy="predicted_dice", way="slices"),
    ]
    assert benchmark.minutes_to(85.0, table) == {
        ("whole", "random", "0"): 45.0,
        ("slices", "predicted_dice", "0"): 63.0,
    }
