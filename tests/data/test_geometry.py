import gzip
import math
import re

import nibabel as nib
import numpy as np
import pytest
from nifti_headers import ORIGIN, SHAPE, SPACING, TURN, VARIANTS, affine_of, oriented, voxels, write

from aps_components import memory
from aps_components.data import DataError, LoadVolumed, check_cases
from aps_components.data.checks import header_faults
from aps_components.data.geometry import Geometry
from aps_components.data.identity import scan_identity
from aps_components.data.nifti import read_geometry, read_header, read_scan, write_like, write_nifti

PIR = oriented("PIR")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_affine_that_counts_is_the_one_that_every_door_uses(tmp_path, variant):
    arguments, expected = VARIANTS[variant]
    file = write(tmp_path / "a.nii.gz", **arguments)
    geometry = read_geometry(file)
    if expected is None:  # nibabel's own
        expected = nib.load(file).affine
    np.testing.assert_allclose(geometry.affine, expected, atol=2e-4)
    loaded = LoadVolumed("image")({"image": file})["image"]
    for affine in (loaded.affine.numpy(), loaded.meta["original_affine"], read_scan(file).geometry.affine):
        np.testing.assert_array_equal(affine, geometry.affine)
    np.testing.assert_array_equal(loaded[0].numpy(), voxels())
    assert not list(header_faults({"image": file, "label": file}, in_channels=1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_a_unit_it_is_nibabels_affine(tmp_path, variant):
    arguments, _ = VARIANTS[variant]
    file = write(tmp_path / "a.nii", **{**arguments, "unit": "mm"})
    np.testing.assert_allclose(read_geometry(file).affine, nib.load(file).affine, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_map_lies_where_its_scan_lies_for_nibabel_and_for_itk(tmp_path, variant):
    sitk = pytest.importorskip("SimpleITK")
    arguments, _ = VARIANTS[variant]
    scan = write(tmp_path / "a.nii.gz", **arguments)
    label = tmp_path / "a_seg.nii.gz"
    write_like(label, (voxels() > 400).astype(np.uint8), read_header(scan))
    one, two = nib.load(scan), nib.load(label)
    assert type(one) is type(two)
    for field in ("get_qform", "get_sform"):
        (first, code), (second, other) = (getattr(image, field)(coded=True) for image in (one, two))
        assert code == other
        assert first is second is None or (first == second).all()
    np.testing.assert_array_equal(one.affine, two.affine)
    np.testing.assert_array_equal(one.header["pixdim"], two.header["pixdim"])
    assert one.header["xyzt_units"] == two.header["xyzt_units"]
    np.testing.assert_array_equal(np.asarray(two.dataobj), voxels() > 400)
    assert b"JANE" not in gzip.decompress(label.read_bytes())
    if isinstance(one, nib.Nifti2Image):
        return  # ITK reads none
    seen, map_seen = sitk.ReadImage(scan), sitk.ReadImage(str(label))
    for what in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(seen, what)() == getattr(map_seen, what)()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixdim": (0, 1, 1)}, r"its voxel sizes, pixdim, are \[0.0, 1.0, 1.0\]"),
        ({"qcode": 1, "pixdim": (0.7, -0.9, 1.3)}, "its voxel sizes, pixdim, are"),
        ({"qcode": 1, "pixdim": (0.7, np.nan, 1.3)}, "its voxel sizes, pixdim, are"),
        ({"pixdim": (np.inf, 1, 1)}, "its voxel sizes, pixdim, are .inf"),
        ({"sform": np.full((4, 4), np.nan), "scode": 1}, "its sform holds"),
        ({"sform": np.diag([1.0, 1.0, 0.0, 1.0]), "scode": 1}, "has no inverse; .* sform_code to 0"),
        ({"sform": PIR[:, [0, 0, 2, 3]], "scode": 1}, "has no inverse"),
        ({"sform": PIR, "scode": 7}, "its sform_code is 7, which means nothing"),
        ({"sform": PIR, "scode": 1, "qcode": -3}, "its qform_code is -3"),
        ({"sform": affine_of(origin=(0, 1e30, 0)), "scode": 1}, r"its sform puts it 1e\+30 mm from the origin"),
        ({"qform": affine_of(origin=(2e6, 0, 0)), "qcode": 1}, r"its qform puts it 2e\+06 mm from the origin"),
        ({"sform": affine_of(origin=(0, np.inf, 0)), "scode": 1}, "its sform holds"),
        ({"sform": affine_of(spacing=(0.006, 0.006, 0.006)), "scode": 1}, "voxels are 0.006 x 0.006 x 0.006 mm"),
        ({"sform": affine_of(spacing=(12, 12, 12)), "scode": 1}, "voxels are 12 x 12 x 12 mm"),
        ({"sform": affine_of(spacing=(1, 1, 10_000)), "scode": 1}, "voxels are 1 x 1 x 1e\\+04 mm"),
        ({"qcode": 1, "pixdim": (700, 900, 1300)}, "voxels are 700 x"),
        ({"sform": 1e6 * PIR, "scode": 1, "unit": "meter"}, "which its header states in metres"),
    ],
)
def test_a_header_that_no_scan_can_have_is_refused_with_the_mend(tmp_path, arguments, message):
    file = write(tmp_path / "a.nii.gz", **arguments)
    with pytest.raises(DataError, match=rf"a.nii.gz: .*{message}"):
        read_geometry(file)
    with pytest.raises(DataError, match=message):
        check_cases([{"image": file}])
    with pytest.raises(DataError, match=message):
        LoadVolumed("image")({"image": file})


def test_a_qform_that_is_no_rotation_is_refused(tmp_path):
    file = write(tmp_path / "a.nii", qcode=1)
    header = read_header(file)
    header["quatern_b"] = 3.0
    (tmp_path / "a.nii").write_bytes(header.binaryblock + (tmp_path / "a.nii").read_bytes()[348:])
    with pytest.raises(DataError, match="its qform is no rotation"):
        read_geometry(file)


@pytest.mark.parametrize(
    "spacing", [(1.4, 1.4, 10.0), (9.6, 9.6, 9.6), (0.08, 0.08, 0.08), (0.4, 0.4, 20.0), (5.5, 5.5, 3.3)]
)
def test_coarse_and_fine_scans_of_patients_are_not_refused(tmp_path, spacing):
    file = write(tmp_path / "a.nii.gz", sform=affine_of(spacing=spacing), scode=1)
    assert read_geometry(file).spacing == pytest.approx(spacing)


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        ({"pixdim": SPACING}, "states no orientation"),
        (
            {"sform": PIR, "scode": 1, "qform": PIR, "qcode": 1, "pixdim": (0, 0, 0)},
            "its pixdim says voxels of 0 x 0 x 0",
        ),
        ({"sform": PIR, "scode": 1, "pixdim": (0.7, 1.3, -1)}, "its pixdim says"),
        ({"sform": PIR, "scode": 1, "qform": affine_of(), "qcode": 1}, "its qform and sform lie up to"),
        ({"sform": affine_of(shear=0.1), "scode": 1}, "degrees off perpendicular"),
        ({"sform": PIR, "scode": 1, "qform": PIR, "unit": "micron"}, "its sizes are in microns"),
    ],
)
def test_what_is_doubtful_is_noted_once(tmp_path, caplog, arguments, note):
    file = write(tmp_path / "a.nii.gz", **arguments)
    assert any(note in line and line.startswith(file) for line in read_geometry(file).notes)
    load = LoadVolumed("image")
    for _ in range(2):
        load({"image": file})
    assert sum(note in record.getMessage() for record in caplog.records) == 1


