import numpy as np
import pytest

from aps_components.bundle.rules import (
    BUDGETS,
    coarser,
    ct_window,
    keeps_order,
    looks_like_ct,
    propose_augmentation,
    propose_backbone,
    propose_balanced_crops,
    propose_class_weights,
    propose_flip_axes,
    propose_intensity,
    propose_label_values,
    propose_largest_component,
    propose_network,
    propose_regions,
    propose_roi_size,
    propose_spacing,
)
from aps_components.data.fingerprint import IntensityFacts
from aps_components.networks.voxel_shape import checked_strides, levels_of, roi_faults


def test_regions_are_of_classes_and_not_of_values():
    found = propose_regions({"whole": [1, 2, 4], "core": [4], "nothing": [9]}, [1, 2, 4]).value
    assert found == {"whole": [1, 2, 3], "core": [3]}


@pytest.mark.parametrize(
    ("spacings", "chosen"),
    [
        ([[1, 1, 1]], [1, 1, 1]),
        ([[0.7, 0.7, 7.5], [0.705, 0.7, 7.5]], [0.7025, 0.7, 7.5]),  # they agree: none of them is resampled
        ([[0.7, 0.7, 1], [0.708, 0.7, 1]], [0.704, 0.7, 1]),  # not
        ([[1, 2, 3], [1, 2, 3], [1.5, 2, 2]], [1, 2, 3]),  # 3 to 1 is no anisotropy yet
        ([[1, 1, z] for z in range(4, 15)], [1, 1, 5]),  # the 10th percentile of 4, 5, ..., 14
        ([[z, 0.5, 0.5] for z in range(2, 13)], [3, 0.5, 0.5]),
        ([[0.4, 2, 0.5], [0.4, 2, 5], [0.4, 2, 6]], [0.4, 2, 2]),  # 10th percentile 1.4, but y has 2
    ],
)
def test_spacing(spacings, chosen):
    found = propose_spacing(np.array(spacings, dtype=float)).value
    assert found == pytest.approx(chosen)


@pytest.mark.parametrize(
    ("shape", "budget", "size"),
    [
        ((36, 50, 35), "gpu", [32, 48, 32]),
        ((35, 50, 36), "cpu", [32, 48, 32]),
        ((64, 64, 12), "gpu", [64, 64, 16]),
        ((8, 8, 64), "gpu", [16, 16, 64]),
        ((8, 8, 9), "gpu", [16, 16, 32]),
        ((9, 9, 8), "gpu", [32, 16, 16]),
        ((512, 512, 12), "gpu", [240, 240, 16]),
        ((100, 8, 3), "gpu", [96, 16, 16]),
        ((10, 12, 9), "gpu", [16, 32, 16]),  # not 16 on every axis
        ((24, 40, 56), "gpu", [32, 48, 64]),  # halves are rounded up
        ((512, 512, 512), "gpu", [96, 96, 96]),
        ((512, 512, 512), "cpu", [64, 64, 48]),
        ((192, 142.5, 88), "gpu", [144, 96, 64]),
        ((4000, 16, 16), "gpu", [3920, 16, 16]),
    ],
)
def test_roi_size(shape, budget, size):
    assert propose_roi_size(shape, spacing=[1, 1, 1], budget=budget).value == size
    assert np.prod(size) <= BUDGETS[budget]


@pytest.mark.parametrize("budget", ["gpu", "cpu"])
@pytest.mark.parametrize("spacing", [[1, 3.5, 1], [3.5, 1, 1], [1, 1, 1], [1, 1, 3.5]])
def test_a_patch_that_is_cut_down_fits_the_network_whichever_axis_is_thick(spacing, budget):
    choice = propose_roi_size((96, 96, 200), spacing=spacing, budget=budget)
    assert "cut down to" in choice.reason
    strides = propose_network(spacing, choice.value)["strides"].value
    strides = checked_strides(strides, exactly=levels_of(propose_backbone(spacing).value))
    assert roi_faults(choice.value, strides) == []
    assert spacing[0] != spacing[1] or choice.value[0] == choice.value[1]  # so that it can be turned by quarters


def test_a_budget_that_nothing_fits_ends_at_the_smallest_patch(monkeypatch):
    monkeypatch.setitem(BUDGETS, "cpu", 1)
    assert propose_roi_size((64, 96, 64), spacing=[1, 1, 1], budget="cpu").value == [16, 32, 16]


