"""What MONAI Label's training task is given, without MONAI Label."""

import sys
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

SHAPE = (17, 24, 40)


class Datastore:
    """Labels of a few scans by tag, and the bundles that some are of."""

    def __init__(self, folder, labels):
        self.folder, self.labels, self.of = folder, labels, {}

    def get_label_info(self, label, tag):
        return {"bundle": self.of[label, tag]} if (label, tag) in self.of else {}

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


@pytest.mark.parametrize(("ignore", "said"), [(None, {}), (200, {"ignore": 200})])
def test_labels_tagged_partial_are_trained_on_where_they_were_drawn(training, datastore, ignore, said):
    task = training.TrainTask("app/model/la", {"models": "la"}, {"ignore": ignore})
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


def test_a_damaged_label_is_left_to_the_training_to_name(training, datastore):
    (datastore.folder / "labels" / "partial" / "c.nii.gz").write_bytes(b"no label")
    items = training.partly_labelled(datastore)
    assert [item["labeled_slices"] for item in items] == ["drawn", "drawn"]


def test_labels_of_another_bundle_are_none_of_this_one(training, datastore, caplog):
    """A left atrium is 1 there, and the spleen is 1 here."""
    datastore.of = {
        ("a", "final"): ["la"],
        ("b", "final"): ["la"],
        ("b", "partial"): ["amos"],
        ("c", "partial"): ["amos", "organs"],
    }
    task = training.TrainTask("app/model/amos", {"models": "la, amos"}, {})
    items = task._fetch_datalist({}, datastore)
    labels = datastore.folder / "labels"
    assert [item["label"] for item in items] == [str(labels / "partial" / f"{name}.nii.gz") for name in "bc"]
    assert f"left out: {labels}/final/a.nii.gz: it is a label of la, not of amos" in caplog.text
    assert f"left out: {labels}/partial/d.nii.gz: it does not say which bundle it is of, and la, amos" in caplog.text
    assert caplog.text.count("left out") == 3


def test_a_label_of_unknown_origin_counts_where_one_bundle_is_served(training, datastore):
    datastore.of = {("a", "final"): ["la"]}
    others = training.labels_of_others(datastore, bundle="amos", served=["amos"])
    assert [file for file, _ in others] == [datastore.get_label_uri("a", "final")]