def test_what_is_plain_is_not_noted(tmp_path):
    affine = affine_of(turn=TURN)
    file = write(tmp_path / "a.nii.gz", sform=affine, scode=1, qform=affine, qcode=1, unit="mm")
    assert read_geometry(file).notes == ()
    assert read_geometry(file).voxel_mm3 == pytest.approx(0.7 * 0.9 * 1.3)
    np.testing.assert_allclose(read_geometry(file).affine[:3, 3], ORIGIN)


def test_a_label_that_lies_elsewhere_by_the_rule_is_refused(tmp_path):
    image = write(tmp_path / "image.nii.gz", sform=PIR, scode=1)
    label = write(tmp_path / "label.nii.gz", np.zeros(SHAPE, np.uint8), sform=PIR, scode=0, qform=affine_of(), qcode=1)
    with pytest.raises(DataError, match=r"label.nii.gz: its affine differs"):
        check_cases([{"image": image, "label": label}])


@pytest.mark.parametrize("shape", [(17, 24, 1), (17, 24, 40, 1), (17, 24, 40, 1, 1), (17, 24, 40, 3)])
def test_single_slices_and_single_frames_keep_their_axes(tmp_path, shape):
    array = voxels(shape)
    file = write(tmp_path / "a.nii.gz", array, sform=affine_of(), scode=1)
    channels = shape[3] if len(shape) > 3 else 1
    assert read_geometry(file)[:2] == (shape[:3], channels)
    loaded = LoadVolumed("image", in_channels=channels)({"image": file})["image"]
    np.testing.assert_array_equal(loaded.numpy(), np.moveaxis(array.reshape(*shape[:3], -1), 3, 0))
    write_like(tmp_path / "b.nii.gz", np.ones(shape[:3], np.uint8), read_header(file))
    assert nib.load(tmp_path / "b.nii.gz").shape == shape[:3]


