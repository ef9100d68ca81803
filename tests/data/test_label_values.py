import numpy as np
import pytest
from pipelines import training_transforms
from scans import AFFINE, random_label, write

from aps_components.data import DataError, LoadVolumed, check_cases, evaluation_transforms
from aps_components.data.label_values import file_values, ignore_faults, map_values, parsed_label_values


@pytest.fixture
def item(make_case):
    """Classes 0 to 2 stored as 0, 1 and 4."""
    label = random_label()
    return make_case(image=label.astype(np.float32), label=np.where(label == 2, 4, label).astype(np.uint8))


def test_values_are_replaced_all_at_once():
    values = np.array([0, 1, 2, 3, 4])
    assert map_values(values, {1: 2, 2: 1}).tolist() == [0, 2, 1, 3, 4]
    assert map_values(values, {0: 1, 1: 2, 2: 3, 3: 4}).tolist() == [1, 2, 3, 4, 4]
    assert values.tolist() == [0, 1, 2, 3, 4]


def test_a_config_gives_the_values_as_strings():
    assert parsed_label_values({"4": 3, "-1": 0}, num_classes=4) == {4: 3, -1: 0}
    assert parsed_label_values({4: 3}) == {4: 3}
    assert parsed_label_values(None) == {}


@pytest.mark.parametrize(
    ("label_values", "expected"),
    [
        (None, {0: 0, 1: 1, 2: 2}),
        ({"2": 1, "3": 2}, {0: 0, 1: 2, 2: 3}),
        ({"-1": 0, "5": 2, "6": 2}, {0: 0, 1: 1, 2: 5}),
        ({"2": 1}, {0: 0, 1: 2}),  # a 2 in a file is class 1: nothing says class 2
        ({"0": 1, "7": 0}, {0: 7, 1: 0, 2: 2}),
    ],
)
def test_a_class_has_the_value_that_is_read_as_it(label_values, expected):
    values = file_values(label_values, range(3))
    assert values == expected
    written = np.array(list(values.values()))
    assert map_values(written, parsed_label_values(label_values)).tolist() == list(values)


@pytest.mark.parametrize(
    ("label_values", "message"),
    [
        ({"4": 3}, "label_values maps 4 to 3, which is none of the classes 0 to 2"),
        ({"4": -1}, "label_values maps 4 to -1"),
        ({"enhancing": 1}, "must map whole numbers to classes"),
        ({"4": None}, "must map whole numbers to classes"),
    ],
)
def test_wrong_mappings_are_refused_at_construction(label_values, message):
    for make in (LoadVolumed, evaluation_transforms):
        with pytest.raises(ValueError, match=message):
            make(num_classes=3, label_values=label_values)
    with pytest.raises(ValueError, match=message):
        check_cases([], num_classes=3, label_values=label_values)


def test_every_pipeline_maps_the_label(item):
    check_cases([item], num_classes=3, label_values={"4": 2})
    load = evaluation_transforms(num_classes=3, label_values={"4": 2})(item)
    np.testing.assert_array_equal(load["label"].numpy(), load["image"].numpy())
    np.testing.assert_allclose(load["label"].affine.numpy(), AFFINE)
    train = training_transforms(roi_size=(11, 11, 13), num_classes=3, label_values={"4": 2}, augmentation="flips")
    patch = train.set_random_state(seed=1)(item)
    np.testing.assert_array_equal(patch["label"].numpy(), patch["image"].numpy())


def test_classes_may_swap(item):
    label = LoadVolumed("label", num_classes=3, label_values={"1": 2, "4": 1})({"label": item["label"]})["label"]
    image = LoadVolumed("image")(item)["image"].numpy()
    np.testing.assert_array_equal(label.numpy(), np.array([0, 2, 1])[image.astype(int)])


def test_values_beyond_a_byte_and_below_zero_can_be_mapped(tmp_path):
    label = np.array([-1, 0, 500])[random_label()].astype(np.int16)
    file = write(tmp_path / "a.nii.gz", label)
    mapped = LoadVolumed("label", num_classes=3, label_values={-1: 1, 500: 2})({"label": file})["label"]
    np.testing.assert_array_equal(mapped[0].numpy(), np.select([label == -1, label == 500], [1, 2]))


def test_labels_stored_with_a_slope_are_rounded_first(tmp_path):
    label = random_label().astype(np.float32) * 4 * 0.9999
    file = write(tmp_path / "a.nii.gz", label)
    mapped = LoadVolumed("label", num_classes=3, label_values={4: 1, 8: 2})({"label": file})["label"]
    np.testing.assert_array_equal(mapped[0].numpy(), random_label())


def test_a_value_that_is_not_mapped_is_named_with_the_way_out(item):
    message = r"labels/a.nii.gz: label values 4 are outside the classes 0 to 2; .*label_values"
    with pytest.raises(DataError, match=message):
        check_cases([item], num_classes=3, label_values={"3": 2})
    with pytest.raises(DataError, match=message):
        evaluation_transforms(num_classes=3, label_values={"3": 2})(item)


@pytest.mark.parametrize(
    ("ignore", "options", "taken"),
    [
        (2, {}, 2),
        (0, {}, 0),
        (3, {}, None),
        (4, {"label_values": {4: 1}}, 1),
        (2, {"label_values": {4: 2}}, None),  # class 2 has a value of its own
        (0, {"label_values": {1: 0, 2: 1, 3: 2}}, None),
        (2, {"undrawn": (2,)}, None),
        (2, {"undrawn": (1,)}, 2),
    ],
)
def test_a_value_to_ignore_is_no_class(ignore, options, taken):
    faults = list(ignore_faults(ignore, num_classes=3, **options))
    assert len(faults) == (taken is not None)
    assert all(fault.startswith(f"ignore {ignore} is class {taken} as well") for fault in faults)
