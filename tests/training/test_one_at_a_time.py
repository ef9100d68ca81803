"""One training a folder, one group of processes, and caches whose threads end before the interpreter does."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from monai.transforms import Lambda

from aps_components.data import DataError, EvaluationCache, sampling, two_stream_loader
from aps_components.ownership import FolderInUseError, release
from aps_components.training import enter_folder
from aps_components.training.distributed import stop_process_group

ROOT = Path(__file__).parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("world", ["2", "8"])
def test_several_processes_without_a_group_are_refused_with_the_mend(tmp_path, world):
    with pytest.raises(ValueError, match=r"torchrun started \d processes.*multi_gpu_train\.json"):
        enter_folder(tmp_path / "models", {"WORLD_SIZE": world, "RANK": "0"})
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("environ", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "3"}])
def test_one_process_enters(tmp_path, environ):
    enter_folder(tmp_path / "models", environ)
    release(tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_of_a_group_rank_0_owns_the_folder(tmp_path):
    for rank in (1, 0):
        with (
            patch("torch.distributed.is_initialized", return_value=True),
            patch("torch.distributed.get_rank", return_value=rank),
        ):
            enter_folder(tmp_path, {"WORLD_SIZE": "2", "RANK": str(rank)})
        code = f"from aps_components.ownership import own; own({str(tmp_path)!r})"
        done = subprocess.run([sys.executable, "-c", code], env=ENVIRON, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == (rank == 0)
    release(tmp_path)
    assert FolderInUseError.__name__ in done.stderr


def test_the_group_is_left_when_all_have_come(monkeypatch):
    called = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.barrier", lambda: called.append("barrier"))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: called.append("destroy"))
    stop_process_group()
    assert called == ["barrier", "destroy"]


def test_after_an_error_no_thread_of_a_cache_is_left():
    started = []

    def load(item):
        started.append(item)
        if item == 1:
            raise ValueError("one truncated scan")
        time.sleep(0.2)
        return item

    before = set(threading.enumerate())
    with pytest.raises((ValueError, RuntimeError)):
        EvaluationCache(list(range(80)), Lambda(load), num_workers=4, progress=False)
    assert [thread for thread in threading.enumerate() if thread not in before and thread.name != "tqdm_monitor"] == []
    assert len(started) < 20  # the others are not loaded in vain


def test_the_cache_is_that_of_monai():
    data = EvaluationCache(
        list(range(7)), Lambda(lambda item: item * 10), cache_rate=0.5, num_workers=3, progress=False
    )
    assert data.cache_num == 3
    assert [data[index] for index in range(7)] == [0, 10, 20, 30, 40, 50, 60]


CRASH = """
import time, torch
from monai.transforms import Lambda
from aps_components.data import EvaluationCache
def load(item):
    if item == 3:
        raise ValueError("one truncated scan")
    return torch.rand(64, 64, 64).sort().values
EvaluationCache(list(range(40)), Lambda(load), num_workers=4, progress=False)
"""


@pytest.mark.slow
def test_an_error_while_loading_ends_the_process_and_does_not_kill_it():
    done = subprocess.run([sys.executable, "-c", CRASH], env=ENVIRON, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "one truncated scan" in done.stderr


def test_little_shared_memory_is_said_before_it_hangs(dataset, monkeypatch, tmp_path):
    loader = {"labeled_batch": 1, "unlabeled_batch": 1, "epoch_length": 1, "seed": 0}
    monkeypatch.setattr(sampling, "SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((4096, 4096, 64, 2, 2, 0, 0, 0, 0, 255)))
    with pytest.raises(DataError, match=r"0 MB free, and 2 workers .* --num_workers 0"):
        two_stream_loader(dataset, num_workers=2, **loader)
    two_stream_loader(dataset, num_workers=0, **loader)
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result((4096, 4096, 10**9, 10**9, 10**9, 0, 0, 0, 0, 255)))
    two_stream_loader(dataset, num_workers=2, **loader)
    assert torch.utils.data.get_worker_info() is None
