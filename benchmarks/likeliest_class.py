"""The likeliest class of each voxel: ``aps_components.label_map.likeliest_class`` beside ``torch.argmax``.

    python benchmarks/likeliest_class.py --repeats 10

Both take turns, so that whatever else the machine does meets them alike. The median of the turns is printed and their
range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from aps_components.label_map import likeliest_class

# Scores and the axis of their classes: four patches in training, a scan in inference, many organs.
CASES = (((4, 2, 64, 64, 48), 1), ((2, 320, 320, 88), 0), ((16, 160, 160, 88), 0))
WAYS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "likeliest_class": lambda scores, dim: likeliest_class(scores, dim=dim),
    "argmax": lambda scores, dim: scores.argmax(dim=dim, keepdim=True),
}


def measure(size: tuple[int, ...], dim: int, *, repeats: int) -> dict[str, list[float]]:
    """Seconds of every turn of each way; the first turn warms up and does not count."""
    scores = torch.rand(size)
    turns: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in tqdm(range(repeats + 1), desc=f"{list(size)}", leave=False):
        for name, way in WAYS.items():
            start = time.perf_counter()
            way(scores, dim)
            if turn:
                turns[name].append(time.perf_counter() - start)
    return turns


def cell(turns: list[float]) -> str:
    """Median and range in milliseconds."""
    return f"{1000 * statistics.median(turns):.1f} ({1000 * min(turns):.1f}-{1000 * max(turns):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="turns of each, after one to warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = [measure(size, dim, repeats=arguments.repeats) for size, dim in CASES]
    print(f"Milliseconds: median and range of {arguments.repeats} turns, {arguments.threads} threads")
    print("\n| way | " + " | ".join(str(list(size)) for size, _ in CASES) + " |")
    print("|---|" + "---:|" * len(CASES))
    for name in WAYS:
        print(f"| {name} | " + " | ".join(cell(turns[name]) for turns in results) + " |")


if __name__ == "__main__":
    main()
