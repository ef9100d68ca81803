import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import pytest
import torch
from pipelines import training_transforms
from scans import truncate

from aps_components.data import (
    DataError,
    SampleKey,
    SeededCacheDataset,
    TwoStreamBatchSampler,
    collate_two_stream,
    loader_workers,
    two_stream_loader,
)

ROI = (11, 11, 13)
SETTINGS = {"labeled_batch": 2, "unlabeled_batch": 1, "epoch_length": 7, "seed": 3}


def cases(labeled: int, unlabeled: int) -> list[dict[str, str]]:
    return [{"image": "i", "label": "l"}] * labeled + [{"image": "i"}] * unlabeled


def epochs(sampler: TwoStreamBatchSampler, *numbers: int) -> list[list[SampleKey]]:
    batches = []
    for number in numbers:
        sampler.set_epoch(number)
        batches += list(sampler)
    return batches


def dataset(items, **options) -> SeededCacheDataset:
    options = {"cache_rate": 1.0, "num_workers": 1, "progress": False} | options
    return SeededCacheDataset(items, training_transforms(roi_size=ROI, num_classes=3), **options)


def same(one: dict, other: dict) -> bool:
    tensors = [(one[s][k], other[s][k]) for s in one for k in one[s] if k != "name"]
    return one.keys() == other.keys() and all(torch.equal(a, b) for a, b in tensors)


def test_batch_holds_labelled_then_unlabelled_cases():
    batches = epochs(TwoStreamBatchSampler(cases(3, 5), **SETTINGS), 0)
    assert len(batches) == len(TwoStreamBatchSampler(cases(3, 5), **SETTINGS)) == 7
    for batch in batches:
        assert [key.index < 3 for key in batch] == [True, True, False]


def test_labelled_epochs_fill_the_batch_and_the_draws_go_on_after_them():
    """Nothing is drawn twice, nothing is left out, and an epoch is the same whether or not earlier ones were run."""
    sampler = TwoStreamBatchSampler(cases(3, 5), **SETTINGS, labeled_epochs=2)
    alone, joint = epochs(sampler, 0, 1), epochs(sampler, 2, 3)
    assert [[key.index < 3 for key in batch] for batch in alone] == [[True] * 3] * 14
    assert [[key.index < 3 for key in batch] for batch in joint] == [[True, True, False]] * 14
    plain = TwoStreamBatchSampler(cases(3, 5), **SETTINGS)
    labeled = [key for batch in epochs(plain, *range(5)) for key in batch[:2]]
    unlabeled = [key for batch in epochs(plain, 0, 1) for key in batch[2:]]
    assert [key for batch in alone for key in batch] + [key for batch in joint for key in batch[:2]] == labeled
    assert [key for batch in joint for key in batch[2:]] == unlabeled


@pytest.mark.parametrize(("stream", "count"), [(slice(0, 2), 3), (slice(2, 3), 5)])
def test_every_case_comes_once_before_any_twice(stream, count):
    batches = epochs(TwoStreamBatchSampler(cases(3, 5), **SETTINGS), *range(5))
    draws = [key.index for batch in batches for key in batch[stream]]
    turns = [draws[i : i + count] for i in range(0, len(draws) - count + 1, count)]
    assert all(len(set(turn)) == count for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1


def test_seeds_differ_between_draws_streams_ranks_and_runs():
    samplers = [
        TwoStreamBatchSampler(cases(6, 6), **{**SETTINGS, "seed": seed}, rank=rank, world_size=2)
        for seed in (3, 4)
        for rank in (0, 1)
    ]
    seeds = [key.seed for sampler in samplers for key in chain.from_iterable(epochs(sampler, 0, 1))]
    assert len(seeds) == len(set(seeds)) == 4 * 2 * 7 * 3


def test_an_epoch_does_not_depend_on_the_ones_before_it():
    run = TwoStreamBatchSampler(cases(3, 5), **SETTINGS)
    resumed = TwoStreamBatchSampler(cases(3, 5), **SETTINGS)
    assert epochs(run, 0, 1, 2, 3)[21:] == epochs(resumed, 3)
    assert epochs(run, 0) != epochs(run, 1)
    assert epochs(run, 1) == epochs(resumed, 1)


def test_epoch_length_only_cuts_the_stream():
    short = TwoStreamBatchSampler(cases(3, 5), **{**SETTINGS, "epoch_length": 3})
    long = TwoStreamBatchSampler(cases(3, 5), **{**SETTINGS, "epoch_length": 6})
    assert epochs(short, 0, 1) == epochs(long, 0)


def test_ranks_draw_from_disjoint_cases_that_cover_all():
    drawn = []
    for rank in range(3):
        sampler = TwoStreamBatchSampler(cases(7, 8), **SETTINGS, rank=rank, world_size=3)
        drawn.append({key.index for key in chain.from_iterable(epochs(sampler, 0, 1))})
    assert sum(map(len, drawn)) == len(set.union(*drawn)) == 15


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (cases(0, 5), {}, "labeled_batch is 2 but there are 0 labeled cases"),
        (cases(1, 5), {}, "labeled_batch is 2 but there are 1 labeled cases"),
        (cases(3, 5), {"rank": 1, "world_size": 2}, "there are 1 labeled cases for rank 1 of 2"),
        (cases(3, 0), {}, "unlabeled_batch is 1 but there are 0 unlabeled cases"),
        (cases(3, 2), {"unlabeled_batch": 3}, "unlabeled_batch is 3 but there are 2 unlabeled cases"),
    ],
)
def test_too_few_cases_are_refused(items, options, message):
    with pytest.raises(DataError, match=message):
        TwoStreamBatchSampler(items, **{**SETTINGS, **options})


