import json
import re

import nibabel as nib
import numpy as np
import pytest
from case_folders import box, label_map, save, write_cases
from scans import AFFINE, HEADER_FAULTS, IMAGE_FAULTS, LABEL_FAULTS, SHAPE, random_image, random_label, truncate
from scipy import ndimage

from aps_components.data.case_folder import find_cases
from aps_components.data.fingerprint import UNLABELLED_READ, take_fingerprint

# Voxels along file axis 0 lie 1 mm apart upwards, along axis 1 1.5 mm to the left, along axis 2 2 mm forwards.
TURNED = np.array([[0, -1.5, 0, 7], [0, 0, 2.0, -3], [1.0, 0, 0, 5], [0, 0, 0, 1]])


def fingerprint_of(root, **options):
    return take_fingerprint(find_cases(root), progress=False, **options)


def test_grid_in_ras_order(tmp_path):
    label = label_map(SHAPE, {1: box((2, 5), (0, 6), (10, 40))})
    save(tmp_path / "images" / "a.nii.gz", random_image(), TURNED)
    save(tmp_path / "labels" / "a.nii.gz", label, TURNED)
    (facts,) = fingerprint_of(tmp_path).cases
    assert facts.shape == (24, 40, 17)
    assert facts.spacing == (1.5, 2.0, 1.0)
    assert facts.extent == (6, 30, 3)
    turned = nib.as_closest_canonical(nib.Nifti1Image(label, TURNED))
    centre = (np.array(ndimage.center_of_mass(np.asarray(turned.dataobj))) + 0.5) / turned.shape
    np.testing.assert_allclose(facts.classes[1].centre, centre)
    np.testing.assert_allclose(centre, (21 / 24, 25 / 40, 3.5 / 17))


def test_the_extent_is_that_of_the_largest_piece(tmp_path):
    """A stray voxel in a corner says nothing of the object's size."""
    label = label_map(
        SHAPE, {1: box((2, 5), (3, 9), (10, 20)), 2: [box((5, 7), (3, 9), (10, 20)), box((16, 17), (23, 24), (39, 40))]}
    )
    save(tmp_path / "images" / "a.nii.gz", random_image(), AFFINE)
    save(tmp_path / "labels" / "a.nii.gz", label, AFFINE)
    (facts,) = fingerprint_of(tmp_path).cases
    assert facts.extent == (5, 6, 10)
    assert facts.joined_share == pytest.approx(120 / 121)  # of class 2, of which the least lies there
    assert facts.sliced is None


def test_a_small_class_that_lies_apart_is_not_of_the_object(tmp_path):
    label = label_map(SHAPE, {1: box((2, 12), (3, 19), (10, 30)), 2: box((16, 17), (23, 24), (39, 40))})
    save(tmp_path / "images" / "a.nii.gz", random_image(), AFFINE)
    save(tmp_path / "labels" / "a.nii.gz", label, AFFINE)
    (facts,) = fingerprint_of(tmp_path).cases
    assert facts.joined_share == 0
    assert facts.extent == (10, 16, 20)


@pytest.mark.parametrize(("numbers", "axis"), [([10, 14, 20], 2), ([10, 11, 20], None)])
def test_a_label_that_looks_drawn_in_slices(tmp_path, numbers, axis):
    label = label_map(SHAPE, {1: [box((2, 12), (3, 19), (index, index + 1)) for index in numbers]})
    save(tmp_path / "images" / "a.nii.gz", random_image(), AFFINE)
    save(tmp_path / "labels" / "a.nii.gz", label, AFFINE)
    assert fingerprint_of(tmp_path).cases[0].sliced == axis


@pytest.mark.parametrize(("said", "found"), [("drawn", 0), ({"axis": 0, "indices": "drawn"}, None), ([3], None)])
def test_slices_that_were_drawn_along_another_axis_than_is_said(tmp_path, said, found):
    label = label_map(SHAPE, {1: [box((index, index + 1), (3, 19), (12, 30)) for index in (2, 6, 10)]})
    save(tmp_path / "images" / "a.nii.gz", random_image(), AFFINE)
    save(tmp_path / "labels" / "a.nii.gz", label, AFFINE)
    folder = find_cases(tmp_path).told(ignore=None, slices=said)
    assert take_fingerprint(folder, progress=False).cases[0].sliced == found


def test_classes_of_a_case(tmp_path):
    pieces = [box((0, 2), (0, 3), (0, 5)), box((2, 3), (3, 4), (5, 6)), box((10, 12), (20, 22), (30, 31))]
    label = label_map(SHAPE, {3: pieces, 700: box((16, 17), (23, 24), (39, 40))})
    save(tmp_path / "images" / "a.nii.gz", random_image(), AFFINE)
    save(tmp_path / "labels" / "a.nii.gz", label, AFFINE)
    print_ = fingerprint_of(tmp_path)
    assert print_.values == [3, 700]
    (three,), (other,) = print_.of_class(3), print_.of_class(700)
    assert three.voxels == 30 + 1 + 4
    assert three.millilitres == pytest.approx(35 * 3 / 1000)
    assert three.largest_share == pytest.approx(31 / 35)  # the corner that touches belongs to the block
    assert (other.voxels, other.largest_share) == (1, 1.0)
    assert other.centre == pytest.approx((16.5 / 17, 23.5 / 24, 39.5 / 40))


