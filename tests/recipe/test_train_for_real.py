"""The real commands on tiny networks and made-up scans: killed in the middle, gone on with, and used."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from case_folders import box, write_cases
from workflows import environment, run_workflow

from aps_components.bundle.packaging import package_bundle
from aps_components.label_server import prepare_app
from aps_components.models import read_settings
from aps_components.recipe import read_results
from aps_components.segmentation import segment

RECIPE = {
    "folds": 2,
    "short": 0,
    "least_iterations": 1,
    "enough_iterations": 1,
    "most_iterations": 2,
    "epochs": 2,
    "probe_iterations": 1,
}
RECIPE |= {"most_overhead": 0.99, "checked_from": 10**9, "least_teacher": 0.0}
TINY = {"network_def#filters": 4, "network_def#sam_variant": "tiny", "precision": "fp32", "overlap": 0, "flip_axes": []}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    boxes = {1: box((8, 28), (12, 30), (8, 20))}
    return write_cases(folder / "scans", labelled=3, unlabelled=2, shape=(36, 34, 32), boxes=boxes)


def command(scans, out, *more):
    options = {"out": out, "time": "60m", "labels": "1:block", "jobs": 1, "roi_size": [32, 32, 32], "recipe": RECIPE}
    flags = [part for key, value in {**options, **TINY}.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", "aps_components", "train", str(scans), *flags, *more]


def start(scans, out, log):
    with open(log, "w") as stream:
        return subprocess.Popen(command(scans, out), stdout=stream, stderr=subprocess.STDOUT, env=environment())


def wait_for(process, file, *, seconds=900):
    end = time.monotonic() + seconds
    while not file.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    return file.exists()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_in_the_middle_it_goes_on_to_a_bundle_that_is_used(scans, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    process = start(scans, out, log)
    assert wait_for(process, out / "work" / "fold_2" / "models" / "checkpoint.pt"), log.read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = json.loads((out / "work" / "journal.json").read_text())
    before = {name for name, stage in first["stages"].items() if stage["done"]}
    assert "first round, fold 1" in before
    assert "last training" not in first["stages"]
    model = out / "work" / "fold_1" / "models" / "model.pt"
    changed = model.stat().st_mtime_ns

    process = start(scans, out, log)
    assert process.wait(2000) == 0, log.read_text()
    assert model.stat().st_mtime_ns == changed
    results = read_results(out)
    assert all(stage.done for stage in results.stages)
    plain = [e for e in results.held_out if e.predictor == "a" and not e.calibrated]
    assert sorted(entry.case for entry in plain) == ["c00", "c01", "c02"]
    assert all((out / str(entry.picture)).is_file() for entry in plain)
    assert "worst error" in (out / "report.html").read_text()
    bundle = out / "bundle"
    assert read_settings(bundle / "models" / "model.pt")["labels"] == {"0": "background", "1": "block"}
    assert read_settings(bundle / "models" / "model.pt")["labeled_by_hand"] == 3

    found = segment(str(scans / "images" / "c04.nii.gz"), str(tmp_path / "one"), bundle=str(bundle), preview=False)
    assert found.scans == 1
    assert not found.failed
    image = {"image": str(scans / "images" / "c04.nii.gz"), "output_dir": str(tmp_path / "two")}
    run_workflow("inference.json", kind="infer", options={"bundle_root": str(bundle), "device": "cpu", **image})
    maps = [np.asarray(nib.load(next((tmp_path / name).glob("c04*.nii.gz"))).dataobj) for name in ("one", "two")]
    assert np.array_equal(*maps)

    license_page = bundle / "docs" / "data_license.txt"
    license_page.write_text("Made-up scans, for whoever wants them.\n")
    metadata = bundle / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    assert content.pop("to_fill_in") == ["docs/data_license.txt"]
    metadata.write_text(json.dumps(content))
    assert package_bundle(bundle, out=tmp_path / "dist").archive.is_file()
    origins = prepare_app(tmp_path / "app", bundles=[bundle])
    assert list(origins) == ["out"]


@pytest.mark.slow
def test_a_dry_run_measures_and_writes_nothing(scans, tmp_path):
    done = subprocess.run(
        command(scans, tmp_path / "out", "--dry_run"), capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    assert re.search(r"last training +\d+ \w+ +Model A, 2 iterations", done.stdout)
    assert sorted(os.listdir(scans)) == ["images", "labels"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_it_goes_on_from_a_model_of_the_same_scans(scans, tmp_path):
    few = [f"--recipe={RECIPE | {'fewest_patients': 4, 'short': 10**9}}"]
    first = tmp_path / "one" / "bundle" / "models" / "model.pt"
    for name, more in (("one", []), ("two", ["--pretrained", str(first)])):
        done = subprocess.run(
            [*command(scans, tmp_path / name, *few), *more],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    results = read_results(tmp_path / "two")
    assert results.held_out == []
    assert results.plan.unknown[0].startswith("The model to begin with has learned from 3 of the 3 labelled scans")
    cases = read_settings(tmp_path / "two" / "bundle" / "models" / "model.pt")["cases"]
    assert len(cases["earlier"]) == 5
