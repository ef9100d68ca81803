"""``aps demo``."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def demo(output_dir: str = "runs/demo", bundle: str = str(REPOSITORY / "bundles" / "la"), seed: int = 0) -> None:
    """The whole method on made-up scans: train, evaluate, segment, draw.

    Args:
        output_dir: where everything goes; run again to go on after an interruption.
        bundle: folder of the left-atrium bundle.
        seed: of the scans and the training.
    """
    if not (Path(bundle) / "configs" / "train.json").is_file():
        raise FileNotFoundError(f"no bundle at {bundle}: give the folder of bundles/la with --bundle")
    from aps_components.demo import run_demo

    run_demo(output_dir, bundle=bundle, seed=seed)
