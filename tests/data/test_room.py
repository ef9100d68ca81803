"""Scans that cannot fit are refused by their headers, with the memory that they would need."""

import re
import resource

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from aps_components import memory
from aps_components.data import DataError, LoadVolumed, Resampled, ScansToSegment, segmentation_room
from aps_components.data.room import refuse_large_segmentation, refuse_unloadable
from aps_components.memory import NotEnoughMemoryError, free_memory, require_memory

GB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with so many GB free."""

    def with_free(gigabytes):
        (tmp_path / "meminfo").write_text(f"MemTotal: 999999999 kB\nMemAvailable: {gigabytes * 2**20:.0f} kB\n")
        monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "none")

    return with_free


def sparse(file, shape, dtype=np.uint8, zooms=(1, 1, 1)):
    """A file of the declared size that takes no room on the disk."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_zooms((*zooms, 1)[: len(shape)])
    header.set_sform(np.diag([*zooms, 1]), code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with open(file, "wb") as stream:
        stream.write(header.binaryblock + bytes(4))
        stream.truncate(352 + int(np.prod(shape, dtype=float)) * np.dtype(dtype).itemsize)
    return str(file)


def test_a_scan_of_gigabytes_is_refused_before_it_is_read(tmp_path, machine):
    machine(8)
    file = sparse(tmp_path / "whole body.nii", (1500, 1500, 1500))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=re.escape(file)) as error:
        LoadVolumed("image")({"image": file})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    needed = float(re.search(r"needs about ([\d.]+) GB of memory, and 8\.0 GB are free", str(error.value))[1])
    assert needed == pytest.approx(3 * 4 * 1500**3 / GB, rel=0.01)


def test_files_of_a_case_count_together(tmp_path, machine):
    machine(1)
    files = [sparse(tmp_path / f"{name}.nii", (300, 300, 300)) for name in "abcd"]
    refuse_unloadable({"image": files[:3]})
    with pytest.raises(DataError, match=r"needs about 1\.2 GB"):
        refuse_unloadable({"image": files})


@pytest.mark.parametrize("zooms", [(1, 1, 10_000), (5000, 1, 1), (40, 40, 40)])
def test_a_grid_that_a_wrong_voxel_size_asks_for(machine, zooms):
    machine(4)
    volume = MetaTensor(torch.zeros(1, 64, 48, 40), affine=np.diag([*zooms, 1.0]), meta={"filename_or_obj": "x.nii.gz"})
    with pytest.raises(DataError, match=r"x\.nii\.gz: needs about [\d.]+ GB"):
        Resampled("image", (0.5, 0.5, 0.5))({"image": volume})


def test_what_fits_is_resampled(machine):
    machine(4)
    volume = MetaTensor(torch.zeros(1, 17, 24, 40), affine=np.diag([2.0, 1.0, 1.0, 1.0]))
    assert Resampled("image", (1.0, 1.0, 1.0))({"image": volume})["image"].shape[1:] == (33, 24, 40)


def test_a_segmentation_counts_its_largest_stage(tmp_path, machine):
    """A whole-body CT of 16 classes fits 4 GB; reading it takes most."""
    body = sparse(tmp_path / "body.nii", (512, 512, 800), np.int16, (0.8, 0.8, 1.5))
    thick = sparse(tmp_path / "thick.nii", (128, 128, 150), np.int16, (2.5, 2.5, 6.0))
    machine(4)
    refuse_large_segmentation([body], spacing=(1.5, 1.5, 2.0), classes=16)
    with pytest.raises(DataError, match=r"body\.nii: needs about 4\.7 GB"):
        refuse_large_segmentation([body], spacing=(1.5, 1.5, 2.0), classes=16, times=2)
    window = 160 * 160 * 80  # voxels, which the networks see in this memory: one of them, however many scans
    with pytest.raises(DataError, match=r"body\.nii: needs about \d\.\d GB"):
        refuse_large_segmentation([body], spacing=(1.5, 1.5, 2.0), classes=16, window=2 * window)
    machine(5.2)
    refuse_large_segmentation([body], spacing=(1.5, 1.5, 2.0), classes=16, window=window, times=2)
    machine(2)
    with pytest.raises(DataError, match=r"body\.nii: needs about 2\.3 GB"):
        refuse_large_segmentation([body], spacing=(1.5, 1.5, 2.0), classes=16)
    refuse_large_segmentation([thick], spacing=(1.5, 1.5, 2.0), classes=2)
    machine(1)
    with pytest.raises(DataError, match=r"thick\.nii: needs about 1\.\d GB"):  # its probabilities, on the finer grid
        refuse_large_segmentation([thick], spacing=(1.5, 1.5, 2.0), classes=16)


