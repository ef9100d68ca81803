"""nnU-Net beside ours: both get the same scans, its learning rate ends with its seconds, and answers are scored."""

import json
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from aps_components.bundle.new import look_at
from aps_components.data import load_datalist
from aps_components.data.case_folder import find_cases
from aps_components.evaluation.records import Records
from aps_components.recipe.results import StageRecord, TrainingResults, write_results

SHAPE, ZOOMS = (17, 24, 40), (1.5, 0.75, 2.0)
NAMES = "1:kidney,2:liver"


@pytest.fixture
def peer(benchmark):
    return benchmark("peer_nnunet")


@pytest.fixture
def nnunet(benchmark):
    return benchmark("nnunet")


@pytest.fixture
def side(benchmark):
    return benchmark("nnunet_side")


def write(file, voxels):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([*ZOOMS, 1.0])), file)


@pytest.fixture
def folder(tmp_path):
    """Five scans with a label, one without."""
    for number, name in enumerate("abcdef"):
        values = np.random.default_rng(number).integers(0, 100, SHAPE).astype(np.int16)
        write(tmp_path / "data" / "images" / f"{name}.nii.gz", values)
        if name != "f":
            write(tmp_path / "data" / "labels" / f"{name}.nii.gz", (values > 60).astype(np.uint8))
    return tmp_path / "data"


def names(items):
    return [item["image"].rpartition("/")[2][0] for item in items]


def test_both_learn_from_the_first_labels_and_are_judged_on_the_last(peer, folder):
    task = peer.Task.of(str(folder), names=NAMES, validation=2, split="validation")
    learning = task.learning(2)
    assert task.labels == {0: "background", 1: "kidney", 2: "liver"}
    assert names(learning.labelled) == ["a", "b"]
    assert names(learning.unlabelled) == ["c", "f"]
    assert not any("label" in item for item in learning.unlabelled)
    assert names(task.judged) == ["d", "e"]


def test_what_a_datalist_keeps_apart_is_judged_on(peer, folder):
    def entry(name):
        return {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}

    content = {"name": "mine", "labels": {"0": "background", "1": "kidney"}, "training": [entry("c"), entry("a")]}
    (folder / "datalist.json").write_text(json.dumps({**content, "validation": [entry("b")], "test": [entry("d")]}))
    for split, judged in (("validation", ["b"]), ("test", ["d"])):
        task = peer.Task.of(str(folder), names=None, validation=0, split=split)
        assert (names(task.learning(1).labelled), names(task.judged)) == (["c"], judged)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"names": NAMES, "validation": 0}, "--validation 0 takes none of its 5"),
        ({"names": NAMES, "validation": 5}, "--validation 5"),
        ({"names": "2:liver", "validation": 2}, "--names"),
        ({"names": None, "validation": 2}, "--names"),
    ],
)
def test_a_task_that_cannot_be_is_refused(peer, folder, given, match):
    with pytest.raises(ValueError, match=match):
        peer.Task.of(str(folder), split="validation", **given)


def test_more_labels_than_there_are_are_refused(peer, folder):
    with pytest.raises(ValueError, match="4 labels: there are 1 to 3"):
        peer.Task.of(str(folder), names=NAMES, validation=2, split="validation").learning(4)


def test_nnunets_folder_has_its_names_and_the_same_voxels(nnunet, peer, folder, tmp_path):
    plain = folder / "images" / "b.nii"  # not compressed
    nib.save(nib.load(folder / "images" / "b.nii.gz"), plain)
    (folder / "images" / "b.nii.gz").unlink()
    task = peer.Task.of(str(folder), names=NAMES, validation=2, split="validation")
    for _ in range(2):  # a second call finds it done
        nnunet.write_raw(tmp_path / "raw", task.learning(2).labelled, task.labels, channels=["CT"])
    files = sorted(str(file.relative_to(tmp_path / "raw")) for file in (tmp_path / "raw").rglob("*.nii.gz"))
    assert files == [
        *("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz"),
        *("labelsTr/a.nii.gz", "labelsTr/b.nii.gz"),
    ]
    image = nib.load(tmp_path / "raw" / "imagesTr" / "b_0000.nii.gz")
    assert np.array_equal(image.get_fdata(), nib.load(plain).get_fdata())
    written = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert written["labels"] == {"background": 0, "kidney": 1, "liver": 2}
    assert (written["channel_names"], written["numTraining"], written["file_ending"]) == ({"0": "CT"}, 2, ".nii.gz")


def test_what_nobody_labelled_is_nnunets_ignore_label(nnunet, peer, folder, tmp_path):
    truth = np.asarray(nib.load(folder / "labels" / "a.nii.gz").dataobj)
    entry = {"image": "images/a.nii.gz", "label": "labels/a.nii.gz", "labeled_slices": [3, 11]}
    kept = [{"image": "images/b.nii.gz", "label": "labels/b.nii.gz"}]
    content = {"name": "x", "labels": {"0": "background", "1": "kidney"}, "training": [entry], "validation": kept}
    (folder / "datalist.json").write_text(json.dumps(content))
    task = peer.Task.of(str(folder), names=None, validation=0, split="validation")
    nnunet.write_raw(tmp_path / "raw", task.learning(1).labelled, task.labels, channels=["CT"])
    written = nib.load(tmp_path / "raw" / "labelsTr" / "a.nii.gz")
    expected = np.full(SHAPE, 2)
    expected[..., [3, 11]] = truth[..., [3, 11]]
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
    np.testing.assert_allclose(written.affine, np.diag([*ZOOMS, 1.0]))
    assert look_at(find_cases(tmp_path / "raw")).plan.block.ignore == 2
    some = [{**task.learning(1).labelled[0], "labeled_classes": [1]}]
    with pytest.raises(ValueError, match="some classes alone were drawn"):
        nnunet.write_raw(tmp_path / "other", some, {**task.labels, 2: "liver"}, channels=["CT"])