@pytest.mark.parametrize(
    ("shape", "budget", "size"),
    [
        ((216, 256, 9), "gpu", [224, 256, 8]),  # the slices are not padded
        ((216, 256, 9), "cpu", [192, 240, 4]),  # slices give way before the plane
        ((96, 128, 12), "cpu", [96, 128, 12]),  # nothing needs to
        ((512, 512, 12), "gpu", [288, 288, 12]),  # on a GPU the plane gives way
        ((216, 256, 40), "cpu", [96, 112, 16]),  # so many slices are an organ's depth
        ((200, 200, 5), "gpu", [208, 208, 5]),  # too few to be halved
        ((64, 64, 13), "gpu", [64, 64, 12]),
        ((64, 64, 17), "gpu", [64, 64, 16]),
        ((20, 24, 1), "cpu", [16, 32, 1]),
    ],
)
def test_a_patch_of_thick_slices_has_whole_planes_on_a_cpu_and_few_slices_on_a_gpu(shape, budget, size):
    assert propose_roi_size(shape, spacing=[1.5, 1.5, 10], budget=budget).value == size


@pytest.mark.parametrize(
    ("shape", "extent", "budget", "size"),
    [
        ((216, 256, 9), (84, 78, 17), "cpu", [112, 112, 8]),  # of nearly equal sides the longer one is both
        ((216, 256, 9), (120, 50, 9), "cpu", [160, 96, 8]),
        ((216, 256, 9), (6, 5, 3), "cpu", [96, 96, 8]),  # with surroundings
        ((216, 256, 9), (200, 200, 9), "cpu", [144, 160, 8]),  # cut down in the plane, as on a GPU
        ((80, 256, 9), (75, 60, 9), "cpu", [80, 96, 8]),  # no larger than the scan
        ((216, 256, 9), (84, 78, 17), "gpu", [224, 256, 8]),  # there is room for whole planes
        ((64, 64, 6), (6, 5, 3), "cpu", [64, 64, 6]),
    ],
)
def test_a_patch_of_thick_slices_on_a_cpu_holds_the_object_if_there_is_one(shape, extent, budget, size):
    found = propose_roi_size(shape, spacing=[1.5, 1.5, 10], budget=budget, extent=extent)
    assert found.value == size
    assert ("the object" in found.reason) == (budget == "cpu")
    assert ("cut down to" in found.reason) == (extent[0] == 200)


def test_voxels_of_one_size_are_cut_into_patches_whatever_the_object_is():
    with_it, without = (
        propose_roi_size((192, 142.5, 88), spacing=[1, 1, 1], budget="cpu", extent=extent)
        for extent in ((60, 60, 40), None)
    )
    assert with_it == without


