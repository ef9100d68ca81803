import pytest
import torch

from aps_components.inference import PromptedSlidingWindowInferer
from aps_components.studies.speed import REFERENCE, REFERENCE_OVERLAP, Setting, grid, window_count

SIZES = [(40, 36, 32), (17, 24, 40), (82, 33, 49), (48, 32, 16), (31, 90, 32)]


def starts(size, inferer):
    """Where the windows of an inferer really start: the image holds each voxel's place."""
    places = torch.stack(torch.meshgrid(*(torch.arange(float(length)) for length in size), indexing="ij"))[None]
    found = []

    def network(patch):
        found.extend(tuple(map(int, corner)) for corner in patch[:, :, 0, 0, 0].tolist())
        return torch.cat([patch[:, :1], -patch[:, :1]], dim=1)

    inferer(places, network)
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.3, 0.5, 0.625, REFERENCE_OVERLAP])
def test_windows_are_counted_as_the_inferer_moves_them(size, overlap):
    trained = PromptedSlidingWindowInferer((48, 32, 16), precision="fp32")
    inferer = Setting(overlap=overlap, batch=3).inferer(trained, size, stride=(16, 16, 16))
    assert window_count(size, inferer) == len(starts(size, inferer))


def test_the_reference_has_the_published_stride():
    trained = PromptedSlidingWindowInferer((112, 112, 80), precision="fp32")
    inferer = REFERENCE.inferer(trained, (149, 131, 89), stride=(16, 16, 16))
    found = starts((149, 131, 89), inferer)
    axes = [sorted({place[axis] for place in found}) for axis in range(3)]
    # The last window is moved back to the edge.
    assert axes == [[0, 18, 36, 37], [0, 18, 19], [0, 4, 8, 9]]
    assert (inferer.mode, inferer.sw_batch_size) == ("constant", 1)


def test_the_whole_scan_is_one_window_that_the_network_can_take():
    trained = PromptedSlidingWindowInferer((32, 32, 16), precision="bf16")
    inferer = Setting(overlap=None).inferer(trained, (17, 64, 40), stride=(16, 16, 16))
    assert (list(inferer.roi_size), inferer.precision) == ([32, 64, 48], "bf16")
    assert window_count((17, 64, 40), inferer) == 1


def test_grid_holds_every_combination_once():
    settings = grid(overlaps=[0, 0.5, 0.5], batches=[1, 4], blendings=["gaussian"], predictors=["a", "average"])
    assert len(settings) == len(set(settings)) == 8
    assert not any(setting.is_reference for setting in settings)
    whole = grid(overlaps=[0.5], batches=[1, 2], blendings=["gaussian", "constant"], predictors=["a"], whole=True)
    assert [setting.window for setting in whole] == ["overlap 0.5"] * 4 + ["whole scan"]
    mirrored = grid(overlaps=[0.5], batches=[1], blendings=["gaussian"], predictors=["a"], mirror_axes=[0, 2])
    assert [setting.window for setting in mirrored] == ["overlap 0.5", "overlap 0.5, 4 mirror images"]
    trained = PromptedSlidingWindowInferer((32, 32, 16), precision="bf16")
    assert mirrored[1].inferer(trained, (32, 32, 16), stride=(16, 16, 16)).mirror_axes == [(0,), (2,)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("overlaps", [1.0]),
        ("overlaps", []),
        ("batches", [0]),
        ("blendings", ["linear"]),
        ("predictors", ["c"]),
        ("mirror_axes", [3]),
    ],
)
def test_a_value_that_does_not_fit_is_named(name, values):
    arguments = {"overlaps": [0.5], "batches": [1], "blendings": ["constant"], "predictors": ["a"]}
    with pytest.raises(ValueError, match=f"^{name} "):
        grid(**arguments | {name: values})
