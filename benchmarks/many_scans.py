"""Start-up, memory and seconds an iteration of the training loader with many scans: cached in memory, or on the disk.

    python benchmarks/many_scans.py --scans 1000 --size 96,96,64

Made-up scans, of which one in ten is labelled, are loaded, resampled and normalised as a training does it; then patches
are drawn. ``memory`` is today's default, ``--cache_rate 1``; ``disk`` is ``--cache_dir`` of an empty folder, ``disk
again`` the same folder in a second training; ``neither`` is ``--cache_rate 0``. Each is a process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import peak_bytes

WAYS = ("memory", "disk", "disk again", "neither")
TRAIN_JSON = Path(__file__).parents[1] / "bundles" / "la" / "configs" / "train.json"
ROI, SPACING, EACH = (64, 64, 48), (1.0, 1.0, 1.5), 10
AFFINE = np.diag([1.2, 1.2, 1.5, 1.0])


def make_scans(folder: Path, count: int, size: Sequence[int]) -> None:
    """NIfTI files, int16, that differ; every tenth has a label."""
    from aps_components.data.nifti import write_nifti

    rng = np.random.default_rng(0)
    noise = rng.normal(100, 40, size).astype(np.int16)
    for index in range(count):
        voxels = np.roll(noise, index, axis=0) + np.int16(index % 50)
        write_nifti(folder / f"{index:05d}.nii.gz", voxels, AFFINE)
        if index % EACH == 0:
            write_nifti(
                folder / f"{index:05d}_label.nii.gz", (voxels > 150).astype(np.uint8), np.diag([1.2, 1.2, 1.5, 1.0])
            )


def items(folder: Path) -> list[dict[str, str]]:
    """As a datalist gives them."""
    scans = sorted(file for file in folder.glob("*.nii.gz") if not file.name.endswith("_label.nii.gz"))
    found = []
    for scan in scans:
        label = scan.with_name(scan.name.replace(".nii.gz", "_label.nii.gz"))
        found.append({"image": str(scan)} | ({"label": str(label)} if label.is_file() else {}))
    return found


def transforms() -> Any:
    """Those of a bundle."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(TRAIN_JSON))
    for key, value in {"roi_size": list(ROI), "spacing": list(SPACING), "intensity": "zscore"}.items():
        parser[key] = value
    return parser.get_parsed_content("train#preprocessing")


def measure(way: str, folder: Path, iterations: int) -> dict[str, Any]:
    """One way, in this process."""
    import torch

    from aps_components.data import (
        case_identities,
        check_cases,
        training_dataset,
        two_stream_loader,
    )

    torch.set_num_threads(1)
    started = time.perf_counter()
    before = peak_bytes()
    cache_dir = folder / "cache" if way.startswith("disk") else None
    data = check_cases(items(folder), cache_dir=cache_dir, progress=False)
    case_identities(data, cache_dir=cache_dir)
    dataset = training_dataset(
        data,
        transforms(),
        cache_rate=0.0 if way == "neither" else 1.0,
        cache_dir=cache_dir,
        progress=False,
    )
    loader = two_stream_loader(dataset, labeled_batch=2, unlabeled_batch=2, epoch_length=iterations, seed=0)
    ready = time.perf_counter()
    for batch in loader:
        assert batch["unlabeled"]["image"].shape[2:] == ROI
    done = time.perf_counter()
    return {"start": ready - started, "iteration": (done - ready) / iterations, "memory": peak_bytes() - before}


def main() -> None:
    """All ways, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=1000)
    parser.add_argument("--size", default="96,96,64")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--folder", help="where scans and the cache lie for a while")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, Path(arguments.folder), arguments.iterations)))
        return
    print("| cache | start, s | s an iteration | memory, GB |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        make_scans(Path(folder), arguments.scans, [int(side) for side in arguments.size.split(",")])
        for way in WAYS:
            command = [
                sys.executable,
                __file__,
                "--one",
                way,
                "--folder",
                folder,
                "--iterations",
                str(arguments.iterations),
            ]
            found = json.loads(
                subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
            )
            print(
                f"| {way} | {found['start']:.1f} | {found['iteration']:.3f} | {found['memory'] / 2**30:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
