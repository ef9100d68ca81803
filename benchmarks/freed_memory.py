"""What the C library does with freed memory: a training step of the V-Net under three policies of glibc.

    python benchmarks/freed_memory.py --repeats 5

``kept``: freed blocks stay on the heap, as the bundles' training has it. ``default``: glibc's own. ``returned``: blocks
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

from tqdm import tqdm

POLICIES = ("kept", "default", "returned")
M_MMAP_THRESHOLD = -3
SHAPES = ((4, 1, 64, 64, 48), (1, 1, 112, 112, 80))
WARM_UP, STEPS = 2, 5


def measure(policy: str, shape: tuple[int, ...]) -> dict[str, float]:
    """In this process: seconds and page faults of a step, and the peak in MiB."""
    import torch

    from aps_components.models import autocast
    from aps_components.networks.vnet import VNet
    from aps_components.training import keep_freed_memory

    if policy == "kept":
        keep_freed_memory()
    elif policy == "returned":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 4 * 2**20)
    image = torch.randn(shape).to(memory_format=torch.channels_last_3d)
    network = VNet().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    seconds = []
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        with autocast("cpu", "auto"):
            output = network(image)
        output.logits.float().square().mean().backward()
        seconds.append(time.perf_counter() - start)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": statistics.median(seconds[WARM_UP:]),
        "faults": (usage.ru_minflt - faults) / STEPS,
        "peak": usage.ru_maxrss / 1024,
    }


def in_own_process(policy: str, shape: tuple[int, ...]) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", json.dumps([policy, shape])]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        policy, shape = json.loads(arguments.measure)
        print(json.dumps(measure(policy, tuple(shape))))
        return
    print(f"Forward and backward of the V-Net: median and range of {arguments.repeats} turns\n")
    print("| patches | freed memory | s | range | page faults | peak MiB |\n|---|---|---:|---:|---:|---:|")
    for shape in SHAPES:
        turns: dict[str, list[dict[str, float]]] = {policy: [] for policy in POLICIES}
        for _ in tqdm(range(arguments.repeats), desc=str(list(shape)), leave=False):
            for policy in POLICIES:
                turns[policy].append(in_own_process(policy, shape))
        for policy, results in turns.items():
            seconds = [result["seconds"] for result in results]
            faults, peak = (statistics.median(result[key] for result in results) for key in ("faults", "peak"))
            middle, span = f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}-{max(seconds):.2f}"
            print(f"| {list(shape)} | {policy} | {middle} | {span} | {faults:,.0f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
