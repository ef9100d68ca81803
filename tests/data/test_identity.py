"""A scan is known by its voxels, whatever its file is called and wherever it lies."""

import gzip
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import AFFINE, SHAPE, random_image, random_label, truncate, write, write_json

from aps_components.data import DataError, case_identities, load_datalist
from aps_components.data.identity import changes, digest_of, identity, scan_identity, seen_items


@pytest.fixture
def scan(tmp_path):
    return write(tmp_path / "images" / "a.nii.gz", random_image())


def item(folder, name, seed=0, *, label=True):
    image = write(folder / "images" / f"{name}.nii.gz", random_image(seed))
    return {"image": image} | (
        {"label": write(folder / "labels" / f"{name}.nii.gz", random_label(seed))} if label else {}
    )


class TestWhoAScanIs:
    def other(self, scan, how):
        content = Path(scan).read_bytes()
        other = Path(scan).with_name("z.nii" if how == "unpacked" else "z.nii.gz")
        if how == "link":
            os.symlink(scan, other)
        elif how == "hard link":
            os.link(scan, other)
        elif how == "copy":
            shutil.copy(scan, other)
        elif how == "packed anew":
            other.write_bytes(gzip.compress(gzip.decompress(content), compresslevel=1, mtime=1))
        elif how == "unpacked":
            other.write_bytes(gzip.decompress(content))
        elif how == "saved anew":
            image = nib.load(scan)
            image.header["descrip"] = b"by another tool"
            nib.save(image, other)
        return other

    @pytest.mark.parametrize("how", ["link", "hard link", "copy", "packed anew", "unpacked", "saved anew"])
    def test_another_name_does_not_hide_it(self, scan, how):
        assert scan_identity(self.other(scan, how)) == scan_identity(scan)

    def test_one_other_voxel_is_another_scan(self, scan, tmp_path):
        image = random_image()
        image[3, 5, 7] += 1e-6
        assert scan_identity(write(tmp_path / "b.nii.gz", image)) != scan_identity(scan)
        turned = write(tmp_path / "c.nii.gz", random_image().transpose(1, 0, 2).copy().reshape(SHAPE))
        assert scan_identity(turned) != scan_identity(scan)

    def test_where_it_lies_is_told_apart_from_what_it_shows(self, scan, tmp_path):
        moved = scan_identity(write(tmp_path / "b.nii.gz", random_image(), AFFINE + np.eye(4)[:, [3, 0, 1, 2]]))
        assert moved != scan_identity(scan)
        assert moved.partition(":")[0] == scan_identity(scan).partition(":")[0]

    @pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
    def test_another_scaling_of_the_same_numbers_is_told_apart(self, tmp_path, kind):
        numbers = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)

        def scaled(slope, inter):
            header = kind(numbers, AFFINE).header
            header["vox_offset"], header["scl_slope"], header["scl_inter"] = header.single_vox_offset, slope, inter
            file = tmp_path / "scaled.nii"
            file.write_bytes(header.binaryblock + bytes(4) + numbers.tobytes(order="F"))
            return scan_identity(file)

        plain = scaled(1, 0)
        assert [scaled(slope, 0) for slope in (0, np.nan, np.inf)] == [plain] * 3
        assert scaled(0, 5) == plain
        others = [scaled(*each) for each in ((2, 0), (2, 7), (1, -1024), (0.5, 0))]
        assert len({plain, *others}) == 5
        assert {other.partition(":")[0] for other in others} == {plain.partition(":")[0]}

    def test_of_a_scan_without_a_scaling_it_is_what_it_was(self, tmp_path):
        """Caches and what trainings remember of their scans go by it."""
        numbers = np.arange(5 * 7 * 11, dtype=np.int16).reshape(5, 7, 11)
        assert scan_identity(write(tmp_path / "a.nii.gz", numbers)) == "90ac940fbed7ea350f9d420df3b5fa17:2cc79b17"

    def test_a_file_that_changes_is_read_again(self, scan):
        before = scan_identity(scan)
        write(Path(scan), random_image(3))
        assert scan_identity(scan) != before

    def test_a_file_that_cannot_be_read_is_named(self, scan, tmp_path):
        with pytest.raises(DataError, match=r"a\.nii\.gz: cannot be read as NIfTI"):
            scan_identity(truncate(scan))
        with pytest.raises(DataError, match=r"no\.nii\.gz: cannot be read"):
            scan_identity(tmp_path / "no.nii.gz")

    def test_a_case_of_several_files(self, tmp_path):
        files = [write(tmp_path / f"case_{name}.nii.gz", random_image(seed)) for seed, name in enumerate("ab")]
        who = identity({"image": files})
        assert who["image"] == [scan_identity(file) for file in files]
        assert who["label"] is None


