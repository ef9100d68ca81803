"""Preprocessed scans on the disk are those in memory, and are made once."""

import gzip
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pipelines import training_transforms as transforms

from aps_components.data import DataError, SampleKey, SeededCacheDataset, case_identities, check_cases, sampling
from aps_components.data.disk_cache import DiskCache, described
from aps_components.data.remembered import NAME, Remembered, facts

SHAPE, ROI = (17, 24, 40), (16, 16, 16)


@pytest.fixture
def items(tmp_path):
    made = []
    for seed, name in enumerate(("a", "b")):
        values = np.random.default_rng(seed).normal(100, 30, SHAPE)
        paths = {key: str(tmp_path / f"{name}_{key}.nii.gz") for key in ("image", "label")}
        nib.save(nib.Nifti1Image(values.astype(np.int16), np.diag([1.5, 1, 0.5, 1])), paths["image"])
        nib.save(nib.Nifti1Image((values > 130).astype(np.uint8), np.diag([1.5, 1, 0.5, 1])), paths["label"])
        made.append(paths)
    del made[1]["label"]
    return made


def dataset(items, cache_dir=None, *, num_workers=4, **options):
    given = {"roi_size": ROI, "spacing": [1.0, 1.0, 1.0], "intensity": "zscore", **options}
    return SeededCacheDataset(items, transforms(**given), cache_dir=cache_dir, num_workers=num_workers, progress=False)


@pytest.mark.parametrize("balanced_crops", [0.0, 1.0])
@pytest.mark.parametrize("said", [{}, {"labeled_slices": [1, 9, 30]}, {"labeled_classes": [1]}])
def test_samples_are_those_of_the_cache_in_memory(items, tmp_path, balanced_crops, said):
    items[0] |= said
    options = {"balanced_crops": balanced_crops, "num_classes": 3}  # there is no class 2
    memory, disk = dataset(items, **options), dataset(items, tmp_path / "cache", **options)
    again = dataset(items, tmp_path / "cache", **options)
    for key in [SampleKey(0, 5), SampleKey(1, 6), SampleKey(0, 5)]:
        expected, found, third = memory[key], disk[key], again[key]
        assert found.keys() == expected.keys()
        assert found["name"] == expected["name"]
        assert torch.equal(*(sample.get("undrawn", torch.zeros(1)) for sample in (found, expected)))
        for volume in {"image", "label"} & expected.keys():
            assert found[volume].dtype == expected[volume].dtype
            assert torch.equal(found[volume], expected[volume])
            assert torch.equal(third[volume], expected[volume])
            assert torch.allclose(found[volume].affine, expected[volume].affine)


