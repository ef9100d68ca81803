import itertools
import math

import numpy as np
import pytest
from scipy.stats import rankdata

from aps_components.studies.uncertainty import ErrorRanking

WITH_TIES = [
    ([0.0, 0.0, 0.5, 0.5, 0.5, 0.9], [0, 1, 0, 1, 0, 1]),
    ([0.2, 0.1, 0.3], [1, 0, 0]),
    ([0.0, 0.0, 0.0, 0.0], [1, 0, 0, 0]),
    ([-1.0, 2.0, -1.0, 7.0, 2.0], [0, 1, 1, 0, 1]),
]


def ranking(uncertainty, error):
    return ErrorRanking.of(np.array(uncertainty, dtype=np.float32), np.array(error, dtype=bool))


def orders(uncertainty):
    """Every order of the voxels that is sorted by uncertainty."""
    return [
        order
        for order in itertools.permutations(range(len(uncertainty)))
        if all(uncertainty[a] <= uncertainty[b] for a, b in itertools.pairwise(order))
    ]


@pytest.mark.parametrize(("uncertainty", "error"), WITH_TIES)
def test_auroc_counts_pairs(uncertainty, error):
    wrong = [u for u, e in zip(uncertainty, error, strict=True) if e]
    right = [u for u, e in zip(uncertainty, error, strict=True) if not e]
    pairs = [1.0 if w > r else 0.5 if w == r else 0.0 for w in wrong for r in right]
    assert ranking(uncertainty, error).auroc() == pytest.approx(np.mean(pairs), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_auroc_is_the_mann_whitney_statistic_of_scipys_ranks(decimals):
    generator = np.random.default_rng(0)
    error = generator.random((17, 24, 40)) < 0.07
    uncertainty = np.maximum(0, generator.normal(size=error.shape) + error).round(decimals)
    ranks, wrong = rankdata(uncertainty)[error.ravel()], error.sum()
    expected = (ranks.sum() - wrong * (wrong + 1) / 2) / (wrong * (error.size - wrong))
    assert ErrorRanking.of(uncertainty, error).auroc() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("uncertainty", "error"), WITH_TIES)
def test_risk_is_the_mean_over_all_orders_of_ties(uncertainty, error):
    errors = np.array(error)
    curves = [np.cumsum(errors[list(order)]) / np.arange(1, len(error) + 1) for order in orders(uncertainty)]
    found = ranking(uncertainty, error)
    np.testing.assert_allclose(found.risk(), np.mean(curves, axis=0), atol=1e-12)
    assert found.aurc() == pytest.approx(np.mean(curves), abs=1e-12)
    assert found.risk()[-1] == pytest.approx(found.error_rate)


def test_known_values():
    """Errors last: risks 0, 0, 1/3, 2/4. Errors first: 1, 1, 2/3, 2/4. No order: half everywhere."""
    perfect, worst = ranking([1, 2, 3, 4], [0, 0, 1, 1]), ranking([4, 3, 2, 1], [0, 0, 1, 1])
    nothing = ranking([0, 0, 0, 0], [0, 0, 1, 1])
    assert (perfect.auroc(), worst.auroc(), nothing.auroc()) == (1, 0, 0.5)
    assert perfect.aurc() == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert worst.aurc() == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4)
    assert nothing.aurc() == pytest.approx(0.5)
    assert perfect.excess_aurc() == 0
    assert worst.excess_aurc() == pytest.approx((1 + 1 + 1 / 3) / 4)


def test_a_perfect_order_has_the_published_area():
    """Geifman et al. 2018: about r + (1 - r) log(1 - r) for an error rate r."""
    size, rate = 100_000, 0.13
    error = np.arange(size) >= size * (1 - rate)
    found = ErrorRanking.of(np.arange(size), error)
    assert found.aurc() == pytest.approx(rate + (1 - rate) * math.log(1 - rate), abs=1e-5)


def test_only_the_order_counts_and_not_where_a_voxel_lies():
    generator = np.random.default_rng(1)
    error = generator.random(1000) < 0.2
    uncertainty = generator.integers(0, 9, 1000).astype(float)
    shuffled = generator.permutation(1000)
    found, other = ErrorRanking.of(uncertainty, error), ErrorRanking.of(np.exp(uncertainty[shuffled]), error[shuffled])
    assert (found.auroc(), found.aurc(), found.excess_aurc()) == (other.auroc(), other.aurc(), other.excess_aurc())


def test_what_is_undefined_is_nan():
    assert math.isnan(ranking([0.1, 0.2], [0, 0]).auroc())
    assert math.isnan(ranking([0.1, 0.2], [1, 1]).auroc())
    assert (ranking([0.1, 0.2], [0, 0]).aurc(), ranking([0.1, 0.2], [0, 0]).excess_aurc()) == (0, 0)
    empty = ranking([], [])
    assert all(math.isnan(value) for value in (empty.auroc(), empty.aurc(), empty.error_rate))
    with pytest.raises(ValueError, match="free of NaN"):
        ranking([0.1, math.nan], [0, 1])
    with pytest.raises(ValueError, match=r"have the shape of error \(1,\)"):
        ranking([0.1, 0.2], [1])
