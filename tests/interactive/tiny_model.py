"""A tiny network of three classes, and a scan whose axes are turned and mirrored."""

import numpy as np

ROI = [32, 32, 32]
NETWORK = {"filters": 4, "sam_variant": "tiny", "prompts": {"min_probability": 0.1, "radius": 4}}
LABELS = {"0": "background", "1": "kidney", "2": "liver"}
SETTINGS = {
    "labels": LABELS,
    "spacing": [1.5, 1.25, 2.0],
    "roi_size": ROI,
    "intensity": "zscore",
    "simulated_user": {},
    "largest_component": False,
    "precision": "fp32",
    "network_def": NETWORK,
}
SHAPE = (31, 43, 19)  # sizes that cannot be confused
AFFINE = np.array([[0.0, -1.0, 0, 20], [-0.75, 0, 0, 35], [0, 0, 2.5, -7], [0, 0, 0, 1]])
