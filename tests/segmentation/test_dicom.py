import os
import shutil
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from dicom_files import COLUMN, INTERCEPT, NORMAL, ORIGIN, ROW, SPACING, lps, slice_of, stored, write_series

from aps_components.data import DataError
from aps_components.segmentation import find_cases
from aps_components.segmentation.dicom import find_series, read_series, series_names, write_nifti

FLIP = np.array([-1.0, -1.0, 1.0])  # LPS to RAS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("dicom") / "DOE_JANE" / "a")


def only(folder):
    (series,) = find_series(folder)
    return series


def file_of(folder, z):
    """The file of a slice, whatever its name."""
    (file,) = (part.file for part in only(folder).slices if np.allclose(part.position, lps(0, 0, z), atol=1e-5))
    return file


def test_voxels_and_affine_of_an_oblique_series_are_those_of_the_closed_form(folder):
    voxels, affine = read_series(only(folder))
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, stored().astype(int) + INTERCEPT)
    expected = np.eye(4)
    expected[:3] = np.column_stack([ROW * SPACING[0], COLUMN * SPACING[1], NORMAL * SPACING[2], ORIGIN]) * FLIP[:, None]
    np.testing.assert_allclose(affine, expected, atol=1e-5)
    for voxel in [(0, 0, 0), (16, 0, 0), (0, 23, 0), (5, 7, 39)]:
        np.testing.assert_allclose((affine @ [*voxel, 1])[:3], FLIP * lps(*voxel), atol=1e-4)


def test_the_nifti_file_has_the_same_and_nothing_of_the_patient(folder, tmp_path):
    write_nifti(only(folder), tmp_path / "a.nii.gz")
    image, (voxels, affine) = nib.load(tmp_path / "a.nii.gz"), read_series(only(folder))
    np.testing.assert_array_equal(np.asarray(image.dataobj), voxels)
    for there in (image.affine, image.get_sform(), image.get_qform()):
        np.testing.assert_allclose(there, affine, atol=1e-4)
    assert image.header.get_zooms() == pytest.approx(SPACING)
    assert b"Doe" not in image.header.binaryblock
    assert (image.header["descrip"], image.header["db_name"]) == (b"", b"")


def test_slices_may_be_stored_from_the_last_to_the_first(tmp_path):
    """The normal decides, not numbers or names: a series read from head to feet is the same volume."""
    for z in range(5):
        slice_of(stored()[..., z], z, InstanceNumber=5 - z).save_as(tmp_path / f"{9 - z}", enforce_file_format=True)
    voxels, affine = read_series(only(tmp_path))
    np.testing.assert_array_equal(voxels, stored()[..., :5].astype(int) + INTERCEPT)
    np.testing.assert_allclose(affine[:3, 3], FLIP * ORIGIN, atol=1e-5)


def test_every_slice_has_its_own_rescaling(tmp_path):
    """As in PET. SimpleITK's series reader would make whole numbers of all, because the first slice has them."""
    slopes = [1.0, 0.25, 2.5]
    for z, slope in enumerate(slopes):
        one = slice_of(stored()[..., z], z, RescaleSlope=slope, RescaleIntercept=z)
        one.save_as(tmp_path / str(z), enforce_file_format=True)
    voxels, _ = read_series(only(tmp_path))
    assert voxels.dtype == np.float32
    np.testing.assert_allclose(voxels, stored()[..., :3] * np.array(slopes) + np.arange(3), rtol=1e-6)


def test_several_series_in_nested_folders_are_told_apart(tmp_path):
    small = (5, 7, 3)
    write_series(tmp_path / "x" / "1", shape=small, ending=".dcm")
    write_series(tmp_path / "x" / "2", shape=small, SeriesInstanceUID="1.2.9", SeriesNumber=12, SeriesDescription="")
    write_series(
        tmp_path / "y", shape=small, SeriesInstanceUID="1.2.8", SeriesNumber=None, SeriesDescription="Zürich/2"
    )
    (tmp_path / "x" / "notes.txt").write_text("no DICOM")
    series = find_series(tmp_path)
    assert series_names(series) == ["003_t1_axial_gd", "012", "z_rich_2"]
    assert [len(one.slices) for one in series] == [3, 3, 3]


def test_series_of_one_name_get_different_ones_that_stay(tmp_path):
    for uid in ("1.2.8", "1.2.9"):
        write_series(tmp_path / uid, shape=(5, 7, 3), SeriesInstanceUID=uid)
    names = series_names(find_series(tmp_path))
    assert len(set(names)) == 2
    assert all(name.startswith("003_t1_axial_gd_") and len(name) == 24 for name in names)
    assert names == series_names(find_series(tmp_path))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def refusal(folder):
    with pytest.raises(DataError) as error:
        read_series(only(folder))
    return str(error.value)


