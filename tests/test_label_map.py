import numpy as np
import pytest
import torch
from scipy import ndimage

from aps_components.label_map import (
    class_boxes,
    keep_largest_component,
    kept_pieces,
    likeliest_class,
    log_probabilities,
)

SIZE = (5, 7, 9)


def empty(dtype=np.uint8):
    return np.zeros(SIZE, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_largest_part_of_each_class_stays(dtype):
    label = empty(dtype)
    label[0, 0, 0:3] = 1
    label[4, 6, 5:9] = 1
    label[2, 2:4, 2] = 2
    label[2, 6, 2] = 2
    label[0, 6, 0] = 3
    expected = label.copy()
    expected[0, 0, 0:3] = 0
    expected[2, 6, 2] = 0
    before = label.copy()
    kept = keep_largest_component(label, num_classes=4)
    np.testing.assert_array_equal(kept, expected)
    assert kept.dtype == dtype
    np.testing.assert_array_equal(label, before)


@pytest.mark.parametrize("step", [(1, 0, 0), (0, 1, 1), (1, 1, 1), (1, -1, 1)])
def test_face_edge_and_corner_connect(step):
    label = empty()
    label[2, 3, 4] = 1
    label[tuple(np.add((2, 3, 4), step))] = 1
    label[4, 6, 8] = 1
    assert keep_largest_component(label, num_classes=2).sum() == 2


def test_two_apart_do_not_connect():
    label = empty()
    label[2, 3, 4] = label[2, 3, 6] = label[2, 3, 7] = 1
    np.testing.assert_array_equal(np.argwhere(keep_largest_component(label, num_classes=2)), [[2, 3, 6], [2, 3, 7]])


def test_another_class_is_no_bridge():
    label = empty()
    label[0, 0] = (1, 2, 1, 1, 2, 2, 2, 1, 1)
    kept = keep_largest_component(label, num_classes=3)
    assert kept[0, 0].tolist() == [0, 0, 1, 1, 2, 2, 2, 0, 0]


def two_hearts():
    """A true heart of two classes that touch, and a false one that holds most of class 2."""
    label = empty()
    label[2, 2, 0:5] = 1
    label[2, 2, 5] = 2
    label[4, 6, 6:9] = 2
    return label


def test_joined_keeps_the_largest_piece_of_all_classes_together():
    kept = kept_pieces(two_hearts(), "joined", num_classes=3)
    expected = two_hearts()
    expected[4, 6] = 0
    np.testing.assert_array_equal(kept, expected)


def test_foreground_keeps_every_piece_that_touches_the_others():
    label = two_hearts()
    label[2, 2, 6] = 1  # a second piece of class 1, beyond class 2
    expected = label.copy()
    expected[4, 6] = 0
    np.testing.assert_array_equal(kept_pieces(label, "foreground", num_classes=3), expected)
    assert not kept_pieces(label, "joined", num_classes=3)[2, 2, 6].any()


def test_each_class_alone_keeps_the_false_piece_that_holds_most_of_it():
    kept = kept_pieces(two_hearts(), True, num_classes=3)
    assert kept[4, 6].any()
    assert not kept[2, 2, 5]
    np.testing.assert_array_equal(kept_pieces(two_hearts(), False, num_classes=3), two_hearts())


def test_joined_keeps_one_piece_of_each_class_in_it():
    label = empty()
    label[0, 0] = (1, 2, 1, 1, 2, 2, 2, 1, 1)
    np.testing.assert_array_equal(kept_pieces(label, "joined", num_classes=3)[0, 0], [0, 0, 1, 1, 2, 2, 2, 0, 0])
    assert not kept_pieces(empty(), "joined", num_classes=3).any()


def test_first_in_scan_order_of_equal_parts():
    label = empty()
    label[0, 5, 8] = label[3, 0, 0] = 1
    assert np.argwhere(keep_largest_component(label, num_classes=2)).tolist() == [[0, 5, 8]]


def test_doing_it_twice_changes_nothing():
    label = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
    once = keep_largest_component(label, num_classes=3)
    np.testing.assert_array_equal(keep_largest_component(once, num_classes=3), once)


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_search_of_the_whole_volume_for_each_class(seed):
    """Many parts, many ties, classes that are missing and classes that touch every edge."""
    rng = np.random.default_rng(seed)
    label = np.where(rng.random((17, 24, 40)) < 0.1 + 0.2 * seed, rng.integers(0, 7, (17, 24, 40)), 0).astype(np.uint8)
    label[label == 4] = 0
    label[(label == 5) & (rng.random(label.shape) < 0.99)] = 0
    expected = np.zeros_like(label)
    for index in range(1, 7):
        parts, count = ndimage.label(label == index, structure=np.ones((3, 3, 3)))
        if count:
            sizes = np.bincount(parts.ravel())
            expected[parts == 1 + sizes[1:].argmax()] = index
    np.testing.assert_array_equal(keep_largest_component(label, num_classes=7), expected)
    np.testing.assert_array_equal(keep_largest_component(label, num_classes=9), expected)


def test_nothing_to_keep():
    assert not keep_largest_component(empty(), num_classes=3).any()
    assert keep_largest_component(np.zeros((0, 7, 9), np.uint8), num_classes=3).shape == (0, 7, 9)


def test_tensors_and_other_strides_are_read():
    label = empty()
    label[1, 2:5, 3] = 1
    label[4, 6, 8] = 1
    expected = keep_largest_component(label, num_classes=2)
    np.testing.assert_array_equal(keep_largest_component(torch.from_numpy(label), num_classes=2), expected)
    kept = keep_largest_component(np.asfortranarray(label).transpose(2, 0, 1), num_classes=2)
    np.testing.assert_array_equal(kept, expected.transpose(2, 0, 1))


@pytest.mark.parametrize(("value", "found"), [(3, r"0\.\.3"), (255, r"0\.\.255"), (-1, r"-1\.\.0")])
def test_label_that_is_no_class_is_refused(value, found):
    label = empty(np.int16)
    label[1, 2, 3] = value
    with pytest.raises(ValueError, match=rf"labels must lie in 0\.\.2, got {found}"):
        keep_largest_component(label, num_classes=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 5])
