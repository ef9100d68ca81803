"""Does a model lean on how the scans were cropped? Dice on scans that are continued beyond their borders.

    python benchmarks/larger_canvas.py BUNDLE DATASET_DIR --checkpoints a/model.pt,b/model.pt --margins 0,16,32

Preprocessed scans of the left atrium are cropped around the true mask, so a network may learn where the atrium lies in
the scan instead of what it looks like. Here every validation scan is mirrored outwards at its first two axes, by so
many voxels of the network's grid, which puts the atrium elsewhere and adds a seeming second one; the answer is measured
inside the scan alone, on that grid. Largest component and sliding window are the bundle's; no window is mirrored.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from aps_components.evaluation.markdown import markdown_table
from aps_components.evaluation.trained import TrainedModel, load_trained
from aps_components.label_map import likeliest_class


@torch.inference_mode()
def dice_inside(model: TrainedModel, case: Mapping[str, Any], *, margin: int) -> float:
    """Of a scan with a mirrored margin of so many voxels at its first two axes."""
    image = case["image"].as_tensor()[None].to(model.device)
    d, h, w = image.shape[2:]
    larger = F.pad(image, (0, 0, margin, margin, margin, margin), mode="reflect")
    probabilities = model.inferer(larger, model.network)
    inside = probabilities[..., margin : margin + d, margin : margin + h, :w]
    answer = likeliest_class(inside.cpu(), dim=1)[0, 0].numpy()
    return model.mean_dice(answer, case["label"].as_tensor()[0].numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("dataset_dir")
    parser.add_argument("--checkpoints", type=lambda text: text.split(","), required=True)
    parser.add_argument("--margins", type=lambda text: [int(margin) for margin in text.split(",")], default=[0, 16, 32])
    parser.add_argument("--predictor", default="a", choices=("a", "b", "average"))
    given = parser.parse_args()
    rows = [["checkpoint", "window", *(f"margin {margin}" for margin in given.margins)]]
    for checkpoint in given.checkpoints:
        options = {"mirror_axes": [], "predictor": given.predictor}
        model = load_trained(given.bundle, dataset_dir=given.dataset_dir, checkpoint=checkpoint, options=options)
        cases = [model.preprocessing(item) for item in tqdm(model.items, desc=checkpoint, unit="scan")]
        found = [np.mean([dice_inside(model, case, margin=margin) for case in cases]) for margin in given.margins]
        window = " x ".join(map(str, model.inferer.roi_size))
        rows.append([checkpoint, window, *(f"{100 * value:.2f}" for value in found)])
    print(markdown_table(rows, names=2))


if __name__ == "__main__":
    main()
