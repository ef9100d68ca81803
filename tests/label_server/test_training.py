"""What MONAI Label's training task is given, without MONAI Label."""

import json
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from aps_components.data import training_dataset
from aps_components.data.datastore import LEFT_OUT
from aps_components.data.transforms import evaluation_transforms
from aps_components.label_server.label_names import Served

SHAPE = (17, 24, 40)


class Datastore:
    """Labels of a few scans by tag, and the bundles that some are of."""

    def __init__(self, folder, labels):
        self.folder, self.labels, self.of, self.meaning = folder, labels, {}, {}

    def get_label_info(self, label, tag):
        meaning = {"values": self.meaning[label, tag]} if (label, tag) in self.meaning else {}
        return {"bundle": self.of[label, tag], **meaning} if (label, tag) in self.of else {}

    def list_images(self):
        return list(self.labels)

    def get_labels_by_image_id(self, image):
        return dict.fromkeys(self.labels[image], image)

    def get_image_uri(self, image):
        return f"{self.folder}/{image}.nii.gz"

    def get_label_uri(self, label, tag):
        return f"{self.folder}/labels/{tag}/{label}.nii.gz"

    def datalist(self):
        return [
            {"image": self.get_image_uri(image), "label": self.get_label_uri(image, "final")}
            for image, tags in self.labels.items()
            if "final" in tags
        ]


class BundleTrainTask:
    """What is built upon: all final labels, of which the last validates."""

    def __init__(self, path, conf, config):
        self.bundle_path, self.conf, self.bundle_config = path, conf, config

    def _fetch_datalist(self, request, datastore):
        return datastore.datalist()

    def _partition_datalist(self, datalist, request, shuffle=False):
        return datalist[:-1], datalist[-1:]


@pytest.fixture
def training(monkeypatch):
    names = {
        "monailabel.interfaces.datastore": {"Datastore": Datastore},
        "monailabel.tasks.train.bundle": {"BundleTrainTask": BundleTrainTask},
    }
    for parent in ("monailabel", "monailabel.interfaces", "monailabel.tasks", "monailabel.tasks.train"):
        names.setdefault(parent, {})
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "aps_components.label_server.training", raising=False)
    import aps_components.label_server.training as training

    yield training
    del sys.modules["aps_components.label_server.training"]


@pytest.fixture
def datastore(tmp_path):
    (tmp_path / "labels" / "partial").mkdir(parents=True)
    for name, axis, rest in (("b", 2, 0), ("c", 2, 0), ("d", 0, 200)):
        label = np.full(SHAPE, rest, dtype=np.uint8)
        label[tuple([4, 9, 11] if other == axis else slice(5, 12) for other in range(3))] = 1
        nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "labels" / "partial" / f"{name}.nii.gz")
    tags = {
        "a": ["final"],
        "b": ["final", "partial"],
        "c": ["partial"],
        "d": ["partial", "original"],
        "e": ["original"],
    }
    return Datastore(tmp_path, tags)


@pytest.fixture
def bundle(tmp_path):
    """Makes a bundle in an app's folder."""

    def make(name, **classes):
        configs = tmp_path / "app" / "model" / name / "configs"
        configs.mkdir(parents=True)
        channels = {"0": "background", **{str(value): text for text, value in classes.items()}}
        data = {"outputs": {"pred": {"channel_def": channels}}}
        (configs / "metadata.json").write_text(json.dumps({"network_data_format": data}))
        (configs / "train.json").write_text("{}")
        return configs.parent

    return make


@pytest.mark.parametrize(("ignore", "said"), [(None, {}), (200, {"ignore": 200})])
def test_labels_tagged_partial_are_trained_on_where_they_were_drawn(training, datastore, bundle, ignore, said):
    task = training.TrainTask(bundle("la", atrium=1), {"models": "la"}, {"ignore": ignore})
    items = task._fetch_datalist({}, datastore)
    final, partial = datastore.folder / "labels" / "final", datastore.folder / "labels" / "partial"
    along = "drawn" if ignore is None else {"axis": 0, "indices": "drawn"}
    assert items == [
        {"image": f"{datastore.folder}/a.nii.gz", "label": f"{final}/a.nii.gz"},
        {"image": f"{datastore.folder}/b.nii.gz", "label": f"{final}/b.nii.gz"},
        {"image": f"{datastore.folder}/c.nii.gz", "label": f"{partial}/c.nii.gz", "labeled_slices": "drawn", **said},
        {"image": f"{datastore.folder}/d.nii.gz", "label": f"{partial}/d.nii.gz", "labeled_slices": along, **said},
    ]
    learned, judged = task._partition_datalist(items, {})
    assert learned == [items[0], *items[2:]]
    assert judged == [items[1]]


