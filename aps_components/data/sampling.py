"""Batches of labelled and unlabelled patches that replay exactly.

What is random in a sample is decided by the sampler, as a seed, and only applied by the dataset (TorchIO's
separation of drawing from applying, Perez-Garcia et al. 2021, arXiv:2003.04696): a run replays whatever the
number of workers.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, Transform
from monai.transforms.traits import RandomizableTrait
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from aps_components.data.datalist import case_name
from aps_components.data.disk_cache import DiskCache, Stored
from aps_components.data.errors import DataError
from aps_components.data.partial import NOT_LABELED, UNDRAWN, table_of
from aps_components.data.transforms import IMAGE, LABEL
from aps_components.machine import worker_processes

SHARED_MEMORY = "/dev/shm"
PREFETCHED = 2  # batches of each worker, which is torch's default
LABELED, UNLABELED = "labeled", "unlabeled"
_PERMUTATION, _SAMPLE = 0, 1  # keep the two uses of a seed apart


class SampleKey(NamedTuple):
    """Which case, and the seed of everything random about this sample of it."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    seed: int


class EvaluationCache(CacheDataset):
    """MONAI's CacheDataset, filled by threads that are done, or waited for, when an error leaves it.

    MONAI's own are daemons, which the interpreter does not wait for: one that is still inside torch when it ends has
    the process killed by SIGABRT.
    """

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        indices = range(self.cache_num) if indices is None else indices
        with ThreadPoolExecutor(self.num_workers or worker_processes()) as pool:
            try:
                items = pool.map(self._load_cache_item, indices)
                shown = tqdm(items, total=len(indices), desc="Loading dataset", disable=not self.progress)
                return list(shown)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


class SeededCacheDataset(EvaluationCache):
    """A CacheDataset whose items are a function of (index, seed) alone.

    Index it by a SampleKey; a plain integer means seed 0. Each item also gets its case's "name".

    Args:
        data: items with "image" and, where there is one, "label".
        transform: what turns an item into a sample; the part before its first random transform is cached.
        cache_rate: the share of the items to cache in memory.
        cache_dir: cache all of them in this folder instead, see `DiskCache`.
        num_workers: threads that fill the cache.
        progress: show a bar while the cache is filled.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Sequence[Callable] | Callable,
        *,
        cache_rate: float = 1.0,
        cache_dir: str | os.PathLike[str] | None = None,
        num_workers: int = 4,
        progress: bool = True,
    ) -> None:
        steps = (transform if isinstance(transform, Compose) else Compose(transform)).transforms
        first = next((i for i, t in enumerate(steps) if _is_random(t)), len(steps))
        self._random_part = Compose(steps[first:])
        self._disk = None if cache_dir is None else DiskCache(cache_dir, steps[:first])
        rate = cache_rate if self._disk is None else 1.0
        super().__init__(data, transform, cache_rate=rate, num_workers=num_workers, progress=progress)

    def set_data(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Take over new items and fill the cache."""
        super().set_data([{**item, "name": case_name(item)} for item in data])

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        """Of processes that fill one folder each begins elsewhere, and finds there what the others made meanwhile."""
        order = list(range(self.cache_num) if indices is None else indices)
        rank, world_size = process_place()
        first = 0 if self._disk is None else len(order) * rank // world_size
        items = super()._fill_cache(order[first:] + order[:first])
        return items[len(order) - first :] + items[: len(order) - first]

    def _load_cache_item(self, idx: int) -> Any:
        """The preprocessed item, or where it lies."""
        prepare = partial(super()._load_cache_item, idx)
        return prepare() if self._disk is None else self._disk.stored(self.data[idx], prepare)

    def _transform(self, index: int) -> dict[str, Any]:
        return self._sample(SampleKey(index, 0))

    def __getitem__(self, index: Any) -> Any:
        """The sample of a SampleKey or an integer; a Subset for a slice or a list."""
        return self._sample(index) if isinstance(index, SampleKey) else super().__getitem__(index)

    def _sample(self, key: SampleKey) -> dict[str, Any]:
        index = range(len(self))[key.index]  # negative ones count from the end, wrong ones raise IndexError
        cached = index < self.cache_num
        item = self._cache[index] if cached else self._load_cache_item(index)
        # What is on the disk is mapped into memory anew each time; what is in memory stays as it is.
        if isinstance(item, Stored):
            item = {**item.opened(), "name": self.data[index]["name"]}
        elif cached:
            item = deepcopy(item)
        # A copy of its own, so that threads do not share a random state.
        return deepcopy(self._random_part).set_random_state(seed=key.seed)(item)


