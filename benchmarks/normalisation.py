"""Normalisations side by side: forward and backward of conv, norm, ReLU, conv in channels_last_3d, and in bf16
where the CPU computes it.

    python benchmarks/normalisation.py --repeats 10

The kinds take turns, so that whatever else the machine does meets them all alike. The median of the turns is printed
and their range: differences within it say nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from aps_components.models import autocast, resolved_precision
from aps_components.networks.instance_norm import InstanceNorm

CHANNELS = 16
SHAPES = ((1, CHANNELS, 112, 112, 80), (4, CHANNELS, 64, 64, 48))
NORMS: dict[str, Callable[[], nn.Module]] = {
    "aps_components InstanceNorm": lambda: InstanceNorm(CHANNELS),
    "torch InstanceNorm3d": lambda: nn.InstanceNorm3d(CHANNELS, affine=True),
    "torch GroupNorm(C, C)": lambda: nn.GroupNorm(CHANNELS, CHANNELS),
    "torch BatchNorm3d": lambda: nn.BatchNorm3d(CHANNELS),
    "no normalisation": nn.Identity,
}


def stack(norm: nn.Module) -> nn.Module:
    """As in the V-Net's finest level, where normalisation costs most."""
    layers = nn.Sequential(
        nn.Conv3d(CHANNELS, CHANNELS, kernel_size=3, padding=1),
        norm,
        nn.ReLU(inplace=True),
        nn.Conv3d(CHANNELS, CHANNELS, kernel_size=3, padding=1),
    )
    return layers.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def seconds(network: nn.Module, features: Tensor) -> float:
    """Of one forward and backward."""
    start = time.perf_counter()
    with autocast("cpu", "auto"):
        output = network(features)
    output.float().square().mean().backward()
    return time.perf_counter() - start


def measure(size: tuple[int, ...], *, repeats: int) -> dict[str, list[float]]:
    """Seconds of every turn of each normalisation; the first turn warms up and does not count."""
    features = torch.randn(size).to(memory_format=torch.channels_last_3d).requires_grad_()
    networks = {name: stack(make()) for name, make in NORMS.items()}
    turns: dict[str, list[float]] = {name: [] for name in NORMS}
    for turn in tqdm(range(repeats + 1), desc=f"{list(features.shape)}", leave=False):
        for name, network in networks.items():
            taken = seconds(network, features)
            if turn:
                turns[name].append(taken)
    return turns


def cell(turns: list[float]) -> str:
    """Median and range in milliseconds."""
    return f"{1000 * statistics.median(turns):.0f} ({1000 * min(turns):.0f}-{1000 * max(turns):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="turns of each, after one to warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = [measure(size, repeats=arguments.repeats) for size in SHAPES]
    print(f"Milliseconds: median and range of {arguments.repeats} turns, {arguments.threads} threads")
    print(f"torch {torch.__version__}, {resolved_precision('cpu', 'auto')}\n")
    print("| normalisation | " + " | ".join(str(list(size)) for size in SHAPES) + " |")
    print("|---|" + "---:|" * len(SHAPES))
    for name in NORMS:
        print(f"| {name} | " + " | ".join(cell(result[name]) for result in results) + " |")


if __name__ == "__main__":
    main()
