import pytest
import torch

from aps_components.networks.sam3d.window import balanced_window, window_partition, window_unpartition


@pytest.mark.parametrize(
    ("grid", "window_size", "expected"),
    [
        ((14, 14, 10), 7, (7, 7, 5)),
        ((14, 14, 10), 14, (14, 14, 10)),
        ((3, 5, 2), 2, (2, 2, 2)),
        ((20, 20, 10), 7, (7, 7, 5)),
        ((1, 11, 13), 5, (1, 4, 5)),
    ],
)
def test_balanced_window(grid, window_size, expected):
    assert balanced_window(grid, window_size) == expected


@pytest.mark.parametrize("window", [(3, 5, 2), (2, 3, 2), (1, 4, 5)])
def test_partition_and_back(window):
    x = torch.randn(2, 3, 5, 2, 7)
    windows = window_partition(x, window)
    assert windows.shape[1:] == (*window, 7)
    assert windows.square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-5)  # zeros pad
    assert window_unpartition(windows, (3, 5, 2)).equal(x)


def test_a_window_holds_neighbours():
    x = torch.arange(4 * 6 * 2).view(1, 4, 6, 2, 1)
    windows = window_partition(x, (2, 3, 2))
    assert len(windows) == 4
    assert windows[1].equal(x[0, :2, 3:])
    assert windows[2].equal(x[0, 2:, :3])
