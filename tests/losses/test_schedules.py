import math
from itertools import pairwise

import pytest

from aps_components.losses import sigmoid_rampup


@pytest.mark.parametrize(
    ("step", "length", "expected"),
    [
        (0, 40, math.exp(-5)),
        (20, 40, math.exp(-1.25)),
        (30, 40, math.exp(-0.3125)),
        (40, 40, 1.0),
        (1000, 40, 1.0),
        (-3, 40, math.exp(-5)),
        (0, 0, 1.0),
        (0, -1, 1.0),
    ],
)
def test_values(step, length, expected):
    assert sigmoid_rampup(step, length) == pytest.approx(expected)


def test_rises_all_the_way():
    values = [sigmoid_rampup(step, 50) for step in range(51)]
    assert all(later > earlier for earlier, later in pairwise(values))
