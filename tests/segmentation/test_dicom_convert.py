from unittest.mock import patch

import numpy as np
import pytest
from dicom_files import INTERCEPT, SHAPE, SPACING, lps, multi_frame, stored
from pydicom.uid import RLELossless

from aps_components.data import DataError
from aps_components.segmentation import dicom_convert, find_cases
from aps_components.segmentation.dicom import find_series, read_series

needs_dcm2niix = pytest.mark.skipif(dicom_convert.program() is None, reason="dcm2niix is not installed")
FLIP = np.array([-1.0, -1.0, 1.0])  # LPS to RAS
FORWARD = list(range(SHAPE[2]))
SHUFFLED = np.random.default_rng(1).permutation(SHAPE[2]).tolist()


def only(folder):
    (series,) = find_series(folder)
    return series


def write(folder, data):
    folder.mkdir(parents=True, exist_ok=True)
    data.save_as(folder / "IM0001", enforce_file_format=True)
    return folder


def refusal(folder):
    with pytest.raises(DataError) as error:
        read_series(only(folder))
    return str(error.value)


@needs_dcm2niix
@pytest.mark.parametrize("order", [FORWARD, FORWARD[::-1], SHUFFLED], ids=["forward", "backward", "shuffled"])
def test_every_voxel_of_a_multi_frame_file_lies_where_its_frame_says(tmp_path, order):
    voxels, affine = read_series(only(write(tmp_path, multi_frame(order))))
    assert (voxels.shape, voxels.dtype) == (SHAPE, np.int16)
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    in_mm = np.array([[lps(*place) * FLIP for place in row] for row in places.reshape(SHAPE[0], -1, 3)[:, ::37]])
    at = np.linalg.solve(affine[:3, :3], (in_mm - affine[:3, 3]).reshape(-1, 3).T).T
    np.testing.assert_allclose(at, np.rint(at), atol=1e-3)
    found = voxels[tuple(np.rint(at).astype(int).T)]
    np.testing.assert_array_equal(found, stored().reshape(SHAPE[0], -1)[:, ::37].ravel().astype(int) + INTERCEPT)


@needs_dcm2niix
def test_a_compressed_one_is_the_same(tmp_path):
    plain = read_series(only(write(tmp_path / "a", multi_frame(FORWARD))))
    data = multi_frame(FORWARD)
    data.compress(RLELossless)
    for found, expected in zip(read_series(only(write(tmp_path / "b", data))), plain, strict=True):
        np.testing.assert_array_equal(found, expected)


@needs_dcm2niix
def test_the_grid_is_known_before(tmp_path):
    (case,) = find_cases(write(tmp_path, multi_frame(FORWARD))).cases
    shape, affine = case.grid()
    assert shape == SHAPE
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), SPACING, rtol=1e-5)


@needs_dcm2niix
@pytest.mark.parametrize(
    "data",
    [
        multi_frame(SHUFFLED, numbers=[index + 1 for index in FORWARD]),  # counted in the order of the file
        multi_frame([z for z in FORWARD if z != 17]),
        multi_frame([0, 0, *FORWARD[1:]], numbers=[index + 1 for index in range(41)]),
    ],
    ids=["counted otherwise", "one missing", "one twice"],
)
def test_frames_that_make_no_even_volume_are_refused(tmp_path, data):
    assert "dcm2niix makes" in refusal(write(tmp_path, data))


@needs_dcm2niix
def test_a_file_that_is_cut_short_is_refused(tmp_path):
    folder = write(tmp_path, multi_frame(FORWARD))
    file = folder / "IM0001"
    file.write_bytes(file.read_bytes()[:-4000])
    assert f"{file}: its pixels cannot be read" in refusal(folder)


def test_where_dcm2niix_is_missing_the_mend_is_named(tmp_path):
    folder = write(tmp_path, multi_frame(FORWARD))
    with patch.dict("sys.modules", {"dcm2niix": None}), patch("shutil.which", return_value=None):
        assert refusal(folder) == (
            f"{folder / 'IM0001'}: a multi-frame file, which dcm2niix converts, and that is not installed; "
            "run: pip install dcm2niix"
        )
