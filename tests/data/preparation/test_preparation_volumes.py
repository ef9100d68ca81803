"""Geometry and values survive; damage is found and named."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest
from official_trees import AFFINE, SHAPE, image_of, truncate, write_h5, write_nifti, write_nrrd

from aps_components.data import DataError
from aps_components.data.preparation import volumes
from aps_components.data.preparation.cases import RawCase
from aps_components.data.preparation.volumes import check_nifti, read_h5, read_nrrd, storable

TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])  # a rotation by 36.87 degrees about z
OBLIQUE = (TURN * [0.5, 0.75, 1.25]).T  # a row per axis


def test_nrrd_lps_becomes_ras(tmp_path):
    file = write_nrrd(tmp_path / "a.nrrd", image_of("a"), **{"space directions": OBLIQUE, "space origin": (10, 20, 30)})
    volume = read_nrrd(str(file), default_spacing=1)
    # Column 0 in LPS is 0.5 * (0.8, 0.6, 0); x and y change sign.
    expected = [[-0.4, 0.45, 0, -10], [-0.3, -0.6, 0, -20], [0, 0, 1.25, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-12)
    np.testing.assert_array_equal(volume.voxels, image_of("a"))
    assert volume.assumed == ""


def test_nrrd_lies_where_simpleitk_puts_it(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    file = write_nrrd(tmp_path / "a.nrrd", image_of("a"), **{"space directions": OBLIQUE, "space origin": (10, 20, 30)})
    volume, scan = read_nrrd(str(file), default_spacing=1), sitk.ReadImage(str(file))
    for index in [(0, 0, 0), (3, 5, 7), (16, 23, 39)]:
        lps = np.array(scan.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(nib.affines.apply_affine(volume.affine, index), lps * [-1, -1, 1], atol=1e-9)
        assert volume.voxels[index] == scan[index]


@pytest.mark.parametrize(("space", "signs"), [("right-anterior-superior", (1, 1)), ("LAS", (-1, 1)), ("LPS", (-1, -1))])
def test_nrrd_spaces(tmp_path, space, signs):
    file = write_nrrd(tmp_path / "a.nrrd", image_of("a"), space=space)
    assert tuple(np.diag(read_nrrd(str(file), default_spacing=1).affine)[:2] / 0.625) == signs


def test_nrrd_without_geometry_is_said(tmp_path):
    import nrrd

    nrrd.write(str(tmp_path / "bare.nrrd"), image_of("a"))
    volume = read_nrrd(str(tmp_path / "bare.nrrd"), default_spacing=0.625)
    np.testing.assert_array_equal(volume.affine, np.diag([0.625, 0.625, 0.625, 1]))
    assert volume.assumed == "0.625 mm and identity directions"
    nrrd.write(str(tmp_path / "spacings.nrrd"), image_of("a"), {"spacings": [1.0, 2.0, 3.0]})
    volume = read_nrrd(str(tmp_path / "spacings.nrrd"), default_spacing=0.625)
    np.testing.assert_array_equal(volume.affine, np.diag([1.0, 2.0, 3.0, 1]))
    assert volume.assumed == "identity directions"


def test_h5_keeps_its_axes(tmp_path):
    write_h5(tmp_path, ["a"])
    volume = read_h5(str(tmp_path / "a" / "mri_norm2.h5"), "image", spacing=0.625)
    np.testing.assert_array_equal(volume.voxels, (image_of("a") / 100 - 1).astype(np.float32))
    np.testing.assert_array_equal(volume.affine, np.diag([0.625, 0.625, 0.625, 1]))
    with pytest.raises(DataError, match=r"mri_norm2.h5: no dataset 'mask'; it has image, label"):
        read_h5(str(tmp_path / "a" / "mri_norm2.h5"), "mask", spacing=0.625)


@pytest.mark.parametrize("kind", ["nrrd", "h5"])
def test_a_truncated_file_is_named(tmp_path, kind):
    if kind == "nrrd":
        file = truncate(write_nrrd(tmp_path / "a.nrrd", image_of("a")))
        with pytest.raises(DataError, match=r"a.nrrd: cannot be read as NRRD"):
            read_nrrd(str(file), default_spacing=1)
    else:
        file = truncate(write_h5(tmp_path, ["a"]) / "a" / "mri_norm2.h5")
        with pytest.raises(DataError, match=r"mri_norm2.h5: cannot be read as HDF5"):
            read_h5(str(file), "image", spacing=1)


def _image_with(value: float, dtype: type = np.float32) -> np.ndarray:
    image = image_of("a").astype(dtype)
    image[3, 5, 7] = value
    return image


@pytest.mark.parametrize(
    ("image", "label", "fault"),
    [
        (_image_with(np.nan), None, r"a.nii.gz: 1 voxels are NaN or infinite"),
        (_image_with(-np.inf), None, r"a.nii.gz: 1 voxels are NaN or infinite"),
        (_image_with(1e300, np.float64), None, r"a.nii.gz: 1 voxels are NaN or infinite"),
        (image_of("a", (17, 24, 39)), None, r"l.nii.gz: shape \(17, 24, 40\) but .*a.nii.gz has \(17, 24, 39\)"),
        (None, np.full(SHAPE, 3, np.uint8), r"l.nii.gz: label values 3 are outside the classes 0 to 2"),
        (None, np.full(SHAPE, 0.5, np.float32), r"l.nii.gz: label values 0.5 are not whole numbers"),
    ],
)
def test_faults_of_nifti_cases(tmp_path, image, label, fault):
    image_file = write_nifti(tmp_path / "a.nii.gz", image_of("a") if image is None else image)
    label = np.ones(SHAPE, np.uint8) if label is None else label
    label_file = write_nifti(tmp_path / "l.nii.gz", label)
    with pytest.raises(DataError, match=fault):
        check_nifti(RawCase("a", (str(image_file),), str(label_file)), tmp_path, num_classes=3)


def test_a_scale_that_overflows_is_found(tmp_path):
    scan = nib.Nifti1Image(image_of("a"), AFFINE)
    scan.header.set_slope_inter(1e38, 0)
    nib.save(scan, tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="NaN or infinite"):
        check_nifti(RawCase("a", (str(tmp_path / "a.nii.gz"),)), tmp_path, num_classes=3)


def test_both_numbers_of_one_class_are_refused(tmp_path):
    label = np.zeros(SHAPE, np.uint8)
    label[2], label[3] = 3, 4
    files = [
        str(write_nifti(tmp_path / f"{name}.nii.gz", array)) for name, array in (("a", image_of("a")), ("l", label))
    ]
    with pytest.raises(DataError, match="label values 3 and 4 stand for the same class"):
        check_nifti(RawCase("a", (files[0],), files[1]), tmp_path, num_classes=4, rename={4: 3})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 255], np.int64), np.uint8),
        (np.array([-5, 300], np.int64), np.int16),
        (np.array([0, 60000], np.uint32), np.uint16),
        (np.array([-5, 70000], np.int64), np.int32),
        (np.array([0, 1], bool), np.uint8),
        (np.array([0, 1], ">i2"), np.int16),
        (np.array([0.5, 1], np.float64), np.float32),
        (np.array([0.5, 1], np.float16), np.float32),
    ],
)
def test_voxels_become_a_type_that_nifti_has(values, expected):
    stored = storable(values)
    assert stored.dtype == expected
    assert stored.dtype.isnative
    np.testing.assert_array_equal(stored, values)


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "images" / "a.nii.gz", image_of("old"))
    before = path.read_bytes()

    def fail(stream, content):
        stream.fileobj.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        volumes.write_nifti(path, image_of("new"), AFFINE)
    assert path.read_bytes() == before
    assert zlib.crc32(gzip.decompress(before)) == int.from_bytes(before[-8:-4], "little")


def test_a_missing_module_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nrrd", None)
    with pytest.raises(RuntimeError, match=r'nrrd is not installed; run: pip install "aps-components\[prepare\]"'):
        volumes.require("nrrd")