def test_a_second_training_reads_no_scan(items, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = dataset(items, cache)[SampleKey(0, 1)]["image"]
    check_cases(items, cache_dir=cache)
    case_identities(items, cache_dir=cache)
    for module in ("identity.scan_identity", "transforms.read_channels", "checks.read_geometry"):
        monkeypatch.setattr(f"aps_components.data.{module}", lambda *_: pytest.fail("a scan was read"))
    check_cases(items, cache_dir=cache)
    case_identities(items, cache_dir=cache)
    assert torch.equal(dataset(items, cache)[SampleKey(0, 1)]["image"], first)


def test_a_copy_of_a_scan_is_the_same_and_another_scan_under_its_name_is_not(items, tmp_path):
    cache = tmp_path / "cache"
    dataset(items, cache)
    entries = len(list(cache.glob("*/*/facts.json")))
    assert entries == 2
    copy = tmp_path / "copy_image.nii.gz"
    shutil.copy(items[1]["image"], copy)
    assert dataset([{"image": str(copy)}], cache)[0]["name"] == "copy_image"
    assert len(list(cache.glob("*/*/facts.json"))) == entries
    values = nib.load(copy).get_fdata()
    nib.save(nib.Nifti1Image((values + 1).astype(np.int16), nib.load(copy).affine), copy)
    dataset([{"image": str(copy)}], cache)
    assert len(list(cache.glob("*/*/facts.json"))) == entries + 1


@pytest.mark.parametrize(
    "change", [{"spacing": [1.0, 1.0, 2.0]}, {"intensity": {"window": [0, 200]}}, {"roi_size": (32, 16, 16)}]
)
def test_other_preprocessing_is_another_entry(items, tmp_path, change):
    dataset(items[:1], tmp_path / "cache")
    dataset(items[:1], tmp_path / "cache", **change)
    assert len(list((tmp_path / "cache").glob("*/*/facts.json"))) == 2


def test_augmentation_is_no_preprocessing(items, tmp_path):
    dataset(items[:1], tmp_path / "cache")
    dataset(items[:1], tmp_path / "cache", augmentation="flips")
    assert len(list((tmp_path / "cache").glob("*/*/facts.json"))) == 1


def test_a_description_has_no_place_in_memory():
    assert described(transforms(roi_size=ROI).transforms[2]) == described(transforms(roi_size=ROI).transforms[2])


def test_what_is_mapped_can_be_written_to_and_stays_on_the_disk(items, tmp_path):
    cache = DiskCache(tmp_path / "cache", [])
    stored = cache.stored(items[1], lambda: {"image": MetaTensor(torch.ones(1, 2, 3, 5))})
    stored.opened()["image"].zero_()
    assert stored.opened()["image"].sum() == 30


def test_a_full_disk_says_what_to_do(items, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match=r"cache: .*No space left.*--cache_dir"):
        DiskCache(tmp_path / "cache", []).stored(items[1], lambda: {"image": MetaTensor(torch.ones(1, 2, 3, 5))})
    assert [file.name for file in (tmp_path / "cache").glob(".*")] == []


def test_two_processes_that_make_an_entry_at_once_leave_one_whole_one(items, tmp_path):
    both = threading.Barrier(2)

    def prepare():
        both.wait(20)
        return {"image": MetaTensor(torch.full((1, *SHAPE), 3.0))}

    def fill(_):
        return DiskCache(tmp_path / "cache", []).stored(items[1], prepare).opened()["image"]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(fill, range(2)))
    assert all(torch.equal(each, torch.full((1, *SHAPE), 3.0)) for each in found)
    assert len(list((tmp_path / "cache").glob("*/*"))) == 1
    assert list((tmp_path / "cache").glob(".*")) == []


@pytest.mark.parametrize(("rank", "order"), [(0, "abcde"), (1, "bcdea"), (2, "deabc")])
def test_ranks_begin_in_different_places_and_share_what_they_find(items, tmp_path, monkeypatch, rank, order):
    """Three ranks with five scans."""
    scans = []
    for number, name in enumerate("abcde"):
        values = np.random.default_rng(number).normal(100, 30, SHAPE).astype(np.int16)
        scans.append({"image": str(tmp_path / f"{name}.nii.gz")})
        nib.save(nib.Nifti1Image(values, np.diag([1.5, 1, 0.5, 1])), scans[-1]["image"])
    monkeypatch.setattr(sampling, "process_place", lambda: (rank, 3))
    seen, stored = [], DiskCache.stored

    def watched(self, item, prepare):
        seen.append(Path(item["image"]).name[0])
        return stored(self, item, prepare)

    monkeypatch.setattr(DiskCache, "stored", watched)
    filled = dataset(scans, tmp_path / "cache", num_workers=1)
    assert "".join(seen) == order
    assert [filled[index]["name"] for index in range(5)] == list("abcde")


