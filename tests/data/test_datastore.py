import json
import logging
import os

import pytest
from pipelines import training_transforms
from scans import random_image, random_label, truncate, write

from aps_components.data import (
    DataError,
    case_identities,
    dataset_name,
    evaluation_transforms,
    lazy_datalist,
    load_datalist,
    studies_folder,
    training_dataset,
    unlabeled_items,
    validation_dataset,
)
from aps_components.data.partial import NOT_LABELED

TRANSFORMS = training_transforms(roi_size=(11, 11, 13), num_classes=3)
QUIET = {"num_workers": 1, "progress": False}


@pytest.fixture
def store(tmp_path):
    """A MONAI Label datastore of scans a to f; a and b are labelled, c only by a model."""
    for index, name in enumerate("abcdef"):
        write(tmp_path / f"{name}.nii.gz", random_image(index))
    for tag, names in (("final", "ab"), ("original", "c")):
        for name in names:
            write(tmp_path / "labels" / tag / f"{name}.nii.gz", random_label())
    return tmp_path


def labelled(store, names="ab"):
    """As MONAI Label hands them over."""
    return [
        {"image": str(store / f"{name}.nii.gz"), "label": str(store / "labels" / "final" / f"{name}.nii.gz")}
        for name in names
    ]


def names(items):
    return [os.path.basename(item["image"]).split(".")[0] for item in items]


def test_scans_without_a_finished_label_become_the_unlabelled_ones(store, caplog):
    with caplog.at_level(logging.INFO):
        dataset = training_dataset(labelled(store), TRANSFORMS, **QUIET)
    assert names(dataset.data) == ["a", "b", "c", "d", "e", "f"]
    assert ["label" in item for item in dataset.data] == [True, True, False, False, False, False]
    assert "training on 2 labelled and 4 unlabelled scans" in caplog.text


def test_unfinished_labels_are_trained_on_where_they_were_drawn(store, caplog):
    drawn = random_label()
    drawn[..., 5:] = 0
    unfinished = {
        "image": str(store / "d.nii.gz"),
        "label": write(store / "labels" / "partial" / "d.nii.gz", drawn),
        "labeled_slices": "drawn",
    }
    nothing = {
        "image": str(store / "e.nii.gz"),
        "label": write(store / "labels" / "partial" / "e.nii.gz", 0 * drawn),
        "labeled_slices": "drawn",
    }
    with caplog.at_level(logging.INFO):
        dataset = training_dataset([*labelled(store), unfinished, nothing], TRANSFORMS, **QUIET)
    assert names(dataset.data) == ["a", "b", "d", "c", "e", "f"]
    assert ["label" in item for item in dataset.data] == [True, True, True, False, False, False]
    assert "training on 3 labelled (1 of them partly) and 3 unlabelled scans" in caplog.text
    assert "labels/partial/e.nii.gz: no voxel of it is labelled" in caplog.text
    label = evaluation_transforms(num_classes=3)(dataset.data[2])["label"][0].numpy()
    assert (label == NOT_LABELED).any(axis=(0, 1)).tolist() == (drawn == 0).all(axis=(0, 1)).tolist()
    assert names(training_dataset([unfinished], TRANSFORMS, **QUIET).data) == ["d", "c", "e", "f"]


def test_validation_items_are_kept_out(store):
    """Also one whose label is not in the folder of the finished ones, and one that a link leads to."""
    elsewhere = store / "linked" / "d.nii.gz"
    elsewhere.parent.mkdir()
    elsewhere.symlink_to(store / "d.nii.gz")
    validation = [*labelled(store, "b"), {"image": str(elsewhere), "label": "somewhere"}]
    dataset = training_dataset(labelled(store, "a"), TRANSFORMS, validation=labelled(store, "b"), **QUIET)
    assert names(dataset.data) == ["a", "c", "d", "e", "f"]
    assert names(unlabeled_items(store, known=validation)) == ["c", "e", "f"]


def test_the_switch_leaves_them_out(store):
    assert names(training_dataset(labelled(store), TRANSFORMS, unlabeled=False, **QUIET).data) == ["a", "b"]


def test_label_in_another_format_counts(store):
    (store / "labels" / "final" / "e.nrrd").touch()
    assert names(unlabeled_items(store, known=[])) == ["c", "d", "f"]


def test_unusable_scans_are_named_and_left_out(store, caplog):
    truncate(str(store / "d.nii.gz"))
    write(store / "e.nii.gz", random_image(shape=(17, 24, 40, 2)))
    (store / "notes.txt").touch()
    (store / "._c.nii.gz").touch()
    assert names(unlabeled_items(store, known=labelled(store))) == ["c", "f"]
    assert "d.nii.gz: cannot be read as NIfTI" in caplog.text
    assert "e.nii.gz: 2 channel(s) where 1 are wanted" in caplog.text


