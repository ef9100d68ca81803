"""A convolution of few cells as a product of matrices, against oneDNN's, by turns in one process.

    python benchmarks/few_cells.py --threads 1

First single convolutions as the deepest levels of small patches have them, forward and backward; then a whole step of
Model A's V-Net on two patches.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from measuring import take_turns, turns_arguments, turns_table
from torch.nn import functional as F

from aps_components.convolution import Conv3d, plain_convolutions
from aps_components.networks.vnet import VNet

LEVELS = {
    "256 channels, 2 x 3 x 2": (256, (2, 3, 2)),
    "256, 6 x 4 x 2": (256, (6, 4, 2)),
    "320, 4 x 4 x 3": (320, (4, 4, 3)),
}
PATCHES = ((32, 48, 32), (96, 64, 32))
WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {"oneDNN": plain_convolutions, "a product": nullcontext}


def of_a_level(channels: int, grid: tuple[int, int, int]) -> Callable[[], object]:
    """Forward and backward of one convolution on two volumes."""
    convolution = Conv3d(channels, channels, kernel_size=3, padding=1).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    features = torch.randn(2, channels, *grid).to(memory_format=torch.channels_last_3d).requires_grad_()

    def run() -> None:
        convolution.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer = convolution(features)
        answer.float().square().mean().backward()

    return run


def of_a_step(patch: tuple[int, int, int]) -> Callable[[], object]:
    """A supervised step of the V-Net on two patches, AdamW included."""
    network = VNet(in_channels=1, num_classes=3).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    image = torch.randn(2, 1, *patch).to(memory_format=torch.channels_last_3d)
    label = torch.randint(3, (2, *patch))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(image).logits
        F.cross_entropy(logits.float(), label).backward()
        optimizer.step()

    return run


def both_ways(run: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """The same under either rule."""

    def under(rule: Callable[[], AbstractContextManager[None]]) -> Callable[[], object]:
        def way() -> None:
            with rule():
                run()

        return way

    return {name: under(rule) for name, rule in WAYS.items()}


def main() -> None:
    arguments = turns_arguments(__doc__)
    torch.manual_seed(0)
    work = {name: of_a_level(*level) for name, level in LEVELS.items()}
    work |= {f"V-Net, {' x '.join(map(str, patch))}": of_a_step(patch) for patch in PATCHES}
    results = {name: take_turns(both_ways(run), repeats=arguments.repeats, name=name) for name, run in work.items()}
    print(turns_table("ms, bf16", results, digits=0))


if __name__ == "__main__":
    main()
