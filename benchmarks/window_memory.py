"""Peak memory while a bundle's networks see a window of a large scan, without the hours of all its windows.

    python benchmarks/window_memory.py

In memory lie what lies there late in a scan of 512 x 512 x 800: the scan on the network's grid, and all the tiles that
are kept in memory. Beside them the networks of amos (16 classes, random weights, fp32) see two windows; what they say
is what the stand-in of ``large_scan.py`` says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from large_scan import CLASSES, GIGABYTE, StandIn, status

ROI, GRID, TWO_WINDOWS = (160, 160, 80), (274, 274, 600), (160, 160, 120)
BLOCK = 8 * 2**20  # numbers of a tile


def main() -> None:
    """One volume of two windows."""
    import torch

    from aps_components.inference import PromptedSlidingWindowInferer, stored
    from aps_components.memory import keep_freed_memory, large_blocks_apart
    from aps_components.models import build_auto_prompt_seg

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictor", default="average", choices=("b", "average"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    network = build_auto_prompt_seg(num_classes=CLASSES, roi_size=ROI, predictor=arguments.predictor).eval()
    said = StandIn(1, clock="cpu")
    scan, part = torch.ones(GRID), torch.full((1, 1, *TWO_WINDOWS), 0.5)
    empty_store = stored.tile_store

    def full_store(*given: Any) -> Any:
        store = empty_store(*given)
        for number in range(stored.IN_MEMORY // (4 * BLOCK)):
            store.put(("another", number), torch.full((BLOCK,), float(number)))
        return store

    # Large blocks apart, as a scan of many windows has them.
    with patch.object(stored, "tile_store", full_store), large_blocks_apart():
        PromptedSlidingWindowInferer(ROI, precision="fp32").predict_stored(part, network)
    print(f"peak {status('VmHWM') / GIGABYTE:.2f} GB, with a scan of {scan.numel():,} voxels on the network's grid")
    for name, (seconds, windows) in said.report().items():
        print(f"{name}: {seconds:.1f} s of the process for a window, mean of {windows}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