class TestRepeats:
    def test_the_same_scan_under_two_names_is_refused(self, tmp_path):
        labelled, kept = item(tmp_path, "a", 0), item(tmp_path, "b", 0)
        message = r"b\.nii\.gz \(validation\) and .*a\.nii\.gz \(labeled\) are one scan"
        with pytest.raises(DataError, match=message):
            case_identities([labelled], [kept])
        again = item(tmp_path, "c", 0, label=False)
        with pytest.raises(DataError, match=r"b\.nii\.gz \(validation\) and .*c\.nii\.gz \(unlabeled\)"):
            case_identities([again], [kept])
        with pytest.raises(DataError, match=r"\(labeled\) and .* \(labeled\)"):
            case_identities([labelled, kept])

    def test_one_channel_that_two_cases_share_is_refused(self, tmp_path):
        first, shared, last = (item(tmp_path, name, seed)["image"] for seed, name in enumerate("abc"))
        with pytest.raises(DataError, match="are one scan"):
            case_identities([{"image": [first, shared]}], [{"image": [last, shared]}])

    @pytest.fixture
    def files(self, tmp_path):
        """Four channels, each other voxels."""
        return [item(tmp_path, name, seed, label=False)["image"] for seed, name in enumerate("abcd")]

    def test_a_channel_of_one_value_may_be_shared(self, files, tmp_path):
        a, b, c, _ = files
        empty = [write(tmp_path / f"empty_{n}.nii.gz", np.zeros(SHAPE, np.float32)) for n in range(2)]
        validation = [{"image": [b, empty[1]]}]
        found = case_identities([{"image": [a, empty[0]]}], validation)
        assert seen_items([*validation, {"image": [empty[1], c]}], found) == []

    def test_a_channel_that_scans_of_one_part_share_may_be_shared(self, files):
        a, b, c, atlas = files
        validation = [{"image": [c, atlas]}]
        found = case_identities([{"image": [a, atlas]}, {"image": [b, atlas]}], validation)
        assert seen_items(validation, found) == []

    def test_all_channels_alike_are_one_scan_in_any_order(self, files):
        a, b, c, other = files
        training = [{"image": [a, b]}, {"image": [b, c]}, {"image": [c, a]}]
        with pytest.raises(DataError, match=r"\(validation\) and .*a\.nii\.gz \(unlabeled\) are one scan"):
            case_identities(training, [{"image": [b, a]}])
        again, new = {"image": [c, b]}, {"image": [c, other]}
        assert [seen for seen, *_ in seen_items([again, new], case_identities(training))] == [again]

    def test_a_training_scan_with_one_channel_of_another_is_found(self, files):
        a, b, c, other = files
        found = case_identities([{"image": [a, b]}, {"image": [c, b]}])
        assert len(seen_items([{"image": [a, other]}], found)) == 1
        assert len(seen_items([{"image": a}], found)) == 1

    def test_a_scan_that_only_comes_more_often_is_no_leak(self, tmp_path):
        cases = [item(tmp_path, "a", 0), item(tmp_path, "b", 0, label=False), item(tmp_path, "c", 0, label=False)]
        assert len(case_identities(cases)["unlabeled"]) == 2

    def test_what_earlier_trainings_had_is_kept_once(self, tmp_path):
        """Each of several rounds begins with the model of the one before."""
        scans = [item(tmp_path, "a", 0), item(tmp_path, "b", 1, label=False)]
        found = None
        for _ in range(3):
            found = case_identities(scans, earlier=found)
        assert found["earlier"] == [*found["labeled"], *found["unlabeled"]]

    def test_labels_may_be_equal(self, tmp_path):
        """Of two scans without a tumour, say."""
        cases = [item(tmp_path, name, seed) for seed, name in enumerate("ab")]
        shutil.copy(cases[0]["label"], cases[1]["label"])
        assert len(case_identities(cases)["labeled"]) == 2

    def datalist(self, folder, **parts):
        write_json(folder / "datalist.json", {"name": "x", "labels": {"0": "a", "1": "b"}, **parts})
        return load_datalist(folder)

    def entry(self, image, label):
        return {"image": f"images/{image}.nii.gz", "label": f"labels/{label}.nii.gz"}

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_a_datalist_sees_through_links(self, tmp_path, link):
        item(tmp_path, "a"), item(tmp_path, "b", 1)
        link(tmp_path / "images" / "a.nii.gz", tmp_path / "images" / "z.nii.gz")
        with pytest.raises(DataError, match=r"z\.nii\.gz, the same file as .*a\.nii\.gz, is in training"):
            self.datalist(tmp_path, training=[self.entry("a", "a")], validation=[self.entry("z", "b")])

    def test_a_datalist_sees_through_linked_folders(self, tmp_path):
        item(tmp_path, "a"), item(tmp_path, "b", 1)
        os.symlink(tmp_path / "images", tmp_path / "scans")
        again = {"image": "scans/a.nii.gz"}
        with pytest.raises(DataError, match=r"scans/a\.nii\.gz, the same file .* in training and again in unlabeled"):
            self.datalist(tmp_path, training=[self.entry("a", "a")], unlabeled=[again])

    @pytest.mark.parametrize("link", [None, os.symlink, os.link])
    def test_one_label_for_two_scans_is_refused(self, tmp_path, link):
        item(tmp_path, "a"), item(tmp_path, "b", 1)
        name = "a" if link is None else "z"
        if link is not None:
            link(tmp_path / "labels" / "a.nii.gz", tmp_path / "labels" / "z.nii.gz")
        with pytest.raises(DataError, match=r"labels/.\.nii\.gz is the label of .*a\.nii\.gz and of .*b\.nii\.gz"):
            self.datalist(tmp_path, training=[self.entry("a", "a"), self.entry("b", name)])

    def test_counts_that_leave_nothing_are_named(self, tmp_path):
        parts = {"training": [self.entry(name, name) for name in "abc"]}
        write_json(tmp_path / "datalist.json", {"name": "x", "labels": {"0": "a", "1": "b"}, **parts})
        with pytest.raises(DataError, match="validation_count 3 leaves none of the 3 training cases"):
            load_datalist(tmp_path, validation_count=3)
        unlabelled = {"training": [{"image": "images/a.nii.gz"}, self.entry("b", "b")]}
        write_json(tmp_path / "datalist.json", {"name": "x", "labels": {"0": "a", "1": "b"}, **unlabelled})
        with pytest.raises(DataError, match="no training case is left with a label beside the 1 that validate"):
            load_datalist(tmp_path, validation_count=1)
        assert load_datalist(tmp_path, labeled_count=8, counts_at_most=True).labeled_by_hand is None
        assert len(load_datalist(tmp_path, labeled_count=8, counts_at_most=True).labeled) == 1


