import numpy as np
import pytest
from dicom_files import SPACING, slice_of

from aps_components.data import DataError
from aps_components.segmentation import find_cases
from aps_components.segmentation.dicom import find_series, read_series

SHAPE = (17, 24, 19)
ORIGIN, STEP = np.array([10.0, 20.0, 30.0]), np.array([0.0, 0.0, 3.0])  # the table moves along the patient
GRADIENT = np.array([7.0, 11.0, 5.0])
FLIP = np.array([-1.0, -1.0, 1.0])  # LPS to RAS


def of_place(lps):
    """A value that interpolation between pixels does not change."""
    return 1000 + lps @ GRADIENT


def directions(angle, axis):
    turned = {"column": [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)]]}
    turned["row"] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0]]
    return np.array(turned[axis], dtype=float)


def write(folder, angle, axis="column", kind="CT"):
    """A CT whose gantry is tilted: every value says where it lies."""
    row, column = directions(angle, axis)
    x, y = (np.arange(size)[:, None] for size in SHAPE[:2])
    for z in range(SHAPE[2]):
        position = ORIGIN + z * STEP
        places = position + (x * SPACING[0] * row)[:, None] + (y * SPACING[1] * column)[None]
        slice_of(
            np.rint(10 * of_place(places)),
            z,
            RescaleSlope=0.1,
            RescaleIntercept=0,
            Modality=kind,
            ImagePositionPatient=[*position],
            ImageOrientationPatient=[*row.round(9), *column.round(9)],
        ).save_as(folder / str(z), enforce_file_format=True)
    (series,) = find_series(folder)
    return series


@pytest.mark.parametrize("angle", [-0.3, -0.1, 0.1, 0.3])
@pytest.mark.parametrize("axis", ["row", "column"])
def test_slices_are_put_upright_where_they_lie(tmp_path, angle, axis):
    voxels, affine = read_series(write(tmp_path, angle, axis))
    x, y, z = affine[:3, :3].T
    np.testing.assert_allclose([x @ y, x @ z, y @ z], 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [*SPACING[:2], 3 * np.cos(angle)], rtol=1e-6)
    places = np.stack(np.meshgrid(*map(np.arange, voxels.shape), indexing="ij"), axis=-1)
    expected = of_place((places @ affine[:3, :3].T + affine[:3, 3]) * FLIP)
    inside = voxels > voxels.min()
    assert inside.sum() >= 0.9 * np.prod(SHAPE)
    assert np.abs(voxels - expected)[inside].max() <= 0.051  # of steps of 0.1, and ten in a millimetre


def test_the_grid_is_known_before(tmp_path):
    series = write(tmp_path, 0.2)
    voxels, affine = read_series(series)
    (case,) = find_cases(tmp_path).cases
    shape, expected = case.grid()
    assert shape == voxels.shape
    np.testing.assert_array_equal(affine, expected)


def test_a_magnetic_resonance_series_may_be_tilted_too(tmp_path):
    voxels, _ = read_series(write(tmp_path, 0.2, kind="MR"))
    assert voxels.shape[1] > SHAPE[1]


def test_what_no_gantry_does_is_refused(tmp_path):
    series = write(tmp_path, 0.9)
    with pytest.raises(DataError, match="move further to the side than along the stack; export it again"):
        read_series(series)


def test_slices_beside_a_straight_stack_are_refused(tmp_path):
    write(tmp_path, 0.0)
    slice_of(
        np.zeros(SHAPE[:2]),
        9,
        ImagePositionPatient=[*(ORIGIN + 9 * STEP + [4.0, 0, 0])],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    ).save_as(tmp_path / "9", enforce_file_format=True)
    (series,) = find_series(tmp_path)
    with pytest.raises(DataError, match=r"a slice lies 4\.00 mm beside the line of the others"):
        read_series(series)
