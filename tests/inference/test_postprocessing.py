import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import gaussian_filter
from workflows import LA

from aps_components.data import evaluation_transforms
from aps_components.inference import (
    InvertToLabelMapd,
    LabelMapd,
    PromptPoint,
    inverted,
    prompts_in_world,
)
from aps_components.inference.prompt_file import mark_of

LABELS = {0: "background", 1: "atrium"}
SPACING = (1.0, 1.5, 2.0)
SHAPE = (23, 20, 17)
SMOOTH = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 2.0).astype(np.float32)
SMOOTH /= np.abs(SMOOTH).max()


def write_scan(folder, orientation="RAS"):
    """The same anatomy, stored along other axes."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = [-31.0, 12.0, 5.0]
    scan = nib.Nifti1Image(SMOOTH, affine)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(orientation))
    path = folder / f"scan_{orientation}.nii.gz"
    nib.save(scan.as_reoriented(turn), path)
    return path


def listed(folder, **options):
    """The transforms that inference.json lists before the network, and those behind it."""
    parser = ConfigParser()
    parser.read_config(str(LA / "configs" / "inference.json"))
    labels = {str(value): name for value, name in LABELS.items()}
    given = {"labels": labels, "checkpoint": "none", "intensity": None, "output_dir": str(folder), **options}
    for key, value in given.items():
        parser[key] = value
    return parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")


def segment(path, folder, *, spacing=None, maps=False, extra=None, **options):
    """What a network would say that calls everything above 0 class 1, through the files."""
    preprocessing, post = listed(folder, spacing=spacing, largest_component=False, save_maps=maps, **options)
    data = preprocessing({"image": str(path)})
    image = data["image"].as_tensor()
    foreground = (0.5 + image / 2).clamp(0, 1)
    data["pred"] = torch.cat([1 - foreground, foreground])  # as the evaluator gives it: a plain tensor
    if maps:
        data["epistemic"], data["aleatoric"] = image.square(), 2 * image.square()
    return post({**data, **(extra or {})})


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("spacing", [None, [1.25, 1.25, 1.25]])
def test_label_map_lies_on_the_scans_own_grid(tmp_path, orientation, spacing):
    path = write_scan(tmp_path, orientation)
    segment(path, tmp_path, spacing=spacing)
    scan, result = nib.load(path), nib.load(tmp_path / f"scan_{orientation}_seg.nii.gz")
    assert result.shape == scan.shape
    np.testing.assert_allclose(result.affine, scan.affine, atol=1e-5)
    assert result.get_data_dtype() == np.uint8
    truth, found = np.asarray(scan.dataobj) > 0, np.asarray(result.dataobj)
    if spacing is None:
        np.testing.assert_array_equal(found, truth)
    else:
        assert 2 * np.sum(truth & (found == 1)) / (truth.sum() + found.sum()) > 0.93


def test_orientation_of_the_file_does_not_matter(tmp_path):
    canonical = []
    for orientation in ("RAS", "LPS", "PIR", "SAL"):
        segment(write_scan(tmp_path, orientation), tmp_path, spacing=[1.25, 1.25, 1.25])
        result = nib.load(tmp_path / f"scan_{orientation}_seg.nii.gz")
        canonical.append(np.asarray(nib.as_closest_canonical(result).dataobj))
    assert 0 < canonical[0].mean() < 1
    for other in canonical[1:]:
        np.testing.assert_array_equal(other, canonical[0])


def test_maps_are_saved_beside_it(tmp_path):
    path = write_scan(tmp_path, "PIR")
    # The network's grid is RAS, the file's axes are P, I, R: voxel (a, b, c) of the file is (c, 19 - a, 16 - b) there.
    points = [PromptPoint(1, (4, 5, 6), 0.75)]
    segment(path, tmp_path / "out", maps=True, extra={"prompts": points})
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {
        "scan_PIR_seg.nii.gz",
        "scan_PIR_probabilities.nii.gz",
        "scan_PIR_epistemic.nii.gz",
        "scan_PIR_aleatoric.nii.gz",
        "scan_PIR_prompts.json",
    }
    scan = nib.load(path)
    values = np.asarray(scan.dataobj, dtype=np.float64)
    expected = {
        "probabilities": np.stack([0.5 - values / 2, 0.5 + values / 2], axis=-1),
        "epistemic": values**2,
        "aleatoric": 2 * values**2,
    }
    for name, array in expected.items():
        saved = nib.load(tmp_path / "out" / f"scan_PIR_{name}.nii.gz")
        assert saved.get_data_dtype() == np.float32
        np.testing.assert_allclose(saved.affine, scan.affine, atol=1e-5)
        np.testing.assert_allclose(np.asarray(saved.dataobj), array, atol=1e-5)
    content = json.loads((tmp_path / "out" / "scan_PIR_prompts.json").read_text())
    assert content["scan"] == "scan_PIR"
    (point,) = content["points"]
    assert (point["label"], point["name"], point["score"]) == (1, "atrium", 0.75)
    assert point["voxel"] == [19 - 5, 16 - 6, 4]
    world = (scan.affine @ [*point["voxel"], 1])[:3]
    np.testing.assert_allclose(point["world_mm"], world, atol=1e-3)
    np.testing.assert_allclose(point["world_mm"], np.array([-31, 12, 5]) + np.array([4, 5, 6]) * SPACING, atol=1e-3)


def test_maps_come_back_by_linear_interpolation(tmp_path):
    """A ramp survives a network that sees every second voxel; by nearest neighbour it would become stairs."""
    ramp = np.broadcast_to(np.arange(24, dtype=np.float32)[:, None, None] / 24, (24, 8, 8))
    nib.save(nib.Nifti1Image(np.ascontiguousarray(ramp), np.eye(4)), tmp_path / "ramp.nii.gz")
    segment(tmp_path / "ramp.nii.gz", tmp_path, spacing=[2.0, 1.0, 1.0], maps=True)
    saved = np.asarray(nib.load(tmp_path / "ramp_probabilities.nii.gz").dataobj)[..., 1]
    np.testing.assert_allclose(saved[2:-2], 0.5 + ramp[2:-2] / 2, atol=1e-4)


def test_without_maps_only_the_label_map_is_written(tmp_path):
    result = segment(write_scan(tmp_path), tmp_path / "out", extra={"prompts": [PromptPoint(1, (0, 0, 0), 0.5)]})
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["scan_RAS_seg.nii.gz"]
    assert result["pred"].shape == (1, *SHAPE)


def test_names_and_folders_can_be_chosen(tmp_path):
    path = write_scan(tmp_path)
    segment(path, tmp_path / "out", output_postfix="label", output_ext=".nii", separate_folder=True)
    (file,) = (tmp_path / "out").rglob("*.*")
    assert file.relative_to(tmp_path / "out").as_posix() == "scan_RAS/scan_RAS_label.nii"


@pytest.mark.parametrize("largest_component", [True, False])
def test_label_map_is_uint8_with_its_largest_component(largest_component):
    probabilities = torch.zeros(3, 6, 7, 8)
    probabilities[0] = 0.4
    probabilities[1, :2], probabilities[1, 4, 4, 4], probabilities[2, 3, 3:5, 3] = 0.6, 0.6, 0.6
    label_map = LabelMapd(("pred", "absent"), largest_component=largest_component)({"pred": probabilities})["pred"]
    expected = torch.zeros(1, 6, 7, 8, dtype=torch.uint8)
    expected[0, :2], expected[0, 3, 3:5, 3] = 1, 2
    expected[0, 4, 4, 4] = 0 if largest_component else 1
    assert label_map.dtype == torch.uint8
    assert torch.equal(torch.as_tensor(label_map), expected)


def test_label_map_keeps_its_affine():
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    probabilities = MetaTensor(torch.rand(2, 3, 4, 5), affine=affine)
    label_map = LabelMapd("pred", largest_component=True)({"pred": probabilities})["pred"]
    assert torch.equal(label_map.affine, affine)


def oblique(orientation):
    """SMOOTH turned by 0.3 about z, in 1 x 1.5 x 2 mm voxels, stored along other axes."""
    turn = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    affine = np.diag([*SPACING, 1.0])
    affine[:3, :3] = turn @ affine[:3, :3]
    scan = nib.Nifti1Image(SMOOTH, affine)
    return scan.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(orientation)))


@pytest.mark.parametrize("spacing", [None, [1.25, 1.75, 1.5], [3.0, 1.0, 2.5]])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR"])
@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize("largest_component", [True, False])
def test_label_map_in_little_memory_is_the_argmax_to_the_bit(
    tmp_path, spacing, orientation, num_classes, largest_component
):
    nib.save(oblique(orientation), tmp_path / "scan.nii.gz")
    preprocessing = evaluation_transforms(keys="image", spacing=spacing)
    data = preprocessing({"image": str(tmp_path / "scan.nii.gz")})
    noise = torch.rand(num_classes, *data["image"].shape[1:], generator=torch.Generator().manual_seed(0))
    data["pred"] = (4 * noise).round().softmax(dim=0)  # with many ties
    before = data["pred"].clone()
    steps = [inverted(preprocessing, ("pred",)), LabelMapd("pred", largest_component=largest_component)]
    expected = Compose(steps)(data)["pred"]
    options = {"largest_component": largest_component, "confidence": "confidence"}
    both = InvertToLabelMapd(("pred", "absent"), preprocessing, **options)(data)
    found = both["pred"]
    assert expected.shape == found.shape == (1, *nib.load(tmp_path / "scan.nii.gz").shape)
    assert found.dtype == torch.uint8
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    likeliest = inverted(preprocessing, ("pred",))(data)["pred"].amax(dim=0, keepdim=True)
    torch.testing.assert_close(both["confidence"].as_tensor(), likeliest.as_tensor(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.affine, expected.affine, rtol=0, atol=1e-12)
    assert found.meta["filename_or_obj"] == expected.meta["filename_or_obj"]
    assert torch.equal(data["pred"], before)
    assert set(np.unique(found)) == set(range(num_classes))


def test_what_the_evaluator_gives_in_inference_mode_can_be_turned(tmp_path):
    """Beside other keys, such as MONAI Label's paths."""
    path = write_scan(tmp_path)
    preprocessing = evaluation_transforms(keys="image")
    data = preprocessing({"image": str(path), "image_path": str(path)})
    with torch.inference_mode():
        foreground = (data["image"].as_tensor() > 0).float()
        data["pred"] = torch.cat([1 - foreground, foreground])
    label_map = InvertToLabelMapd("pred", preprocessing, largest_component=True)(data)["pred"]
    assert label_map.sum() > 100
    assert torch.equal(data["pred"].argmax(dim=0) == 1, foreground[0] == 1)


