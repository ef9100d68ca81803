"""A volume's answer in tiles is that of the whole volume, to the bit."""

import pytest
import torch
from tiny import random_volume, tiny_network

from aps_components.inference import PromptedSlidingWindowInferer, stored
from aps_components.inference.tiles import TiledBlend, TileStore, Tiling

ROI = (32, 16, 16)
ODD = (17, 24, 40)
CLASSES = 3


@pytest.fixture(scope="module")
def model():
    return tiny_network(ROI, num_classes=CLASSES, min_probability=0.3)


@pytest.fixture(params=[2**30, 1], ids=["in memory", "in a file"])
def budget(request, monkeypatch):
    monkeypatch.setattr(stored, "IN_MEMORY", request.param)
    return request.param


@pytest.mark.parametrize(
    ("predictor", "size", "options"),
    [
        ("a", (17, 24, 40), {"mirror_axes": [[0, 1]]}),
        ("b", (17, 24, 40), {"sw_batch_size": 3}),
        ("average", (17, 24, 40), {"sw_batch_size": 3, "mirror_axes": [2]}),
        ("average", (40, 33, 24), {"overlap": 0.25}),
    ],
)
def test_same_as_the_whole_volume(model, monkeypatch, tmp_path, budget, predictor, size, options):
    monkeypatch.setattr(model, "predictor", predictor)
    inferer = PromptedSlidingWindowInferer(ROI, precision="fp32", scratch_dir=tmp_path, **options)
    image = random_volume(size)
    with torch.inference_mode():
        expected = inferer(image, model)[0]
    found = inferer.predict_stored(image, model)
    assert found.probabilities.size == size
    assert torch.equal(found.probabilities.whole(), expected)
    whole = inferer.predict(image, model)
    with_maps = inferer.predict_stored(image, model, maps=True)
    assert torch.equal(with_maps.probabilities.whole(), whole.probabilities[0])
    assert torch.equal(with_maps.epistemic.whole(), whole.epistemic[0])
    assert torch.equal(with_maps.aleatoric.whole(), whole.aleatoric[0])
    assert with_maps.prompts == whole.prompts
    assert whole.prompts  # or nothing was compared
    assert not list(tmp_path.iterdir())


def test_random_points_are_the_same_ones(model, monkeypatch):
    monkeypatch.setattr(model.prompt_generator, "strategy", "random")
    inferer, image = PromptedSlidingWindowInferer(ROI, precision="fp32"), random_volume(ODD)
    assert inferer.predict_stored(image, model, maps=True).prompts == inferer.predict(image, model).prompts


def test_points_of_thick_slices_are_those_of_each_axis_own_step(model, monkeypatch):
    monkeypatch.setattr(model, "prompt_stride", (1, 2, 4))
    inferer, image = PromptedSlidingWindowInferer(ROI, precision="fp32"), random_volume(ODD)
    whole = inferer.predict(image, model).prompts
    assert inferer.predict_stored(image, model, maps=True).prompts == whole
    d, h, w = zip(*(point.voxel for point in whole), strict=True)
    assert {index % 2 for index in d} == {0, 1}
    assert {index % 4 for index in h} == {0, 2}
    assert {index % 4 for index in w} == {0}


def test_model_b_does_not_run_where_model_a_answers(model, monkeypatch):
    monkeypatch.setattr(model, "predictor", "a")
    monkeypatch.setattr(model, "model_b", None)
    PromptedSlidingWindowInferer(ROI).predict_stored(random_volume(ODD), model, maps=True)


def test_one_volume_at_a_time(model):
    with pytest.raises(ValueError, match="batch of 2"):
        PromptedSlidingWindowInferer(ROI).predict_stored(torch.zeros(2, 1, *ROI), model)


def test_tiles_are_cut_where_windows_begin_and_end():
    windows = [(slice(first, first + 5), slice(0, 7), slice(0, 3)) for first in (0, 3, 6)]
    tiling = Tiling(windows)
    assert tiling.cuts == [[0, 3, 5, 6, 8, 11], [0, 7], [0, 3]]
    assert [tile[0] for tile in tiling.within(windows[1])] == [1, 2, 3]
    assert tiling.place((4, 0, 0)) == (slice(8, 11), slice(0, 7), slice(0, 3))


def test_a_tile_is_finished_with_its_last_window():
    windows = [(slice(first, first + 2), slice(0, 1), slice(0, 1)) for first in (0, 1)]
    done = {}
    blend = TiledBlend(TileStore(budget=0), "x", windows, finished=lambda tile, mean: done.update({tile[0]: mean}))
    weight = torch.tensor([1.0, 3.0]).view(2, 1, 1)
    blend.add(torch.full((1, 2, 1, 1), 4.0), windows[0], weight=weight)
    assert list(done) == [0]
    blend.add(torch.full((1, 2, 1, 1), 8.0), windows[1], weight=weight)
    assert [done[tile].flatten().tolist() for tile in (0, 1, 2)] == [[4], [(3 * 4 + 1 * 8) / 4], [8]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_store_gives_back_what_was_put_last(tmp_path, dtype):
    store = TileStore(budget=20, folder=tmp_path)
    tensors = {key: torch.arange(key, key + 12).reshape(3, 4).to(dtype) for key in range(5)}
    for key, tensor in tensors.items():
        store.put(key, tensor)
    tensors[1] = tensors[1] + 1
    store.put(1, tensors[1])
    assert all(torch.equal(store.get(key), tensor) for key, tensor in tensors.items())
    size = store.spilled
    assert torch.equal(store.pop(0), tensors[0])
    assert 0 not in store
    store.put("new", tensors[2])
    store.get(3)
    assert torch.equal(store.get("new"), tensors[2])
    assert store.spilled == size  # the place that was free was taken
    assert not list(tmp_path.iterdir())  # the file has no name: nothing is left of a killed process