@pytest.mark.parametrize("where", [-8, -3, -400])
@pytest.mark.parametrize("read", [read_scan, lambda file: LoadVolumed("image")({"image": file})])
def test_an_altered_compressed_file_is_refused(tmp_path, where, read):
    """In its checksum, its length or its voxels, of which nibabel reads the last two alone."""
    file = tmp_path / "a.nii.gz"
    write(file, sform=affine_of(), scode=1)
    content = bytearray(file.read_bytes())
    content[where] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a.nii.gz: cannot be read as NIfTI"):
        read(str(file))


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(np.complex64, "complex64"), (np.complex128, "complex128"), ([(c, "u1") for c in "RGB"], "RGB")],
)
def test_voxels_of_several_numbers_are_refused_by_name(tmp_path, dtype, name):
    array = np.zeros(SHAPE, dtype)
    nib.save(nib.Nifti1Image(array, affine_of()), tmp_path / "a.nii.gz")
    for read in (read_geometry, read_scan):
        with pytest.raises(DataError, match=f"a.nii.gz: its voxels are of type {name}"):
            read(tmp_path / "a.nii.gz")


def test_a_small_file_that_declares_gigabytes_is_refused_at_once(tmp_path):
    file = write(tmp_path / "a.nii.gz", sform=affine_of(), scode=1)
    content = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    content[40:56] = np.array([3, 1500, 1500, 1500, 1, 1, 1, 1], "<i2").tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="it declares 6750000000 bytes and can hold"):
        read_scan(file)


def test_scaled_voxels_come_back_scaled_or_as_they_are_stored(tmp_path):
    image = nib.Nifti1Image(np.linspace(-1, 1, 17 * 24 * 40).reshape(SHAPE), affine_of())
    image.header.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii.gz")
    scaled, stored = read_scan(tmp_path / "a.nii.gz"), read_scan(tmp_path / "a.nii.gz", scaled=False)
    np.testing.assert_array_equal(scaled.voxels, np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj))
    np.testing.assert_allclose(stored.voxels * stored.slope + stored.intercept, scaled.voxels, atol=1e-6)
    assert stored.voxels.dtype == np.int16


