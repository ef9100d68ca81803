"""The left atrium's two official forms."""

import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from official_trees import DIRECTIONS, SHAPE, image_of, mask_of, spoil, truncate, write_h5, write_la, write_nrrd

from aps_components.data import DataError, check_cases, load_datalist
from aps_components.data.preparation import la
from aps_components.data.preparation.la import published_names

BUNDLE = Path(__file__).parents[3] / "bundles" / "la" / "configs" / "datalist.json"
IDS = ["ID_A", "ID_B", "ID_C", "ID_D", "ID_E"]


def test_the_published_order_is_the_bundles():
    listed = json.loads(BUNDLE.read_text())["training"]
    assert [f"images/{name}.nii.gz" for name in published_names()] == [case["image"] for case in listed]


def test_nrrd_is_converted(tmp_path, run, names):
    datalist, summary = run("la", write_la(tmp_path / "raw" / "Training Set", IDS).parent, crop="none")
    assert datalist["labels"] == {"0": "background", "1": "left atrium"}
    assert summary["counts"] == {"training": 4, "unlabeled": 0, "validation": 0, "test": 1}
    assert sorted(names(datalist, "training") + names(datalist, "test")) == IDS
    loaded = load_datalist(tmp_path / "out")
    check_cases([*loaded.labeled, *loaded.test], num_classes=2)
    image, label = (nib.load(tmp_path / "out" / folder / "ID_A.nii.gz") for folder in ("images", "labels"))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), image_of("ID_A"))
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), mask_of(value=1))
    assert image.get_data_dtype() == label.get_data_dtype() == np.uint8
    # LPS directions and origin (3, -5, 7), in RAS.
    expected = [[-0.625, 0, 0, -3], [0, -0.625, 0, 5], [0, 0, 0.625, 7], [0, 0, 0, 1]]
    np.testing.assert_allclose(image.affine, expected)
    np.testing.assert_allclose(label.affine, expected)


def test_preprocessed_files_are_converted_uncropped(tmp_path, run):
    _, summary = run("la", write_h5(tmp_path / "raw", IDS))
    image, label = (nib.load(tmp_path / "out" / folder / "ID_A.nii.gz") for folder in ("images", "labels"))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), (image_of("ID_A") / 100 - 1).astype(np.float32))
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), mask_of(value=1))
    np.testing.assert_array_equal(image.affine, np.diag([0.625, 0.625, 0.625, 1]))
    notes = "\n".join(summary["notes"])
    assert "5 scans do not state their whole geometry: 0.625 mm and identity directions assumed" in notes
    assert "5 preprocessed scans are cropped around the true mask already" in notes


@pytest.mark.parametrize("crop", ["image", "true_mask"])
def test_crops_keep_the_atrium_in_its_place(tmp_path, run, crop):
    shape, directions = (260, 240, 6), np.diag([0.625, 0.625, 2.5])
    image = np.random.default_rng(0).integers(0, 12, size=shape).astype(np.uint8)
    image[90:200, 70:180] += 80
    mask = np.zeros(shape, np.uint8)
    mask[120:140, 100:130, 1:5] = 255
    for file, voxels in (("lgemri.nrrd", image), ("laendo.nrrd", mask)):
        write_nrrd(tmp_path / "raw" / "A" / file, voxels, **{"space directions": directions})
    _, summary = run("la", tmp_path / "raw", crop=crop, validation=0)
    scan, label = (nib.load(tmp_path / "out" / folder / "A.nii.gz") for folder in ("images", "labels"))
    voxels = np.asanyarray(label.dataobj)
    assert scan.shape == label.shape < shape
    assert voxels.sum() == (mask > 0).sum()
    before, after = (np.argwhere(array)[0] for array in (mask, voxels))
    world = np.diag([-1, -1, 1]) @ (directions @ before + (3, -5, 7))
    np.testing.assert_allclose(nib.affines.apply_affine(label.affine, after), world, atol=1e-5)
    np.testing.assert_allclose(scan.affine, label.affine)
    assert any("cropped" in note for note in summary["notes"])


