import json
import shutil
from unittest.mock import patch

import pytest
from workflows import LA

from aps_components.studies.uncertainty import check_uncertainty

COARSE = {"spacing": [2.0, 2.0, 2.0]}  # a scan is one window
MEASURE = "aps_components.studies.uncertainty.run.measure_scan"


@pytest.mark.slow
def test_models_are_measured_in_the_order_of_their_labels_and_never_again(
    phantoms, tiny_checkpoint, tiny_options, tmp_path
):
    many = tiny_checkpoint("a_many", seed=1, labeled_count=4, **COARSE)
    few = tiny_checkpoint("b_few", seed=0, labeled_count=2, **COARSE)
    arguments = {
        "bundle": LA,
        "dataset_dir": phantoms,
        "checkpoints": [many, few],
        "out": tmp_path / "out",
        "noises": [0.3],
        "band_mm": 4.0,
        "cases": 1,
        "options": tiny_options,
    }
    report = check_uncertainty(**arguments)
    text = report.read_text()
    content = json.loads((report.parent / "report.json").read_text())
    assert [entry["labeled_count"] for entry in content["models"]] == [2, 4]
    assert [entry["noises"] for entry in content["models"]] == [[0.0, 0.3]] * 2
    assert [len(entry["scans"]) for entry in content["models"]] == [1, 1]
    with patch(MEASURE, side_effect=AssertionError("measured again")):
        assert check_uncertainty(**arguments).read_text() == text
        check_uncertainty(**arguments | {"checkpoints": [few]})
        with pytest.raises(ValueError, match=r"band_mm 4\.0 there, 5\.0 now"):
            check_uncertainty(**arguments | {"band_mm": 5.0})


def refused(phantoms, tmp_path, checkpoints, **changes):
    arguments = {"bundle": LA, "dataset_dir": phantoms, "checkpoints": checkpoints, "out": tmp_path / "out"} | changes
    with patch(MEASURE, side_effect=AssertionError("too late")), pytest.raises(ValueError) as error:  # noqa: PT011
        check_uncertainty(**arguments)
    return str(error.value)


def test_what_does_not_fit_is_refused_before_anything_is_measured(phantoms, tiny_checkpoint, tmp_path):
    known, unknown = tiny_checkpoint("known", labeled_count=4), tiny_checkpoint("unknown")
    message = refused(phantoms, tmp_path, [known, unknown])
    assert message.startswith(f"nothing says how many labelled scans {unknown} was trained with")
    assert message.endswith(f"into {unknown.with_suffix('.json')}")
    assert "each once" in refused(phantoms, tmp_path, [known, known])
    assert "each once" in refused(phantoms, tmp_path, [])
    assert "noises -0.1 must be a number from 0 on" in refused(phantoms, tmp_path, [known], noises=[-0.1])
    assert "band_mm 0 " in refused(phantoms, tmp_path, [known], band_mm=0)


def test_models_that_left_other_scans_out_do_not_compare(unsplit, tiny_checkpoint, tiny_options, tmp_path):
    files = [tiny_checkpoint(str(count), seed=count, labeled_count=count, validation_count=count) for count in (1, 2)]
    arguments = {"bundle": LA, "dataset_dir": unsplit, "checkpoints": files, "out": tmp_path, "options": tiny_options}
    with patch(MEASURE, return_value={}), pytest.raises(ValueError, match="train both with the same validation_count"):
        check_uncertainty(**arguments)


def test_another_checkpoint_under_the_same_name_is_measured(phantoms, tiny_checkpoint, tiny_options, tmp_path):
    first, second = (tiny_checkpoint(name, seed=seed, **COARSE) for seed, name in enumerate(("first", "second")))
    arguments = {"bundle": LA, "dataset_dir": phantoms, "checkpoints": [first], "out": tmp_path / "out", "cases": 1}
    arguments |= {"options": tiny_options, "noises": []}
    check_uncertainty(**arguments)
    shutil.copy(second, first)
    with patch(MEASURE, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        check_uncertainty(**arguments)