def test_a_fault_is_found_again_until_it_is_mended(items, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    for _ in range(2):
        with pytest.raises(DataError, match=r"broken\.nii\.gz"):
            check_cases([{"image": str(broken)}], cache_dir=tmp_path / "cache")
    shutil.copy(items[0]["image"], broken)
    check_cases([{"image": str(broken)}], cache_dir=tmp_path / "cache")


def test_a_line_that_was_cut_off_is_none(tmp_path):
    Remembered(tmp_path).keep("one", "1")
    with (tmp_path / NAME).open("a") as stream:
        stream.write("0" * 64 + "\t2")
    assert len(Remembered(tmp_path).known) == 1
    assert Remembered(tmp_path).of("one", lambda: "2") == "1"
    os.utime(tmp_path / NAME, ns=(5, 5))
    before = facts(tmp_path / NAME)
    os.utime(tmp_path / NAME, ns=(6, 6))
    assert facts(tmp_path / NAME) != before


def scaled(file, slope):
    """The file with another slope in its header."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[112:116] = np.float32(slope).tobytes()
    file.write_bytes(gzip.compress(bytes(content)))


def test_a_scan_whose_scaling_was_mended_is_preprocessed_anew(items, tmp_path):
    options = {"intensity": {"window": [0, 200]}}
    before = dataset(items[1:], tmp_path / "cache", **options)[SampleKey(0, 1)]["image"]
    scaled(Path(items[1]["image"]), 0.5)
    after = dataset(items[1:], tmp_path / "cache", **options)[SampleKey(0, 1)]["image"]
    assert torch.equal(after, dataset(items[1:], **options)[SampleKey(0, 1)]["image"])
    assert not torch.equal(after, before)


ENTRY = {"image": MetaTensor(torch.arange(30.0).view(1, 2, 3, 5)), "voxels": [np.arange(3), np.arange(7)]}
FILES = ["facts.json", "image.npy", "voxels.0.npy", "voxels.1.npy"]


class TestPurgedEntries:
    """Some systems delete files that nobody has opened for long."""

    def fill(self, items, tmp_path, prepare=lambda: ENTRY):
        stored = DiskCache(tmp_path / "cache", []).stored(items[1], prepare)
        return stored.place, stored.opened()

    @pytest.mark.parametrize("gone", [[file] for file in FILES] + [FILES, FILES[1:]])
    def test_one_that_is_not_whole_is_written_again(self, items, tmp_path, gone):
        place, _ = self.fill(items, tmp_path)
        assert sorted(file.name for file in place.iterdir()) == FILES
        for name in gone:
            (place / name).unlink()
        again, opened = self.fill(items, tmp_path)
        assert again == place
        assert sorted(file.name for file in place.iterdir()) == FILES
        assert torch.equal(opened["image"], ENTRY["image"])
        assert [each.tolist() for each in opened["voxels"]] == [[0, 1, 2], [0, 1, 2, 3, 4, 5, 6]]
        self.fill(items, tmp_path, lambda: pytest.fail("it is whole"))
        assert list((tmp_path / "cache").glob(".*")) == []

    def test_facts_that_were_cut_off_are_none(self, items, tmp_path):
        place, _ = self.fill(items, tmp_path)
        (place / "facts.json").write_text("")
        assert torch.equal(self.fill(items, tmp_path)[1]["image"], ENTRY["image"])

    def test_two_processes_mend_one_at_once(self, items, tmp_path):
        place, opened = self.fill(items, tmp_path)
        (place / "voxels.1.npy").unlink()
        both = threading.Barrier(2)

        def prepare():
            both.wait(20)
            return ENTRY

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda _: self.fill(items, tmp_path, prepare)[1], range(2)))
        assert all(len(each["voxels"][1]) == 7 for each in found)
        assert torch.equal(opened["image"], ENTRY["image"])  # which a third has open
        assert list((tmp_path / "cache").glob(".*")) == []


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    cache = tmp_path / "cache"
    now = time.time()
    for name, hours in ((".unfinished-old", 25), (".unfinished-new", 23)):
        (cache / name).mkdir(parents=True)
        (cache / name / "image.npy").touch()
        os.utime(cache / name, (now - hours * 3600,) * 2)
    DiskCache(cache, [])
    assert [file.name for file in cache.glob(".*")] == [".unfinished-new"]