def test_a_case_of_several_files_gives_files_named_after_it(tmp_path):
    files = []
    for token in ("t1n", "t2f"):
        files.append(str(tmp_path / f"P-7-{token}.nii.gz"))
        nib.save(nib.Nifti1Image(SMOOTH, np.diag([*SPACING, 1.0])), files[-1])
    maps = {"pred": torch.rand(2, *SHAPE), "epistemic": torch.rand(1, *SHAPE), "aleatoric": torch.rand(1, *SHAPE)}
    prompts = [PromptPoint(1, (4, 5, 6), 0.75)]
    for save_maps, wanted in [(False, ["seg"]), (True, ["aleatoric", "epistemic", "probabilities", "prompts", "seg"])]:
        folder = tmp_path / f"out_{save_maps}"
        preprocessing, post = listed(folder, in_channels=2, spacing=None, save_maps=save_maps)
        image = preprocessing({"image": files})["image"]
        post({"image": image, **maps, "prompts": prompts})
        names = sorted(file.name for file in folder.iterdir())
        assert names == [f"P-7_{kind}.{'json' if kind == 'prompts' else 'nii.gz'}" for kind in wanted]


class TestPromptsInWorld:
    def entry(self, voxel, affine, original):
        (entry,) = prompts_in_world(
            [PromptPoint(1, voxel, 0.123456)],
            affine=np.array(affine, dtype=float),
            original_affine=np.array(original, dtype=float),
            labels=LABELS,
        )
        assert entry.pop("mark") == mark_of(entry)
        return entry

    def test_same_grid(self):
        affine = [[2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]
        assert self.entry((1, 2, 3), affine, affine) == {
            "label": 1,
            "name": "atrium",
            "voxel": [1.0, 2.0, 3.0],
            "world_mm": [12.0, 26.0, 42.0],
            "score": 0.1235,
            "source": "model",
        }

    def test_flipped_scan(self):
        """An LPS scan of 10 x 20 x 30 voxels of 1 mm: voxel (d, h, w) of the RAS grid is (9 - d, 19 - h, w) of it."""
        ras = [[1, 0, 0, -9], [0, 1, 0, -19], [0, 0, 1, 0], [0, 0, 0, 1]]
        entry = self.entry((1, 2, 3), ras, np.diag([-1, -1, 1, 1]))
        assert entry["world_mm"] == [-8.0, -17.0, 3.0]
        assert entry["voxel"] == [8.0, 17.0, 3.0]

    def test_resampled_scan(self):
        """The network saw 2 mm voxels of a scan of 0.5 x 1 x 4 mm voxels."""
        entry = self.entry((3, 5, 6), np.diag([2, 2, 2, 1]), np.diag([0.5, 1, 4, 1]))
        assert entry["world_mm"] == [6.0, 10.0, 12.0]
        assert entry["voxel"] == [12.0, 10.0, 3.0]

    def test_oblique_scan(self):
        """Turned by 30 degrees about z, 2 mm voxels, shifted: the voxel (1, 0, 0) lies along (cos, sin, 0)."""
        cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
        affine = [[2 * cos, -2 * sin, 0, 5], [2 * sin, 2 * cos, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1]]
        entry = self.entry((1, 0, 2), affine, affine)
        assert entry["world_mm"] == [6.732, 7.0, 11.0]
        assert entry["voxel"] == [1.0, 0.0, 2.0]
