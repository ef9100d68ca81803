"""Several processes, one per GPU or, with gloo, on CPUs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from ignite.handlers import ProgressBar
from monai.data import CacheDataset
from monai.handlers.tensorboard_handlers import TensorBoardHandler

from aps_components.data import validation_dataset
from aps_components.files import ensure_writable
from aps_components.ownership import own
from aps_components.ranks import TRAIN_ON, together

Item = TypeVar("Item")
Handler = TypeVar("Handler")


def start_process_group(device: torch.device | str) -> None:
    """Join the group that torchrun describes: nccl on GPUs, gloo on CPUs."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with together(TRAIN_ON):
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop_process_group() -> None:
    """Leave the group when all have come here: until then rank 0 may write, and the others are still asked."""
    if dist.is_initialized():
        with together(TRAIN_ON):
            dist.barrier()
        dist.destroy_process_group()


def enter_folder(folder: str | os.PathLike[str], environ: Mapping[str, str]) -> None:
    """Own the folder of a training's checkpoints; of a process group rank 0 does.

    Args:
        folder: made if missing.
        environ: the environment, which says whether several processes were started.

    Raises:
        ValueError: torchrun started several, and nobody joined them to a group: each would train all of it.
        FolderInUseError: another training writes there.
        PermissionError: it cannot be written into.
    """
    alone = not dist.is_available() or not dist.is_initialized()
    world = environ.get("WORLD_SIZE", "1")
    if alone and world.isdecimal() and int(world) > 1 and "RANK" in environ:
        raise ValueError(
            f"torchrun started {world} processes, and each would train all of it into {folder}: lay "
            "multi_gpu_train.json over train.json (--config_file \"['train.json','multi_gpu_train.json']\"), or start "
            "one process without torchrun"
        )
    if alone or dist.get_rank() == 0:
        own(ensure_writable(Path(folder)))


def of_all_ranks(value: Item) -> list[Item]:
    """What every rank has there, in their order; of a process alone, its own."""
    if not dist.is_available() or not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def handlers_of_rank(handlers: Sequence[Handler]) -> list[Handler]:
    """All of them on rank 0; elsewhere those that neither draw curves nor show a bar."""
    shown = (TensorBoardHandler, ProgressBar)
    return [handler for handler in handlers if dist.get_rank() == 0 or not isinstance(handler, shown)]


def share_of_rank(items: Sequence[Item]) -> list[Item]:
    """Every world_size-th item, from this rank's number on; all of them where there are fewer items than ranks."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    return list(items[rank::world_size] if len(items) >= world_size else items)


def cache_share_of_rank(
    data: Sequence[Any], transform: Sequence[Callable] | Callable, *, cache_rate: float = 1.0
) -> CacheDataset:
    """``data.validation_dataset`` of :func:`share_of_rank` alone."""
    return validation_dataset(share_of_rank(data), transform, cache_rate=cache_rate)