def test_missing_slices_are_refused(folder, copy):
    for z in (7, 8, 20):
        os.remove(file_of(folder, z).replace(str(folder), str(copy)))
    message = refusal(copy)
    assert "series 003_t1_axial_gd" in message
    assert "about 3 slices are missing, between" in message
    low, high = (float(lps(0, 0, z) @ NORMAL) for z in (6, 9))
    assert f"{low:.1f} and {high:.1f}" in message


@pytest.mark.parametrize(
    ("declared", "missing"),
    [
        ({"SpacingBetweenSlices": SPACING[2]}, True),
        ({"SpacingBetweenSlices": SPACING[2], "SliceThickness": 0.5 * SPACING[2]}, True),
        ({"SpacingBetweenSlices": 2 * SPACING[2]}, False),
        ({"SpacingBetweenSlices": SPACING[2], "SliceThickness": 2 * SPACING[2]}, False),  # from rim to rim
        ({"SpacingBetweenSlices": 0.7 * SPACING[2]}, False),
        ({"SliceThickness": SPACING[2]}, False),  # slices with gaps between them
    ],
)
def test_of_every_second_slice_the_headers_tell(tmp_path, declared, missing):
    for z in range(0, 10, 2):
        slice_of(stored()[..., z], z, **declared).save_as(tmp_path / str(z), enforce_file_format=True)
    if missing:
        assert "as where one in 2 was copied; copy all its files" in refusal(tmp_path)
    else:
        assert read_series(only(tmp_path))[0].shape[2] == 5


def test_a_slice_twice_is_refused(folder, copy):
    shutil.copy(file_of(folder, 4), copy / "again")
    assert "1 slices lie where another one does" in refusal(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ImagePositionPatient": list(lps(0, 0, 1.2))}, "uneven slices, 2.400 to 3.600 mm apart"),
        ({"PixelSpacing": [0.9, 0.8]}, "several sizes, pixel spacings or directions"),
        ({"PatientID": "4712"}, "slices of several patients, by their PatientID; keep those of one"),
        ({"RescaleSlope": None}, "only some of its slices have a RescaleSlope"),
        ({"SpacingBetweenSlices": 0}, "1: its SpacingBetweenSlices is 0 mm; export it again"),
        ({"SpacingBetweenSlices": "0.00"}, "1: its SpacingBetweenSlices is 0 mm; export it again"),
        ({"ImageOrientationPatient": None}, "without position, orientation or pixel spacing"),
        ({"NumberOfFrames": 2}, "several files, and several frames in one of them; convert it to NIfTI"),
    ],
)
def test_a_slice_that_does_not_fit_is_refused(tmp_path, changes, message):
    for z in range(4):
        one = slice_of(stored()[..., z], z, **(changes if z == 1 else {}))
        one.save_as(tmp_path / str(z), enforce_file_format=True)
    assert message in refusal(tmp_path)


def test_a_truncated_slice_is_named(folder, copy):
    file = file_of(folder, 39).replace(str(folder), str(copy))  # the last one, whose absence would leave no gap
    os.truncate(file, os.path.getsize(file) - 100)
    assert f"{file}: its pixels cannot be read, it looks truncated" in refusal(copy)
    os.truncate(file, 0)
    os.rename(file, f"{file}.dcm")
    with pytest.raises(DataError, match=r"\.dcm: not DICOM in spite of its name, or damaged"):
        find_series(copy)


def test_what_is_no_volume_is_left_out_where_there_is_one(tmp_path):
    write_series(tmp_path / "scan", shape=(5, 7, 3))
    turned = {"SeriesInstanceUID": "1.2.9", "SeriesNumber": 1, "SeriesDescription": "localizer"}
    for z, direction in enumerate(([*ROW, *COLUMN], [*ROW, *NORMAL], [*COLUMN, *NORMAL])):
        one = slice_of(stored()[..., z], z, ImageOrientationPatient=direction, **turned)
        one.save_as(tmp_path / f"localizer{z}", enforce_file_format=True)
    picture = slice_of(stored()[..., 0], 0, SeriesInstanceUID="1.2.7", SeriesNumber=9, SeriesDescription="dose")
    del picture.ImagePositionPatient
    picture.save_as(tmp_path / "dose", enforce_file_format=True)
    inputs = find_cases(tmp_path)
    assert [case.name for case in inputs.cases] == ["003_t1_axial_gd"]
    assert inputs.left_out == [
        "001_localizer: slices in 3 directions, as of a localizer",
        "009_dose: pictures without a place in space",
    ]
    shutil.rmtree(tmp_path / "scan")
    with pytest.raises(DataError, match=r"no DICOM series that is a volume .*001_localizer: slices in 3 directions"):
        find_cases(tmp_path)


@pytest.mark.parametrize("package", ["pydicom", "SimpleITK"])
def test_a_missing_package_says_what_to_install(folder, package):
    with patch.dict("sys.modules", {package: None}), pytest.raises(RuntimeError) as error:
        read_series(only(folder))
    assert str(error.value) == f"{package}, which reads DICOM, is not installed; run: pip install SimpleITK pydicom"
