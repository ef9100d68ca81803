"""Memory and seconds of Model B's mask decoder by number of classes, forward and backward of one patch, in
bf16 where the CPU computes it.

    python benchmarks/mask_decoder.py

``decoder``: prompt encoder and mask decoder, all classes at once, masks at 1/2 of the patch.
``upsampled``: the same, and the logits brought to the patch's size, as the losses need them.
``full-size decoder``: what it would take if the decoder itself worked at the patch's size: its last stage, the
E/8 channels from which every class's mask is a product, at full instead of half the size.

Every measurement is a process of its own; its memory is the peak above what the process had before the first step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from measuring import MEBIBYTE, peak_bytes

from aps_components.machine import cpu_model

MEASURES = ("decoder", "upsampled", "full-size decoder")


def build(arguments: argparse.Namespace) -> Callable[[], None]:
    """What is measured: a call runs forward and backward."""
    import torch
    from torch.nn import functional as F

    from aps_components.models import autocast, build_auto_prompt_seg

    roi, classes, points = tuple(arguments.roi), arguments.classes, 20
    sam = build_auto_prompt_seg(num_classes=classes, roi_size=roi).model_b
    channels = sam.prompt_encoder.embed_dim

    def features(width: int, stride: int) -> torch.Tensor:
        size = [extent // stride for extent in roi]
        return torch.randn(1, width, *size).to(memory_format=torch.channels_last_3d).requires_grad_()

    embedding, quarter, half = features(channels, 8), features(64, 4), features(32, 2)
    coords = torch.stack([torch.randint(extent, (1, classes * points)) for extent in roi], dim=-1).float()
    labels = torch.arange(classes).repeat_interleave(points)[None]

    def step() -> None:
        sam.zero_grad(set_to_none=True)
        with autocast("cpu", "auto"):
            output = sam.decode(
                embedding, image_size=roi, points=(coords, labels), high_res_features=(quarter, half)
            ).low_res_logits
            if arguments.measure == "upsampled":
                output = F.interpolate(output.float(), size=roi, mode="trilinear")
            elif arguments.measure == "full-size decoder":
                fine = F.interpolate(half, size=roi, mode="trilinear")[:, : channels // 8]
                weights = torch.randn(classes, channels // 8, 1, 1, 1, requires_grad=True)
                output = output.mean() + F.conv3d(fine, weights).float()
        output.float().square().mean().backward()

    return step


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes above the start and seconds of the second step, in this process."""
    import torch

    from aps_components.memory import keep_freed_memory

    torch.manual_seed(0)
    keep_freed_memory()
    step = build(arguments)
    baseline = peak_bytes()
    step()
    start = time.perf_counter()
    step()
    return {"peak": peak_bytes() - baseline, "seconds": time.perf_counter() - start}


def in_own_process(arguments: argparse.Namespace, name: str, classes: int) -> dict[str, Any]:
    """:func:`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", name, "--classes", str(classes)]
    command += ["--roi", *map(str, arguments.roi)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(f"{name} with {classes} classes failed:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roi", type=int, nargs=3, default=(160, 160, 80), metavar=("D", "H", "W"))
    parser.add_argument("--class-counts", type=int, nargs="+", default=(2, 16, 32), help="background included")
    parser.add_argument("--classes", type=int, default=16, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    print(f"{cpu_model()}, patch {'x'.join(map(str, arguments.roi))}, 20 points a class\n")
    print("| | " + " | ".join(f"{count} classes" for count in arguments.class_counts) + " |")
    print("|---|" + "---:|" * len(arguments.class_counts))
    for name in MEASURES:
        runs = [in_own_process(arguments, name, count) for count in arguments.class_counts]
        cells = (f"{run['peak'] / MEBIBYTE:.0f} MiB, {run['seconds']:.2f} s" for run in runs)
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
