import math

import pytest

from aps_components.evaluation.records import Records


def test_records_are_found_again(tmp_path):
    file, key = tmp_path / "scans.jsonl", {"case": "a", "overlap": (0.5, 0.25), "window": None}
    records = Records(file, settings={"roi_size": (32, 48, 16)})
    assert records.find(**key) is None
    assert records.add({"dice": 0.1 + 0.2, "more": {"values": (1, math.nan)}}, **key)["dice"] == 0.1 + 0.2
    again = Records(file, settings={"roi_size": [32, 48, 16]})
    found = again.find(**key)
    assert (found["dice"], found["more"]["values"][0]) == (0.1 + 0.2, 1)
    assert math.isnan(found["more"]["values"][1])
    assert (len(again), again.find(**key | {"case": "b"})) == (1, None)


def test_a_line_that_was_cut_short_is_measured_again(tmp_path):
    file = tmp_path / "scans.jsonl"
    records = Records(file, settings={})
    for case in "ab":
        records.add({"dice": 0.5}, case=case)
    file.write_text(file.read_text()[:-9])
    again = Records(file, settings={})
    assert (again.find(case="a"), again.find(case="b")) == ({"dice": 0.5}, None)
    again.add({"dice": 0.75}, case="b")
    assert Records(file, settings={}).find(case="b") == {"dice": 0.75}


def test_figures_of_other_settings_are_refused_by_name(tmp_path):
    file = tmp_path / "scans.jsonl"
    Records(file, settings={"split": "validation", "seed": 0})
    with pytest.raises(ValueError, match=r"scans\.jsonl holds figures of other settings \(seed 0 there, 1 now\)"):
        Records(file, settings={"split": "validation", "seed": 1})
