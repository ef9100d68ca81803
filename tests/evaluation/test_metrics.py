import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from aps_components.data.partial import NOT_LABELED
from aps_components.evaluation import case_metrics, dice, jaccard, surface_distances
from aps_components.evaluation.metrics import (
    Region,
    foreground_regions,
    mean_dice,
    normalized_surface_dice,
    region_metrics,
    volume_ratio,
)
from aps_components.label_map import keep_largest_component

D, H, W = 17, 24, 40
SPACING = (0.7, 1.1, 3.0)


def blob(seed, *, sigma=3.0, share=0.2, shape=(D, H, W)):
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return noise > np.quantile(noise, 1 - share)


def cube(start, size=5, shape=(D, H, W)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(s, s + size) for s in start)] = True
    return mask


def pairs():
    for seed in range(6):
        yield pytest.param(blob(seed), blob(seed + 100), id=f"blobs-{seed}")
    yield pytest.param(blob(7, sigma=0.6), blob(8, sigma=0.6), id="speckle")
    yield pytest.param(cube((0, 0, 0)), cube((12, 19, 35)), id="opposite-corners")
    yield pytest.param(np.ones((D, H, W), dtype=bool), blob(9), id="full-prediction")
    yield pytest.param(cube((8, 8, 8), size=1), blob(10), id="single-voxel")
    yield pytest.param(blob(11), blob(11), id="equal")


@pytest.mark.parametrize("spacing", [SPACING, (0.625, 0.625, 0.625)], ids=["cuboids", "cubes"])
@pytest.mark.parametrize(("prediction", "truth"), list(pairs()))
def test_every_metric_equals_medpy(prediction, truth, spacing):
    medpy = pytest.importorskip("medpy.metric.binary")
    (result,) = case_metrics(prediction.astype(np.uint8), truth.astype(np.uint8), labels={1: "one"}, spacing=spacing)
    assert result.dice == pytest.approx(medpy.dc(prediction, truth))
    assert result.jaccard == pytest.approx(medpy.jc(prediction, truth))
    assert result.hd95_voxel == pytest.approx(medpy.hd95(prediction, truth), rel=1e-6)
    assert result.hd95_mm == pytest.approx(medpy.hd95(prediction, truth, voxelspacing=spacing), rel=1e-6)
    assert result.asd_voxel == pytest.approx(medpy.asd(prediction, truth), rel=1e-6)
    assert result.asd_mm == pytest.approx(medpy.asd(prediction, truth, voxelspacing=spacing), rel=1e-6)
    assert result.prediction_voxels == prediction.sum()
    assert result.truth_voxels == truth.sum()


def test_blobs_touch_the_image_edge():
    edges = [np.take(blob(seed), side, axis).any() for seed in range(6) for axis in range(3) for side in (0, -1)]
    assert np.mean(edges) > 0.5  # so that parity covers how the border is treated there


def test_shifted_cube_has_the_overlap_worked_out_by_hand():
    prediction, truth = cube((4, 6, 9)), cube((4, 6, 11))  # 5 cubed, shifted by 2 of 5 along W
    assert dice(prediction, truth) == pytest.approx(3 / 5)
    assert jaccard(prediction, truth) == pytest.approx(3 / 7)


@pytest.mark.parametrize("axis", range(3))
def test_parallel_walls_are_as_far_apart_as_the_shift(axis):
    truth = np.zeros((D, H, W), dtype=bool)
    truth[(slice(None),) * axis + (3,)] = True
    prediction = np.roll(truth, 4, axis)
    in_voxels = surface_distances(prediction, truth)
    in_mm = surface_distances(prediction, truth, spacing=SPACING)
    assert in_voxels.hausdorff_95 == in_voxels.average == 4
    assert in_mm.hausdorff_95 == pytest.approx(4 * SPACING[axis])
    assert in_mm.average == pytest.approx(4 * SPACING[axis])


def test_average_distance_is_directed_and_hausdorff_is_not():
    small, large = cube((6, 9, 14)), cube((6, 9, 14)) | cube((6, 9, 30))
    assert surface_distances(small, large).average == 0
    assert surface_distances(large, small).average > 5
    assert surface_distances(small, large).hausdorff_95 == surface_distances(large, small).hausdorff_95


def test_percentile_is_of_both_directions_pooled():
    truth = cube((0, 0, 0), size=1)
    prediction = np.zeros((D, H, W), dtype=bool)
    prediction[0, 0, :20] = True  # distances 0..19 one way, a single 0 back
    distances = surface_distances(prediction, truth)
    assert distances.hausdorff_95 == pytest.approx(np.percentile([*range(20), 0], 95))
    assert distances.average == pytest.approx(9.5)


