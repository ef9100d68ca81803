"""The likeliest class of each voxel: ``aps_components.label_map.likeliest_class`` beside ``torch.argmax``.

    python benchmarks/likeliest_class.py --repeats 10

Both take turns, so that whatever else the machine does meets them alike. The median of the turns is printed and their
range.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from measuring import take_turns, turns_arguments, turns_table
from torch import Tensor

from aps_components.label_map import likeliest_class

# Scores and the axis of their classes: four patches in training, a scan in inference, many organs.
CASES = (((4, 2, 64, 64, 48), 1), ((2, 320, 320, 88), 0), ((16, 160, 160, 88), 0))
WAYS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "likeliest_class": lambda scores, dim: likeliest_class(scores, dim=dim),
    "argmax": lambda scores, dim: scores.argmax(dim=dim, keepdim=True),
}


def measure(size: tuple[int, ...], dim: int, *, repeats: int) -> dict[str, list[float]]:
    """Seconds of every turn of each way."""
    scores = torch.rand(size)
    ways = {name: partial(way, scores, dim) for name, way in WAYS.items()}
    return take_turns(ways, repeats=repeats, name=str(list(size)))


def main() -> None:
    arguments = turns_arguments(__doc__)
    results = {str(list(size)): measure(size, dim, repeats=arguments.repeats) for size, dim in CASES}
    print(f"Milliseconds: median and range of {arguments.repeats} turns, {arguments.threads} threads\n")
    print(turns_table("way", results, digits=1))


if __name__ == "__main__":
    main()
