"""Strong augmentation, in three dimensions and in the plane of thick slices."""

import numpy as np
import pytest
import torch
from monai.transforms import RandAffined
from pipelines import training_transforms

from aps_components.data import InPlane, Pipeline, cropped_size

SIZE = (40, 36, 6)


def slices_of_their_own(size=SIZE):
    """A label whose slice z holds class z % 3 in a disc: what comes from another slice is seen at once."""
    x, y = np.indices(size[:2]) - np.array([size[0] / 2, size[1] / 2])[:, None, None]
    disc = (x**2 + y**2 < 12**2).astype(np.uint8)
    return np.stack([disc * (1 + z % 3) for z in range(size[2])], axis=-1)


def pipeline(augmentation, *, roi_size=SIZE, **changes):
    return training_transforms(roi_size=roi_size, num_classes=4, augmentation=augmentation, **changes)


@pytest.fixture
def item(make_case):
    label = slices_of_their_own()
    return make_case(image=label.astype(np.float32), label=label)


def drawn(augmentation, item, count=20, **changes):
    transform = pipeline(augmentation, **changes)
    return [transform.set_random_state(seed=seed)(item) for seed in range(count)]


@pytest.mark.parametrize("augmentation", ["strong", "strong_in_plane"])
@pytest.mark.parametrize("roi_size", [SIZE, (16, 24, 5), (48, 64, 8)])
def test_patches_keep_size_and_types(item, augmentation, roi_size):
    for sample in drawn(augmentation, item, count=6, roi_size=roi_size):
        assert sample["image"].shape == sample["label"].shape == (1, *roi_size)
        assert (sample["image"].dtype, sample["label"].dtype) == (torch.float32, torch.uint8)
        assert torch.isfinite(sample["image"]).all()


@pytest.mark.parametrize("augmentation", ["strong", "strong_in_plane"])
def test_a_patch_that_is_not_turned_is_cut_out_of_the_scan(make_case, augmentation):
    """Also where the scan is an odd number of voxels larger than the patch, so that no even margin fits."""
    voxels, label, roi = np.arange(np.prod(SIZE)).reshape(SIZE), slices_of_their_own(), np.array([39, 33, 6])
    item = make_case(image=voxels.astype(np.float32), label=label)
    transforms = pipeline(augmentation, roi_size=tuple(roi), flip_axes=[]).transforms
    cut = Pipeline(transforms[: 1 + [type(each).__name__ for each in transforms].index("CenterSpatialCropd")])
    found = 0
    for seed in range(20):
        moved = cut.set_random_state(seed=seed)(item)
        sample = {key: np.asarray(moved[key][0]) for key in item}
        start = np.unravel_index(int(sample["image"].flat[0]), SIZE)
        where = tuple(slice(first, first + size) for first, size in zip(start, roi, strict=True))
        if sample["image"].shape == voxels[where].shape and np.array_equal(sample["image"], voxels[where]):
            np.testing.assert_array_equal(sample["label"], label[where])
            found += 1
    assert found in range(5, 16)  # half of the patches stay as they are


def test_in_the_plane_no_voxel_comes_from_another_slice(item):
    """Flips along z are off: slice z holds class 1 + z % 3 and nothing else, wherever the disc has gone."""
    sizes = set()
    for sample in drawn("strong_in_plane", item, flip_axes=[0, 1]):
        for z in range(SIZE[2]):
            assert set(sample["label"][0, ..., z].unique().tolist()) <= {0, 1 + z % 3}
        sizes.add(int((sample["label"] > 0).sum()))
    assert min(sizes) < 0.8 * max(sizes)  # scaled


def test_in_three_dimensions_slices_are_mixed(item):
    mixed = [
        any(len(sample["label"][0, ..., z].unique()) > 2 for z in range(SIZE[2])) for sample in drawn("strong", item)
    ]
    assert any(mixed)


def test_image_and_label_move_alike(item):
    for sample in drawn("strong_in_plane", item):
        inside, outside = (sample["image"][(sample["label"] > 0) == part].mean() for part in (True, False))
        assert inside > outside + 0.5


def turn_of(flip_axes):
    (affine,) = (t for t in pipeline("strong_in_plane", flip_axes=flip_axes).transforms if isinstance(t, RandAffined))
    return affine.rand_affine.rand_affine_grid.rotate_range


@pytest.mark.parametrize("flip_axes", [[1, 2], [0, 2], [[0, 1]], []])
def test_half_turns_do_not_undo_what_leaving_out_a_flip_protects(flip_axes):
    assert turn_of([0, 1]) == pytest.approx((0, 0, np.pi))
    assert turn_of(flip_axes) == pytest.approx((0, 0, np.pi / 6))


def test_the_same_seed_gives_the_same_patch(item):
    for one, other in zip(drawn("strong_in_plane", item, 4), drawn("strong_in_plane", item, 4), strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])


def test_an_unlabelled_case_goes_through(item):
    sample = pipeline("strong_in_plane").set_random_state(seed=1)({"image": item["image"]})
    assert set(sample) == {"image"}


def test_a_patch_is_cut_out_larger_by_an_even_number():
    assert cropped_size((112, 96, 8), "strong_in_plane") == [156, 134, 8]
    assert cropped_size((112, 96, 8), "strong") == [156, 134, 12]
    assert cropped_size((112, 96, 8), "full") == [112, 96, 8]


def test_slices_are_handed_on_as_channels():
    class Remember:
        def set_random_state(self, seed):
            self.seed = seed

        def __call__(self, slices):
            self.shape = slices.shape
            return slices * torch.arange(10)[:, None, None]

    remember = Remember()
    image = torch.ones(2, 3, 4, 5)
    changed = InPlane("image", remember)({"image": image})["image"]
    assert remember.shape == (10, 3, 4)
    assert torch.equal(changed[1, 2, 3], torch.arange(5.0) + 5)
    assert torch.equal(image, torch.ones(2, 3, 4, 5))
