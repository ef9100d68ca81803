import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, Spacingd, SpatialResample

from aps_components.data.resampling import AxisMap, LinearResample, axis_maps, interpolate
from aps_components.data.transforms import RAS_AXES, Resampled

ODD = (17, 24, 40)


def scan(size=ODD, spacing=(0.8, 1.1, 2.5), turn=0.0, channels=2, seed=0):
    cos, sin = np.cos(turn), np.sin(turn)
    affine = np.array([[cos, -sin, 0, 5], [sin, cos, 0, -7], [0, 0, 1, 9], [0, 0, 0, 1.0]]) @ np.diag([*spacing, 1])
    voxels = torch.randn(channels, *size, generator=torch.Generator().manual_seed(seed)) * 300
    return MetaTensor(voxels, affine=affine, meta={"filename_or_obj": "x.nii.gz"})


def test_places_between_voxels_and_beyond_the_rim():
    line = torch.tensor([10.0, 20.0, 40.0], dtype=torch.float64)
    found = AxisMap.of(0.5, -0.5, old=3, new=7).apply(line, dim=0)
    assert found.tolist() == [10, 10, 15, 20, 30, 40, 40]


def test_grids_with_other_axes_are_not_separable():
    assert axis_maps(np.eye(4) + np.eye(4, k=1) * 0.01, old=ODD, new=ODD) is None


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 2.0), (0.3, 2.0, 2.5), (0.8, 1.1, 9.0), (0.8, 1.1, 2.5)])
@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_same_as_monai_there_and_back(spacing, turn):
    image = scan(turn=turn)
    ours, monai = Resampled("image", spacing), Spacingd("image", pixdim=spacing, mode="bilinear")
    found, expected = ours({"image": image})["image"], monai({"image": image})["image"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=1e-6, atol=1e-5)
    assert torch.allclose(found.affine, expected.affine)
    assert found.shape == expected.shape
    back, expected = ours.inverse({"image": found})["image"], monai.inverse({"image": expected})["image"]
    torch.testing.assert_close(back.as_tensor(), expected.as_tensor(), rtol=1e-6, atol=1e-4)
    assert torch.allclose(back.affine, image.affine)
    assert not back.applied_operations


def test_slabs_do_not_show(monkeypatch):
    image = scan()
    maps = axis_maps(np.diag([0.7, 1.3, 0.4, 1.0]), old=ODD, new=(23, 19, 97))
    whole = interpolate(image.as_tensor(), maps)
    monkeypatch.setattr("aps_components.data.resampling.AT_ONCE", 1)
    assert torch.equal(interpolate(image.as_tensor(), maps), whole)


def test_nearest_is_monais():
    voxels = torch.randint(0, 200, (1, 5, 7, 11), generator=torch.Generator().manual_seed(0)).float()
    label = MetaTensor(voxels, affine=np.eye(4))
    to = {"dst_affine": torch.diag(torch.tensor([0.6, 1.3, 1, 1.0])), "spatial_size": (8, 5, 11)}
    found = LinearResample(mode="nearest")(label, **to).as_tensor()
    assert torch.equal(found, SpatialResample(mode="nearest")(label, **to).as_tensor())
    assert not torch.equal(found, LinearResample(mode="bilinear", padding_mode="border")(label, **to).as_tensor())


def test_a_turned_scan_comes_back_to_its_own_axes():
    image = scan()
    image.affine = image.affine @ torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
    steps = Compose([Orientationd("image", axcodes="RAS", labels=RAS_AXES), Resampled("image", (1.5, 1.5, 2.0))])
    back = steps.inverse(steps({"image": image}))["image"]
    assert back.shape == image.shape
    assert torch.allclose(back.affine, image.affine)
