"""The processor: what it is called, and how many processes to give it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
MOST_WORKERS = 4  # each holds a scan or two in memory


def cpu_model() -> str:
    """The processor as the system names it."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def worker_processes() -> int:
    """As many as there are cores, four at most, to read or prepare scans beside this process."""
    return min(os.cpu_count() or 1, MOST_WORKERS)