@pytest.mark.parametrize("option", [{"labeled_batch": 0}, {"unlabeled_batch": -1}, {"epoch_length": 0}, {"seed": -1}])
def test_wrong_sizes_are_refused(option):
    with pytest.raises(ValueError, match="{} {}".format(*next(iter(option.items())))):
        TwoStreamBatchSampler(cases(3, 5), **{**SETTINGS, **option})


def test_rank_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="rank 2 must be 0 to world_size - 1 = 1"):
        TwoStreamBatchSampler(cases(3, 5), **SETTINGS, rank=2, world_size=2)


def test_sample_depends_on_its_key_alone(two_stream_items):
    data = dataset(two_stream_items)
    first = data[SampleKey(4, 17)]["image"]
    assert not torch.equal(first, data[SampleKey(4, 18)]["image"])
    assert torch.equal(first, data[SampleKey(4, 17)]["image"])
    assert torch.equal(first, dataset(two_stream_items, cache_rate=0.0)[SampleKey(4, 17)]["image"])
    assert torch.equal(data[4]["image"], data[SampleKey(4, 0)]["image"])
    assert torch.equal(data[-1]["image"], data[7]["image"])
    with pytest.raises(IndexError):
        data[8]


def test_samples_do_not_change_the_cache(two_stream_items):
    data = dataset(two_stream_items[:1])
    first = data[0]
    expected = first["image"].clone()
    first["image"].zero_()
    assert torch.equal(data[0]["image"], expected)


def test_items_carry_their_case_name(two_stream_items):
    data = dataset(two_stream_items)
    assert data[1]["name"] == "labeled_1"
    assert [sample["name"] for sample in data[2:4]] == ["labeled_2", "unlabeled_0"]


@pytest.mark.parametrize("cache_rate", [0.0, 1.0])
def test_a_faulty_file_surfaces_as_a_data_error(two_stream_items, cache_rate):
    truncate(two_stream_items[0]["image"])
    with pytest.raises(DataError, match=r"labeled_0.nii.gz: cannot be read"):
        dataset(two_stream_items, cache_rate=cache_rate)[0]


def test_loader_batches_are_plain_tensors_by_stream(two_stream_items):
    (batch, *_) = two_stream_loader(dataset(two_stream_items), **SETTINGS)
    assert {stream: set(parts) for stream, parts in batch.items()} == {
        "labeled": {"image", "label", "name"},
        "unlabeled": {"image", "name"},
    }
    assert batch["labeled"]["image"].shape == batch["labeled"]["label"].shape == (2, 1, *ROI)
    assert batch["unlabeled"]["image"].shape == (1, 1, *ROI)
    assert type(batch["labeled"]["image"]) is type(batch["labeled"]["label"]) is torch.Tensor
    assert (batch["labeled"]["image"].dtype, batch["labeled"]["label"].dtype) == (torch.float32, torch.uint8)
    assert all(name.startswith("labeled") for name in batch["labeled"]["name"])
    assert all(name.startswith("unlabeled") for name in batch["unlabeled"]["name"])


def test_supervised_batches_have_no_unlabelled_stream(two_stream_items):
    (batch, *_) = two_stream_loader(dataset(two_stream_items), **{**SETTINGS, "unlabeled_batch": 0})
    assert set(batch) == {"labeled"}
    assert set(collate_two_stream([dataset(two_stream_items)[5]])) == {"unlabeled"}


