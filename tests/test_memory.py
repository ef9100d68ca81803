import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource
from aps_components.memory import keep_freed_memory

if KEEP:
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 * 2**20)
    ctypes.memset(block, 1, 64 * 2**20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_a_block_is_not_touched_for_the_first_time_again():
    """64 MiB are 16,384 pages, or 32 huge ones; in a process of its own, whose heap nothing else has shaped."""
    faults = [
        int(subprocess.run([sys.executable, "-c", f"KEEP = {keep}\n{FAULTS}"], check=True, capture_output=True).stdout)
        for keep in (True, False)
    ]
    assert faults[0] < 20 < faults[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_a_loop_that_keeps_a_little_does_not_grow_the_heap():
    """Small blocks that stay would break up the large ones that come and go."""
    script = """
import numpy as np
from pathlib import Path
from aps_components.memory import keep_freed_memory, large_blocks_apart
keep_freed_memory()
kept = []
with large_blocks_apart():
    for turn in range(30):
        block = np.ones(40 * 2**20 + turn * 4096, dtype=np.uint8)
        del block
        kept.append(np.ones(2**20, dtype=np.uint8))
resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
print(int(resident.split()[1]) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200  # 30 MB are kept
