import json
import shutil
import socket
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from forked import own_process
from two_ranks import fail_as_rank, train_as_rank
from workflows import command, run_python, training_options

from aps_components.data import load_datalist

TWO_RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")


def names(items):
    return {Path(item["image"]).name.removesuffix(".nii.gz") for item in items}


def test_two_ranks_hold_the_same_weights_and_split_the_cases(phantoms, tmp_path):
    options = training_options(
        phantoms,
        tmp_path,
        labeled_count=4,
        cache_dir=str(tmp_path / "cache"),
        **{"train#trainer#gradient_clip": 1e-2},
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [own_process(train_as_rank, rank, port, options, tmp_path) for rank in (0, 1)]
    for process in ranks:
        process.join(300)
        assert process.exitcode == 0
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["iterations"] == second["iterations"] == 4
    assert first["losses"] != second["losses"]
    assert first["teacher_moved"] > 0
    datalist = load_datalist(phantoms, labeled_count=4)
    assert len(list((tmp_path / "cache").glob("*/*"))) == len(datalist.training_items)  # which both filled at once
    assert list((tmp_path / "cache").glob(".unfinished*")) == []
    for part, items in (("labeled", datalist.labeled), ("unlabeled", datalist.unlabeled)):
        assert not set(first[part]) & set(second[part]), part
        assert set(first[part]) | set(second[part]) == names(items), part
    assert set(first["validated"]).isdisjoint(second["validated"])
    assert first["validation"] == second["validation"]
    assert {file.name for file in (tmp_path / "models").glob("*.pt")} == {"checkpoint.pt", "model.pt", "model_best.pt"}
    assert len((tmp_path / "eval" / "history.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_other_with_a_line_that_says_so(phantoms, tmp_path):
    """Also where no torchrun looks after them; the checkpoint is whole."""
    options = training_options(phantoms, tmp_path, labeled_count=4, epochs=1000, val_interval=1000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [own_process(fail_as_rank, rank, port, options, tmp_path) for rank in (0, 1)]
    checkpoint, deadline = tmp_path / "models" / "checkpoint.pt", time.monotonic() + 120
    while not checkpoint.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks[0].kill()
    ranks[1].join(30)
    assert ranks[1].exitcode == 1
    (line,) = (tmp_path / "said1").read_text().splitlines()
    assert line.startswith("RankLostError: another process of this call has ended")
    assert torch.load(checkpoint, weights_only=True)["epoch"] >= 1


@pytest.mark.slow
def test_one_rank_that_fails_ends_both(phantoms, tmp_path):
    """Only rank 1 ever reads the second labelled case."""
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    file = load_datalist(data).labeled[1]["image"]
    scan = nib.load(file)
    broken = np.asarray(scan.dataobj, dtype=np.float32)
    broken[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(broken, scan.affine), file)
    options = training_options(
        data, tmp_path, labeled_count=4, labeled_batch=1, unlabeled_batch=1, cache_rate=0.0, epochs=50
    )
    train = command("training", "train.json", "multi_gpu_train.json", options=options)
    run = run_python([*TWO_RANKS, *train], cwd=tmp_path, timeout=200)
    assert run.returncode != 0
    assert f"{file}: 1 voxels are NaN or infinite" in run.stderr
    assert not (tmp_path / "models" / "model.pt").exists()