def test_a_scan_that_is_read_but_not_segmented_in_this_memory_is_a_fault_before_it_is_read(tmp_path, machine):
    """The windows of a GPU lie in the GPU's memory."""
    fits, large = (sparse(tmp_path / f"{name}.nii", (n, n, n), np.int16) for name, n in (("fits", 60), ("large", 500)))
    read = []
    options = {"spacing": None, "classes": 16, "roi_size": (160, 160, 80), "sw_batch_size": 1}
    dataset = ScansToSegment(
        [{"image": fits}, {"image": [large]}],
        lambda item: read.append(item["image"]) or item,
        room=segmentation_room(**options, device="cpu"),
    )
    machine(2.5)
    assert [set(dataset[0]), set(dataset[1])] == [{"image"}, {"fault"}]
    assert re.search(r"large\.nii: needs about 2\.9 GB of memory, and 2\.5 GB are free; crop", dataset[1]["fault"])
    assert read == [fits]
    dataset.room = segmentation_room(**options, device="cuda:1")
    assert set(dataset[1]) == {"image"}


def test_what_the_process_keeps_on_its_heap_is_free(machine, monkeypatch):
    machine(1)
    monkeypatch.setattr(memory, "return_freed_memory", lambda: machine(3))
    require_memory(2 * GB, what="a scan")


@pytest.mark.parametrize(
    ("line", "files", "free"),
    [
        ("0::/a/b", {"a/b/memory": ("max", "memory.max", "memory.current", "inactive_file")}, None),
        ("0::/a/b", {"a/b/memory": (str(3 * GB), "memory.max", "memory.current", "inactive_file")}, 2.5),
        ("0::/a/b", {"a/memory": (str(2 * GB), "memory.max", "memory.current", "inactive_file")}, 1.5),
        (
            "5:cpu,memory:/x",
            {"memory/x/memory": (str(4 * GB), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")},
            3.5,
        ),
    ],
)
def test_a_containers_limit_counts(tmp_path, machine, monkeypatch, line, files, free):
    machine(64)
    (tmp_path / "cgroup").write_text(f"1:name=systemd:/\n{line}\n")
    for place, (limit, limit_file, used_file, cached) in files.items():
        group = (tmp_path / "groups" / place).parent
        group.mkdir(parents=True)
        (group / limit_file).write_text(f"{limit}\n")
        (group / used_file).write_text(f"{GB}\n")
        (group / "memory.stat").write_text(f"anon 5\n{cached} {GB // 2}\n")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    assert free_memory() == pytest.approx((free or 64) * GB)


def test_the_limit_of_a_process_counts(machine, monkeypatch):
    machine(10**6)
    used = int(memory.STATM.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * GB, before[1]))
    try:
        assert free_memory() == pytest.approx(3 * GB, rel=0.1)
        with pytest.raises(NotEnoughMemoryError, match=r"a table: needs about 4\.0 GB"):
            require_memory(4 * GB, what="a table")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_what_is_no_volume_is_left_to_whoever_reads_it(tmp_path):
    refuse_large_segmentation([sparse(tmp_path / "flat.nii", (5, 7))], spacing=(1, 1, 1), classes=2)
    refuse_large_segmentation([str(tmp_path / "none.nii")], spacing=(1, 1, 1), classes=2)


def test_this_machine_says_something():
    assert free_memory() > 2**20
