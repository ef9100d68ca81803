import itertools
import math

import numpy as np
import pytest

from aps_components.evaluation.reliability import Calibration


def test_calibration_of_known_bins():
    """0.9 and 1.0 share the last of five bins, 0.8 lies in the one below: a bin holds its upper edge."""
    found = Calibration.of(np.array([0.9, 1.0, 0.8, 0.75]), np.array([True, False, True, True]), bins=5)
    assert found.voxels.tolist() == [0, 0, 0, 2, 2]
    assert found.correct.tolist() == [0, 0, 0, 2, 1]
    assert found.confidence.tolist() == pytest.approx([0, 0, 0, 1.55, 1.9])
    assert found.error() == pytest.approx((0.45 + 0.9) / 4)
    assert found.overconfidence() == pytest.approx((3.45 - 3) / 4)


@pytest.mark.parametrize("bins", [1, 15])
def test_calibration_error_as_its_definition_says(bins):
    generator = np.random.default_rng(2)
    confidence = generator.random((7, 11, 13))
    correct = generator.random(confidence.shape) < confidence**2
    edges, expected = np.linspace(0, 1, bins + 1), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert Calibration.of(confidence, correct, bins=bins).error() == pytest.approx(expected, abs=1e-12)


def test_right_as_often_as_sure_is_calibrated():
    found = Calibration.of(np.full(100, 0.7), np.arange(100) < 70)
    assert found.error() == pytest.approx(0, abs=1e-12)
    assert math.isnan(Calibration.of(np.array([]), np.array([], dtype=bool)).error())
    assert Calibration.of(np.array([0.0, 1.0 + 1e-7]), np.array([True, True])).voxels[[0, -1]].tolist() == [1, 1]
