"""The averaged and the last weights are measured with offsets of their own, from the labelled training scans, too."""

import json
import sys
from threading import Event
from unittest.mock import patch

import pytest
import torch
from workflows import LA

from aps_components.models import read_checkpoint, save_atomically
from aps_components.studies.comparison.methods import load_methods
from aps_components.studies.comparison.runs import CHECKPOINTS, RunError
from aps_components.studies.comparison.runs import Run as ComparedRun

RUNS = "aps_components.studies.comparison.runs"


class Run(ComparedRun):
    """Trained already; an evaluation keeps the weights that it is given."""

    def _bundle(self, stop, run_id, files, **paths):
        if run_id == "evaluating":
            name = paths["output_dir"].name
            paths["output_dir"].mkdir()
            save_atomically(read_checkpoint(paths["checkpoint"]), paths["output_dir"] / "seen.pt")
            assert json.loads(paths["checkpoint"].with_suffix(".json").read_text())["labeled_count"] == 2
            self.metrics_file(name).write_text(json.dumps({"cases": [], "summary": []}))


@pytest.fixture
def run(phantoms, tiny_checkpoint, tiny_options, tmp_path):
    """A training with two labelled scans that has just ended."""
    trained = Run(
        method=load_methods()["prompts/none"],
        seed=0,
        out=tmp_path / "out",
        results=tmp_path / "out",
        bundle=LA,
        options={"dataset_dir": str(phantoms), "pretrained": None, **tiny_options | {"overlap": 0}},
        epochs=1,
        split="validation",
    )
    models, training = trained.folder / "models", trained.folder / "training"
    for folder in (models, training):
        folder.mkdir(parents=True)
    source = tiny_checkpoint(labeled_count=2)
    for suffix in (".pt", ".json"):
        source.with_suffix(suffix).rename(models / f"model{suffix}")
    (training / "history.jsonl").write_text(
        json.dumps({"epoch": 1, "iteration": 2, "seconds_per_iteration": 1.0}) + "\n"
    )
    return trained


def finish(run, offset):
    """Give student and teacher the offset that a training found, and let the run be evaluated."""
    models = run.folder / "models"
    weights = read_checkpoint(models / CHECKPOINTS["ema"])
    weights["decision.offsets"] = torch.tensor([[0.0, offset], [0.0, offset]])
    save_atomically(weights, models / CHECKPOINTS["ema"])
    student = {key: value * 1.1 if value.is_floating_point() else value for key, value in weights.items()}
    student["decision.offsets"] = weights["decision.offsets"]  # training writes those of the averaged weights
    save_atomically({"student": student}, models / "checkpoint.pt")
    run.execute(Event())
    seen = {name: run.folder / name / "seen.pt" for name in CHECKPOINTS}
    return student, {name: read_checkpoint(file) for name, file in seen.items() if file.is_file()}


@pytest.mark.slow
def test_offsets_from_whole_scans(run):
    student, seen = finish(run, offset=0.25)
    averaged, calibrated, plain = (seen[name] for name in ("ema", "calibrated", "plain"))
    assert averaged["decision.offsets"][0, 1] == 0.25
    for weights, source in ((calibrated, averaged), (plain, student)):
        assert {key for key in weights if not torch.equal(weights[key], source[key])} == {"decision.offsets"}
        assert weights["decision.offsets"][0, 1] not in (0, 0.25)
    assert (run.folder / "calibrating.log").read_text().count("Model A, left atrium: offset") == 2
    kept = {"model.json", "model.pt", "model_calibrated.json", "model_calibrated.pt"}
    assert {file.name for file in (run.folder / "models").iterdir()} == kept
    assert list(run.result()["metrics"]) == ["ema", "calibrated", "plain"]


def test_without_the_decision_there_are_no_offsets(run):
    with patch("subprocess.Popen", side_effect=AssertionError("calibrated")):
        student, seen = finish(run, offset=0.0)
    assert list(seen) == list(run.result()["metrics"]) == ["ema", "plain"]
    assert all(torch.equal(weights, student[key]) for key, weights in seen["plain"].items())


def test_a_failed_calibration_is_no_evaluation_of_uncalibrated_weights(run):
    failing = [sys.executable, "-c", "raise SystemExit('ValueError: no scan to adjust on')"]
    message = r"calibrating of prompts/none, seed 0, failed: .*no scan to adjust on.*\.log\)"
    with patch(f"{RUNS}.aps_command", return_value=failing), pytest.raises(RunError, match=message):
        finish(run, offset=0.25)
    assert not any((run.folder / name).exists() for name in CHECKPOINTS)
