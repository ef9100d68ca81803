import itertools
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor
from pipelines import training_transforms
from scans import (
    AFFINE,
    HEADER_FAULTS,
    IMAGE_FAULTS,
    LABEL_FAULTS,
    SHAPE,
    random_image,
    random_label,
    truncate,
    write,
)

from aps_components.data import DataError, LoadVolumed, Resampled, evaluation_transforms
from aps_components.data.transforms import Pipeline
from aps_components.errors import root_cause

ROI = (11, 11, 13)


def test_volumes_are_channel_first_in_nifti_order(make_case):
    image, label = random_image(), random_label()
    item = LoadVolumed(num_classes=3)(make_case(image=image, label=label))
    assert item["image"].shape == item["label"].shape == (1, *SHAPE)
    assert (item["image"].dtype, item["label"].dtype) == (torch.float32, torch.uint8)
    np.testing.assert_array_equal(item["image"][0].numpy(), image)
    np.testing.assert_array_equal(item["label"][0].numpy(), label)


def test_channels_come_from_one_file_or_several(tmp_path):
    channels = random_image(shape=(*SHAPE, 3))
    files = [write(tmp_path / f"t{i}.nii.gz", channels[..., i]) for i in range(3)]
    one = LoadVolumed(in_channels=3)({"image": write(tmp_path / "all.nii.gz", channels)})["image"]
    several = LoadVolumed(in_channels=3)({"image": files})["image"]
    np.testing.assert_array_equal(one.numpy(), np.moveaxis(channels, -1, 0))
    np.testing.assert_array_equal(several.numpy(), one.numpy())


def test_an_image_of_several_files_is_named_after_its_case(tmp_path):
    files = [write(tmp_path / f"p-7-{token}.nii.gz", random_image()) for token in ("t1n", "t2f")]
    image = evaluation_transforms(in_channels=2, spacing=(2, 2, 2))({"image": files})["image"]
    assert image.meta["filename_or_obj"] == str(tmp_path / "p-7.nii.gz")
    one = evaluation_transforms()({"image": files[0]})["image"]
    assert one.meta["filename_or_obj"] == files[0]


@pytest.mark.parametrize("fault", [*HEADER_FAULTS, *LABEL_FAULTS, *IMAGE_FAULTS])
@pytest.mark.parametrize("pipeline", [evaluation_transforms, training_transforms])
def test_faulty_case_is_refused_by_name(make_case, fault, pipeline):
    arrays, message = (HEADER_FAULTS | LABEL_FAULTS | IMAGE_FAULTS)[fault]
    options = {"roi_size": ROI} if pipeline is training_transforms else {}
    dataset = Dataset([make_case(**arrays)], pipeline(num_classes=3, **options))
    with pytest.raises(DataError, match=message):
        dataset[0]


@pytest.mark.parametrize("key", ["image", "label"])
def test_unreadable_files_are_refused_by_name(make_case, key):
    item = make_case()
    load = evaluation_transforms(num_classes=3)
    truncate(item[key])
    with pytest.raises(DataError, match=rf"{key}s/a.nii.gz: cannot be read as NIfTI .*truncated"):
        load(item)
    Path(item[key]).write_text("not a scan")
    with pytest.raises(DataError, match=rf"{key}s/a.nii.gz: cannot be read as NIfTI"):
        load(item)
    os.remove(item[key])
    with pytest.raises(DataError, match=rf"{key}s/a.nii.gz: no such file"):
        load(item)


def test_item_without_an_image_is_refused(make_case):
    with pytest.raises(DataError, match='no "image"'):
        evaluation_transforms()({"label": make_case()["label"]})


def test_other_errors_keep_their_type():
    pipeline = evaluation_transforms()
    pipeline.transforms = (lambda _: 1 / 0,)
    with pytest.raises(RuntimeError, match="applying transform") as error:
        pipeline({})
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_orientation_on_disk_does_not_change_the_network_input(make_case):
    ras = random_image()
    lps_affine = np.diag([-1.0, -1.5, 2.0, 1.0])
    lps_affine[:2, 3] = [16 * 1.0, 23 * 1.5]
    load = evaluation_transforms(spacing=(2.0, 2.0, 2.0), intensity="zscore", num_classes=3)
    label = random_label()
    one = load(make_case("ras", image=ras, label=label))
    lps = {"image": ras[::-1, ::-1].copy(), "label": label[::-1, ::-1].copy()}
    other = load(make_case("lps", **lps, image_affine=lps_affine, label_affine=lps_affine))
    np.testing.assert_allclose(one["image"].numpy(), other["image"].numpy(), atol=1e-5)
    np.testing.assert_array_equal(one["label"].numpy(), other["label"].numpy())