def test_a_crop_that_would_cut_the_atrium_leaves_the_case_out(tmp_path, run):
    write_la(tmp_path / "raw", IDS)
    shape = (260, 240, 6)
    image, mask = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    image[100:220, 100:220], mask[10:13, 10:13, 2] = 90, 255
    write_nrrd(tmp_path / "raw" / "ID_A" / "lgemri.nrrd", image)
    write_nrrd(tmp_path / "raw" / "ID_A" / "laendo.nrrd", mask)
    _, summary = run("la", tmp_path / "raw")
    ((name, reason),) = summary["left_out"].items()
    assert name.startswith("ID_A (")
    assert "crop image cuts 9 labelled voxels off; use --crop none" in reason


def test_the_published_split(tmp_path, run, names):
    published = published_names()
    raw = tmp_path / "raw"
    write_h5(raw / "Training Set", [*published, "TEST_1", "TEST_0"])
    write_h5(raw / "Testing Set", ["OWN_TEST"])
    datalist, summary = run("la", raw)
    assert names(datalist, "training") == published
    assert names(datalist, "test") == ["TEST_0", "TEST_1"]
    assert summary["counts"] == {"training": 80, "unlabeled": 0, "validation": 0, "test": 2}
    assert "the challenge's own test scans" in summary["left_out"]["OWN_TEST"]
    datalist, summary = run("la", raw, labeled=8)
    assert names(datalist, "training") == published[:8]
    assert names(datalist, "unlabeled") == published[8:70]
    assert names(datalist, "validation") == published[70:]
    assert "train with --labeled_count 8" in summary["notes"]
    cut = load_datalist(tmp_path / "out", labeled_count=8, validation_count=10)
    assert [len(part) for part in (cut.labeled, cut.unlabeled, cut.validation, cut.test)] == [8, 62, 10, 2]
    datalist, _ = run("la", raw, labeled=8, validation=0)
    assert names(datalist, "unlabeled") == published[8:]
    datalist, summary = run("la", raw, order="hash")
    assert names(datalist, "test") == ["OWN_TEST"]
    assert summary["counts"]["training"] == 82


def test_the_published_order_needs_all_its_names(tmp_path, run):
    write_h5(tmp_path / "raw", published_names()[1:6])
    with pytest.raises(DataError, match="order published: 75 of the 80 published training scans are missing"):
        run("la", tmp_path / "raw", order="published")
    _, summary = run("la", tmp_path / "raw")
    assert "75 of the 80 published training scans are missing" in "\n".join(summary["notes"])


def test_the_challenges_test_scans_need_a_label(tmp_path, run, names):
    write_la(tmp_path / "raw" / "Training Set", IDS[:3])
    write_la(tmp_path / "raw" / "Testing Set", IDS[3:4])
    write_la(tmp_path / "raw" / "Testing Set", IDS[4:], labels=False)
    datalist, summary = run("la", tmp_path / "raw")
    assert names(datalist, "test") == ["ID_D"]
    assert summary["left_out"] == {"ID_E": "a test case without a label cannot be measured"}
    assert not (tmp_path / "out" / "images" / "ID_E.nii.gz").exists()


def test_labels_of_unlabeled_cases_are_never_read(tmp_path, run, names):
    raw = write_la(tmp_path / "nrrd", IDS)
    options = {"labeled": 2, "validation": 1}
    datalist, _ = run("la", raw, "first", **options)
    hidden = names(datalist, "unlabeled")
    assert len(hidden) == 1
    spoil(raw / hidden[0] / "laendo.nrrd")
    again, summary = run("la", raw, "second", **options)
    assert again == datalist
    assert summary["left_out"] == {}
    assert not (tmp_path / "second" / "labels" / f"{hidden[0]}.nii.gz").exists()
    assert (tmp_path / "second" / "images" / f"{hidden[0]}.nii.gz").exists()
    _, summary = run("la", raw, "third")  # now it is wanted
    assert list(summary["left_out"]) == [f"{hidden[0]} (training)"]


def test_the_label_beside_an_unlabeled_image_is_never_read(tmp_path, run, names):
    raw = write_h5(tmp_path / "raw", IDS)
    datalist, _ = run("la", raw, "first", labeled=2, validation=0)
    hidden = names(datalist, "unlabeled")
    assert len(hidden) == 2
    write_h5(raw, hidden, label_shape=(3, 4, 5))
    _, summary = run("la", raw, "second", labeled=2, validation=0)
    assert summary["left_out"] == {}
    _, summary = run("la", raw, "third")
    assert len(summary["left_out"]) == 2


def test_true_mask_and_hidden_labels_exclude_each_other(tmp_path, run):
    with pytest.raises(DataError, match="crop true_mask reads every label"):
        run("la", write_la(tmp_path / "raw", IDS), crop="true_mask", labeled=2)


