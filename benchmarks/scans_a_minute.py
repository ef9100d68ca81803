"""Scans a minute of ``aps segment``, one after another and with the next one read and the last one written meanwhile.

    python benchmarks/scans_a_minute.py --scans 8 --size 192,192,120

Made-up CTs and the bundle of ``large_scan.py``. ``--network brightness``, the default, is a stand-in that costs next to
nothing, so that reading and writing are most of the time; ``average`` is a small AutoPromptSeg. What overlaps needs a
second core: on one, both ways take the same.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from large_scan import ROOT, make_ct, weights
from measuring import take_turns


def main() -> None:
    """Both ways in turns, in one process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--size", default="192,192,120")
    parser.add_argument("--network", default="brightness", choices=("brightness", "a", "b", "average"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where scans and results lie for a while")
    arguments = parser.parse_args()

    import torch

    segment = importlib.import_module("aps_components.segmentation.segment")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        folder = Path(place)
        (folder / "scans").mkdir()
        for number in range(arguments.scans):
            make_ct(folder / "scans" / f"{number:03d}.nii.gz", [int(side) for side in arguments.size.split(",")])
        config = folder / "stand_in.json"
        config.write_text(json.dumps(weights(folder, arguments.network, whole=False)))

        def run() -> None:
            target = folder / f"out_{time.monotonic_ns()}"
            bundle = ROOT / "bundles" / "amos"
            done = segment.segment(folder / "scans", target, bundle=bundle, configs=[str(config)], device="cpu")
            if done.failed:
                raise RuntimeError(str(done.failed))

        def one_by_one() -> None:
            with patch.object(segment._Run, "_both_fit", lambda *_: False):
                run()

        ways = {"one after another": one_by_one, "read ahead, written behind": run}
        turns = take_turns(ways, repeats=arguments.repeats, name="segmenting")
    print("| way | scans a minute | range |\n|---|---:|---:|")
    for way, seconds in turns.items():
        rates = sorted(60 * arguments.scans / each for each in seconds)
        print(f"| {way} | {rates[len(rates) // 2]:.1f} | {rates[0]:.1f} to {rates[-1]:.1f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
