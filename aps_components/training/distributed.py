"""Several processes, one per GPU or, with gloo, on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from monai.data import CacheDataset

from aps_components.data import validation_dataset
from aps_components.data.label_values import LabelValues

Item = TypeVar("Item")


def start_process_group(device: torch.device | str) -> None:
    """Join the group that torchrun describes: nccl on GPUs, gloo on CPUs."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop_process_group() -> None:
    """Leave the group."""
    dist.destroy_process_group()


def share_of_rank(items: Sequence[Item]) -> list[Item]:
    """Every world_size-th item, from this rank's number on; all of them where there are fewer items than ranks."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return list(items[rank::world_size] if len(items) >= world_size else items)


def cache_share_of_rank(
    data: Sequence[Any],
    transform: Sequence[Callable] | Callable,
    *,
    in_channels: int = 1,
    label_values: LabelValues = None,
    cache_rate: float = 1.0,
) -> CacheDataset:
    """``data.validation_dataset`` of :func:`share_of_rank` alone."""
    return validation_dataset(
        share_of_rank(data), transform, in_channels=in_channels, label_values=label_values, cache_rate=cache_rate
    )
