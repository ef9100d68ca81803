import csv
import io
from itertools import pairwise

import pytest

from aps_components.evaluation.clicks.table import area_under, markdown, mean_curve, per_scan_csv, summarise
from aps_components.evaluation.listening import ALTERATIONS


def scan(dice, *, kept=None, changed=0.25):
    count = len(dice) - 1
    return {
        "dice": dice,
        "nsd": [value / 2 for value in dice],
        "obeyed": [True] * count,
        "kept": kept or [True] * count,
        "harmful": [after < before - 0.1 for before, after in pairwise(dice)],
        "first_ms": 1000.0,
        "click_ms": [100.0 + index for index in range(count)],
        "listening": {name: {"changed": changed, "dice_b": 50.0} for name in ALTERATIONS},
    }


def test_a_scan_that_is_right_early_stays_so():
    assert mean_curve([[80, 100], [60, 70, 80, 90]], clicks=3).tolist() == [70, 85, 90, 95]


def test_area_is_the_mean_height():
    assert area_under(mean_curve([[80.0, 90.0, 100.0]], clicks=2)) == 90
    assert area_under(mean_curve([[0.0, 100.0]], clicks=4)) == pytest.approx((50 + 3 * 100) / 4)
    assert area_under(mean_curve([[73.0]], clicks=10)) == 73


def test_shares_are_of_clicks_not_of_scans():
    scans = [scan([50, 60, 59.95, 59, 70], kept=[True, True, False, True]), scan([90, 100])]
    figures = summarise(scans, clicks=10)
    assert list(figures["dice"]) == ["0", "1", "2", "3", "5", "10"]
    assert (figures["dice"]["0"], figures["dice"]["10"]) == (70, 85)
    assert figures["clicks"] == 5
    assert figures["obeyed"] == 1
    assert figures["kept"] == 0.8
    assert figures["harmful"] == 0.2  # 59.95 to 59; not 60 to 59.95
    assert figures["click_ms"] == 101
    assert figures["listening"]["zeroed"] == {"changed": 0.25, "dice_b": 50}


def test_a_scan_without_errors_needs_no_click():
    figures = summarise([scan([100.0])], clicks=3)
    assert (figures["auc"], figures["obeyed"], figures["click_ms"]) == (100, None, None)
    assert "| clicked voxels right at once % | - |" in markdown(figures, title="x", tolerance_mm=2)


def test_the_table_of_scans_has_a_line_each():
    rows = list(csv.DictReader(io.StringIO(per_scan_csv({"a": scan([50, 60]), "b": scan([100])}, clicks=2))))
    assert [row["scan"] for row in rows] == ["a", "b"]
    assert (rows[0]["dice_2"], rows[0]["nsd_0"], rows[1]["obeyed"]) == ("60.0000", "25.0000", "")
