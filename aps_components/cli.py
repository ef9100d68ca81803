"""The ``aps`` command."""

from __future__ import annotations

import sys
from pathlib import Path

import fire

REPOSITORY = Path(__file__).resolve().parents[1]


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


def phantoms(
    output_dir: str,
    labeled: int = 8,
    unlabeled: int = 32,
    validation: int = 4,
    test: int = 8,
    seed: int = 0,
) -> None:
    """Write made-up scans of an atrium-like shape, with a datalist, to try things on.

    Args:
        output_dir: receives images/, labels/ and datalist.json.
        labeled: training scans with a label.
        unlabeled: training scans without.
        validation: scans to choose settings on.
        test: scans for the final figures.
        seed: the same seed writes the same bytes.
    """
    from aps_components.data.phantoms import write_phantoms

    print(write_phantoms(output_dir, labeled=labeled, unlabeled=unlabeled, validation=validation, test=test, seed=seed))


def overview(image: str, output_dir: str, path: str = "overview.png", truth: str | None = None) -> None:
    """Draw a segmented scan: image, truth, prediction, uncertainty maps, prompt points.

    Args:
        image: the scan.
        output_dir: where inference (with --save_maps true) wrote its files.
        path: of the PNG file.
        truth: label map, if there is one.
    """
    from aps_components.evaluation import overview_from_files

    print(overview_from_files(path, image=image, output_dir=output_dir, truth=truth))


def main() -> None:
    """Run the command that the arguments name."""
    try:
        fire.Fire({"demo": demo, "phantoms": phantoms, "overview": overview}, name="aps")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