def test_a_network_is_planned_for_thick_slices_alone():
    assert {key: choice.value for key, choice in propose_network([1, 1, 2], [96, 96, 48]).items()} == {
        "strides": None,
        "kernel_sizes": None,
    }
    planned = {key: choice.value for key, choice in propose_network([1.5, 1.5, 10], [144, 144, 8]).items()}
    assert planned["strides"] == [[2, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
    assert planned["kernel_sizes"] == [*[[3, 3, 1]] * 4, [3, 3, 3]]


@pytest.mark.parametrize(
    ("spacing", "chosen"),
    [([1, 1, 2], "affine"), ([1.5, 1.5, 10], "strong_in_plane"), ([10, 1.5, 1.5], "full"), ([1, 3, 3], "full")],
)
def test_augmentation_stays_in_the_plane_of_thick_slices(spacing, chosen):
    assert propose_augmentation(spacing).value == chosen


def scan(values, foreground=None, zero_share=0.0):
    """A scan of one channel with these values."""
    values = np.array([values], dtype=np.float32)
    labelled = values if foreground is None else np.array([foreground], dtype=np.float32)
    return IntensityFacts((float(values.min()),), zero_share, values, labelled)


CT = np.concatenate([np.full(300, -1000), np.full(300, -90), np.linspace(-50, 100, 380), np.full(20, 900)])
MRI = np.linspace(0, 1500, 1000)
RINGING = np.concatenate([[-250, -220], np.linspace(0, 3000, 998)])


@pytest.mark.parametrize(
    ("values", "is_ct"),
    [
        (CT, True),
        (CT + 1024, False),  # shifted to start at 0: the unit is lost
        (np.clip(CT, -125, 275), False),  # cut already
        (MRI, False),
        (RINGING, False),
        (np.linspace(-3, 20, 1000), False),  # normalised
        (np.linspace(-32000, 32000, 1000), False),
        (np.full(1000, -500), False),  # nothing in it
    ],
)
def test_hounsfield_units(values, is_ct):
    assert looks_like_ct(scan(values)) is is_ct


def test_every_channel_has_to_look_like_ct():
    both = np.stack([CT, MRI]).astype(np.float32)
    assert not looks_like_ct(IntensityFacts((-1000.0, 0.0), 0.0, both, both))


@pytest.mark.parametrize(
    ("low", "high", "window"),
    [
        (-17, 201, [-75, 275]),  # about the liver's in nnU-Net: margin 54.5, then to steps of 25
        (-50, 150, [-100, 200]),  # exactly on a step
        (40, 60, [0, 100]),  # at least 100 wide
        (50, 50, [0, 100]),
        (-1000, 200, [-1300, 500]),
    ],
)
def test_ct_window(low, high, window):
    assert ct_window(low, high) == window


def test_ct_by_the_window_of_its_labelled_voxels():
    scans = [scan(CT, foreground=np.linspace(-51, 151, 203)), scan(CT, foreground=[50.0]), scan(MRI, foreground=[0.0])]
    # 0.5 and 99.5 % of the 205 values pooled: -50.0 and 150.0 to within one value
    assert propose_intensity(scans).value == {"window": [-100, 200]}


@pytest.mark.parametrize(
    ("zeros", "chosen"),
    [((0.0, 0.0), "zscore"), ((0.25, 0.25), "zscore"), ((0.3, 0.3, 0.0), "zscore_nonzero"), ((0.9, 0.0), "zscore")],
)
def test_zeros_decide_about_other_scans(zeros, chosen):
    assert propose_intensity([scan(MRI, zero_share=share) for share in zeros]).value == chosen


@pytest.mark.parametrize(
    ("gaps", "ordered"),
    [
        ([], False),
        ([0.2] * 9 + [-0.2], True),
        ([0.2] * 8 + [-0.2] * 2, False),
        ([-0.11] * 3, True),
        ([0.09] * 10, False),  # too near
        ([0.06], True),  # few cases: cautious
        ([0.06, 0.3], True),
        ([0.04], False),
        ([0.3, -0.3], False),
    ],
)
def test_order_of_two_classes(gaps, ordered):
    assert keeps_order(gaps) is ordered


@pytest.mark.parametrize(
    ("centres", "axes"),
    [
        ([{1: (0.3, 0.5, 0.5)}] * 4, [0, 1, 2]),
        ([{1: (0.3, 0.5, 0.5), 2: (0.7, 0.5, 0.5)}] * 4, [1, 2]),
        ([{1: (0.3, 0.2, 0.5), 5: (0.7, 0.8, 0.45)}] * 4, [2]),
        ([{1: (0.3, 0.5, 0.5), 2: (0.7, 0.5, 0.5)}, {1: (0.7, 0.5, 0.5), 2: (0.3, 0.5, 0.5)}] * 2, [0, 1, 2]),
        ([{1: (0.3, 0.5, 0.5)}, {2: (0.7, 0.5, 0.5)}] * 3, [0, 1, 2]),  # never in one scan
        ([{1: (0.5, 0.5, 0.2), 2: (0.5, 0.5, 0.4), 3: (0.2, 0.5, 0.4)}] * 3, [1]),
        ([{1: (0.5, 0.50, 0.2), 2: (0.5, 0.56, 0.2)}] * 2, [0, 2]),
        ([{1: (0.5, 0.50, 0.2), 2: (0.5, 0.56, 0.2)}] * 3, [0, 1, 2]),
    ],
)
def test_flip_axes(centres, axes):
    assert propose_flip_axes(centres).value == axes


@pytest.mark.parametrize(("spacing", "axes"), [([1, 1, 2], []), ([1, 1, 5], [0, 1, 2])])
def test_on_a_cpu_nothing_is_flipped_but_thick_slices(spacing, axes):
    assert propose_flip_axes([{1: (0.3, 0.5, 0.5)}] * 4, spacing=spacing, budget="cpu").value == axes


def test_flip_axes_say_why():
    centres = [{1: (0.3, 0.5, 0.5), 2: (0.7, 0.5, 0.5)}]
    assert propose_flip_axes(centres, names={1: "left", 2: "right"}).reason == (
        "not x (left-right): left before right; judged cautiously, from 1 labelled case(s)"
    )


@pytest.mark.parametrize(
    ("voxels", "weights"),
    [
        ([5], None),
        ([100, 1000], None),
        ([100, 1001], [1.0, 1.53, 0.86]),  # (550.5 / 100) ** 0.25 and (550.5 / 1001) ** 0.25
        ([16, 16 * 15], [1.0, 1.68, 0.85]),  # 8 ** 0.25 and (8 / 15) ** 0.25
        ([1, 10_000_000], [1.0, 4.0, 0.84]),  # clipped
        ([10, 0, 20], None),
        ([1, 0, 1023], [1.0, 4.0, 1.0, 0.84]),  # 512 ** 0.25 is 4.76; a class that never occurs has 1
    ],
)
def test_class_weights(voxels, weights):
    assert propose_class_weights(voxels).value == weights


@pytest.mark.parametrize(
    ("roi_size", "voxels", "share", "crops"),
    [
        ([50, 100, 100], [10, 10], 0.001, 0.0),  # half of the scan
        ([48, 96, 96], [10, 10], 0.02, 0.33),
        ([48, 96, 96], [10, 101], 0.02, 0.5),
        ([48, 96, 96], [10], 0.0099, 0.5),
        ([48, 96, 96], [10, 0], 0.02, 0.33),
        ([300, 300, 40], [10], 0.02, 0.33),  # larger than the scan counts as all of it
    ],
)
def test_balanced_crops(roi_size, voxels, share, crops):
    found = propose_balanced_crops(voxels, roi_size=roi_size, shape=(100, 100, 100), foreground_share=share)
    assert found.value == crops


@pytest.mark.parametrize(
    ("shares", "whole"),
    [
        ({"a": [1.0] * 10}, True),
        ({"a": [1.0] * 9 + [0.5]}, True),
        ({"a": [1.0] * 8 + [0.5] * 2}, False),
        ({"a": [0.98] * 10}, False),
        ({"a": [1.0], "b": [0.4]}, False),
        ({"a": [1.0], "never": []}, True),
    ],
)
def test_largest_component(shares, whole):
    assert propose_largest_component(shares).value is whole


@pytest.mark.parametrize(
    ("shares", "joined", "pieces"),
    [
        ({"a": [1.0] * 10, "b": [1.0] * 10}, [1.0] * 9 + [0.6], "joined"),
        ({"a": [1.0] * 10, "b": [1.0] * 10}, [1.0] * 8 + [0.6] * 2, True),
        ({"a": [1.0] * 10, "b": [0.5] * 10}, [1.0] * 10, "foreground"),
        ({"a": [1.0] * 10, "b": [0.5] * 10}, [0.5] * 10, False),
        ({"a": [1.0] * 10}, [1.0] * 10, True),
    ],
)
def test_classes_that_touch_are_kept_together(shares, joined, pieces):
    assert propose_largest_component(shares, joined).value == pieces


@pytest.mark.parametrize(
    ("values", "mapping"),
    [([1, 2, 3], None), ([1, 2, 4], {"4": 3}), ([2], {"2": 1}), ([3, 700], {"3": 1, "700": 2})],
)
def test_label_values(values, mapping):
    assert propose_label_values(values).value == mapping


@pytest.mark.parametrize(
    ("spacing", "excess", "chosen"),
    [
        ([1, 1, 1], 8, [2, 2, 2]),
        ([1, 1, 1], 100, [2, 2, 2]),
        ([0.5, 0.5, 0.5], 3.375, [0.75, 0.75, 0.75]),
        ([0.7, 0.7, 7.5], 2.25, [1.05, 1.05, 7.5]),
        ([1, 1, 1], 0.5, [1, 1, 1]),
    ],
)
def test_coarser(spacing, excess, chosen):
    assert coarser(spacing, excess=excess) == pytest.approx(chosen)
