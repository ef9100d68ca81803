"""What a finished run leaves: a small file that names no path and is all that a table needs."""

import json
import re
from threading import Event
from unittest.mock import patch

import pytest
from workflows import LA

from aps_components.processes import CommandStopped
from aps_components.studies.comparison import compare
from aps_components.studies.comparison.methods import load_methods
from aps_components.studies.comparison.runs import CHECKPOINTS, Run, RunStopped


@pytest.fixture
def trained(tmp_path):
    """A run whose training and evaluations were finished by an earlier call, which was killed then."""
    run = Run(
        method=load_methods()["prompts/none"],
        seed=3,
        out=tmp_path / "out",
        results=tmp_path / "results",
        bundle=LA,
        options={},
        epochs=3,
        split="validation",
    )
    for index, checkpoint in enumerate(CHECKPOINTS):
        entry = {"predictor": "average", "variant": "largest_component", "class": "all", "n": 4, "undefined": 0}
        statistics = {"mean": 0.5 + index, "median": 0.1, "std": 0.2}
        entry |= dict.fromkeys(("dice", "jaccard", "asd_mm"), statistics) | {"hd95_mm": statistics | {"mean": None}}
        file = run.metrics_file(checkpoint)
        file.parent.mkdir(parents=True)
        # One scan has one class only; the raw rows and the class nobody answered do not count.
        kept = [("s", "one", 0.5), ("s", "two", 0.25), ("t", "one", 0.75), ("t", "two", None)]
        cases = [
            {"case": case, "predictor": "average", "variant": variant, "class": name, "dice": dice}
            for variant, rows in (("largest_component", kept), ("raw", [("s", "one", 0.0)]))
            for case, name, dice in rows
        ]
        file.write_text(json.dumps({"cases": cases, "summary": [entry | {"class": "two"}, entry]}))
    (run.folder / "training").mkdir()
    lines = [{"epoch": n, "iteration": 50 * n, "seconds_per_iteration": 0.6 * n} for n in (1, 2, 3)]
    (run.folder / "training" / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_the_result_is_written_without_training_again(trained):
    assert not trained.is_done
    with patch("subprocess.Popen", side_effect=AssertionError("trained again")):
        trained.execute(Event())
    assert trained.is_done
    assert trained.result_file == trained.results / "prompts-none" / "seed_3.json"
    result = trained.result()
    assert (result["method"], result["seed"], result["iterations"]) == ("prompts/none", 3, 150)
    assert result["minutes"] == pytest.approx((0.6 + 1.2 + 1.8) * 50 / 60)
    kept = {"predictor": "average", "variant": "largest_component", "class": "two", "n": 4, "hd95_mm": None}
    last = kept | {"class": "all", "dice_by_scan": {"s": 0.375, "t": 0.75}}
    means = {"ema": dict.fromkeys(("dice", "jaccard", "asd_mm"), 0.5)}
    means["calibrated"] = dict.fromkeys(means["ema"], 1.5)
    means["plain"] = dict.fromkeys(means["ema"], 2.5)
    assert result["metrics"] == {name: [kept | means[name], last | means[name]] for name in CHECKPOINTS}
    assert result["machine"]["auto_precision"] in ("bf16", "fp32")
    assert str(trained.out.parent) not in trained.result_file.read_text()


def test_results_from_another_machine_count(phantoms, trained, tmp_path):
    """Only the folder of results is there; neither logs nor models."""
    trained.execute(Event())
    common = {"bundle": LA, "dataset_dir": phantoms, "methods": ["prompts/none"], "seeds": [3], "epochs": 3}
    with patch.object(Run, "execute", side_effect=AssertionError("repeated")):
        table = compare(**common, out=tmp_path / "elsewhere", results=tmp_path / "results")
    assert table.parent == tmp_path / "results"
    assert (
        "| No prompts | ema | average | 50.00 | - | 56.25 | 37.50 | 50.00 | - | 0.50 | - | 3.0 | 1 |"
        in table.read_text()
    )
    settings = json.loads((tmp_path / "results" / "comparison.json").read_text())
    assert settings.pop("scans")  # whose figures these are
    assert settings == {"bundle": "la", "dataset": "phantoms", "epochs": 3, "split": "validation"}


def test_a_file_gets_a_line_for_each_epoch(trained, capsys):
    """And no codes that move a cursor; two epochs were there before."""
    history = trained.folder / "training" / "history.jsonl"
    lines = history.read_text().splitlines()
    history.write_text("\n".join(lines[:2]))

    def looks(command, *, look, **_):
        look()
        history.write_text("\n".join(lines))
        look()

    with patch.dict("aps_components.studies.comparison.runs.IN_A_FILE", mininterval=0.0):
        with patch("aps_components.studies.comparison.runs.run_logged", looks):
            trained._bundle(Event(), "training", ["train.json"])
        with (
            patch("aps_components.studies.comparison.runs.run_logged", side_effect=CommandStopped),
            pytest.raises(RunStopped, match="prompts/none, seed 3"),
        ):
            trained._bundle(Event(), "evaluating", ["train.json"])
    printed = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.strip()]
    begun, *later = printed
    assert begun.startswith("prompts/none, seed 3: 2/3 [00:00<?")
    assert later
    assert all(re.fullmatch(r"prompts/none, seed 3: 3/3 \[00:00<00:00, .*epoch.*\]", line.strip()) for line in later)