def test_labels_of_unlabelled_cases_are_never_read(two_stream_items, tmp_path):
    before = list(two_stream_loader(dataset(two_stream_items), **SETTINGS))
    unlabelled = [file for file in os.listdir(tmp_path / "labels") if file.startswith("unlabeled")]
    assert len(unlabelled) == 5
    for file in unlabelled:
        os.remove(tmp_path / "labels" / file)
    after = list(two_stream_loader(dataset(two_stream_items), **SETTINGS))
    assert all(same(one, other) for one, other in zip(before, after, strict=True))


def test_batches_replay_whatever_the_number_of_workers(two_stream_items):
    data = dataset(two_stream_items)
    loaders = [two_stream_loader(data, **SETTINGS, num_workers=workers) for workers in (0, 2)]
    for epoch in (1, 0):
        runs = []
        for loader in loaders:
            loader.batch_sampler.set_epoch(epoch)
            runs.append(list(loader))
        assert [batch["labeled"]["name"] for batch in runs[0]] == [batch["labeled"]["name"] for batch in runs[1]]
        assert all(same(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize(
    ("device", "cores", "workers"),
    [("cpu", 16, 0), ("cuda:1", 16, 4), ("cuda", 2, 2), ("cuda", None, 1), ("mps", 8, 0)],
)
def test_workers_for_a_gpu_alone_and_no_more_than_cores(monkeypatch, device, cores, workers):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert loader_workers(device) == loader_workers(torch.device(device)) == workers


def test_samples_replay_in_threads(two_stream_items):
    data = dataset(two_stream_items)
    keys = [SampleKey(index, seed) for index in range(8) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        threaded = list(threads.map(data.__getitem__, keys))
    assert all(torch.equal(data[key]["image"], sample["image"]) for key, sample in zip(keys, threaded, strict=True))


def test_a_fault_in_a_worker_stays_a_data_error(two_stream_items):
    data = dataset(two_stream_items, cache_rate=0.0)
    for item in two_stream_items:
        truncate(item["image"])
    with pytest.raises(DataError, match=r"labeled_\d.nii.gz: cannot be read"):
        next(iter(two_stream_loader(data, **SETTINGS, num_workers=1)))


def test_loading_leaves_the_global_random_state_alone(two_stream_items):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    list(islice(two_stream_loader(dataset(two_stream_items), **SETTINGS), 2))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_streams_see_a_real_dataset_evenly(shared_data):
    folder = shared_data / "hippocampus"
    files = sorted(os.listdir(folder / "images"))[:6]
    items = [{"image": str(folder / "images" / file), "label": str(folder / "labels" / file)} for file in files[:2]]
    items += [{"image": str(folder / "images" / file)} for file in files[2:]]
    transform = training_transforms(roi_size=(32, 32, 32), num_classes=3, intensity="zscore")
    data = SeededCacheDataset(items, transform, num_workers=1, progress=False)
    loader = two_stream_loader(data, labeled_batch=1, unlabeled_batch=2, epoch_length=4, seed=0)
    seen = Counter(name for batch in loader for stream in batch.values() for name in stream["name"])
    assert sorted(seen.values()) == [2] * 6


class TestRepeatCases:
    def test_one_case_fills_a_batch_with_patches_of_its_own(self):
        batches = epochs(TwoStreamBatchSampler(cases(1, 1), **SETTINGS | {"unlabeled_batch": 3}, repeat_cases=True), 0)
        for batch in batches:
            assert [key.index for key in batch] == [0, 0, 1, 1, 1]
            assert len({key.seed for key in batch}) == 5

    def test_without_unlabelled_cases_the_labelled_ones_remain(self):
        batches = epochs(TwoStreamBatchSampler(cases(3, 0), **SETTINGS, repeat_cases=True), 0)
        assert [len(batch) for batch in batches] == [2] * 7

    def test_processes_share_cases_if_there_are_too_few(self):
        seeds = set()
        for rank in range(3):
            sampler = TwoStreamBatchSampler(cases(1, 4), **SETTINGS, rank=rank, world_size=3, repeat_cases=True)
            assert sampler.cases[0] == [0]
            seeds |= {batch[0].seed for batch in sampler}
        assert len(seeds) == 21

    def test_without_a_labelled_case_it_refuses(self):
        with pytest.raises(DataError, match="there are 0 labeled cases"):
            TwoStreamBatchSampler(cases(0, 4), **SETTINGS, repeat_cases=True)

    def test_nothing_changes_where_there_are_enough(self):
        plain, repeating = (TwoStreamBatchSampler(cases(3, 5), **SETTINGS, repeat_cases=r) for r in (False, True))
        assert epochs(plain, 0, 4) == epochs(repeating, 0, 4)
