"""What the C library does with freed memory: a training step of the V-Net, and a whole volume's inference by the whole
network, under three policies of glibc.

    python benchmarks/freed_memory.py --repeats 5

``kept``: freed blocks stay on the heap, as the bundles have it. ``default``: glibc's own. ``returned``: blocks
of 4 MiB and more go back to the system as soon as they are freed.

Every turn is a process of its own, so that its peak is its own; the policies take turns, so that whatever else the
machine does meets them all alike. The median is printed, and the range of the seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

POLICIES = ("kept", "default", "returned")
M_MMAP_THRESHOLD = -3
WINDOW = (64, 64, 48)
WORKLOADS = {  # of what: patches to train on, or one volume to segment by windows
    "training, 4 patches of 64 x 64 x 48": ("training", (4, 1, *WINDOW)),
    "training, a patch of 112 x 112 x 80": ("training", (1, 1, 112, 112, 80)),
    "inference, a volume of 96 x 96 x 72": ("inference", (1, 1, 96, 96, 72)),
}
WARM_UP, STEPS = 2, 5


def training_step(shape: tuple[int, ...]) -> Callable[[], object]:
    """Forward and backward of the V-Net."""
    import torch

    from aps_components.models import autocast
    from aps_components.networks.vnet import VNet

    image = torch.randn(shape).to(memory_format=torch.channels_last_3d)
    network = VNet().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def step() -> None:
        with autocast("cpu", "auto"):
            output = network(image)
        output.logits.float().square().mean().backward()

    return step


def inference(shape: tuple[int, ...]) -> Callable[[], object]:
    """Model A, its samples, the prompts and Model B in eight windows."""
    import torch

    from aps_components.inference import PromptedSlidingWindowInferer
    from aps_components.models import build_auto_prompt_seg

    image = torch.randn(shape)
    network = build_auto_prompt_seg(num_classes=2, in_channels=1, roi_size=WINDOW).eval()
    inferer = PromptedSlidingWindowInferer(WINDOW)
    return lambda: inferer.predict(image, network)


def measure(policy: str, kind: str, shape: tuple[int, ...]) -> dict[str, float]:
    """In this process: seconds and page faults of a step, and the peak in MiB."""
    from aps_components.memory import keep_freed_memory

    if policy == "kept":
        keep_freed_memory()
    elif policy == "returned":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 4 * 2**20)
    execute = {"training": training_step, "inference": inference}[kind](shape)
    seconds = []
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        execute()
        seconds.append(time.perf_counter() - start)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": statistics.median(seconds[WARM_UP:]),
        "faults": (usage.ru_minflt - faults) / STEPS,
        "peak": usage.ru_maxrss / 1024,
    }


def in_own_process(policy: str, workload: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", json.dumps([policy, *WORKLOADS[workload]])]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        policy, kind, shape = json.loads(arguments.measure)
        print(json.dumps(measure(policy, kind, tuple(shape))))
        return
    print(f"Median and range of {arguments.repeats} turns\n")
    print("| work | freed memory | s | range | page faults | peak MiB |\n|---|---|---:|---:|---:|---:|")
    for workload in WORKLOADS:
        turns: dict[str, list[dict[str, float]]] = {policy: [] for policy in POLICIES}
        for _ in tqdm(range(arguments.repeats), desc=workload, leave=False):
            for policy in POLICIES:
                turns[policy].append(in_own_process(policy, workload))
        for policy, results in turns.items():
            seconds = [result["seconds"] for result in results]
            faults, peak = (statistics.median(result[key] for result in results) for key in ("faults", "peak"))
            middle, span = f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}-{max(seconds):.2f}"
            print(f"| {workload} | {policy} | {middle} | {span} | {faults:,.0f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
