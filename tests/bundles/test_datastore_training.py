"""Training as MONAI Label starts it: overrides and a handler of its own, in a folder that has no dataset."""

import json
import shutil

import pytest
import torch
from monai.bundle import ConfigParser
from workflows import LA, TINY, run_workflow, untrained_copy

from aps_components.models import build_auto_prompt_seg, save_atomically
from aps_components.training import read_history


@pytest.fixture
def bundle(tmp_path):
    return untrained_copy(LA, tmp_path / "app" / "la")


@pytest.fixture
def store(phantoms, tmp_path):
    """A datastore of the phantoms' seven training scans, four of them labelled."""
    folder = tmp_path / "studies"
    (folder / "labels" / "final").mkdir(parents=True)
    content = json.loads((phantoms / "datalist.json").read_text())
    for case in [*content["training"], *content["unlabeled"]]:
        shutil.copy(phantoms / case["image"], folder)
        if "label" in case:
            shutil.copy(phantoms / case["label"], folder / "labels" / "final")
    return folder


def press_train(bundle, store, *, labels, validation=0, **changes):
    """What MONAI Label's train task does with its request."""
    names = sorted(file.name for file in (store / "labels" / "final").iterdir())[:labels]
    items = [{"image": str(store / name), "label": str(store / "labels" / "final" / name)} for name in names]
    for name in sorted(file.name for file in (store / "labels" / "final").iterdir())[labels:]:
        (store / "labels" / "final" / name).unlink()
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.json"))
    handlers = parser.get("train#handlers")
    if (model := bundle / "models" / "model.pt").is_file():
        loader = {"load_path": str(model), "load_dict": {"model": "$@network"}, "strict": False}
        handlers.insert(0, {"_target_": "CheckpointLoader"} | loader)
    overrides = {
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": 3,
        "train#dataset#data": items[validation:],
        "validate#dataset#data": items[:validation],
        "train#handlers": handlers,
        "epoch_length": 2,
        "val_interval": 1,
    }
    return run_workflow("train.json", kind="train", options=TINY | overrides | changes)


def batches(workflow):
    return workflow.parser.get_parsed_content("train#dataloader").batch_sampler.batch_sizes


@pytest.mark.slow
def test_schedule_follows_the_epochs_that_are_asked_for(bundle, store):
    workflow = press_train(bundle, store, labels=3)
    assert workflow.parser.get_parsed_content("lr_scheduler").total_iters == 6
    assert workflow.parser.get_parsed_content("objective").warmup_iterations == 2
    lines = read_history(bundle / "eval" / "history.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert ["pseudo_label_a" in line["losses"] for line in lines] == [False, True, True]
    assert lines[-1]["learning_rate"] == 0
    settings = json.loads((bundle / "models" / "model.json").read_text())
    assert (settings["epochs"], settings["warmup_epochs"], settings["dataset"]) == (3, 1, "la")


@pytest.mark.parametrize(
    ("labels", "validation", "unlabeled_batch", "sizes"),
    [(1, 0, 2, [2, 2]), (3, 1, 2, [2, 2]), (1, 0, 0, [2, 0])],
)
def test_few_labels_are_enough(bundle, store, labels, validation, unlabeled_batch, sizes):
    options = {"labels": labels, "validation": validation, "unlabeled_batch": unlabeled_batch}
    workflow = press_train(bundle, store, **options, **{"train#trainer#max_epochs": 1})
    assert batches(workflow) == sizes
    assert len(workflow.parser.get_parsed_content("train#dataset").data) == (7 - validation if unlabeled_batch else 1)


def test_every_scan_labelled_trains_on_labels_alone(bundle, store):
    for file in store.glob("*.nii.gz"):
        if not (store / "labels" / "final" / file.name).is_file():
            file.unlink()
    assert batches(press_train(bundle, store, labels=4)) == [2, 0]


@pytest.mark.slow
def test_second_training_starts_from_the_model_of_the_first(bundle, store):
    small = {key.partition("#")[2]: value for key, value in TINY.items() if key.startswith("network_def#")}
    network = build_auto_prompt_seg(num_classes=2, roi_size=TINY["roi_size"], **small)
    start = {key: value.clone() for key, value in network.state_dict().items()}
    save_atomically(start, bundle / "models" / "model.pt")
    near = {"learning_rate": 1e-6, "weight_decay": 0.0, "decision_interval": 0, "train#trainer#max_epochs": 1}
    for labels in (4, 3):
        press_train(bundle, store, labels=labels, **near)
        model = torch.load(bundle / "models" / "model.pt")
        assert all(torch.allclose(model[key], value, atol=1e-3) for key, value in start.items())
        assert any(not torch.equal(model[key], value) for key, value in start.items())
    assert read_history(bundle / "eval" / "history.jsonl")[-1]["epoch"] == 1