def test_permuted_axes_on_disk_do_not_change_the_network_input(make_case):
    image = random_image()
    turned = {"image": image.transpose(2, 0, 1).copy(), "image_affine": AFFINE[:, [2, 0, 1, 3]]}
    load = evaluation_transforms(keys="image")
    one, other = load(make_case("xyz", image=image)), load(make_case("zxy", **turned))
    np.testing.assert_array_equal(one["image"].numpy(), other["image"].numpy())


def test_resampling_keeps_the_label_integral_and_skips_other_keys(make_case):
    item = LoadVolumed(num_classes=3)(make_case())
    item = {**item, "image_path": "a.nii.gz", "label_path": "a.nii.gz"}
    out = Resampled(("image", "label"), (2.0, 1.5, 1.0))(item)
    assert out["image"].shape == out["label"].shape == (1, 9, 24, 79)
    assert set(out["label"].unique().tolist()) == {0, 1, 2}
    assert out["image_path"] == "a.nii.gz"
    np.testing.assert_allclose(out["image"].pixdim.numpy(), [2.0, 1.5, 1.0])


def test_sizes_that_agree_to_a_percent_are_left_alone(make_case):
    item = LoadVolumed(num_classes=3)(make_case())
    own = item["image"].pixdim.numpy()
    near = Resampled(("image", "label"), tuple(own * [1.009, 0.992, 1.0]))(item)
    assert torch.equal(near["image"], item["image"])
    assert np.allclose(near["image"].pixdim.numpy(), own)
    assert near["image"].shape == item["image"].shape
    further = Resampled(("image", "label"), tuple(own * [1.0102, 1.0, 1.0]))
    out = further(item)
    np.testing.assert_allclose(out["image"].pixdim.numpy(), own * [1.0102, 1.0, 1.0], rtol=1e-6)
    assert further.inverse(out)["image"].shape == item["image"].shape


def test_without_spacing_the_grid_stays(make_case):
    item = LoadVolumed(num_classes=3)(make_case())
    resampled = Resampled(("image", "label"), None)
    assert resampled(item)["image"] is item["image"]
    assert resampled.inverse(item)["image"] is item["image"]


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.0)])
def test_evaluation_pipeline_can_be_inverted(make_case, spacing):
    affine = np.diag([-1.0, 1.5, 2.0, 1.0])
    item = make_case(image_affine=affine, label_affine=affine)
    pipeline = evaluation_transforms(spacing=spacing, num_classes=3, keys=("image",))
    back = pipeline.inverse({"image": pipeline({"image": item["image"]})["image"]})["image"]
    assert back.shape == (1, *SHAPE)
    np.testing.assert_allclose(back.affine.numpy(), affine, atol=1e-6)


def test_zscore_is_per_channel(tmp_path):
    image = random_image(shape=(*SHAPE, 2)) * [3.0, 7.0] + [100.0, -5.0]
    item = {"image": write(tmp_path / "a.nii.gz", image.astype(np.float32))}
    out = evaluation_transforms(in_channels=2, intensity="zscore")(item)["image"]
    np.testing.assert_allclose(out.mean(dim=(1, 2, 3)).numpy(), [0, 0], atol=1e-4)
    np.testing.assert_allclose(out.std(dim=(1, 2, 3)).numpy(), [1, 1], atol=1e-3)


def test_zscore_nonzero_leaves_the_background_at_zero(make_case):
    image = random_image() + 50
    image[:, :10] = 0
    out = evaluation_transforms(intensity="zscore_nonzero")({"image": make_case(image=image)["image"]})["image"]
    assert (out[:, :, :10] == 0).all()
    np.testing.assert_allclose(out[:, :, 10:].mean().item(), 0, atol=1e-4)


def test_window_maps_hounsfield_units_alike_in_every_scan(make_case):
    image = np.zeros(SHAPE, np.int16)
    image[0, 0, :4] = [-1000, -100, 50, 3000]
    out = evaluation_transforms(intensity={"window": [-100, 200]})({"image": make_case(image=image)["image"]})["image"]
    np.testing.assert_allclose(out[0, 0, 0, :5].numpy(), [0, 0, 0.5, 1, 1 / 3], atol=1e-6)


