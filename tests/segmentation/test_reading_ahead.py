"""While the network has a scan, the next one is read and the last one written, where the memory holds two."""

import threading

import pytest
from test_segment import aps, names, write_scan
from tiny_bundles import tiny_bundle

from aps_components.data import DataError
from aps_components.segmentation.bundle_inference import BundleInference

SECONDS = 20  # in which another thread must have come so far


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("ahead")
    tiny_bundle(place / "la", "la")
    for seed, name in enumerate(("a", "b", "c")):
        write_scan(place / "scans" / f"{name}.nii.gz", seed)
    return place


@pytest.fixture
def steps(monkeypatch):
    """What was done, in order."""
    done = []
    for name in ("prepare", "answer", "write"):
        original = getattr(BundleInference, name)

        def step(self, given, name=name, original=original):
            done.append(f"{name} begins")
            result = original(self, given)
            done.append(f"{name} ends")
            return result

        monkeypatch.setattr(BundleInference, name, step)
    return done


def test_the_next_scan_is_read_while_the_network_works(folder, tmp_path, monkeypatch):
    read, original, ahead = threading.Semaphore(0), BundleInference.prepare, []
    answer = BundleInference.answer

    def prepare(self, files):
        sample = original(self, files)
        read.release()
        return sample

    def wait_for_the_next(self, sample):
        if len(ahead) < 2:  # the last one has none behind it
            ahead.append(all(read.acquire(timeout=SECONDS) for _ in range(2 if not ahead else 1)))
        return answer(self, sample)

    monkeypatch.setattr(BundleInference, "prepare", prepare)
    monkeypatch.setattr(BundleInference, "answer", wait_for_the_next)
    aps(folder / "scans", tmp_path, "--bundle", folder / "la", "--nopreview")
    assert ahead == [True, True]
    assert {f"{name}_seg.nii.gz" for name in "abc"} <= set(names(tmp_path))


def test_one_scan_after_another_where_two_do_not_fit(folder, tmp_path, monkeypatch, steps):
    original = BundleInference.require_room

    def room_for_one(self, files, *, scans=1):
        if scans > 1:
            raise DataError("two do not fit")
        original(self, files)

    monkeypatch.setattr(BundleInference, "require_room", room_for_one)
    aps(folder / "scans", tmp_path, "--bundle", folder / "la", "--nopreview")
    assert steps == [
        f"{step} {edge}" for _ in "abc" for step in ("prepare", "answer", "write") for edge in ("begins", "ends")
    ]