@pytest.mark.parametrize(("regions", "said"), [(None, {"labeled_classes": [1]}), ({"whole": [1, 2]}, {})])
def test_classes_that_an_unfinished_label_does_not_hold_were_not_drawn(training, datastore, bundle, regions, said):
    task = training.TrainTask(bundle("la", atrium=1, ventricle=2), {"models": "la"}, {"regions": regions})
    partly = [item for item in task._fetch_datalist({}, datastore) if "labeled_slices" in item]
    assert [{key: item[key] for key in item if key == "labeled_classes"} for item in partly[:1]] == [said]


def test_a_damaged_label_is_left_to_the_training_to_name(training, datastore):
    (datastore.folder / "labels" / "partial" / "c.nii.gz").write_bytes(b"no label")
    items = training.partly_labelled(datastore)
    assert [item["labeled_slices"] for item in items] == ["drawn", "drawn"]


def test_labels_of_another_bundle_are_none_of_this_one(training, datastore, bundle, caplog):
    """A left atrium is 1 there, and the spleen is 1 here."""
    datastore.of = {
        ("a", "final"): ["la"],
        ("b", "final"): ["la"],
        ("b", "partial"): ["amos"],
        ("c", "partial"): ["amos", "organs"],
    }
    task = training.TrainTask(bundle("amos", spleen=1), {"models": "la, amos"}, {})
    items = task._fetch_datalist({}, datastore)
    labels = datastore.folder / "labels"
    assert [item["label"] for item in items] == [str(labels / "partial" / f"{name}.nii.gz") for name in "bc"]
    assert f"left out: {labels}/final/a.nii.gz: it is a label of la, not of amos" in caplog.text
    assert f"left out: {labels}/partial/d.nii.gz: it does not say which bundle it is of, and la, amos" in caplog.text
    assert caplog.text.count("left out") == 3


def test_a_label_of_unknown_origin_counts_where_one_bundle_is_served(training, datastore, bundle):
    datastore.of = {("a", "final"): ["la"]}
    others = training.labels_of_others(datastore, bundle=Served.of(bundle("amos", spleen=1)), served=["amos"])
    assert [file for file, _ in others] == [datastore.get_label_uri("a", "final")]


def test_a_bundle_that_was_trained_anew_learns_from_the_labels_of_the_one_before(training, datastore, bundle):
    """A training's bundle is called after its folder: OUT, then OUT2."""
    earlier, later = (Served.of(bundle(name, spleen=1, liver=2)) for name in ("OUT", "OUT2"))
    datastore.of = {key: ["OUT"] for key in (("a", "final"), ("b", "final"), ("b", "partial"))}
    datastore.meaning = dict.fromkeys([("a", "final"), ("b", "partial")], earlier.meaning)
    others = dict(training.labels_of_others(datastore, bundle=later, served=["OUT2"]))
    assert list(others) == [datastore.get_label_uri("b", "final")]  # of before meanings were kept
    changed = Served("OUT", {"spleen": 1}, {})
    reasons = dict(training.labels_of_others(datastore, bundle=changed, served=["OUT"]))
    assert "OUT had other classes" in reasons[datastore.get_label_uri("a", "final")]


def test_scans_whose_label_is_left_out_are_learned_from_without_it(training, datastore, bundle):
    folder = datastore.folder / "labels" / "final"
    folder.mkdir()
    for name in "ab":
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), folder / f"{name}.nii.gz")
    for name in "abcde":
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4)), datastore.folder / f"{name}.nii.gz")
    datastore.of = {("b", "final"): ["amos"], ("b", "partial"): ["amos"]}
    task = training.TrainTask(bundle("la", atrium=1), {"models": "la"}, {})
    items = task._fetch_datalist({}, datastore)
    learned, judged = task._partition_datalist([*items, items[0]], {})
    assert not any(LEFT_OUT in item for item in judged)
    data = training_dataset(learned, evaluation_transforms(num_classes=201), num_workers=0, progress=False).data
    assert [(Path(item["image"]).name[0], "label" in item) for item in data] == [
        ("a", True),
        ("c", True),
        ("d", True),
        ("b", False),
        ("e", False),
    ]
    assert not any(LEFT_OUT in item for item in data)


def test_a_partial_label_whose_scan_cannot_be_read_does_not_end_the_training(training, datastore, caplog):
    def refuse(image):
        raise ValueError("slices are missing")

    datastore.get_image_uri = refuse
    datastore.fetched = lambda image: "" if image == "c" else f"/copies/{image}.nii.gz"
    assert [item["image"] for item in training.partly_labelled(datastore)] == ["/copies/d.nii.gz"]
    assert "partial/c.nii.gz: its scan could not be read" in caplog.text