def test_scan_smaller_than_the_patch_is_padded_with_zero(make_case):
    sample = training_transforms(roi_size=(21, 24, 48), num_classes=3, augmentation="none")(
        make_case(image=np.ones(SHAPE, np.float32), label=np.ones(SHAPE, np.uint8))
    )
    assert sample["image"].shape == sample["label"].shape == (1, 21, 24, 48)
    expected = np.zeros((21, 24, 48))
    expected[2:19, :, 4:44] = 1
    np.testing.assert_array_equal(sample["image"][0].numpy(), expected)
    np.testing.assert_array_equal(sample["label"][0].numpy(), expected)


@pytest.mark.parametrize("roi_size", [ROI, (11, 12, 13)])
def test_label_moves_with_the_image(make_case, roi_size):
    label = random_label()
    item = make_case(image=label.astype(np.float32) * 10, label=label)
    pipeline = training_transforms(roi_size=roi_size, num_classes=3, augmentation="flips")
    patches = set()
    for seed in range(20):
        sample = pipeline.set_random_state(seed=seed)(item)
        assert sample["label"].dtype == torch.uint8
        assert sample["image"].shape == sample["label"].shape == (1, *roi_size)
        np.testing.assert_array_equal(sample["image"].numpy(), sample["label"].numpy() * 10.0)
        patches.add(sample["label"].numpy().tobytes())
    assert len(patches) == 20


def test_moves_reach_every_quarter_turn_and_flip(make_case):
    """A cube of the patch's size: the crop is fixed, so what varies is 4 turns x 2 flips x 2 in z."""
    label = random_label(shape=(5, 5, 7))
    item = make_case(image=label.astype(np.float32), label=label)
    pipeline = training_transforms(roi_size=(5, 5, 7), num_classes=3, augmentation="flips")
    found = {pipeline.set_random_state(seed=seed)(item)["label"].numpy().tobytes() for seed in range(200)}
    turns = [np.rot90(label, k)[:, ::y, ::z] for k in range(4) for y in (1, -1) for z in (1, -1)]
    assert found == {turn.tobytes() for turn in turns}


def test_left_and_right_need_not_be_swapped(make_case):
    label = random_label(shape=(5, 6, 7))
    pipeline = training_transforms(roi_size=(5, 6, 7), num_classes=3, augmentation="flips", flip_axes=(2,))
    item = make_case(image=label.astype(np.float32), label=label)
    found = {pipeline.set_random_state(seed=seed)(item)["label"].numpy().tobytes() for seed in range(20)}
    assert found == {label.tobytes(), label[:, :, ::-1].tobytes()}


def test_axes_in_a_list_of_their_own_are_flipped_together(make_case):
    """A half turn about z: neither axis alone, and no quarter turns."""
    label = random_label(shape=(5, 5, 7))
    pipeline = training_transforms(roi_size=(5, 5, 7), num_classes=3, augmentation="flips", flip_axes=[[0, 1]])
    item = make_case(image=label.astype(np.float32), label=label)
    found = {pipeline.set_random_state(seed=seed)(item)["label"][0].numpy().tobytes() for seed in range(30)}
    assert found == {label.tobytes(), np.flip(label, (0, 1)).tobytes()}


def test_bends_move_image_and_label_alike(make_case):
    """A ball of radius 12 in a cube of 48: its volume is divided by three scalings, each of 0.85 to 1.15."""
    size, radius = (48, 48, 48), 12
    distance = np.linalg.norm(np.indices(size) - 23.5, axis=0)
    ball = (distance < radius).astype(np.uint8)
    item = make_case(image=np.clip(radius - distance + 0.5, 0, 1).astype(np.float32), label=ball)
    pipeline = training_transforms(roi_size=size, intensity=None, augmentation="affine", flip_axes=[])
    bends = pipeline.transforms[: [type(t).__name__ for t in pipeline.transforms].index("RandAffined") + 2]
    shares = []
    for seed in range(20):
        sample = Pipeline(bends).set_random_state(seed=seed)(item)
        assert (sample["image"].shape, sample["label"].dtype) == ((1, *size), torch.uint8)
        image, label = (np.asarray(sample[key][0], dtype=np.float32) for key in ("image", "label"))
        assert np.mean((image > 0.5) == (label > 0)) > 0.99  # the surface alone is 1.6 % of the voxels
        shares.append(label.sum() / ball.sum())
    assert sum(share == 1 for share in shares) in range(5, 16)  # half of the patches stay as they are
    assert 1.15**-3 - 0.01 < min(shares) < 0.95 < 1.05 < max(shares) < 0.85**-3 + 0.01