def test_both_empty_is_perfect():
    nothing = np.zeros((D, H, W), dtype=np.uint8)
    (result,) = case_metrics(nothing, nothing, labels={0: "background", 1: "one"}, spacing=SPACING)
    assert (result.dice, result.jaccard, result.volume_ratio) == (1, 1, 1)
    assert (result.hd95_voxel, result.hd95_mm, result.asd_voxel, result.asd_mm) == (0, 0, 0, 0)


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_scores_zero_and_has_no_distance(swap):
    maps = [np.zeros((D, H, W), dtype=np.uint8), cube((1, 2, 3)).astype(np.uint8)]
    prediction, truth = maps[::-1] if swap else maps
    (result,) = case_metrics(prediction, truth, labels={1: "one"}, spacing=SPACING)
    assert (result.dice, result.jaccard) == (0, 0)
    assert math.isnan(result.volume_ratio) if swap else result.volume_ratio == 0
    assert all(math.isnan(v) for v in (result.hd95_voxel, result.hd95_mm, result.asd_voxel, result.asd_mm))


def test_volume_ratio_by_hand():
    truth, prediction = np.zeros((2, D, H, W), dtype=bool)
    truth[:2, 0, :3], prediction[1:4, 1, :5] = True, True
    assert volume_ratio(prediction, truth) == 15 / 6


def test_each_class_is_measured_on_its_own():
    truth = cube((0, 0, 0)) * 1 + cube((10, 10, 10)) * 3
    prediction = cube((0, 0, 0)) * 1 + cube((10, 10, 12)) * 3
    labels = {0: "background", 3: "three", 1: "one", 2: "two"}
    results = case_metrics(prediction, truth, labels=labels, spacing=SPACING)
    assert [(result.label, result.name) for result in results] == [(3, "three"), (1, "one"), (2, "two")]
    assert [result.dice for result in results] == pytest.approx([0.6, 1.0, 1.0])


def test_a_region_is_the_union_of_its_classes():
    """A tumour of two tissues, one predicted as the other: wrong by class, right as a whole."""
    truth = cube((4, 6, 9)) * 1 + cube((4, 6, 14)) * 3
    prediction = cube((4, 6, 9)) * 3 + cube((4, 6, 14)) * 3
    labels = {0: "background", 1: "core", 2: "oedema", 3: "enhancing"}
    whole, enhancing = foreground_regions(labels, {"whole": [1, 2, 3], "enhancing": [3]})
    assert (whole.label, enhancing.label) == ("1+2+3", 3)
    results = [
        region_metrics(region.mask(prediction), region.mask(truth), region=region, spacing=SPACING)
        for region in (whole, enhancing)
    ]
    assert [(result.name, result.label) for result in results] == [("whole", "1+2+3"), ("enhancing", 3)]
    assert [result.dice for result in results] == pytest.approx([1.0, 2 / 3])
    assert (results[0].hd95_mm, results[0].prediction_voxels, results[1].truth_voxels) == (0, 250, 125)
    by_class = case_metrics(prediction, truth, labels=labels, spacing=SPACING)
    assert by_class[2] == results[1]


def test_without_regions_each_class_is_one():
    assert foreground_regions({0: "background", 2: "b", 1: "a"}) == [Region("b", (2,)), Region("a", (1,))]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"whole": [1, 4]}, r"region 'whole' is \[1, 4\]: list classes of \[1, 2\]"),
        ({"whole": [0, 1]}, r"region 'whole' is \[0, 1\]"),
        ({"whole": [1, 1]}, r"region 'whole' is \[1, 1\]: .*each once"),
        ({"core": [1], "whole": []}, r"region 'whole' is \[\]"),
        ({"whole": 1}, r"region 'whole' is 1: list classes"),
        ({}, "regions is empty"),
    ],
)
def test_regions_without_their_classes_are_refused(regions, message):
    with pytest.raises(ValueError, match=message):
        foreground_regions({0: "background", 1: "a", 2: "b"}, regions)


def test_wrong_shapes_and_spacings_are_named():
    volume = np.zeros((D, H, W), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"\(17, 24, 40\).*\(24, 17, 40\)"):
        case_metrics(volume, volume.transpose(1, 0, 2), labels={1: "one"}, spacing=SPACING)
    with pytest.raises(ValueError, match=r"\(1, 1\)"):
        case_metrics(volume, volume, labels={1: "one"}, spacing=(1, 1))