class TwoStreamBatchSampler(Sampler[list[SampleKey]]):
    """Batches of `labeled_batch` labelled and then `unlabeled_batch` unlabelled sample keys.

    Each stream is an endless row of permutations of its cases, so that every case comes once before any comes
    twice. Which case is drawn, and its seed, depend only on (seed, rank, stream, number of the draw): epoch e is
    the same whether or not earlier ones were run. Call `set_epoch` before each epoch, as for torch's
    DistributedSampler; without it every epoch repeats the first.

    Args:
        items: the dataset or its items; labelled ones are those with a "label".
        labeled_batch: labelled samples in a batch.
        unlabeled_batch: unlabelled samples in a batch; 0 trains on the labelled cases alone.
        epoch_length: batches in an epoch.
        seed: of the whole run.
        rank: this process; it draws from the cases rank, rank + world_size, ... only.
        world_size: number of processes.
        repeat_cases: allow fewer cases than a batch or the processes need: several patches of a batch then come from
            one case, and processes share cases. Without an unlabelled case it trains on the labelled ones alone.
        labeled_epochs: number of first epochs with labelled samples alone, in batches as large as all others;
            with few cases some of a batch then come from one case.
    """

    def __init__(
        self,
        items: CacheDataset | Sequence[Mapping[str, Any]],
        *,
        labeled_batch: int,
        unlabeled_batch: int,
        epoch_length: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        repeat_cases: bool = False,
        labeled_epochs: int = 0,
    ) -> None:
        if labeled_batch < 1 or unlabeled_batch < 0 or epoch_length < 1 or seed < 0:
            raise ValueError(
                f"labeled_batch {labeled_batch} and epoch_length {epoch_length} must be at least 1, "
                f"unlabeled_batch {unlabeled_batch} and seed {seed} at least 0"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} must be 0 to world_size - 1 = {world_size - 1}")
        data = items.data if isinstance(items, CacheDataset) else items
        labeled = [i for i, item in enumerate(data) if LABEL in item]
        unlabeled = [i for i, item in enumerate(data) if LABEL not in item]
        self.cases = [labeled[rank::world_size], unlabeled[rank::world_size]]
        self.batch_sizes = [labeled_batch, unlabeled_batch]
        if repeat_cases:
            self.cases = [share or every for share, every in zip(self.cases, (labeled, unlabeled), strict=True)]
            self.batch_sizes[1] = unlabeled_batch if unlabeled else 0
        self.epoch_length = epoch_length
        self.labeled_epochs = labeled_epochs
        self.seed = seed
        self.rank = rank
        self.epoch = 0
        for name, stream, size in zip((LABELED, UNLABELED), self.cases, self.batch_sizes, strict=True):
            if len(stream) < (min(size, 1) if repeat_cases else size):
                raise DataError(
                    f"{name}_batch is {size} but there are {len(stream)} {name} cases for rank {rank} of {world_size}; "
                    f"lower {name}_batch or the number of processes, or add {name} cases"
                )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.epoch_length

    def __iter__(self) -> Iterator[list[SampleKey]]:
        alone = min(self.epoch, self.labeled_epochs) * self.epoch_length
        joint = max(self.epoch - self.labeled_epochs, 0) * self.epoch_length
        early, late = [sum(self.batch_sizes), 0], self.batch_sizes
        sizes = early if self.epoch < self.labeled_epochs else late
        streams = [self._draws(stream, alone * early[stream] + joint * late[stream]) for stream in range(2)]
        for _ in range(self.epoch_length):
            yield [next(draws) for draws, size in zip(streams, sizes, strict=True) for _ in range(size)]

    def _draws(self, stream: int, first: int) -> Iterator[SampleKey]:
        """The stream's draws from number `first` on."""
        cases = self.cases[stream]
        turn, place = divmod(first, max(len(cases), 1))
        draw = first
        while True:
            order = np.random.default_rng(self._entropy(_PERMUTATION, stream, turn)).permutation(len(cases))
            for case in order[place:]:
                seed = self._entropy(_SAMPLE, stream, draw).generate_state(1, np.uint32)[0]
                yield SampleKey(cases[case], int(seed))
                draw += 1
            turn, place = turn + 1, 0

    def _entropy(self, purpose: int, stream: int, number: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, purpose, stream, self.rank, number])