def test_a_broken_label_is_named_and_left_out(store, caplog):
    """The one that is left is trained on; without any there is nothing to train on."""
    truncate(str(store / "labels" / "final" / "b.nii.gz"))
    dataset = training_dataset(labelled(store), TRANSFORMS, **QUIET)
    assert names(dataset.data) == ["a", "c", "d", "e", "f"]
    assert "labels/final/b.nii.gz: cannot be read as NIfTI" in caplog.text
    assert names(validation_dataset(labelled(store), TRANSFORMS).data) == ["a"]
    write(store / "labels" / "final" / "a.nii.gz", random_label() + 200)
    with pytest.raises(
        DataError, match=r"no labelled scan can be used:\n.*a\.nii\.gz: label values 20.*\n.*b\.nii\.gz"
    ):
        training_dataset(labelled(store), evaluation_transforms(num_classes=3), **QUIET)


def test_links_are_followed(store, tmp_path_factory):
    """MONAI Label resolves the links of a folder that holds links to scans elsewhere."""
    studies = tmp_path_factory.mktemp("studies")
    for name in "abcdef":
        (studies / f"{name}.nii.gz").symlink_to(store / f"{name}.nii.gz")
    label = write(studies / "labels" / "final" / "a.nii.gz", random_label())
    items = [{"image": str(store / "a.nii.gz"), "label": label}]
    assert studies_folder(items) == studies
    assert names(unlabeled_items(studies, known=items)) == ["b", "c", "d", "e", "f"]


def test_other_data_are_left_as_they_are(store, two_stream_items):
    assert studies_folder(two_stream_items) is None
    assert studies_folder([]) is None
    mixed = [*labelled(store), {"image": str(store / "c.nii.gz")}]
    assert studies_folder(mixed) is None
    moved = [{**labelled(store)[0], "image": write(store / "images" / "a.nii.gz", random_image())}]
    assert studies_folder(moved) is None
    dataset = training_dataset(two_stream_items, TRANSFORMS, **QUIET)
    assert not dataset.in_datastore
    assert len(dataset.data) == 8


@pytest.mark.parametrize("items", [[], [{"image": "a.nii.gz"}]])
def test_no_labelled_scan_is_left(items):
    with pytest.raises(DataError, match=r"no labelled scan is left to train on.*val_split"):
        training_dataset(items, TRANSFORMS, **QUIET)


class TestWhatADatastoreHolds:
    def of(self, store, names="ab", *, validation=(), **options):
        dataset = training_dataset(labelled(store, names), TRANSFORMS, validation=validation, **QUIET, **options)
        assert dataset.in_datastore
        return str(case_identities(dataset.data, validation, ordered=False))

    def test_is_the_same_for_the_same_data_in_any_order(self, store):
        assert self.of(store, "ab") == self.of(store, "ba")
        os.utime(store / "labels" / "final" / "a.nii.gz", (1, 1))
        assert self.of(store, "ab") == self.of(store, "ba")

    def test_changes_with_a_label_a_scan_and_the_split(self, store):
        seen = {self.of(store), self.of(store, "a"), self.of(store, "a", validation=labelled(store, "b"))}
        seen.add(self.of(store, unlabeled=False))
        write(store / "labels" / "final" / "a.nii.gz", random_label(7))
        seen.add(self.of(store))
        write(store / "g.nii.gz", random_image(9))
        seen.add(self.of(store))
        assert len(seen) == 6


def test_lazy_datalist_reads_when_asked(tmp_path):
    datalist = lazy_datalist(tmp_path, labeled_count=1)
    with pytest.raises(DataError, match=r"datalist\.json: no such file"):
        _ = datalist.validation
    cases = [{"image": f"{name}.nii.gz", "label": f"{name}.nii.gz"} for name in "ab"]
    content = {"name": "x", "labels": {"0": "background", "1": "a"}, "training": cases}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    assert datalist.training_items == load_datalist(tmp_path, labeled_count=1).training_items
    assert datalist.evaluation_split == "validation"


def test_dataset_name_is_that_of_the_first_datalist_there_is(tmp_path):
    default = tmp_path / "default.json"
    assert dataset_name(tmp_path, default=default) is None
    default.write_text('{"name": "shipped"}')
    assert dataset_name(tmp_path / "missing", default=default) == "shipped"
    (tmp_path / "datalist.json").write_text('{"name": "own"}')
    assert dataset_name(tmp_path, default=default) == "own"