def test_other_channels_than_named_are_refused(nnunet, peer, folder, tmp_path):
    task = peer.Task.of(str(folder), names=NAMES, validation=2, split="validation")
    with pytest.raises(ValueError, match=r"a\.nii\.gz: 1 file\(s\) where --channels names 2"):
        nnunet.write_raw(tmp_path / "raw", task.learning(1).labelled, task.labels, channels=["t1", "t2"])


def test_the_learning_rate_falls_over_the_seconds(side):
    rates = [side.learning_rate(0.01, seconds=seconds, budget=600) for seconds in (0, 300, 600, 700)]
    assert rates == pytest.approx([0.01, 0.01 * 0.5**0.9, 0, 0])


def test_nnunet_in_bf16_answers_in_fp32(side):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 4, 3, padding=1)
    image = torch.randn(1, 1, 17, 24, 40)
    exact = network(image)
    side.in_bf16(network)
    answer = network(image)
    assert answer.dtype == torch.float32
    assert not torch.equal(answer, exact)
    torch.testing.assert_close(answer, exact, rtol=0.05, atol=0.05)


def test_seconds_of_earlier_processes_count(side, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(side.time, "monotonic", lambda: now[0])
    first = side.Clock(tmp_path / "seconds.json", started=90.0)
    first.write(iterations=7)
    now[0] = 1000.0
    second = side.Clock(tmp_path / "seconds.json", started=997.0)
    assert (second.seconds, second.before["iterations"]) == (13.0, 7)


def test_answers_are_scored_and_a_run_is_a_row(peer, folder, tmp_path):
    task = peer.Task.of(str(folder), names=NAMES, validation=2, split="validation")
    for item, kept in zip(task.judged, (1.0, 0.5), strict=True):
        label = np.asarray(nib.load(item["label"]).dataobj)
        flat = np.flatnonzero(label)
        answer = np.zeros_like(label)
        answer.flat[flat[: round(kept * len(flat))]] = 1
        write(tmp_path / "answers" / item["image"].rpartition("/")[2], answer)
    row = peer.figures(peer.score(tmp_path / "answers", task.judged, task.labels))
    assert row["scans"] == 2
    assert row["dice kidney"] == pytest.approx(100 * (1 + 2 / 3) / 2, abs=0.02)
    assert row["dice liver"] == 100  # which is nowhere
    assert row["dice"] == pytest.approx((row["dice kidney"] + 100) / 2, abs=0.02)
    records = Records(tmp_path / "runs.jsonl", settings={})
    records.add({"iterations": 5, **row}, side=peer.OURS, labels=2)
    records.add({"iterations": 6, "hd95_mm": float("nan")}, side=peer.NNUNET, labels=2)
    lines = [line.split(",") for line in peer.table(records).splitlines()]
    assert [line[lines[0].index("iterations")] for line in lines[1:]] == ["5", "6"]
    assert lines[2][lines[0].index("hd95_mm")] == ""


def test_ours_is_trained_and_then_answers_in_commands_of_its_own(peer, folder, tmp_path, monkeypatch):
    """The commands stand in for themselves: what they read is there, and what they write is taken."""
    task, called = peer.Task.of(str(folder), names=NAMES, validation=2, split="validation"), []

    def run_logged(command, *, log, stop, threads):
        called.append(command[3])
        options = dict(pairwise(command))
        if command[3] == "train":
            datalist = load_datalist(next(part for part in command if part.endswith("scans")))
            assert (len(datalist.labeled), len(datalist.unlabeled), options["--time"]) == (2, 2, "90s")
            training = ["python", "--epochs", "30", "--epoch_length", "7", "--seed", "1"]
            stages = [StageRecord(name="last training", command=training, seconds=1.0, done=True)]
            Path(options["--out"]).mkdir()
            write_results(options["--out"], TrainingResults(stages=stages))
        else:
            source, target = (Path(part) for part in command[-2:])
            assert sorted(file.name for file in source.iterdir()) == ["d.nii.gz", "e.nii.gz"]
            for item in task.judged:
                name = item["image"].rpartition("/")[2][0]
                write(target / f"{name}_seg.nii.gz", np.asarray(nib.load(item["label"]).dataobj))

    monkeypatch.setattr(peer, "run_logged", run_logged)
    told = peer.train_ours(tmp_path, task.learning(2), task.judged, minutes=1.5, threads=1, seed=0)
    assert (called, told["iterations"]) == (["train", "segment"], 210)
    assert peer.figures(peer.score(tmp_path / "answers", task.judged, task.labels))["dice"] == 100