def test_true_mask_names_a_case_without_label(tmp_path, run):
    write_la(tmp_path / "raw", IDS[:4])
    write_la(tmp_path / "raw", IDS[4:], labels=False)
    _, summary = run("la", tmp_path / "raw", crop="true_mask")
    assert "crop true_mask needs its label laendo.nrrd" in summary["left_out"]["ID_E (unlabeled)"]


def _no_image(raw):
    (raw / "ID_A" / "lgemri.nrrd").unlink()
    write_h5(raw, ["ID_A"])
    with h5py.File(raw / "ID_A" / "mri_norm2.h5", "a") as content:
        del content["image"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: truncate(raw / "ID_A" / "lgemri.nrrd"), "lgemri.nrrd: cannot be read as NRRD"),
        (lambda raw: spoil(raw / "ID_A" / "laendo.nrrd"), "laendo.nrrd: cannot be read as NRRD"),
        (lambda raw: write_nrrd(raw / "ID_A" / "laendo.nrrd", mask_of((17, 24, 39))), "shape (17, 24, 39) but"),
        (lambda raw: write_nrrd(raw / "ID_A" / "laendo.nrrd", mask_of(value=7)), "label values 0, 7, wanted 0 and 255"),
        (lambda raw: write_nrrd(raw / "ID_A" / "laendo.nrrd", mask_of(value=0)), "label values 0, wanted 0 and 255"),
        (
            lambda raw: write_nrrd(raw / "ID_A" / "lgemri.nrrd", np.full(SHAPE, np.nan, np.float32)),
            "voxels are NaN or infinite",
        ),
        (
            lambda raw: write_nrrd(raw / "ID_A" / "laendo.nrrd", mask_of(), **{"space origin": (3, -5, 8)}),
            "its geometry differs",
        ),
        (_no_image, "no dataset 'image'; it has label"),
    ],
)
def test_a_broken_case_is_named_and_the_others_go_on(tmp_path, run, damage, reason):
    raw = write_la(tmp_path / "raw", IDS)
    _, before = run("la", raw, "before")
    damage(raw)
    _, summary = run("la", raw)
    ((name, why),) = summary["left_out"].items()
    assert name.startswith("ID_A (")
    assert reason in why
    part = before["cases"]["ID_A"]["part"]
    assert summary["counts"] == before["counts"] | {part: before["counts"][part] - 1}
    assert {k: v["part"] for k, v in before["cases"].items() if k != "ID_A"} == {
        k: v["part"] for k, v in summary["cases"].items()
    }
    assert not (tmp_path / "out" / "images" / "ID_A.nii.gz").exists()


def test_a_label_may_take_its_images_grid(tmp_path, run):
    raw = write_la(tmp_path / "raw", IDS)
    write_nrrd(raw / "ID_A" / "laendo.nrrd", mask_of(), **{"space directions": DIRECTIONS * 2})
    _, summary = run("la", raw, label_grid="image")
    assert summary["left_out"] == {}


def test_two_cases_of_one_name(tmp_path, run):
    raw = write_la(tmp_path / "raw" / "Training Set", IDS).parent
    write_la(raw / "b", IDS[:1])
    _, summary = run("la", raw)
    ((name, reason),) = summary["left_out"].items()
    assert name == f"ID_A ({raw / 'b' / 'ID_A'})"
    assert "has the same case name" in reason


def test_names_stay_inside_the_output(tmp_path, run):
    raw = write_la(tmp_path / "raw", [*IDS, "a\\..\\evil"])
    _, summary = run("la", raw)
    ((name, reason),) = summary["left_out"].items()
    assert name.endswith("evil")
    assert "cannot be that of a file" in reason
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert written == {"raw", "out"}


def test_hidden_files_of_macos_are_passed_over(tmp_path, run):
    raw = write_la(tmp_path / "raw", IDS)
    write_la(raw / "__MACOSX", ["ID_X"])
    spoil(raw / "ID_A" / "._lgemri.nrrd")
    _, summary = run("la", raw)
    assert sum(summary["counts"].values()) == len(IDS)


def test_unknown_choices_are_refused(tmp_path, run):
    with pytest.raises(DataError, match="crop 'mask' is none of image, true_mask, none"):
        run("la", tmp_path, crop="mask")
    assert la.CHOICES["order"] == ("auto", "published", "hash")
