import numpy as np
import pytest
import torch
from monai.transforms import Compose
from tiny_model import AFFINE, SHAPE

from aps_components.data import evaluation_transforms
from aps_components.inference import inverted
from aps_components.interactive import ScanGrid
from aps_components.label_map import likeliest_class

SHEARED = AFFINE @ np.array([[1, 0.1, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def seen(affine, tmp_path, spacing=(1.5, 1.25, 2.0)):
    """A scan of that affine as the network sees it, and both grids."""
    import nibabel as nib

    file = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random(SHAPE, dtype=np.float32), affine), file)
    preprocessing = evaluation_transforms(keys="image", spacing=spacing)
    image = preprocessing({"image": str(file)})["image"]
    grid = ScanGrid(SHAPE, affine, network_shape=image.shape[1:], network_affine=image.affine.numpy())
    return preprocessing, image, grid


def by_monai(maps, image, preprocessing: Compose):
    return inverted(preprocessing, ("pred",))({"pred": maps.clone(), "image": image})["pred"].as_tensor()


@pytest.mark.parametrize("affine", [AFFINE, np.diag([0.75, 1.0, 2.5, 1.0]), SHEARED])
@pytest.mark.parametrize("spacing", [None, (1.5, 1.25, 2.0), (0.5, 2.0, 1.0)])
def test_interpolation_is_that_of_monais_inverse(affine, spacing, tmp_path):
    preprocessing, image, grid = seen(affine, tmp_path, spacing)
    maps = torch.rand(3, *image.shape[1:], generator=torch.Generator().manual_seed(1)).softmax(dim=0)
    expected = by_monai(maps, image, preprocessing)
    found = grid.interpolated(maps, grid.whole)
    assert found.shape == (3, *SHAPE)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    box = (slice(5, 17), slice(11, 30), slice(2, 13))
    torch.testing.assert_close(grid.interpolated(maps, box), found[(slice(None), *box)])
    label_map = likeliest_class(found, dim=0)[0].numpy()
    np.testing.assert_array_equal(grid.label_map(maps, box), label_map[box])


@pytest.mark.parametrize("affine", [AFFINE, SHEARED])
def test_a_box_holds_every_voxel_that_a_change_reaches(affine, tmp_path):
    _, image, grid = seen(affine, tmp_path)
    last = [size - 1 for size in image.shape[1:]]
    for least, greatest in (((4, 5, 6), (9, 7, 6)), ((0, 0, 0), (2, 3, 1)), ((8, 9, 10), last)):
        maps = torch.zeros(1, *image.shape[1:])
        maps[(0, *(slice(low, high + 1) for low, high in zip(least, greatest, strict=True)))] = 1
        reached = grid.interpolated(maps, grid.whole)[0].numpy() > 1e-4
        inside = np.zeros(SHAPE, dtype=bool)
        inside[grid.scan_box(least, greatest)] = True
        assert reached.any()
        assert not (reached & ~inside).any()
        if affine is AFFINE:
            assert inside.sum() < 4 * reached.sum()


@pytest.mark.parametrize("affine", [AFFINE, SHEARED])
def test_nearest_and_network_voxel_go_the_same_way(affine, tmp_path):
    _, image, grid = seen(affine, tmp_path)
    indices = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    found = grid.nearest(indices)
    assert found.shape == image.shape[1:]
    to_mm, back = image.affine.numpy(), np.linalg.inv(affine)
    for voxel in ((0, 0, 0), (7, 11, 13), tuple(size - 1 for size in found.shape)):
        place = (back @ to_mm @ [*voxel, 1])[:3]
        expected = np.clip(np.rint(place), 0, np.array(SHAPE) - 1).astype(int)
        assert abs(np.array(np.unravel_index(found[voxel], SHAPE)) - expected).max() == 0
        there = grid.network_voxel(place)
        assert there == voxel
