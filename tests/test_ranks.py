"""Processes of one call, of which one is gone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aps_components.ranks import RankLostError, together

ROOT = Path(__file__).parents[1]
MEETING = """
import os, sys
from datetime import timedelta
import torch.distributed as dist
from aps_components.ranks import RankLostError, together
try:
    with together("Call it again"):
        dist.init_process_group("gloo", timeout=timedelta(seconds=int(sys.argv[1])))
        if dist.get_rank() == 1:
            os._exit(9)
        dist.barrier()
except RankLostError as error:
    print(error, flush=True)
    os._exit(1)
"""

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")


@pytest.mark.parametrize(("comes", "seconds"), [(True, 60), (False, 1)])
def test_who_waits_for_a_process_that_is_gone_ends_with_one_line(comes, seconds):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environ = {**os.environ, **place, "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", MEETING, str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**environ, "RANK": str(rank)},
        )
        for rank in range(2 if comes else 1)
    ]
    said = ranks[0].communicate(timeout=40)[0]
    assert ranks[0].returncode == 1
    (line,) = said.splitlines()
    assert "another process of this call has ended" in line
    assert line.endswith("Call it again")


def test_other_errors_stay():
    with pytest.raises(RuntimeError, match=r"^size mismatch$") as error, together("Call it again"):
        raise RuntimeError("size mismatch")
    assert not isinstance(error.value, RankLostError)