def collate_two_stream(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stack samples by stream.

    Returns:
        {"labeled": {"image": [Bl, C, D, H, W] float32, "label": [Bl, 1, D, H, W] uint8, "name": list},
        "unlabeled": {"image": [Bu, C, D, H, W], "name": list}}, plain tensors; a stream without samples is left out.
        Where a label is not whole, "labeled" also has "undrawn" [Bl, 256] bool: the classes that nobody drew.
    """
    streams: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        streams.setdefault(LABELED if LABEL in sample else UNLABELED, []).append(sample)
    return {name: _stack(stream) for name, stream in streams.items()}


def loader_workers(device: torch.device | str) -> int:
    """How many processes prepare patches: a GPU waits where there is none, on a CPU they take its own time."""
    return worker_processes() if torch.device(device).type == "cuda" else 0


def two_stream_loader(
    dataset: SeededCacheDataset,
    *,
    labeled_batch: int,
    unlabeled_batch: int,
    epoch_length: int,
    seed: int,
    num_workers: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
    pin_memory: bool = False,
    repeat_cases: bool | None = None,
    labeled_epochs: int = 0,
) -> DataLoader:
    """A loader of two-stream batches; call `loader.batch_sampler.set_epoch(epoch)` before each epoch.

    `rank` and `world_size` are torch.distributed's where it runs; without `repeat_cases` the scans of a MONAI Label
    datastore, and those alone, are repeated. The other arguments are those of TwoStreamBatchSampler and of torch's
    DataLoader.
    """
    own_rank, own_world_size = process_place()
    rank = own_rank if rank is None else rank
    world_size = own_world_size if world_size is None else world_size
    sampler = TwoStreamBatchSampler(
        dataset,
        labeled_batch=labeled_batch,
        unlabeled_batch=unlabeled_batch,
        epoch_length=epoch_length,
        seed=seed,
        rank=rank,
        world_size=world_size,
        repeat_cases=getattr(dataset, "in_datastore", False) if repeat_cases is None else repeat_cases,
        labeled_epochs=labeled_epochs,
    )
    if num_workers > 0:
        _refuse_small_shared_memory(dataset, batch=sum(sampler.batch_sizes), num_workers=num_workers)
    # torch's loader and a generator of its own: MONAI's resets the global one, and with it the network's dropout.
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate_two_stream,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),
    )


def process_place() -> tuple[int, int]:
    """This process's number and how many there are, where torch.distributed runs."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _refuse_small_shared_memory(dataset: SeededCacheDataset, *, batch: int, num_workers: int) -> None:
    """Workers hand batches over in memory that they share; where that is full, they wait for ever."""
    if not os.path.isdir(SHARED_MEMORY) or not hasattr(os, "statvfs"):
        return
    state = os.statvfs(SHARED_MEMORY)
    free = state.f_bavail * state.f_frsize
    sample = sum(value.numel() * value.element_size() for value in dataset[0].values() if torch.is_tensor(value))
    wanted = sample * batch * (num_workers * PREFETCHED + 1)
    if wanted > free:
        raise DataError(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MB free, and {num_workers} workers hand over batches of up to "
            f"{wanted / 2**20:.0f} MB there: give --num_workers 0, or a container more (docker run --shm-size 8g)"
        )


def _is_random(transform: Callable) -> bool:
    """Where MONAI's CacheDataset stops caching."""
    return isinstance(transform, RandomizableTrait) or not isinstance(transform, Transform)


def _stack(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    stacked: dict[str, Any] = {
        key: torch.stack([_plain(sample[key]) for sample in samples]) for key in (IMAGE, LABEL) if key in samples[0]
    }
    if any(UNDRAWN in sample or (LABEL in sample and (sample[LABEL] == NOT_LABELED).any()) for sample in samples):
        stacked[UNDRAWN] = torch.stack([_plain(sample.get(UNDRAWN, table_of(()))) for sample in samples])
    return stacked | {"name": [sample["name"] for sample in samples]}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
