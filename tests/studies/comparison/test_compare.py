import json
import os
import re
import signal
import subprocess
import sys
from threading import Barrier, Event
from unittest.mock import patch

import pytest
import torch
from workflows import LA, TINY, untrained_copy

from aps_components import cli
from aps_components.studies.comparison import RunError, compare
from aps_components.studies.comparison.methods import load_methods
from aps_components.studies.comparison.runs import Run, RunStopped

SMALL = {key: value for key, value in TINY.items() if key != "bundle_root"} | {
    "labeled_count": 4,
    "epoch_length": 2,
    "warmup_epochs": 1,
}


def arguments(phantoms, tmp_path, **changes):
    return {
        "bundle": LA,
        "dataset_dir": phantoms,
        "out": tmp_path / "out",
        "methods": ["supervised"],
        "seeds": [0],
        "epochs": 2,
        "options": SMALL,
    } | changes


@pytest.mark.slow
def test_runs_are_trained_evaluated_tabulated_and_never_repeated(phantoms, tmp_path, capsys):
    table = compare(**arguments(phantoms, tmp_path))
    assert table.read_text().count("| Supervised only |") == 3
    models = tmp_path / "out" / "supervised" / "seed_0" / "models"
    kept = ["model.json", "model.pt", "model_calibrated.json", "model_calibrated.pt"]
    assert sorted(file.name for file in models.iterdir()) == kept
    assert all(value.isfinite().all() for value in torch.load(models / "model.pt", weights_only=True).values())
    reports = [
        json.loads((tmp_path / "out" / "supervised" / "seed_0" / name / "metrics.json").read_text())
        for name in ("ema", "calibrated", "plain")
    ]
    assert [report["context"]["split"] for report in reports] == ["validation"] * 3
    assert reports[0]["summary"] != reports[2]["summary"]
    capsys.readouterr()
    with patch.object(Run, "execute", side_effect=AssertionError("repeated")):
        compare(**arguments(phantoms, tmp_path))
    with pytest.raises(ValueError, match=r"other settings \(epochs 2 there, 3 now\)"):
        compare(**arguments(phantoms, tmp_path, epochs=3))


def test_a_run_that_fails_names_its_log_and_the_others_go_on(phantoms, tmp_path):
    """Nothing is trained."""
    done = []

    def execute(run, stop):
        done.append(run.seed)
        if run.seed == 0:
            raise RunError("training of supervised, seed 0, failed")

    with patch.object(Run, "execute", execute), pytest.raises(RunError, match="1 of 2 runs failed: training of superv"):
        compare(**arguments(phantoms, tmp_path, seeds=[0, 1]))
    assert done == [0, 1]


def test_a_second_comparison_in_the_same_folder_is_refused_while_the_first_works(phantoms, tmp_path):
    done = []

    def execute(run, stop):
        with pytest.raises(RuntimeError, match=r"another aps compare works in .*--out"):
            compare(**arguments(phantoms, tmp_path, seeds=[0, 1]))
        done.append(run.seed)

    with patch.object(Run, "execute", execute):
        for _ in range(2):  # the lock ends with its comparison
            compare(**arguments(phantoms, tmp_path))
    assert done == [0, 0]


def test_a_table_of_what_is_done_without_training(phantoms, tmp_path):
    """Also while another one trains, and with another number of processes; a method with fewer seeds is in it with
    those."""
    options = SMALL | {"num_workers": 3, "network_def#recompute": False}
    wanted = arguments(phantoms, tmp_path, methods=["supervised", "bcp"], seeds=[0, 1], options=options)

    def execute(run, stop):
        with pytest.raises(ValueError, match=r"no finished training of supervised, bcp with seeds \[0, 1\]"):
            compare(**wanted | {"out": tmp_path / "empty"}, train=False)
        assert not (tmp_path / "empty").exists()  # no settings that the next comparison would have to have
        entry = {"predictor": "a", "variant": "largest_component", "class": "left atrium", "n": 1, "dice": 0.5}
        content = {"minutes": 1.0, "metrics": {"ema": [entry], "plain": [entry]}}
        run.result_file.parent.mkdir()
        run.result_file.write_text(json.dumps(content))
        table = compare(**wanted, train=False)
        found = re.findall(r"\| (.*?) \| ema \| a \| 50.00 .* \| (\d) \|", table.read_text())
        assert found == [("Supervised only", "1")]

    with patch.object(Run, "execute", execute):
        compare(**arguments(phantoms, tmp_path))


def test_options_that_the_bundle_does_not_have_are_refused(phantoms, tmp_path):
    """MONAI would take them for new keys."""
    with pytest.raises(ValueError, match="no option --augmentaton; did you mean --augmentation"):
        compare(**arguments(phantoms, tmp_path, options=SMALL | {"augmentaton": "affine"}))
    older = tmp_path / "older"
    untrained_copy(LA, older)
    for name in ("train.json", "evaluate.json"):
        file = older / "configs" / name
        content = json.loads(file.read_text())
        del content["fusion"]
        file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"older/configs/train.json lacks what fusion/cafa changes .*aps new-bundle"):
        compare(**arguments(phantoms, tmp_path, bundle=older, methods=["fusion/cafa"]))


