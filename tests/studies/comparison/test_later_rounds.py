"""A second round: the models of the first label the unlabelled scans, and one learns from what they say together."""

import json
from dataclasses import replace
from threading import Event
from unittest.mock import patch

import pytest
from workflows import LA, TINY

from aps_components.files import sha256_of
from aps_components.studies.comparison import RunError, choose_methods, compare, load_methods
from aps_components.studies.comparison.runs import CHECKPOINTS, Run
from aps_components.studies.comparison.schedule import every_run, execute, unfinished

SECOND = "rounds/second"


@pytest.fixture
def runs(tmp_path):
    common = {"out": tmp_path / "out", "results": tmp_path / "results", "bundle": LA, "epochs": 1}
    options = {"dataset_dir": "DIR", "labeled_count": 2, "overlap": 0}
    return every_run([SECOND, "supervised"], [0, 1], options=options, split="validation", **common)


def train(run):
    """As far as others can see."""
    models = run.folder / "models"
    models.mkdir(parents=True)
    (models / CHECKPOINTS["ema"]).touch()


def finish(run):
    run.result_file.parent.mkdir(parents=True, exist_ok=True)
    run.result_file.write_text(json.dumps({"minutes": 1.5, "metrics": {}}))


def named(runs):
    return [(run.method.name, run.seed) for run in runs]


def test_teachers_have_the_same_seed_and_come_first(runs):
    second, teachers = runs[SECOND, 1], [("bcp", 1), ("ours", 1)]
    assert named(second.teachers) == teachers
    assert (second.round, runs["bcp", 1].round) == (2, 1)
    assert replace(second, teachers=(second,)).round == 3
    wanted = [runs[SECOND, 0], runs["supervised", 0], second]
    assert named(unfinished(wanted)) == [
        ("bcp", 0),
        ("ours", 0),
        ("supervised", 0),
        *teachers,
        (SECOND, 0),
        (SECOND, 1),
    ]


def test_a_teacher_that_is_done_serves_if_its_model_is_here(runs):
    """A result that was brought from another machine labels no scan."""
    second, (bcp, ours) = runs[SECOND, 0], runs[SECOND, 0].teachers
    for teacher in (bcp, ours):
        finish(teacher)
    train(ours)
    assert named(unfinished([second])) == [("bcp", 0), (SECOND, 0)]
    train(bcp)
    assert named(unfinished([second])) == [(SECOND, 0)]
    (bcp.folder / "models" / "checkpoint.pt").touch()  # its training goes on
    assert named(unfinished([second])) == [("bcp", 0), (SECOND, 0)]
    finish(second)
    assert unfinished([second]) == []


def test_a_round_waits_for_the_one_before_it(runs):
    """Two at once: the second round of seed 0 would find a free place while a teacher is at work."""
    done = []
    with patch.object(Run, "execute", lambda run, stop: done.append((run.round, run.method.name))):
        assert list(execute(unfinished(list(runs.values())), jobs=2)) == [None] * 8
    assert [number for number, _ in done] == [1] * 6 + [2] * 2


def test_what_a_second_round_learns_from(runs):
    second = runs[SECOND, 0]
    with pytest.raises(RunError, match=r"rounds/second, seed 0: there is no model of bcp, seed 0, in .*bcp/seed_0"):
        second.execute(Event())
    for teacher in second.teachers:
        train(teacher)
    (second.teachers[1].folder / "models" / CHECKPOINTS["calibrated"]).touch()
    commands = []

    def process(run, stop, run_id, command):
        commands.append((run_id, " ".join(command)))
        if run_id == "labelling":
            made_by = [{"checkpoint_sha256": sha256_of(teacher.answering_file)} for teacher in run.teachers]
            (run.folder / "dataset").mkdir(parents=True)
            (run.folder / "dataset" / "made_by.json").write_text(json.dumps(made_by))
            (run.folder / "dataset" / "datalist.json").write_text(json.dumps({"training": [{}] * 7}))
        else:
            raise RunError("enough")

    with patch.object(Run, "_process", process):
        for _ in range(2):  # labels that are there are not made again
            with pytest.raises(RunError, match="enough"):
                second.execute(Event())
    assert [name for name, _ in commands] == ["labelling", "training", "training"]
    labelling, training = commands[0][1], commands[1][1]
    first = second.out
    both = [f"{first}/bcp/seed_0/models/model.pt", f"{first}/ours/seed_0/models/model_calibrated.pt"]
    assert f"pseudo-label --dataset_dir DIR --overlap 0 --bundle {LA} --checkpoints {both} --target" in labelling
    assert "labeled_count" not in labelling  # how many were labelled by hand stands beside the models
    for option in (
        f"--dataset_dir {second.folder}/dataset",
        "--labeled_count 7 ",
        f"--pretrained {first}/ours/seed_0/models/model.pt --pretrained_part all",
        "--labeled_batch 4 --unlabeled_batch 0",
    ):
        assert option in training
    second.teachers[0].answering_file.write_bytes(b"another")
    with (
        patch.object(Run, "_process", process),
        pytest.raises(RunError, match=r"bcp and ours were trained again .* delete .*rounds-second/seed_0 to begin"),
    ):
        second.execute(Event())


def test_the_minutes_are_those_of_all_rounds(runs):
    second = runs[SECOND, 0]
    for teacher in second.teachers:
        finish(teacher)
    (second.folder / "training").mkdir(parents=True)
    lines = [{"epoch": 1, "iteration": 60, "seconds_per_iteration": 2.0}]
    (second.folder / "training" / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    second._write_result()
    assert second.result()["minutes"] == pytest.approx(1.5 + 1.5 + 2.0)
    assert second.result()["iterations"] == 60


def test_the_group_has_both_rounds_and_is_no_part_of_all():
    methods = load_methods()
    assert [method.name for method in choose_methods(["rounds"])] == ["rounds/first", SECOND, "rounds/second_a"]
    assert methods["rounds/second_a"].trained_as == SECOND
    assert methods["rounds/second_a"].teachers == methods[SECOND].teachers
    assert not any(method.teachers for method in choose_methods(["all"]))


@pytest.mark.slow
def test_two_rounds_of_a_real_comparison(phantoms, tmp_path):
    """Each model answers as its method does: bcp's Model B was never trained."""
    small = {key: value for key, value in TINY.items() if key != "bundle_root"}
    options = small | {"labeled_count": 4, "epoch_length": 2, "warmup_epochs": 1}
    out = tmp_path / "out"
    common = {"bundle": LA, "dataset_dir": phantoms, "out": out, "seeds": [0], "epochs": 2, "options": options}
    table = compare(**common, methods=["rounds"])
    assert [table.read_text().count(f"| {title} |") for title in ("First round", "Second round")] == [3, 3]
    assert "bcp" not in table.read_text()
    dataset = out / "rounds-second" / "seed_0" / "dataset"
    made_by = json.loads((dataset / "made_by.json").read_text())
    assert [model["options"]["predictor"] for model in made_by] == ["a", "average"]
    datalist = json.loads((dataset / "datalist.json").read_text())
    settings = json.loads((out / "rounds-second" / "seed_0" / "models" / "model.json").read_text())
    assert (settings["labeled_count"], settings["labeled_by_hand"]) == (len(datalist["training"]), 4)
    assert settings["unlabeled_batch"] == 0
    minutes = [json.loads((out / name / "seed_0.json").read_text())["minutes"] for name in ("bcp", "ours")]
    assert json.loads((out / "rounds-second" / "seed_0.json").read_text())["minutes"] >= sum(minutes)
