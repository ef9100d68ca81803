"""No command evaluates a value of the settings beside a checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from aps_components.evaluation.calibrate import calibrate
from aps_components.evaluation.pseudo_labels import pseudo_label
from aps_components.evaluation.trained import load_trained
from aps_components.studies.speed.run import benchmark
from aps_components.studies.uncertainty.run import check_uncertainty

LA = Path(__file__).parents[2] / "bundles" / "la"


@pytest.fixture
def victim(tmp_path):
    yield tmp_path / "victim"
    assert not (tmp_path / "victim").exists()


@pytest.fixture(params=["validation_count", "labeled_count", "spacing", "labels", "seed", "anything"])
def checkpoint(request, tmp_path, victim):
    settings = json.loads((LA / "models" / "model.json").read_text())
    code = f"$open({str(victim)!r}, 'w')"
    settings[request.param] = {"0": "background", "1": code} if request.param == "labels" else code
    (tmp_path / "model.json").write_text(json.dumps(settings))
    torch.save({}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


DOORS = {
    "calibrate": lambda given, out: calibrate(**given, target=out / "calibrated.pt"),
    "evaluate": lambda given, out: load_trained(**given),
    "pseudo-label": lambda given, out: pseudo_label(**without(given), checkpoints=[given["checkpoint"]], target=out),
    "uncertainty": lambda given, out: check_uncertainty(**without(given), checkpoints=[given["checkpoint"]], out=out),
    "benchmark": lambda given, out: benchmark(**given, settings=[], out=out),
}


def without(given):
    return {key: value for key, value in given.items() if key != "checkpoint"}


@pytest.mark.parametrize("door", DOORS)
def test_code_in_settings_is_refused_by_name_in_every_door(checkpoint, tmp_path, door):
    given = {"bundle": LA, "dataset_dir": tmp_path, "checkpoint": checkpoint}
    with pytest.raises(ValueError, match=r"model\.json: .*means something else to MONAI's configuration"):
        DOORS[door](given, tmp_path / "out")
