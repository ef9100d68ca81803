"""What a training ran on, for tables that are made on several machines."""

from __future__ import annotations

import torch

from aps_components import __version__
from aps_components.machine import cpu_model
from aps_components.models import resolved_precision


def machine() -> dict[str, str | int]:
    """Device, a CPU's threads, what ``precision auto`` means there, and the versions of torch and of this package."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
        "threads": torch.get_num_threads(),
        "auto_precision": resolved_precision(device, "auto"),
        "torch": torch.__version__,
        "aps_components": __version__,
    }