def test_bends_of_an_unlabeled_case_keep_its_type(make_case):
    item = {"image": make_case()["image"]}
    sample = training_transforms(roi_size=ROI, augmentation="affine").set_random_state(seed=1)(item)
    assert set(sample) == {"image"}
    assert sample["image"].dtype == torch.float32


@pytest.mark.parametrize("flip_axes", [(1, 2), (0, 2), (2,), ()])
def test_quarter_turns_do_not_undo_what_leaving_out_a_flip_protects(make_case, flip_axes):
    """A turn mixes x and y; two of them, or one and a flip, would swap left and right after all."""
    label = random_label(shape=(5, 5, 7))
    pipeline = training_transforms(roi_size=(5, 5, 7), num_classes=3, augmentation="flips", flip_axes=flip_axes)
    item = make_case(image=label.astype(np.float32), label=label)
    found = {pipeline.set_random_state(seed=seed)(item)["label"].numpy().tobytes() for seed in range(40)}
    axes = [axes for count in range(3) for axes in itertools.combinations(flip_axes, count)]
    assert found == {np.flip(label, chosen).tobytes() for chosen in axes}


def test_full_augmentation_changes_intensities_only_of_the_image(make_case):
    item = make_case()
    full = training_transforms(roi_size=SHAPE, num_classes=3)
    flips = training_transforms(roi_size=SHAPE, num_classes=3, augmentation="flips")
    changed = 0
    for seed in range(10):
        one, other = full.set_random_state(seed=seed)(item), flips.set_random_state(seed=seed)(item)
        assert torch.equal(one["label"], other["label"])
        assert torch.isfinite(one["image"]).all()
        changed += not torch.equal(one["image"], other["image"])
    assert changed >= 8


def test_seeded_pipeline_replays(make_case):
    item = make_case()
    one, other = (training_transforms(roi_size=ROI, num_classes=3) for _ in range(2))
    for seed in range(5):
        a, b = one.set_random_state(seed=seed)(item), other.set_random_state(seed=seed)(item)
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["label"], b["label"])


def test_unlabelled_item_passes_through_every_pipeline(make_case):
    item = {"image": make_case()["image"]}
    for pipeline in (training_transforms(roi_size=ROI, spacing=(2, 2, 2)), evaluation_transforms(spacing=(2, 2, 2))):
        assert set(pipeline(item)) == {"image"}
        assert isinstance(pipeline(item)["image"], MetaTensor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augmentation": "some"}, "augmentation 'some'"),
        ({"intensity": "minmax"}, "intensity 'minmax'"),
        ({"intensity": {"window": [5, 5]}}, "low < high"),
        ({"num_classes": 1}, "num_classes 1"),
    ],
)
def test_wrong_settings_fail_at_construction(options, message):
    with pytest.raises(Exception) as error:  # noqa: PT011  # MONAI's, around ours
        training_transforms(roi_size=ROI, **options)
    assert re.search(message, str(root_cause(error.value)))


def test_real_scans_of_three_datasets(shared_data):
    brats = shared_data / "brats" / "BraTS-GLI-00000-000"
    modalities = [str(brats / f"{brats.name}-{m}.nii.gz") for m in ("t1n", "t1c", "t2w", "t2f")]
    abdomen = shared_data / "abdomen"
    hippocampus = shared_data / "hippocampus"
    for item, options in [
        (
            {"image": modalities, "label": str(brats / f"{brats.name}-seg.nii.gz")},
            {"in_channels": 4, "num_classes": 4, "intensity": "zscore_nonzero", "spacing": (3, 3, 3)},
        ),
        (
            {"image": str(abdomen / "imagesTr/ct_0002.nii.gz"), "label": str(abdomen / "labelsTr/ct_0002.nii.gz")},
            {"num_classes": 16, "intensity": {"window": [-125, 275]}},
        ),
        (
            {key: str(hippocampus / f"{key}s/hippocampus_001.nii.gz") for key in ("image", "label")},
            {"num_classes": 3, "intensity": "zscore"},
        ),
    ]:
        sample = training_transforms(roi_size=(48, 48, 40), **options)(item)
        assert sample["image"].shape == (options.get("in_channels", 1), 48, 48, 40)
        assert sample["label"].shape == (1, 48, 48, 40)
        affine = sample["image"].affine.numpy()  # which turns and flips keep usable
        assert None not in nib.aff2axcodes(affine)
        assert np.isfinite(affine).all()
        assert abs(np.linalg.det(affine)) > 0