def test_largest_component_stays_per_class():
    label_map = (cube((0, 0, 0), 2) * 1 + cube((4, 4, 4), 3) * 1 + cube((10, 10, 10), 4) * 2).astype(np.uint8)
    label_map[0, 20, 30] = 2
    kept = keep_largest_component(label_map, num_classes=4)
    expected = cube((4, 4, 4), 3) * 1 + cube((10, 10, 10), 4) * 2
    np.testing.assert_array_equal(kept, expected)
    assert kept.dtype == label_map.dtype
    assert label_map[0, 20, 30] == 2  # the input is left alone


def test_corner_neighbours_are_connected_and_ties_go_to_the_first():
    diagonal = (cube((0, 0, 0), 2) | cube((2, 2, 2), 2)).astype(np.int64)
    np.testing.assert_array_equal(keep_largest_component(diagonal, num_classes=2), diagonal)
    apart = (cube((0, 0, 0), 2) | cube((3, 3, 3), 2)).astype(np.int64)
    np.testing.assert_array_equal(keep_largest_component(apart, num_classes=2), cube((0, 0, 0), 2))


def test_largest_component_of_nothing_is_nothing_and_strange_labels_are_refused():
    nothing = np.zeros((D, H, W), dtype=np.uint8)
    np.testing.assert_array_equal(keep_largest_component(nothing, num_classes=3), nothing)
    with pytest.raises(ValueError, match=r"0\.\.2, got 0\.\.5"):
        keep_largest_component(cube((0, 0, 0)) * 5, num_classes=3)


def test_surface_dice_counts_what_lies_within_the_tolerance():
    """Two plates, 2 voxels of 1.5 mm apart along the first axis."""
    truth, prediction = np.zeros((12, 5, 7), dtype=bool), np.zeros((12, 5, 7), dtype=bool)
    truth[4], prediction[6] = True, True
    arguments = {"spacing": [1.5, 1.0, 2.0]}
    assert normalized_surface_dice(prediction, truth, tolerance_mm=3.0, **arguments) == 1
    assert normalized_surface_dice(prediction, truth, tolerance_mm=2.9, **arguments) == 0
    prediction[4, :, :3] = True  # of the truth's 35 voxels, these 15 are found, and those within reach of them
    reached = 5 * 4  # the next column lies 2 mm beside
    both = (reached + 15) / (35 + 35 + 15)
    assert normalized_surface_dice(prediction, truth, tolerance_mm=2.0, **arguments) == pytest.approx(both)
    assert normalized_surface_dice(truth & False, truth, tolerance_mm=2.0, **arguments) == 0
    assert normalized_surface_dice(truth & False, truth & False, tolerance_mm=2.0, **arguments) == 1


@pytest.mark.parametrize("spacing", [SPACING, (1.0, 1.0, 1.0)], ids=["cuboids", "cubes"])
def test_the_surface_dice_of_a_region_is_at_two_millimetres(spacing):
    prediction, truth = blob(3), blob(4)
    found = region_metrics(prediction, truth, region=Region("a", (1,)), spacing=spacing).nsd
    assert found == normalized_surface_dice(prediction, truth, spacing=spacing, tolerance_mm=2)
    assert 0 < found < 1


def test_mean_dice_is_over_regions_and_of_the_largest_component():
    truth, answer = np.zeros((9, 5, 7), dtype=np.uint8), np.zeros((9, 5, 7), dtype=np.uint8)
    truth[2:4], answer[2:4] = 1, 1
    answer[7, 0, 0] = 1
    regions = [Region("one", (1,)), Region("two", (2,))]
    assert mean_dice(answer, truth, regions) == pytest.approx((140 / 141 + 1) / 2)
    assert mean_dice(answer, truth, regions, largest_component=True) == 1
    answer[4, 2, 2], answer[3, 2, 2] = 1, 2  # of the object, in whose middle another class lies
    answer[6, 0, 0] = 0
    truth[3, 2, 2] = 2
    assert mean_dice(answer, truth, regions, largest_component="foreground") == pytest.approx((138 / 139 + 1) / 2)
    assert mean_dice(answer, truth, regions) == pytest.approx((138 / 140 + 1) / 2)


def test_mean_dice_passes_over_voxels_without_a_label():
    truth = np.array([1, 1, 0, NOT_LABELED, NOT_LABELED], dtype=np.uint8).reshape(1, 1, 5)
    answer = np.array([1, 0, 0, 1, 1], dtype=np.uint8).reshape(1, 1, 5)
    assert mean_dice(answer, truth, [Region("one", (1,))]) == pytest.approx(2 / 3)
