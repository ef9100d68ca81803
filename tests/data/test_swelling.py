"""Objects of a patch that swell and shrink."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pipelines import configured
from torch.nn import functional as F

from aps_components.data import RandSwelld
from aps_components.data.swelling import BREADTHS, moved_grid

SHAPE = (41, 36, 24)


def away(shape, centre):
    steps = np.meshgrid(*(np.arange(size) - middle for size, middle in zip(shape, centre, strict=True)), indexing="ij")
    return np.sqrt(sum(step**2 for step in steps))


def moved(volume, grid):
    found = F.grid_sample(torch.from_numpy(volume)[None, None].float(), grid[None], mode="nearest", align_corners=False)
    return found[0, 0].numpy()


@pytest.mark.parametrize("shape", [(17, 24, 40), SHAPE])
def test_a_border_that_does_not_move_leaves_every_voxel_where_it_was(shape):
    volume = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    grid = moved_grid(away(shape, [size // 2 for size in shape]) < 6, shift=0.0, breadth=0.5)
    np.testing.assert_array_equal(moved(volume, grid), volume)


@pytest.mark.parametrize("shift", [-0.4, -0.2, 0.2, 0.4])
def test_the_border_of_a_ball_moves_by_about_the_share_of_its_radius(shift):
    ball = away((48, 48, 48), (24, 24, 24)) < 12
    after = moved(ball, moved_grid(ball, shift=shift, breadth=0.6)) > 0
    radius = (after.sum() / (4 / 3 * np.pi)) ** (1 / 3)
    assert radius == pytest.approx(12 + 12 * shift, abs=1.8)


def test_a_cavity_that_shrinks_has_a_thicker_wall():
    """As a heart that is not dilated has; a patch that is scaled keeps the proportions."""
    distance = away((48, 48, 20), (24, 24, 10))[:, :, 10:11].repeat(20, axis=2)
    cavity, heart = distance < 12, distance < 16
    grid = moved_grid(cavity, shift=-0.4, breadth=0.25, axes=2)
    inner, outer = (np.sqrt(moved(each, grid)[:, :, 10].sum() / np.pi) for each in (cavity, heart))
    assert inner < 10
    assert outer - inner > 1.2 * 4


@pytest.mark.parametrize("shift", [-0.6, 0.4])
@pytest.mark.parametrize("breadth", BREADTHS)
def test_space_does_not_fold(shift, breadth):
    shape = (64, 64, 64)
    grid = moved_grid(away(shape, (32, 32, 32)) < 14, shift=shift, breadth=breadth).numpy()
    for axis in range(3):
        assert np.diff(grid[..., 2 - axis], axis=axis).min() > 0


def test_where_slices_are_thick_nothing_leaves_its_slice():
    volume = np.broadcast_to(np.arange(SHAPE[2], dtype=np.float32), SHAPE).copy()
    grid = moved_grid(away(SHAPE, (20, 18, 12)) < 8, shift=0.4, breadth=0.4, axes=2)
    np.testing.assert_array_equal(moved(volume, grid), volume)


def test_what_is_too_small_has_no_size():
    assert moved_grid(away(SHAPE, (20, 18, 12)) < 1.5, shift=0.4, breadth=0.4) is None


def patch(*, beyond=0, kind=torch.uint8):
    distance = away(SHAPE, (20, 18, 12))
    label = np.where(distance < 6, 1, np.where(distance < 9, 2, 0)).astype(np.uint8)
    label[:3] = beyond
    affine = np.diag([2.0, 2, 3, 1])
    image = MetaTensor(torch.from_numpy(label.astype(np.float32))[None].repeat(2, 1, 1, 1) * 10, affine=affine)
    return {"image": image, "label": MetaTensor(torch.from_numpy(label)[None].to(kind), affine=affine)}


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_image_and_label_move_together_and_keep_their_kind(kind):
    swell = RandSwelld(["image", "label"], num_classes=3, prob=1.0, least=0.3, most=0.4)
    swell.set_random_state(seed=1)
    before = patch(beyond=255, kind=kind)
    after = swell(before)
    assert after["label"].dtype == kind
    assert set(np.unique(after["label"])) == {0, 1, 2, 255}
    assert (after["label"] != before["label"]).any()
    inside = after["label"][0] != 255
    error = (after["image"][0] - 10.0 * after["label"][0])[inside].abs()
    assert (error > 5).float().mean() < 0.04  # the image is interpolated, the label is not
    np.testing.assert_array_equal(after["image"].affine, before["image"].affine)
    assert (patch(beyond=255)["label"] == before["label"]).all()  # what went in is as it was


def test_draws_are_the_seeds():
    swell = RandSwelld(["image", "label"], num_classes=3, prob=0.5)

    def drawn(seed):
        swell.set_random_state(seed=seed)
        return [swell(patch())["label"].sum().item() for _ in range(6)]

    assert drawn(3) == drawn(3)
    assert len(set(drawn(3))) > 2
    assert drawn(3) != drawn(4)


@pytest.mark.parametrize("left_out", ["label", "object", "chance"])
def test_a_patch_without_an_object_stays(left_out):
    item = patch()
    if left_out == "object":
        item["label"].zero_()
    if left_out == "label":
        del item["label"]
    swell = RandSwelld(["image", "label"], num_classes=3, prob=0.0 if left_out == "chance" else 1.0)
    swell.set_random_state(seed=0)
    before = {key: value.clone() for key, value in item.items()}
    after = swell(item)
    assert after.keys() == before.keys()
    assert all((after[key] == before[key]).all() for key in before)


@pytest.mark.parametrize(("least", "most"), [(-1, 0), (0.3, 0.2), (0, 1)])
def test_a_border_moves_by_less_than_all(least, most):
    with pytest.raises(ValueError, match="must lie between -1 and 1, the lower first"):
        RandSwelld(["image"], num_classes=2, least=least, most=most)


@pytest.mark.parametrize(("augmentation", "leaves_its_slice"), [("affine", True), ("strong_in_plane", False)])
def test_a_bundle_swells_the_share_of_patches_that_it_says(augmentation, leaves_its_slice):
    options = {"num_classes": 3, "swelling": 1.0, "augmentation": augmentation, "roi_size": SHAPE}
    listed = configured("train#random_transforms", **options)
    (swell,) = (each for each in listed if isinstance(each, RandSwelld))
    swell.set_random_state(seed=0)
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[10:30, 8:28, 8:16] = 1
    data = {
        "image": MetaTensor(torch.from_numpy(label)[None].float()),
        "label": MetaTensor(torch.from_numpy(label)[None]),
    }
    moved = [swell(data)["label"][0].numpy() for _ in range(8)]
    assert sum((each != label).any() for each in moved) > 4  # a small shift moves no whole voxel
    changed = [
        each[:, :, :8].any() or each[:, :, 16:].any() or not each[:, :, 8:16].any((0, 1)).all() for each in moved
    ]
    assert any(changed) == leaves_its_slice
    assert not any(
        isinstance(each, RandSwelld) for each in configured("train#random_transforms", **{**options, "swelling": 0.0})
    )
