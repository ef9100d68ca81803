"""Several processes segment what one would: each scan once, by size, into one table."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import own_process
from test_segment import aps, names, refusal, voxels, write_scan
from tiny_bundles import tiny_bundle

from aps_components.ranks import RankLostError
from aps_components.segmentation.inputs import Case
from aps_components.segmentation.sharing import Ranks, Share


@pytest.fixture
def cases(tmp_path):
    made = []
    for name, size in zip("abcdefg", (70, 10, 20, 30, 40, 50, 60), strict=True):
        (tmp_path / name).write_bytes(bytes(size))
        made.append(Case(name, (str(tmp_path / name),)))
    return made


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
def test_each_scan_is_in_one_share(cases, count):
    shares = [Share(number, count).take(cases) for number in range(count)]
    assert sorted(case.name for share in shares for case in share) == list("abcdefg")
    assert all(share == sorted(share, key=lambda case: case.name) for share in shares)


def test_shares_are_of_equal_size_not_of_equal_number(cases):
    """70 + 40 + 30 and 60 + 50 + 20 + 10: the largest first, each to whoever has least."""
    assert [[case.name for case in Share(number, 2).take(cases)] for number in range(2)] == [
        ["a", "d", "e"],
        ["b", "c", "f", "g"],
    ]


def test_a_shard_is_counted_from_one():
    assert Share.parsed("3/16") == Share(2, 16)
    for wrong in ("0/16", "17/16", "3", "3/0", "-1/2", "a/b"):
        with pytest.raises(ValueError, match="1/16, 2/16"):
            Share.parsed(wrong)


def test_torchruns_variables_say_who_this_is():
    assert Ranks({}).share == Share()
    assert Ranks({"RANK": "3"}).share == Share()  # of another tool
    ranks = Ranks({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"})
    assert (ranks.share, ranks.local, ranks.first, ranks.several) == (Share(3, 4), 1, False, True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sharing")
    tiny_bundle(place / "la", "la")
    for seed, name in enumerate(("a", "b", "c")):
        write_scan(place / "scans" / f"{name}.nii.gz", seed)
    aps(place / "scans", place / "one", "--bundle", place / "la", "--nopreview")
    return place


def same(one: Path, other: Path) -> None:
    assert names(one) == names(other)
    assert (one / "statistics.csv").read_text() == (other / "statistics.csv").read_text()
    for name in ("a", "b", "c"):
        assert (voxels(one / f"{name}_seg.nii.gz") == voxels(other / f"{name}_seg.nii.gz")).all()


def test_jobs_of_an_array_fill_one_folder(folder, tmp_path):
    for shard in ("2/2", "1/2"):
        aps(folder / "scans", tmp_path, "--bundle", folder / "la", "--nopreview", "--shard", shard)
    same(folder / "one", tmp_path)


def test_the_last_jobs_report_has_all_scans(folder, tmp_path):
    shown = []
    for shard in ("2/2", "1/2"):
        aps(folder / "scans", tmp_path, "--bundle", folder / "la", "--nopreview", "--shard", shard)
        page = (tmp_path / "report.html").read_text()
        shown.append([name for name in ("a", "b", "c") if f">{name}<" in page])
    assert [len(names) for names in shown] == [len(list(tmp_path.glob("*_seg.nii.gz"))) - 1, 3]


def test_what_one_job_left_is_done_by_the_next_call(folder, tmp_path, capsys):
    aps(folder / "scans", tmp_path, "--bundle", folder / "la", "--nopreview", "--shard", "1/2")
    capsys.readouterr()
    aps(folder / "scans", tmp_path, "--bundle", folder / "la", "--nopreview")
    assert "2 segmented, 1 there already" in capsys.readouterr().out
    same(folder / "one", tmp_path)


def test_a_shard_that_is_none(folder, tmp_path):
    assert "--shard 5/4 must be" in refusal(folder / "scans", tmp_path, "--bundle", folder / "la", "--shard", "5/4")


def wait_as_rank(rank, port, folder):
    """Come to the end of a call with nothing done; rank 1 never does."""
    place = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in place.items()}
    ranks = Ranks(os.environ)
    ranks.join()
    (folder / f"joined{rank}").touch()
    if rank == 1:
        time.sleep(300)
    try:
        ranks.gathered([])
    except RankLostError as error:
        (folder / "said").write_text(str(error))


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_those_that_wait_for_it(tmp_path):
    """Also where no torchrun looks after them, as on another node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first, second = (own_process(wait_as_rank, rank, port, tmp_path) for rank in (0, 1))
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("joined?"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second.kill()
    first.join(20)
    assert first.exitcode == 0
    assert "another process of this call has ended" in (tmp_path / "said").read_text()


@pytest.mark.slow
def test_two_nodes_on_one_machine(folder, tmp_path):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
        *("--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:29619", "--rdzv_id", "sharing"),
        *("-m", "aps_components", "segment", str(folder / "scans"), str(tmp_path / "out")),
        *("--bundle", str(folder / "la"), "--nopreview", "--device", "cpu"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    agents = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0]
    assert "".join(said).count("3 segmented, 0 there already, 0 failed") == 1
    same(folder / "one", tmp_path / "out")