class TestChanges:
    @pytest.fixture
    def cases(self, tmp_path):
        return [item(tmp_path, name, seed) for seed, name in enumerate("abcd")]

    def test_the_same_cases_are_the_same(self, cases, tmp_path):
        found = case_identities(cases[:2], cases[2:])
        assert changes(found, case_identities(cases[:2], cases[2:])) == ""
        renamed = shutil.copy(cases[0]["image"], tmp_path / "renamed.nii.gz")
        assert changes(found, case_identities([{**cases[0], "image": renamed}, cases[1]], cases[2:])) == ""

    def test_an_order_a_part_and_a_label_are_changes(self, cases):
        found = case_identities(cases[:2], cases[2:])
        assert changes(found, case_identities(cases[1::-1], cases[2:])) == "the labeled scans stand in another order"
        swapped = changes(found, case_identities([cases[2], cases[1]], [cases[0], cases[3]]))
        assert swapped == (
            "the labeled scans are now without a and with c; the validation scans are now without c and with a"
        )
        fewer = changes(found, case_identities(cases[:1], cases[2:]))
        assert fewer == "the labeled scans are now without b"
        image = nib.load(cases[0]["label"])
        nib.save(nib.Nifti1Image(1 - np.asarray(image.dataobj).clip(0, 1), image.affine), cases[0]["label"])
        assert "without a and with a" in changes(found, case_identities(cases[:2], cases[2:]))

    def test_scans_that_a_training_had(self, cases, tmp_path):
        found = case_identities([cases[0], {"image": cases[1]["image"]}], [cases[2]])
        copies = [{"image": shutil.copy(case["image"], tmp_path / f"{n}.nii.gz")} for n, case in enumerate(cases)]
        seen = [(os.path.basename(item["image"]), who["name"], part) for item, who, part in seen_items(copies, found)]
        assert seen == [("0.nii.gz", "a", "labeled"), ("1.nii.gz", "b", "unlabeled")]
        assert digest_of(copies) != digest_of(copies[::-1])
        assert digest_of(copies) == digest_of([{"image": case["image"]} for case in cases])


def test_what_cannot_be_read_validates_nothing_in_a_datastore(tmp_path):
    """Where nobody put the scans in an order; in a datalist it is an error."""
    cases = [item(tmp_path, name, seed) for seed, name in enumerate("abc")]
    truncate(Path(cases[2]["image"]))
    assert case_identities(cases[:1], cases[1:], ordered=False)["validation"] == [identity(cases[1])]
    with pytest.raises(DataError, match=r"c\.nii\.gz: cannot be read"):
        case_identities(cases[:1], cases[1:])


def test_a_name_of_bytes_that_are_no_text_can_be_kept_in_a_file(tmp_path):
    scan = item(tmp_path, "a", label=False)["image"]
    other = os.path.join(tmp_path, "m\udcfcller.nii.gz")
    try:
        shutil.copy(scan, other)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such names")
    assert identity({"image": other})["name"].encode() == rb"m\udcfcller"
