import json
from unittest.mock import patch

import pytest
from workflows import LA

from aps_components.evaluation import Evaluation
from aps_components.evaluation.records import Records
from aps_components.evaluation.trained import load_trained
from aps_components.studies.speed import REFERENCE, Setting, benchmark

SETTINGS = [Setting(overlap=0.25), Setting(overlap=0.25, predictor="a", batch=2), Setting(overlap=None, predictor="a")]
TIMED = "aps_components.studies.speed.run.timed"


@pytest.fixture
def arguments(phantoms, tiny_checkpoint, tiny_options, tmp_path):
    return {
        "bundle": LA,
        "dataset_dir": phantoms,
        "checkpoint": tiny_checkpoint(),
        "out": tmp_path / "out",
        "settings": SETTINGS,
        "options": tiny_options,
    }


@pytest.mark.slow
def test_dice_is_that_of_the_evaluation_and_nothing_is_measured_twice(arguments, tmp_path, capsys):
    table = benchmark(**arguments, reference_cases=0)
    text = table.read_text()
    assert "reference on 0 of them" in text
    model = load_trained(**{key: arguments[key] for key in ("bundle", "dataset_dir", "checkpoint", "options")})
    records = Records(table.parent / "scans.jsonl", settings=_settings(table))
    report = Evaluation(
        items=model.items,
        network=model.network,
        inferer=model.inferer,
        preprocessing=model.image_preprocessing,
        labels=model.labels,
        device="cpu",
        output_dir=tmp_path / "evaluation",
    ).run()
    for row in report.rows:
        if row["variant"] == "largest_component" and row["predictor"] in ("a", "average"):
            setting = SETTINGS[row["predictor"] == "a"]
            assert records.find(case=row["case"], **setting.key)["dice"] == pytest.approx(row["dice"], abs=1e-6)
    with patch(TIMED, side_effect=AssertionError("measured again")):
        assert benchmark(**arguments, reference_cases=0).read_text() == text
        with pytest.raises(ValueError, match="split 'validation' there, 'test' now"):
            benchmark(**arguments, split="test")


def _settings(table):
    return json.loads((table.parent / "scans.jsonl").read_text().splitlines()[0])["settings"]


def test_the_reference_runs_on_its_scans_alone_and_is_foretold(arguments, capsys):
    small = arguments | {"settings": SETTINGS[1:2], "options": arguments["options"] | {"roi_size": [32, 32, 32]}}
    table = benchmark(**small, cases=2, reference_cases=1)
    rows = (table.parent / "table.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [["a", "overlap 0.25"]] * 2 + [["average", "reference"]]
    # 40 x 36 x 32 voxels, strides of 5, 5 and 1 (one window): starts 0, 5, 8 and 0, 4.
    assert rows[-1].split(",")[5] == "6"
    told = capsys.readouterr().out
    assert "minutes for 3 runs" in told
    assert "for the reference: 6 windows a scan" in told


def test_the_predictor_of_the_network_is_given_back(arguments):
    model = load_trained(**{key: arguments[key] for key in ("bundle", "dataset_dir", "checkpoint", "options")})
    with patch("aps_components.studies.speed.run.load_trained", return_value=model):
        benchmark(**arguments | {"settings": SETTINGS[1:2]}, cases=1, reference_cases=0)
    assert model.network.predictor == "average"
    assert REFERENCE.predictor == "average"


@pytest.mark.parametrize("change", [{"cases": 0}, {"reference_cases": -1}])
def test_impossible_numbers_are_refused(arguments, change):
    with pytest.raises(ValueError, match="cases"):
        benchmark(**arguments, **change)
