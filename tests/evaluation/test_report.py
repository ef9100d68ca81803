import csv
import json
import math

import numpy as np
import pytest

from aps_components.evaluation import ClassMetrics, EvaluationReport


def metrics(dice, distance, *, label=1, name="atrium"):
    return ClassMetrics(
        label, name, dice, dice / 2, distance, 2 * distance, distance / 2, distance, 1.25, 15, 12, dice / 4
    )


@pytest.fixture
def report():
    report = EvaluationReport()
    report.add("case_1", [metrics(0.8, 3.0)], predictor="a", prompt_precision=0.9)
    report.add("case_2", [metrics(0.9, 1.0)], predictor="a", prompt_precision=0.6)
    report.add("case_3", [metrics(0.0, math.nan)], predictor="a", prompt_precision=None)
    report.add("case_1", [metrics(0.85, 2.0)], predictor="average", variant="largest_component")
    return report


def test_summary_holds_mean_median_and_deviation_and_counts_the_undefined(report):
    entry, other = report.summary()
    assert (entry["predictor"], entry["variant"], entry["class"]) == ("a", "raw", "atrium")
    assert (entry["n"], entry["undefined"]) == (3, 1)
    assert entry["dice"] == pytest.approx({"mean": 1.7 / 3, "median": 0.8, "std": np.std([0.8, 0.9, 0])})
    assert entry["hd95_voxel"] == pytest.approx({"mean": 2, "median": 2, "std": 1})
    assert entry["prompt_precision"] == pytest.approx({"mean": 0.75, "median": 0.75, "std": 0.15})
    assert (other["predictor"], other["variant"], other["n"]) == ("average", "largest_component", 1)
    assert math.isnan(other["prompt_precision"]["mean"])


def test_over_classes_takes_each_cases_mean_first():
    report = EvaluationReport()
    report.add("case_1", [metrics(0.8, 3.0), metrics(0.4, math.nan, label=2, name="aorta")])
    report.add("case_2", [metrics(0.6, 1.0), metrics(1.0, 5.0, label=2, name="aorta")])
    entries = report.summary()
    assert [entry["class"] for entry in entries] == ["atrium", "aorta", "all"]
    overall = entries[-1]
    assert (overall["n"], overall["undefined"]) == (2, 1)
    assert overall["dice"] == pytest.approx({"mean": 0.7, "median": 0.7, "std": 0.1})
    assert overall["hd95_voxel"]["mean"] == pytest.approx((3 + (1 + 5) / 2) / 2)


def test_all_undefined_is_nan_without_warning():
    report = EvaluationReport()
    report.add("case_1", [metrics(0.0, math.nan)])
    (entry,) = report.summary()
    assert math.isnan(entry["hd95_mm"]["mean"])
    assert report.table().splitlines()[2].split()[-3:] == ["-", "-", "125.00"]


def test_files_hold_rows_context_and_summary_with_null_for_nan(report, tmp_path):
    csv_path, json_path = report.write(tmp_path / "new" / "folder", name="test", context={"seed": np.int64(3)})
    with csv_path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["case_1", "case_2", "case_3", "case_1"]
    assert float(rows[1]["dice"]) == 0.9
    assert rows[3]["prompt_precision"] == ""
    document = json.loads(json_path.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert document["context"] == {"seed": 3}
    assert document["cases"][2]["hd95_mm"] is None
    assert document["summary"][0]["undefined"] == 1
    assert sorted(path.name for path in csv_path.parent.iterdir()) == ["test.csv", "test.json"]


def test_writing_replaces_an_older_report(report, tmp_path):
    for _ in range(2):
        _, json_path = report.write(tmp_path, context={})
    assert len(json.loads(json_path.read_text())["cases"]) == 4


def test_unwritable_folder_is_named(report, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write the evaluation report to .*file"):
        report.write(tmp_path / "file", context={})


def test_a_failed_write_leaves_no_file(report, tmp_path):
    (tmp_path / "metrics.csv").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match="cannot write"):
        report.write(tmp_path, context={})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_table_lines_up_and_shows_percent(report):
    header, rule, first, second, note = report.table().splitlines()
    assert header.split() == [
        "predictor",
        "variant",
        "class",
        "n",
        "Dice",
        "Jaccard",
        "NSD",
        "HD95",
        "mm",
        "ASD",
        "mm",
        "Volume",
    ]
    assert len(header) == len(rule) == len(first) == len(second)
    assert first.split() == ["a", "raw", "atrium", "(3,", "1)", "56.67", "28.33", "14.17", "4.00", "2.00", "125.00"]
    names, figures = ["average", "largest_component", "atrium"], ["1", "85.00", "42.50", "21.25", "4.00", "2.00"]
    assert second.split() == [*names, *figures, "125.00"]
    assert "undefined" in note


def test_empty_report_is_a_header():
    report = EvaluationReport()
    assert report.summary() == []
    assert len(report.table().splitlines()) == 2


def test_mistakes_are_named(report):
    with pytest.raises(ValueError, match="'largest'"):
        report.add("case_9", [metrics(1, 0)], variant="largest")
    with pytest.raises(ValueError, match=r"\['dice'\]"):
        report.add("case_9", [metrics(1, 0)], dice=3)
    with pytest.raises(ValueError, match="case_1"):
        report.add("case_1", [metrics(1, 0)], predictor="a")
