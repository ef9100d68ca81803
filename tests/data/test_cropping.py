import warnings

import numpy as np
import pytest
import torch
from monai.transforms import RandSpatialCropd
from pipelines import training_transforms
from scans import SHAPE, random_label

from aps_components.data import (
    BalancedCropd,
    SampleKey,
    SeededCacheDataset,
    two_stream_loader,
)

INDICES_PER_CLASS = 20_000  # as train.json says

ROI = (11, 11, 13)
COUNTS = 300  # patches for a share, so that its standard deviation is below 0.03
BIG = (40, 41, 43)
ORGANS = 15


def where(shape=SHAPE) -> np.ndarray:
    """An image whose value says which voxel it is."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def start_of(patch: torch.Tensor, shape=SHAPE) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(int(patch[0, 0, 0, 0]), shape))


def organs() -> np.ndarray:
    """Fifteen classes: 1 the largest, of 8000 voxels, 15 the smallest, of 27, in the corner, the others of 48."""
    label = np.zeros(BIG, np.uint8)
    label[:20, :20, :20] = 1
    for organ in range(2, ORGANS):
        label[25:29, 3 * organ - 4 : 3 * organ - 1, 25:29] = organ
    label[-3:, -3:, -3:] = ORGANS
    return label


def pipeline(share: float, *, roi_size=ROI, num_classes: int = 3):
    return training_transforms(roi_size=roi_size, num_classes=num_classes, augmentation="none", balanced_crops=share)


def patches(make_case, share: float, label: np.ndarray, *, num_classes: int, count: int = COUNTS):
    item = make_case(image=where(label.shape), label=label)
    data = SeededCacheDataset([item], pipeline(share, num_classes=num_classes), num_workers=1, progress=False)
    return [data[SampleKey(0, seed)] for seed in range(count)]


def test_without_balance_patches_lie_where_they_always_did(make_case):
    item = make_case(image=where())
    load = pipeline(0.0)
    starts = [start_of(load.set_random_state(seed=seed)(item)["image"]) for seed in range(5)]
    assert starts == [(5, 5, 24), (4, 12, 10), (3, 3, 20), (3, 3, 7), (3, 2, 11)]
    alone = RandSpatialCropd("image", ROI, random_size=False)
    crop = BalancedCropd("image", ROI, share=0.0, num_classes=3)
    image = {"image": torch.from_numpy(where())[None]}
    for seed in range(5):
        one, other = (each.set_random_state(seed=seed)(image)["image"] for each in (alone, crop))
        assert torch.equal(one, other)


def test_share_of_patches_with_the_smallest_class(make_case):
    label = organs()
    assert (label == 1).sum() / (label == ORGANS).sum() > 200
    shares = {}
    for share in (0.0, 0.5, 1.0):
        found = [
            np.unique(patch["label"].numpy()) for patch in patches(make_case, share, label, num_classes=ORGANS + 1)
        ]
        shares[share] = np.mean([ORGANS in classes for classes in found])
    # Anywhere: within 3 voxels of one of (30, 31, 31) starts an axis; of the balanced ones a fifteenth at least.
    assert shares[0.0] < 0.01
    assert shares[0.5] > 0.5 / ORGANS - 0.03
    assert 1.0 / ORGANS - 0.03 < shares[1.0] < 0.2
    assert shares[0.0] < shares[0.5] < shares[1.0]


def test_classes_are_drawn_evenly_whatever_their_size(make_case):
    label = np.zeros(BIG, np.uint8)
    label[5:20, 5:35, 20:23], label[30, 20, 20], label[34, 20, 35] = 1, 2, 4  # 3 is not there
    centres = [int(patch["label"][0, 5, 5, 6]) for patch in patches(make_case, 1.0, label, num_classes=5)]
    counts = np.bincount(centres, minlength=5)
    assert counts[3] == counts[0] == 0
    np.testing.assert_allclose(counts[[1, 2, 4]] / COUNTS, 1 / 3, atol=0.09)


def test_the_other_share_of_patches_lies_evenly_anywhere(make_case):
    """Also in the axis whose start is drawn right after the choice: the two do not depend on each other."""
    label = np.zeros(SHAPE, np.uint8)
    label[-1, -1, -1] = 1
    starts = [start_of(patch["image"]) for patch in patches(make_case, 0.5, label, num_classes=2, count=600)]
    corner = tuple(size - roi for size, roi in zip(SHAPE, ROI, strict=True))
    others = [start for start in starts if start != corner]
    assert len(others) / 600 == pytest.approx(0.5, abs=0.07)
    assert np.mean([start[0] for start in others]) == pytest.approx(3, abs=0.4)  # of 0 to 6
    assert {start[0] for start in others} == set(range(7))


@pytest.mark.parametrize("corner", [0, -1])
def test_a_class_in_the_corner_is_in_the_patch(make_case, corner):
    label = np.zeros(SHAPE, np.uint8)
    label[corner, corner, corner] = 2
    for patch in patches(make_case, 1.0, label, num_classes=3, count=5):
        assert patch["image"].shape == patch["label"].shape == (1, *ROI)
        assert patch["label"][0, corner, corner, corner] == 2
        assert start_of(patch["image"]) == (
            (0, 0, 0) if corner == 0 else tuple(size - roi for size, roi in zip(SHAPE, ROI, strict=True))
        )


def test_a_scan_smaller_than_the_patch_is_padded_first(make_case):
    label = np.zeros(SHAPE, np.uint8)
    label[0, 20, 30] = 1
    item = make_case(image=where(), label=label)
    load = pipeline(1.0, roi_size=(21, 11, 13), num_classes=2)
    for seed in range(5):
        patch = load.set_random_state(seed=seed)(item)
        assert patch["image"].shape == (1, 21, 11, 13)
        assert patch["label"].sum() == 1
        assert patch["label"][0, 2, 7, 6] == 1  # 20 + 5 + 1 > 24: moved inwards along y
        assert patch["image"][0, 2, 7, 6] == where()[0, 20, 30]


def test_without_foreground_patches_come_from_anywhere(make_case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = patches(make_case, 1.0, np.zeros(SHAPE, np.uint8), num_classes=3, count=50)
    assert len({start_of(patch["image"]) for patch in found}) > 40
    assert all(set(patch) == {"image", "label", "name"} for patch in found)


def test_an_unlabelled_case_gives_patches_from_anywhere(make_case):
    item = {"image": make_case(image=where())["image"]}
    load = pipeline(1.0)
    found = [load.set_random_state(seed=seed)(item) for seed in range(50)]
    assert all(set(patch) == {"image"} for patch in found)
    assert len({start_of(patch["image"]) for patch in found}) > 40


def test_the_voxels_of_each_class_are_found_once_and_are_few(make_case):
    label = np.zeros(BIG, np.uint8)
    label[:35] = 1
    item = make_case(image=where(BIG), label=label)
    data = SeededCacheDataset([item], pipeline(0.5, num_classes=2), num_workers=1, progress=False)
    ((_, indices),) = [(key, value) for key, value in data._cache[0].items() if "indices" in key]
    assert [len(voxels) for voxels in indices] == [5 * 41 * 43, INDICES_PER_CLASS]
    np.testing.assert_allclose(np.histogram(indices[1], bins=10)[0], INDICES_PER_CLASS / 10, atol=1)
    assert set(data[0]) == {"image", "label", "name"}


def test_balanced_samples_replay(two_stream_items):
    def dataset(cache_rate):
        transform = training_transforms(roi_size=ROI, num_classes=3, balanced_crops=0.5)
        return SeededCacheDataset(two_stream_items, transform, cache_rate=cache_rate, num_workers=1, progress=False)

    one, other = dataset(1.0), dataset(0.0)
    for seed in range(10):
        for key in (SampleKey(0, seed), SampleKey(6, seed)):
            first, again, uncached = one[key], one[key], other[key]
            assert torch.equal(first["image"], again["image"])
            assert torch.equal(first["image"], uncached["image"])


def test_balanced_batches_are_like_the_others(two_stream_items):
    transform = training_transforms(roi_size=ROI, num_classes=3, balanced_crops=0.5)
    data = SeededCacheDataset(two_stream_items, transform, num_workers=1, progress=False)
    runs = [
        list(two_stream_loader(data, labeled_batch=2, unlabeled_batch=1, epoch_length=4, seed=0, num_workers=workers))
        for workers in (0, 1)
    ]
    for one, other in zip(*runs, strict=True):
        assert {stream: set(parts) for stream, parts in one.items()} == {
            "labeled": {"image", "label", "name"},
            "unlabeled": {"image", "name"},
        }
        assert one["labeled"]["image"].shape == one["labeled"]["label"].shape == (2, 1, *ROI)
        assert torch.equal(one["labeled"]["image"], other["labeled"]["image"])
        assert torch.equal(one["unlabeled"]["image"], other["unlabeled"]["image"])


def test_label_stays_with_the_image(make_case):
    label = random_label()
    item = make_case(image=label * 10.0, label=label)
    transform = training_transforms(roi_size=ROI, num_classes=3, augmentation="flips", balanced_crops=1.0)
    for seed in range(10):
        patch = transform.set_random_state(seed=seed)(item)
        assert patch["label"].dtype == torch.uint8
        np.testing.assert_array_equal(patch["image"].numpy(), patch["label"].numpy() * 10.0)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        BalancedCropd("image", ROI, share=share, num_classes=2)