def test_a_voxel_of_a_tilted_gantry_is_smaller_than_its_sides_say(tmp_path):
    sheared = AFFINE.copy()
    sheared[1, 2] = 1.5  # mm, by which a slice lies off the one below: its third side is 2.5 mm long
    save(tmp_path / "images" / "a.nii.gz", random_image(), sheared)
    save(tmp_path / "labels" / "a.nii.gz", label_map(SHAPE, {1: box((2, 5), (3, 9), (10, 20))}), sheared)
    print_ = fingerprint_of(tmp_path)
    assert print_.cases[0].spacing == (1.0, 1.5, 2.5)
    assert print_.of_class(1)[0].millilitres == pytest.approx(3 * 6 * 10 * 3 / 1000)


def test_intensities_of_all_and_of_labelled_voxels(tmp_path):
    shape = (5, 7, 11)
    image = np.arange(385, dtype=np.int16).reshape(shape) - 100
    save(tmp_path / "images" / "a.nii.gz", image, AFFINE)
    save(tmp_path / "labels" / "a.nii.gz", label_map(shape, {1: box((4, 5), (0, 7), (0, 11))}), AFFINE)
    print_ = fingerprint_of(tmp_path)
    (scan,) = print_.intensities
    assert scan.minimum == (-100.0,)
    assert scan.zero_share == pytest.approx(1 / 385)
    np.testing.assert_allclose(print_.percentiles("overall"), [[-100 + 1.92, 92, 284 - 1.92]])
    np.testing.assert_allclose(print_.percentiles("foreground"), [[208 + 0.38, 246, 284 - 0.38]])


def test_large_scans_are_sampled_alike_every_time(tmp_path):
    write_cases(tmp_path, labelled=2, shape=(40, 40, 23), boxes={1: box((0, 40), (0, 20), (0, 23))})
    first, second = fingerprint_of(tmp_path), fingerprint_of(tmp_path, threads=1)
    assert first.percentiles("overall").tolist() == second.percentiles("overall").tolist()
    np.testing.assert_allclose(first.percentiles("foreground")[0, 1], 130, atol=1)
    np.testing.assert_allclose(first.percentiles("overall")[0, 1], 115, atol=1.5)


@pytest.mark.parametrize("layout", ["plain", "nnunet"])
def test_four_channels(tmp_path, layout):
    boxes = {1: box((0, 5), (0, 5), (0, 5))}
    write_cases(tmp_path, labelled=1, shape=SHAPE, boxes=boxes, channels=4, layout=layout)
    print_ = fingerprint_of(tmp_path)
    assert print_.channels == 4
    (scan,) = print_.intensities
    assert len(scan.minimum) == 4
    assert scan.foreground.shape == (4, 125)
    np.testing.assert_allclose(scan.foreground.mean(axis=1), 130, atol=8)


def test_of_many_unlabelled_scans_some_are_read(tmp_path):
    write_cases(tmp_path, labelled=1, unlabelled=6, shape=(5, 7, 11), boxes={1: box((0, 2), (0, 2), (0, 2))})
    assert len(fingerprint_of(tmp_path).intensities) == 7
    some = fingerprint_of(tmp_path, unlabelled_read=2)
    assert [facts.case.name for facts in some.cases if facts.intensity] == ["c00", "c01", "c06"]
    assert (len(some.labelled), len(some.unlabelled)) == (1, 6)
    assert UNLABELLED_READ == 50


@pytest.mark.parametrize("name", [*HEADER_FAULTS, *IMAGE_FAULTS, "label_negative", "label_fraction", "label_nan"])
def test_a_faulty_case_is_left_out_by_name(tmp_path, make_case, name):
    changes, _ = (HEADER_FAULTS | LABEL_FAULTS | IMAGE_FAULTS)[name]
    make_case("a", **changes)
    make_case("b")
    make_case("c")
    print_ = fingerprint_of(tmp_path)
    assert [facts.case.name for facts in print_.cases] == ["b", "c"]
    assert print_.faults
    for fault in print_.faults:
        assert re.match(r"(images|labels)/a\.nii\.gz: ", fault)
        assert str(tmp_path) not in fault


def test_a_broken_file_is_left_out_by_name(tmp_path, make_case):
    truncate(make_case("a")["image"])
    truncate(make_case("b")["label"])
    make_case("c")
    (tmp_path / "images" / "d.nii.gz").write_bytes(b"no scan")
    print_ = fingerprint_of(tmp_path)
    assert [facts.case.name for facts in print_.cases] == ["c"]
    assert [fault.partition(": ")[0] for fault in print_.faults] == [
        "images/a.nii.gz",
        "labels/b.nii.gz",
        "images/d.nii.gz",
    ]


def test_a_scan_in_the_labels_folder_is_no_label(tmp_path, make_case):
    make_case("a", label=np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
    make_case("b", label=np.full(SHAPE, 70_000, dtype=np.int32))
    first, second = fingerprint_of(tmp_path).faults
    assert first == "labels/a.nii.gz: holds 16319 classes; at most 254 can be told apart: is it a scan?"
    assert second == "labels/b.nii.gz: holds values up to 70000; a label holds class numbers: is it a scan?"


def test_summary_is_json_with_the_figures(tmp_path, make_case):
    make_case("a", label=random_label())
    make_case("b", label=np.zeros(SHAPE, dtype=np.uint8))
    summary = json.loads(json.dumps(fingerprint_of(tmp_path).summary(), allow_nan=False))
    assert (summary["cases"], summary["labelled"], summary["unlabelled"], summary["channels"]) == (2, 2, 0, 1)
    assert summary["shape"] == {"min": list(SHAPE), "median": list(SHAPE), "max": list(SHAPE)}
    assert summary["spacing_mm"]["median"] == [1.0, 1.5, 2.0]
    assert summary["classes"]["2"]["cases"] == 1
    assert summary["classes"]["2"]["voxels"] == int((random_label() == 2).sum())
