"""Seconds and peak memory of ``aps segment`` by stage, on made-up CTs with 16 classes.

    python benchmarks/large_scan.py --sizes 256,256,400 512,512,400 512,512,800

The network is a stand-in that knows a voxel's class from its brightness, so that what is around a network is seen
alone; everything else is the bundle's own. Each size is a process. ``--network average`` runs a small AutoPromptSeg
with random weights, so that the passes of both models and the points are there; with it ``--maps`` has the maps
written, too.
``--whole`` takes the bundle's own network. With ``--every 40`` a network computes on each 40th window alone, so that
its memory is there and a window's seconds are known, and what it says is what the stand-in says: random weights give
noise, on which points, inverting and pieces take what they never take. ``--clock cpu`` counts the seconds of the
process, not those of the wall: on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Stopwatch

ROOT = Path(__file__).parents[1]
CLASSES, SPACING, NOISE = 16, (0.8, 0.8, 1.5), 4
GREY = [-1000, *range(-110, 260, 25)]  # of each class, HU
GIGABYTE = 2**30
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def make_ct(file: Path, size: Sequence[int]) -> None:
    """A body of 15 organs, balls side by side, with noise; int16."""
    from aps_components.data.nifti import write_nifti

    rng = np.random.default_rng(0)
    voxels = np.full(size, GREY[0], dtype=np.int16)
    noise = rng.normal(0, NOISE, size[:2]).astype(np.int16)
    across = [np.linspace(-1, 1, extent, dtype=np.float32) for extent in size]
    for index, height in enumerate(across[2]):
        plane = voxels[:, :, index]
        for label in range(1, CLASSES):
            angle = 2 * np.pi * label / (CLASSES - 1)
            x, y, z = 0.6 * np.cos(angle), 0.6 * np.sin(angle), 1.6 * (label % 5) / 4 - 0.8
            ball = (
                ((across[0] - x) ** 2)[:, None] / 0.03 + ((across[1] - y) ** 2)[None] / 0.03 + (height - z) ** 2 / 0.05
            )
            plane[ball < 1] = GREY[label]
        plane += np.roll(noise, int(rng.integers(size[0])), axis=0)
    write_nifti(file, voxels, np.diag([*SPACING, 1.0]))


def stand_in(**_: Any) -> Any:
    """A network that sees a voxel's class by its brightness, after the bundle's window from -125 to 275 HU."""
    import torch
    from torch import nn

    class Brightness(nn.Module):
        predictor, num_classes = "a", CLASSES

        def __init__(self) -> None:
            super().__init__()
            grey = (torch.tensor(GREY, dtype=torch.float32).clamp_min(-125) + 125) / 400
            self.grey = nn.Parameter(grey.view(1, -1, 1, 1, 1), requires_grad=False)

        def forward(self, patch: torch.Tensor) -> torch.Tensor:
            return (patch - self.grey).square_().mul_(-2000)

    return Brightness()


class StandIn:
    """The network's methods, which compute on every so manieth window and always say what the stand-in says.

    So memory is the network's own, and answers look as those of a trained one: random weights give noise, on which
    points, inverting and pieces take what they never take.

    Args:
        every: the network computes on each of so many windows.
        clock: of :data:`CLOCKS`.
    """

    def __init__(self, every: int, *, clock: str) -> None:
        from aps_components.models import AutoPromptSeg

        self.every, self.clock, self.say = every, CLOCKS[clock], stand_in()
        self.calls: dict[str, int] = defaultdict(int)
        self.seconds: dict[str, float] = defaultdict(float)
        self.last: dict[str, Any] = {}
        self.logits: Any = None
        for name in ("see_a", "embed", "answer", "logits_of_a"):
            setattr(AutoPromptSeg, name, self._instead(name, getattr(AutoPromptSeg, name), getattr(self, f"_{name}")))

    def _instead(self, name: str, real: Callable[..., Any], said: Callable[..., Any]) -> Callable[..., Any]:
        def method(network: Any, given: Any, *others: Any, **options: Any) -> Any:
            if self.calls[name] % self.every == 0:
                begun = self.clock()
                self.last[name] = self._kept(name, real(network, given, *others, **options))
                self.seconds[name] += self.clock() - begun
            self.calls[name] += 1
            return said(given)

        return method

    def _kept(self, name: str, found: Any) -> Any:
        """Of an answer only what the next step needs: features."""
        return {"see_a": lambda: found.for_b, "embed": lambda: found}.get(name, lambda: None)()

    def _see_a(self, image: Any) -> Any:
        from aps_components.models.two_models import SeenByA
        from aps_components.uncertainty import DecoupledUncertainty, MonteCarloSamples

        logits = self.say(image)
        samples = MonteCarloSamples(logits.softmax(dim=1)[None].repeat(2, 1, 1, 1, 1, 1), image[None])
        unsure = 1 - samples.probabilities[0].amax(dim=1, keepdim=True)
        return SeenByA(logits, samples, DecoupledUncertainty(unsure, unsure), self.last["see_a"].clone())

    def _embed(self, image: Any) -> Any:
        self.logits = self.say(image)
        return self.last["embed"]

    def _answer(self, _: Any) -> Any:
        from aps_components.networks.sam3d import Sam3dOutput

        return Sam3dOutput(self.logits, self.logits.new_ones(len(self.logits), CLASSES))

    def _logits_of_a(self, image: Any) -> Any:
        return self.say(image)

    def report(self) -> dict[str, list[float]]:
        """Of each method: seconds of a window, and how many there were."""
        return {name: [self.seconds[name] / -(-calls // self.every), calls] for name, calls in self.calls.items()}


class MemoryByStage(Stopwatch):
    """Also the most memory while a part ran, of which Linux keeps count; inner parts count for outer ones, too."""

    def __init__(self, clock: str) -> None:
        super().__init__()
        self.clock = CLOCKS[clock]
        self.peaks: dict[str, float] = defaultdict(float)
        self.highest = 0.0

    def _book(self) -> None:
        now = self.clock()
        if self._running:
            self.seconds[self._running[-1][0]] += now - self._since
        self._since = now
        peak = status("VmHWM")
        self.highest = max(self.highest, peak)
        for name, _ in self._running:
            self.peaks[name] = max(self.peaks[name], peak)
        Path("/proc/self/clear_refs").write_text("5")  # the count begins anew


def status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(field))


def watch_stages(watch: Stopwatch) -> None:
    """Where the stages of a scan are."""
    from aps_components.data import transforms
    from aps_components.inference import inferer, own_grid, postprocessing, saving
    from aps_components.segmentation import records

    segment = importlib.import_module("aps_components.segmentation.segment")
    watch.wrap(transforms.LoadVolumed, "__call__", "read", opaque=False)
    watch.wrap(transforms.Orientationd, "__call__", "turn")
    watch.wrap(transforms.Resampled, "__call__", "resample")
    watch.wrap(transforms.ScaleIntensityRanged, "__call__", "normalise")
    watch.wrap(inferer.PromptedSlidingWindowInferer, "predict_stored", "windows and blending")
    watch.wrap(own_grid.OwnGrid, "label_map", "invert")
    watch.wrap(own_grid.OwnGrid, "channel", "invert maps")
    watch.wrap(own_grid.OwnGrid, "label_map_and_confidence", "invert")
    watch.wrap(postprocessing, "kept_pieces", "largest components")
    watch.wrap(saving.SaveOnScansGridd, "__call__", "write", opaque=False)
    watch.wrap(segment, "sign", "write")
    watch.wrap(segment._Run, "_measure", "statistics")
    watch.wrap(segment._Run, "_draw", "picture")
    watch.wrap(records, "scan_hash", "hashes")


def weights(folder: Path, network: str, *, whole: bool) -> dict[str, Any]:
    """A file of weights for the bundle and the settings that go with it."""
    import torch

    from aps_components.models import build_auto_prompt_seg

    options: dict[str, Any] = {} if whole else {"filters": 4, "sam_variant": "tiny"}
    file = folder / "model.pt"
    if network == "brightness":
        file.write_bytes(b"none")
        unused = {
            key: f"@{key}" for key in ("predictor", "mc_samples", "backbone", "strides", "kernel_sizes", "fusion")
        }
        definition = {"_target_": "large_scan.stand_in", **unused}
        return {"network_def": definition, "load_pretrain": False, "checkpoint": str(file)}
    torch.save(build_auto_prompt_seg(num_classes=CLASSES, roi_size=(160, 160, 80), **options).state_dict(), file)
    changes = {f"network_def#{key}": value for key, value in options.items()}
    return {**changes, "predictor": network, "checkpoint": str(file), "precision": "fp32"}


def measure(size: Sequence[int], arguments: argparse.Namespace) -> dict[str, Any]:
    """One scan, in this process."""
    import torch

    from aps_components.segmentation import segment

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        folder = Path(place)
        make_ct(folder / "ct.nii.gz", size)
        config = folder / "stand_in.json"
        config.write_text(json.dumps(weights(folder, arguments.network, whole=arguments.whole)))
        watch = MemoryByStage(arguments.clock)
        watch_stages(watch)
        network = StandIn(arguments.every, clock=arguments.clock) if arguments.every else None
        with watch.part("rest", opaque=False):
            result = segment(
                folder / "ct.nii.gz",
                folder / "out",
                bundle=ROOT / "bundles" / "amos",
                configs=[str(config)],
                maps=arguments.maps,
            )
        if result.failed:
            raise RuntimeError(str(result.failed))
    said = network.report() if network else {}
    return {"seconds": dict(watch.seconds), "peaks": dict(watch.peaks), "peak": watch.highest, "network": said}


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each stage, two columns for each size."""
    stages = list(dict.fromkeys(stage for result in results.values() for stage in result["seconds"]))
    lines = ["| stage | " + " | ".join(f"{size}, s | peak GB" for size in results) + " |"]
    lines.append("|---|" + "---:|---:|" * len(results))
    for stage in stages:
        cells = [
            f"{r['seconds'].get(stage, 0):.1f} | {r['peaks'].get(stage, 0) / GIGABYTE:.2f}" for r in results.values()
        ]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    cells = [f"{sum(r['seconds'].values()):.1f} | {r['peak'] / GIGABYTE:.2f}" for r in results.values()]
    lines.append("| all | " + " | ".join(cells) + " |")
    for size, result in results.items():
        said = [f"{name} {seconds:.2f} s, {calls} windows" for name, (seconds, calls) in result["network"].items()]
        lines += [f"\nThe network, {size}: {'; '.join(said)}"] if said else []
    return "\n".join(lines)


def main() -> None:
    """Each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["256,256,400", "512,512,400", "512,512,800"])
    parser.add_argument("--network", default="brightness", choices=("brightness", "a", "b", "average"))
    parser.add_argument("--whole", action="store_true", help="the bundle's own network, not a small one")
    parser.add_argument("--every", type=int, help="the network computes on every so manieth window alone")
    parser.add_argument("--maps", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=tuple(CLOCKS))
    parser.add_argument("--folder", help="where scans and results lie for a while")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.maps and arguments.network == "brightness":
        parser.error("--maps needs a network that is unsure: give --network average, a or b, too")
    if arguments.one:
        print(json.dumps(measure([int(side) for side in arguments.sizes[0].split(",")], arguments)))
        return
    results = {}
    for size in arguments.sizes:
        given = [word for word in sys.argv[1:] if word not in (*arguments.sizes, "--sizes")]
        done = subprocess.run(
            [sys.executable, __file__, "--one", *given, "--sizes", size], stdout=subprocess.PIPE, text=True, check=True
        )
        results[size.replace(",", " x ")] = json.loads(done.stdout.splitlines()[-1])
    print(table(results))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
