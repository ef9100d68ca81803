"""Labels that are not whole: what a datalist says of them, and what becomes of it when they are loaded."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from pipelines import training_transforms as transforms

from aps_components.data import DataError, LoadVolumed, SampleKey, SeededCacheDataset, check_cases, collate_two_stream
from aps_components.data.datalist import load_datalist, relative_item
from aps_components.data.identity import identity
from aps_components.data.partial import NOT_LABELED, Partial, drawn_slices, parsed_slices, sliced_axis

SHAPE = (17, 24, 40)
LABELS = {"0": "background", "1": "liver", "2": "spleen", "3": "kidney"}
# Axis 0 of the file runs to the feet and axis 2 to the left: slices are those of the file, however it lies.
TURNED = np.array([[0, 0, -1.5, 7], [0, 1.0, 0, -3], [-2.0, 0, 0, 5], [0, 0, 0, 1]])


def drawn():
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3:9, 5:11, 10:20] = 1
    label[9:12, 5:11, 10:31] = 2
    return label


@pytest.fixture
def write(tmp_path):
    def make(label=None, *, everywhere=None, **said):
        image = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
        for name, volume in (("image", image), ("label", drawn() if label is None else label)):
            nib.save(nib.Nifti1Image(volume, TURNED), tmp_path / f"{name}.nii.gz")
        entry = {"image": "image.nii.gz", "label": "label.nii.gz", **said}
        content = {"name": "x", "labels": LABELS, "training": [entry], **(everywhere or {})}
        (tmp_path / "datalist.json").write_text(json.dumps(content))
        return tmp_path

    return make


def loaded(folder, *, label_values=None, **options):
    (item,) = load_datalist(folder, **options).labeled
    load = LoadVolumed("label", num_classes=4, label_values=label_values)
    return load({key: value for key, value in item.items() if key != "image"})


@pytest.mark.parametrize(
    ("slices", "axis", "numbers"),
    [
        ([0, 12, 39], 2, [0, 12, 39]),
        ({"axis": 0, "indices": [3, 16]}, 0, [3, 16]),
        ("drawn", 2, range(10, 31)),
        ({"axis": 1, "indices": "drawn"}, 1, range(5, 11)),
    ],
)
def test_slices_of_the_file_are_labelled(write, slices, axis, numbers):
    label = np.asarray(loaded(write(labeled_slices=slices))["label"][0])
    expected = np.full(SHAPE, NOT_LABELED)
    where = tuple([*numbers] if other == axis else slice(None) for other in range(3))
    expected[where] = drawn()[where]
    np.testing.assert_array_equal(label, expected)


@pytest.mark.parametrize(
    ("axis", "numbers", "expected"),
    [
        (2, [10, 12, 20], "drawn"),
        (2, range(10, 31), "drawn"),
        (0, [4, 7, 11], {"axis": 0, "indices": "drawn"}),
        (1, [6], {"axis": 1, "indices": "drawn"}),
        (1, [6, 7], "drawn"),  # might be an organ two voxels wide
        (1, [], "drawn"),
    ],
)
def test_the_axis_of_a_drawing_is_that_along_which_its_slices_stand_alone(axis, numbers, expected):
    kept = np.zeros(SHAPE, dtype=bool)
    kept[tuple([*numbers] if other == axis else slice(None) for other in range(3))] = True
    assert drawn_slices(kept & (drawn() > 0)) == expected
    assert drawn_slices((kept & (drawn() > 0))[..., None]) == expected


@pytest.mark.parametrize(
    ("numbers", "sliced"), [([10, 12, 20], 2), ([10, 20], None), (range(10, 31), None), ([10, 11, 20, 22], None)]
)
def test_a_label_that_looks_drawn_in_slices(numbers, sliced):
    kept = np.zeros(SHAPE, dtype=bool)
    kept[:, :, [*numbers]] = True
    assert sliced_axis(kept & (drawn() > 0)) == sliced
    assert sliced_axis((kept & (drawn() > 0))[..., None]) == sliced


def test_small_pieces_are_no_slices():
    points = np.zeros((9, 9, 9), dtype=bool)
    points[[1, 3, 5, 7], [1, 3, 5, 7], [1, 3, 5, 7]] = True
    assert sliced_axis(points) is None
    assert sliced_axis(np.zeros((9, 9, 9), dtype=bool)) is None


@pytest.mark.parametrize("place", ["entry", "datalist", "option"])
def test_a_value_means_not_labelled(write, place):
    label = drawn()
    label[:, :, 25:] = 200
    folder = write(label, **({"ignore": 200} if place == "entry" else {}), **_everywhere(place))
    found = np.asarray(loaded(folder, **({"ignore": 200} if place == "option" else {}))["label"][0])
    np.testing.assert_array_equal(found, np.where(label == 200, NOT_LABELED, label))


def _everywhere(place):
    return {"everywhere": {"ignore": 200}} if place == "datalist" else {}


def test_zero_may_mean_not_labelled_where_the_background_has_a_value_of_its_own(write):
    scribbles = np.zeros(SHAPE, dtype=np.uint8)
    scribbles[4, 5:9, 12], scribbles[0, 0, :] = 2, 1
    found = np.asarray(loaded(write(scribbles, ignore=0), label_values={"1": 0, "2": 1, "3": 2})["label"][0])
    np.testing.assert_array_equal(found, np.choose(scribbles, [NOT_LABELED, 0, 1]))


@pytest.mark.parametrize("classes", [[1, 2], ["liver", "spleen"], ["spleen", 1]])
def test_classes_that_were_not_drawn_are_a_table(write, classes):
    undrawn = loaded(write(labeled_classes=classes))["undrawn"]
    assert undrawn.nonzero().tolist() == [[3]]


def test_a_label_of_all_classes_is_a_whole_one(write):
    assert "undrawn" not in loaded(write(labeled_classes=[3, 1, 2]))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"labeled_slices": []}, "must be the numbers of the labelled slices"),
        ({"labeled_slices": [-1]}, "must be the numbers of the labelled slices"),
        ({"labeled_slices": {"axis": 3, "indices": [1]}}, "must be the numbers of the labelled slices"),
        ({"labeled_slices": {"axis": 1.0, "indices": [1]}}, "must be the numbers of the labelled slices"),
        ({"labeled_slices": {"axis": True, "indices": "drawn"}}, "must be the numbers of the labelled slices"),
        ({"labeled_slices": {"axis": [0], "indices": [1]}}, "must be the numbers of the labelled slices"),
        ({"labeled_slices": {"indices": "full"}}, "must be the numbers of the labelled slices"),
        ({"labeled_slices": True}, "must be the numbers of the labelled slices"),
        ({"labeled_classes": []}, "list the foreground classes"),
        ({"labeled_classes": [0, 1]}, "list the foreground classes"),
        ({"labeled_classes": ["pancreas"]}, "list the foreground classes"),
        ({"labeled_classes": [[1]]}, "list the foreground classes"),
        ({"labeled_classes": [1, "liver"]}, "list the foreground classes"),
        ({"ignore": "255"}, "whole number"),
        ({"ignore": True}, "whole number"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused_by_name(write, said, message):
    with pytest.raises(DataError, match=rf"datalist\.json: training\[0\]: .*{message}"):
        load_datalist(write(**said))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"labeled_slices": [40]}, ".*has 40 slices along axis 2, counted from 0"),
        ({"labeled_classes": [1, 3]}, "holds class 2, which its labeled_classes leave out"),
        ({"labeled_slices": [1], "ignore": 0}, "ignore 0 is class 0 as well"),
    ],
)
def test_a_label_that_does_not_fit_its_entry_is_refused_by_name(write, said, message):
    items = load_datalist(write(**said)).labeled
    with pytest.raises(DataError, match=rf"label\.nii\.gz: {message}"):
        check_cases(items, num_classes=4)
    with pytest.raises(DataError, match=rf"label\.nii\.gz: {message}"):
        LoadVolumed(num_classes=4)(items[0])


def test_a_label_without_a_labelled_voxel_is_refused(write):
    items = load_datalist(write(np.full(SHAPE, 9, dtype=np.uint8), ignore=9)).labeled
    with pytest.raises(DataError, match=r"label\.nii\.gz: no voxel of it is labelled"):
        check_cases(items, num_classes=4)


def test_what_is_said_of_a_label_belongs_to_its_identity(write):
    items = [load_datalist(write(**said)).labeled[0] for said in ({}, {"labeled_slices": [1]}, {"labeled_slices": [2]})]
    assert len({identity(item)["label"] for item in items}) == 3
    assert len({identity(item)["image"][0] for item in items}) == 1


def test_it_goes_on_into_another_datalist(write, tmp_path):
    said = {"labeled_slices": {"axis": 0, "indices": "drawn"}, "labeled_classes": [1, 2], "ignore": 255}
    (item,) = load_datalist(write(**said)).labeled
    assert relative_item(item, tmp_path / "other") == {
        "image": "../image.nii.gz",
        "label": "../label.nii.gz",
        **said,
    }


def test_patches_keep_it(write):
    """Through resampling, padding, turns and bends: no voxel has a value that was not there."""
    folder = write(labeled_slices=[12, 13, 14, 15], labeled_classes=[1, 2])
    for augmentation in ("none", "full", "affine", "strong", "strong_in_plane"):
        options = {"roi_size": (48, 24, 32), "spacing": (1.0, 1.2, 1.7), "balanced_crops": 0.5}
        pipeline = transforms(num_classes=4, intensity="zscore", augmentation=augmentation, **options)
        dataset = SeededCacheDataset(load_datalist(folder).labeled, pipeline, progress=False, num_workers=1)
        batch = collate_two_stream([dataset[0], dataset[0]])["labeled"]
        assert set(batch["label"].unique().tolist()) <= {0, 1, 2, NOT_LABELED}
        assert (batch["label"] == NOT_LABELED).any()
        assert batch["undrawn"].shape == (2, 256)
        assert batch["undrawn"].nonzero()[:, 1].tolist() == [3, 3]


def test_patches_lie_around_labelled_voxels(write):
    scribble = np.full(SHAPE, 255, dtype=np.uint8)
    scribble[8, 12, 33:36] = 0
    options = {"roi_size": (6, 6, 6), "balanced_crops": 0.33, "augmentation": "none", "num_classes": 4}
    items = load_datalist(write(scribble, ignore=255)).labeled
    dataset = SeededCacheDataset(items, transforms(**options), progress=False, num_workers=1)
    for seed in range(20):
        assert (dataset[SampleKey(0, seed)]["label"] != NOT_LABELED).any()


def test_a_whole_batch_says_nothing(write):
    dataset = SeededCacheDataset(
        load_datalist(write()).labeled, transforms(roi_size=(8, 8, 8), num_classes=4), progress=False, num_workers=1
    )
    assert "undrawn" not in collate_two_stream([dataset[0]])["labeled"]


def test_command_line_of_slices():
    assert parsed_slices("drawn") == parsed_slices("drawn:2") == "drawn"
    assert parsed_slices("drawn:0") == {"axis": 0, "indices": "drawn"}
    for text in ("all", "drawn:3", "1,2"):
        with pytest.raises(ValueError, match=text):
            parsed_slices(text)


def test_unlabeled_in_closed_form():
    values = np.zeros((1, 3, 2, 4), dtype=int)
    values[0, 1, 0, 2] = 1
    values[0, 2, 1, 0] = 9
    partial = Partial(ignore=9, axis=0, slices="drawn")
    assert torch.as_tensor(~partial.unlabeled(values, values)).nonzero()[:, 1].unique().tolist() == [1]
