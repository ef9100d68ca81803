"""Normalisations side by side: forward and backward of conv, norm, ReLU, conv in channels_last_3d, and in bf16
where the CPU computes it.

    python benchmarks/normalisation.py --repeats 10

The kinds take turns, so that whatever else the machine does meets them all alike. The median of the turns is printed
and their range: differences within it say nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from measuring import take_turns, turns_arguments, turns_table
from torch import Tensor, nn

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


def forward_and_backward(network: nn.Module, features: Tensor) -> None:
    """What is timed."""
    with autocast("cpu", "auto"):
        output = network(features)
    output.float().square().mean().backward()


def measure(size: tuple[int, ...], *, repeats: int) -> dict[str, list[float]]:
    """Seconds of every turn of each normalisation."""
    features = torch.randn(size).to(memory_format=torch.channels_last_3d).requires_grad_()
    ways = {name: partial(forward_and_backward, stack(make()), features) for name, make in NORMS.items()}
    return take_turns(ways, repeats=repeats, name=str(list(size)))


def main() -> None:
    arguments = turns_arguments(__doc__)
    results = {str(list(size)): measure(size, repeats=arguments.repeats) for size in SHAPES}
    print(f"Milliseconds: median and range of {arguments.repeats} turns, {arguments.threads} threads")
    print(f"torch {torch.__version__}, {resolved_precision('cpu', 'auto')}\n")
    print(turns_table("normalisation", results, digits=0))


if __name__ == "__main__":
    main()
