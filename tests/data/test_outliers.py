import numpy as np
import pytest
from nifti_headers import affine_of, write

from aps_components.data import DataError, evaluation_transforms
from aps_components.data.outliers import DROWNED, widened

SHAPE = (31, 37, 41)


def normal(seed=0):
    return np.random.default_rng(seed).normal(300, 60, SHAPE).astype(np.float32)


def test_it_is_the_quotient_of_two_deviations():
    values = normal().ravel()
    values[7] = 1e6
    low, high = np.quantile(values, (1e-3, 1 - 1e-3))
    expected = values.std(dtype=float) / np.clip(values, low, high).std(dtype=float)
    assert widened(values) == pytest.approx(expected, rel=1e-4)
    assert widened(normal().ravel()) == pytest.approx(1, abs=0.02)
    assert widened(np.full(100, 7, np.float32)) == 1


@pytest.mark.parametrize("value", [1e20, -1e20, 3.4e38, 1e6])
@pytest.mark.parametrize("intensity", ["zscore", "zscore_nonzero"])
def test_a_voxel_that_drowns_the_others_is_refused_where_it_would(tmp_path, value, intensity):
    image = normal()
    image[3, 5, 7] = value
    file = write(tmp_path / "a.nii.gz", image, sform=affine_of(), scode=1)
    with pytest.raises(DataError, match=r"a.nii.gz: a few voxels of it reach from"):
        evaluation_transforms(keys="image", intensity=intensity)({"image": file})
    clipped = evaluation_transforms(keys="image", intensity={"window": [0, 600]})({"image": file})["image"]
    assert 0.4 < float(clipped.mean()) < 0.6


def test_metal_air_and_sparse_contrast_are_no_fault():
    metal = normal()
    metal[:3, :3, :3] = 30_000  # 27 of 47,027 voxels, a hundred times above
    stripped = np.where(np.arange(SHAPE[0])[:, None, None] > 25, normal(), 0)
    for image in (metal, stripped, np.square(normal())):
        assert widened(image.ravel().astype(np.float32)) < DROWNED


@pytest.mark.parametrize("fine", [True, False])
def test_a_channel_without_contrast_is_no_fault_beside_one_with(tmp_path, fine):
    channels = np.stack([normal() if fine else np.full(SHAPE, 3.0), np.full(SHAPE, 7.0)], axis=-1).astype(np.float32)
    file = write(tmp_path / "a.nii.gz", channels, sform=affine_of(), scode=1)
    load = evaluation_transforms(keys="image", in_channels=2, intensity="zscore")
    if fine:
        assert float(load({"image": file})["image"][1].abs().max()) == 0
    else:
        with pytest.raises(DataError, match=r"a.nii.gz: it has no contrast"):
            load({"image": file})
