"""While the network has a scan, the next one is read and the last one written, where the memory holds two."""

import threading

import pytest
from dicom_files import write_series
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
        uid, description = f"1.2.3.4.{seed + 1}", f"series {name}"
        write_series(
            place / "series" / name, SeriesInstanceUID=uid, SeriesNumber=seed + 1, SeriesDescription=description
        )
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


@pytest.mark.parametrize("source", ["scans", "series"])
def test_the_next_scan_is_read_while_the_network_works(folder, tmp_path, monkeypatch, source):
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
    aps(folder / source, tmp_path, "--bundle", folder / "la", "--nopreview")
    assert ahead == [True, True]
    assert len([name for name in names(tmp_path) if name.endswith("_seg.nii.gz")]) == 3


@pytest.mark.parametrize(("source", "check"), [("scans", "require_room"), ("series", "require_room_of")])
def test_one_scan_after_another_where_two_do_not_fit(folder, tmp_path, monkeypatch, steps, source, check):
    original = getattr(BundleInference, check)

    def room_for_one(self, scan, *, scans=1, **name):
        if scans > 1:
            raise DataError("two do not fit")
        original(self, scan, **name)

    monkeypatch.setattr(BundleInference, check, room_for_one)
    aps(folder / source, tmp_path, "--bundle", folder / "la", "--nopreview")
    assert steps == [
        f"{step} {edge}" for _ in "abc" for step in ("prepare", "answer", "write") for edge in ("begins", "ends")
    ]
