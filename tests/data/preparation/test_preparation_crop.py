"""The body is found in the air around it, and the atrium in it stays whole."""

import nibabel as nib
import numpy as np
import pytest

from aps_components.data.preparation.crop import body_box, cropped_affine, published_box

SHAPE, SPACING = (144, 128, 40), (1.25, 1.25, 2.5)
CENTRE, RADII = (80, 60, 20), (44, 30, 60)  # voxels; the body goes through all slices
ATRIUM = (slice(68, 92), slice(50, 72), slice(6, 33))


def chest(*, noise: float = 8.0, coil: float = 2.5, seed: int = 0) -> np.ndarray:
    """A body in air: Rician noise, and a coil at the front that makes the back `coil` times darker."""
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    terms = [((axis - c) / r) ** 2 for axis, c, r in zip((x, y, z), CENTRE, RADII, strict=True)]
    body = 60.0 * (sum(terms) < 1)
    body[ATRIUM] = 150
    body *= np.exp(-np.log(coil) * y / SHAPE[1])
    real, imaginary = noise * np.random.default_rng(seed).standard_normal((2, *SHAPE))
    return np.hypot(body + real, imaginary).astype(np.uint8)


@pytest.mark.parametrize("noise", [0.0, 2.0, 8.0])
@pytest.mark.parametrize("coil", [1.0, 2.5])
def test_the_air_goes_and_the_body_stays(noise, coil):
    box = body_box(chest(noise=noise, coil=coil), SPACING)
    for axis in (0, 1):  # within the margin of 10 mm (8 voxels) and two cells of two voxels
        low, high = CENTRE[axis] - RADII[axis], CENTRE[axis] + RADII[axis]
        assert low - 12 <= box[axis].start <= low
        assert high <= box[axis].stop - 1 <= high + 12
    assert box[2] == slice(0, SHAPE[2])


def test_the_whole_atrium_stays():
    mask = np.zeros(SHAPE, np.uint8)
    mask[ATRIUM] = 1
    for seed in range(3):
        assert mask[body_box(chest(seed=seed), SPACING)].sum() == mask.sum()


def test_a_bright_spot_in_the_air_is_no_body():
    image = chest()
    image[3:6, 3:6, 3:6] = 255
    assert body_box(image, SPACING) == body_box(chest(), SPACING)


@pytest.mark.parametrize("image", [np.zeros((17, 24, 40)), np.full((17, 24, 40), 7, np.uint8), np.ones((1, 24, 40))])
def test_an_image_of_nothing_stays_whole(image):
    assert body_box(image, (1, 1, 1)) == tuple(slice(0, size) for size in image.shape)


def test_a_speck_is_not_taken_for_the_body():
    image = np.zeros((90, 90, 90), np.uint8)
    image[40:44, 40:44, 40:44] = 255
    assert body_box(image, (1, 1, 1)) == (slice(0, 90),) * 3


def test_the_published_box_is_around_the_mask():
    mask = np.zeros((400, 300, 88), np.uint8)
    mask[100:250, 140:200, 20:60] = 1
    box = published_box(mask, "a")
    assert 81 <= box[0].start <= 90  # 10 to 19 voxels outside the mask
    assert 260 <= box[0].stop <= 269
    assert 140 - 26 - 19 <= box[1].start <= 140 - 26 - 10  # 59 voxels apart, padded to 112
    assert 200 + 26 + 10 <= box[1].stop <= 200 + 26 + 19
    assert box[2] == slice(0, 88)
    assert published_box(mask, "a") == box
    assert len({str(published_box(mask, name)) for name in "abcdef"}) > 3


def test_the_published_box_ends_at_the_image():
    mask = np.ones((20, 30, 8), np.uint8)
    assert published_box(mask, "a") == (slice(0, 20), slice(0, 30), slice(0, 8))


def test_a_cropped_voxel_stays_where_it_was():
    affine = np.array([[-0.4, 0.45, 0, -10], [-0.3, -0.6, 0, -20], [0, 0, 1.25, 30], [0, 0, 0, 1]])
    box = (slice(2, 9), slice(3, 9), slice(5, 9))
    inside = nib.affines.apply_affine(cropped_affine(affine, box), (1, 1, 1))
    np.testing.assert_allclose(inside, nib.affines.apply_affine(affine, (3, 4, 6)))