def test_two_runs_at_once(phantoms, tmp_path):
    """Each waits for the other to have begun, so one after the other would never end."""
    both, done = Barrier(2, timeout=60), []

    def execute(run, stop):
        both.wait()
        done.append(run.seed)

    with patch.object(Run, "execute", execute):
        compare(**arguments(phantoms, tmp_path, seeds=[0, 1], jobs=2))
    assert sorted(done) == [0, 1]


@pytest.mark.parametrize(("given", "jobs", "wanted"), [(None, 2, "4"), (None, 16, "1"), ("3", 2, "3"), (None, 1, None)])
def test_the_command_line_divides_the_threads(given, jobs, wanted):
    environment, seen = {} if given is None else {"OMP_NUM_THREADS": given}, []
    with (
        patch.dict(os.environ, environment, clear=True),
        patch("os.cpu_count", return_value=8),
        patch("aps_components.studies.comparison.compare", lambda **_: seen.append(os.environ.get("OMP_NUM_THREADS"))),
    ):
        cli.compare("DIR", jobs=jobs)
    assert seen == [wanted]


def test_an_interruption_stops_the_other_runs(phantoms, tmp_path):
    begun, stopped = Barrier(2, timeout=60), []

    def execute(run, stop):
        begun.wait()
        if run.seed == 0:
            raise KeyboardInterrupt
        stopped.append(stop.wait(60))

    with patch.object(Run, "execute", execute), pytest.raises(KeyboardInterrupt):
        compare(**arguments(phantoms, tmp_path, seeds=[0, 1], jobs=2))
    assert stopped == [True]


def test_a_run_that_is_stopped_ends_its_training(phantoms, tmp_path):
    stop = Event()
    stop.set()
    run = Run(
        method=load_methods()["supervised"],
        seed=0,
        out=tmp_path,
        results=tmp_path,
        bundle=LA,
        options={},
        epochs=1,
        split="validation",
    )
    processes = []

    class Sleeper(subprocess.Popen):
        def __init__(self, command, **kwargs):
            super().__init__([sys.executable, "-c", "import time; time.sleep(600)"], **kwargs)
            processes.append(self)

    with patch.object(subprocess, "Popen", Sleeper), pytest.raises(RunStopped):
        run.execute(stop)
    assert processes[0].returncode == -signal.SIGTERM


@pytest.mark.slow
def test_the_reason_of_a_failure_is_said(phantoms, tmp_path):
    with pytest.raises(RunError, match=r"no checkpoint at nowhere\.pt.* \(all of it: .*training\.log\)"):
        compare(**arguments(phantoms, tmp_path, options=SMALL | {"pretrained": "nowhere.pt"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_dir": "nowhere"}, r"supervised cannot be .*/nowhere: no such dataset folder"),
        ({"options": SMALL | {"labeled_count": 99}}, r"labeled_count 99 is outside"),
        ({"methods": ["unlabeled/62"]}, r"unlabeled/62 cannot be .* unlabeled_count 62 is outside 0 to 3"),
        ({"split": "val"}, r"split 'val' must be one of \('validation', 'test'\)"),
        ({"split": "test"}, r"there are no test scans with labels in .*bare: choose .*, or .* --validation_count N"),
    ],
)
def test_scans_that_are_not_there_are_refused_before_anything_is_trained(phantoms, tmp_path, changes, message):
    """An evaluation without scans would fail after hours of training, and its settings could not be changed."""
    bare = tmp_path / "bare"
    bare.mkdir()
    content = json.loads((phantoms / "datalist.json").read_text()) | {"test": []}
    (bare / "datalist.json").write_text(json.dumps(content))
    for folder in ("images", "labels"):
        (bare / folder).symlink_to(phantoms / folder)
    wanted = arguments(bare, tmp_path, **changes)
    never = patch.object(Run, "execute", side_effect=AssertionError("trained"))
    with never, pytest.raises(ValueError, match=message):
        compare(**wanted)
    assert not (tmp_path / "out").exists()
    if "methods" not in changes:  # a table of what is done asks for no scan
        (tmp_path / "out" / "supervised").mkdir(parents=True)
        entry = {"predictor": "a", "variant": "largest_component", "class": "left atrium", "n": 1, "dice": 0.5}
        content = {"minutes": 1.0, "metrics": {"ema": [entry], "plain": [entry]}}
        (tmp_path / "out" / "supervised" / "seed_0.json").write_text(json.dumps(content))
        assert "50.00" in compare(**wanted, train=False).read_text()


def test_a_missing_bundle_is_named(phantoms, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no bundle at .*nowhere"):
        compare(**arguments(phantoms, tmp_path, bundle=tmp_path / "nowhere"))
