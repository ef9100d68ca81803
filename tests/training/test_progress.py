from pathlib import Path
from unittest.mock import patch

import pytest
from matplotlib.axes import Axes

from aps_components.training.progress import plot_progress


def epoch(number, **more):
    losses = {"loss": 2.0 / number, "iou": 0.0, "gradient_norm": 3.0}
    line = {"epoch": number, "iteration": 10 * number, "seconds_per_iteration": 1.5, "learning_rate": 0.1 / number}
    return line | {"losses": losses} | more


@pytest.mark.parametrize("count", [1, 3])
def test_it_draws_what_the_epochs_hold(tmp_path, count):
    """A loss of 0 has no place on a log scale, nor has an undefined figure anywhere; the gradient is no loss."""
    history = [epoch(number) for number in range(1, count)]
    history.append(epoch(count, validation={"dice_a": 0.5, "prompt_precision": None}))
    with patch.object(Axes, "plot", autospec=True, side_effect=Axes.plot) as plot:
        plot_progress(history, tmp_path / "progress.png")
    drawn = {call.kwargs["label"]: call.args[1:] for call in plot.call_args_list if "label" in call.kwargs}
    assert drawn == {
        "loss": (tuple(10 * n for n in range(1, count + 1)), tuple(2.0 / n for n in range(1, count + 1))),
        "dice a": ((10 * count,), (50.0,)),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["progress.png"]
    assert Path(tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