def test_likeliest_class_is_argmax_in_batches_and_alone(classes, dtype):
    scores = torch.randn(2, classes, *SIZE).to(dtype)
    expected = scores.argmax(dim=1, keepdim=True)
    assert torch.equal(likeliest_class(scores, dim=1), expected)
    assert torch.equal(likeliest_class(scores[1], dim=0), expected[1])


def test_likeliest_class_of_equal_ones_is_the_first():
    scores = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    assert likeliest_class(scores, dim=1).tolist() == [[1], [0]]


def by_scipy(label_map, num_classes):
    """A class at a time, voxel by voxel."""
    kept = np.zeros_like(label_map)
    for index in range(1, num_classes):
        components, count = ndimage.label(label_map == index, structure=np.ones((3,) * label_map.ndim))
        if count:
            kept[components == 1 + np.bincount(components.ravel())[1:].argmax()] = index
    return kept


@pytest.mark.parametrize("shape", [(17, 24, 40), (1, 9, 30), (13, 1, 1), (1, 1, 1), (11, 31)])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4, 0.95])
def test_same_as_scipy(shape, share):
    rng = np.random.default_rng(0)
    label = np.where(rng.random(shape) < share, rng.integers(1, 4, size=shape), 0).astype(np.uint8)
    np.testing.assert_array_equal(keep_largest_component(label, num_classes=4), by_scipy(label, 4))


def test_same_as_scipy_on_blobs():
    field = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((30, 41, 52)), 2)
    label = np.digitize(field, np.quantile(field, [0.6, 0.8, 0.9])).astype(np.uint8)
    np.testing.assert_array_equal(keep_largest_component(label, num_classes=4), by_scipy(label, 4))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_boxes_are_the_same_however_the_memory_lies(order):
    label = np.zeros((17, 24, 40), np.uint8)
    label[3:5, 7:20, 39] = 1
    label[16, 0, 2:9] = label[0, 23, 5] = 3
    lying = np.ascontiguousarray(label.transpose(order)).transpose(np.argsort(order))
    expected = [(slice(3, 5), slice(7, 20), slice(39, 40)), None, (slice(0, 17), slice(0, 24), slice(2, 9))]
    assert class_boxes(lying) == expected
    assert class_boxes(lying, num_classes=6) == [*expected, None, None]
    mirrored = [(slice(12, 14), slice(7, 20), slice(0, 1)), None, (slice(0, 17), slice(0, 24), slice(31, 38))]
    assert class_boxes(lying[::-1, :, ::-1]) == mirrored
    assert class_boxes(np.zeros_like(label)) == []


def test_log_probabilities_stand_in_the_place_of_logits_and_are_finite():
    probabilities = torch.tensor([[0.25, 1.0], [0.75, 0.0]])
    logits = log_probabilities(probabilities)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(dim=0), probabilities, rtol=0, atol=2e-6)