def test_a_new_file_says_the_same_in_qform_and_sform(tmp_path):
    affine = affine_of(turn=TURN)
    write_nifti(tmp_path / "a.nii", voxels(), affine)
    image = nib.load(tmp_path / "a.nii")
    for there in (image.get_qform(), image.get_sform()):
        np.testing.assert_allclose(there, affine, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_the_sides_of_a_voxel_do_not_depend_on_its_direction():
    for affine in (affine_of(), affine_of(turn=TURN), oriented("PIR")):
        assert sorted(Geometry(SHAPE, 1, affine).spacing) == pytest.approx(sorted(SPACING))


@pytest.mark.parametrize("sizes", [(0.03,) * 3, (0.01, 0.01, 0.05), (0.002, 0.002, 0.003)])
def test_of_a_microscopy_the_mend_is_said_and_works(tmp_path, sizes):
    with pytest.raises(DataError, match=r"a.nii: its voxels are .* state them (10|100) times as large") as error:
        read_geometry(write(tmp_path / "a.nii", sform=np.diag([*sizes, 1.0]), scode=1))
    times = int(re.search(r"state them (\d+) times", str(error.value))[1])
    larger = np.diag([times, times, times, 1.0]) @ np.diag([*sizes, 1.0])
    assert read_geometry(write(tmp_path / "b.nii", sform=larger, scode=1)).spacing == pytest.approx(
        times * np.array(sizes)
    )


@pytest.mark.parametrize("sizes", [(12.0,) * 3, (0.03, 0.03, 5.0), (30.0, 30.0, 30.0), (1e-7,) * 3])
def test_of_a_wrong_size_no_magnification_is_proposed(tmp_path, sizes):
    with pytest.raises(DataError, match="mend the voxel sizes") as error:
        read_geometry(write(tmp_path / "a.nii", sform=np.diag([*sizes, 1.0]), scode=1))
    assert "times as large" not in str(error.value)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("offset", [0, 1, 100, 348, 352.5, -352, math.nan, math.inf])
def test_voxels_that_begin_inside_of_the_header_are_refused(tmp_path, kind, offset):
    """nibabel takes 0 for the beginning of the file, ITK for the end of the header."""
    file = write(tmp_path / "a.nii", sform=affine_of(), scode=1, kind=kind)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    if kind is nib.Nifti1Image:
        content[108:112] = np.float32(offset).tobytes()
    else:
        content[168:176] = np.int64(offset if math.isfinite(offset) else -1).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    for read in (read_scan, scan_identity, lambda file: LoadVolumed("image")({"image": file})):
        with pytest.raises(DataError, match=r"a.nii: its header states that the voxels begin at byte"):
            read(file)


def test_an_extension_before_the_voxels_is_passed_over(tmp_path):
    file = write(tmp_path / "a.nii", sform=affine_of(), scode=1)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[108:112] = np.float32(384).tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(content[:352]) + bytes(range(32)) + bytes(content[352:]))
    np.testing.assert_array_equal(read_scan(file).voxels, voxels())


@pytest.mark.parametrize("length", [0, 1, 3, 4, 347])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_that_ends_in_its_header_is_named(tmp_path, length, name):
    write(tmp_path / "whole.nii", sform=affine_of(), scode=1)
    content = (tmp_path / "whole.nii").read_bytes()[:length]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for read in (read_geometry, read_scan, scan_identity):
        with pytest.raises(DataError, match=f"{name}: cannot be read as NIfTI"):
            read(tmp_path / name)


def test_packed_zeros_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text(f"MemAvailable: {2**20} kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    shape = (1000, 1000, 1500)
    file = write(tmp_path / "a.nii", sform=affine_of(), scode=1)
    head = bytearray((tmp_path / "a.nii").read_bytes()[:352])
    head[40:56] = np.array([3, *shape, 1, 1, 1, 1], "<i2").tobytes()
    # So many packed bytes that the file could hold them, of which only the first are looked at.
    packed = gzip.compress(bytes(head)) + bytes(3_000_000)
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"a.nii.gz: needs about 2\.8 GB of memory, and 1\.0 GB are free"):
        read_scan(file + ".gz")
