"""``aps demo``."""

from __future__ import annotations


def demo(output_dir: str = "runs/demo", bundle: str = "la", seed: int = 0) -> None:
    """The whole method on made-up scans: train, evaluate, segment, draw.

    Args:
        output_dir: receives everything; run again to go on after an interruption.
        bundle: name or folder of the left-atrium bundle.
        seed: draws the scans and the training.
    """
    from aps_components.bundle import locate_bundle
    from aps_components.demo import run_demo

    run_demo(output_dir, bundle=locate_bundle(bundle), seed=seed)
