"""What this machine computes with: its processor, its GPUs, and how many processes to give them."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

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


def chosen_device(name: str, value: str | torch.device) -> torch.device:
    """The device that an option asks for; ``gpu`` is ``cuda``.

    Args:
        name: of the option.
        value: such as cpu, cuda or cuda:1.

    Raises:
        ValueError: there is no such device, or this machine has not so many.
    """
    said = f"{name} {str(value)!r}"
    try:
        device = torch.device("cuda" if value == "gpu" else value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{said} is no device; give cpu, cuda or cuda:1") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"{said}: this machine has {count or 'no'} GPU(s) that torch can use; give cpu")
    return device
