"""``aps clicks``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def clicks(
    out: str,
    bundle: str | None = None,
    checkpoint: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    dataset_dir: str | None = None,
    split: str = "validation",
    clicks: int = 10,
    tolerance_mm: float = 2.0,
    cases: int | None = None,
    thorough: bool = False,
    device: str | None = None,
    **options: Any,
) -> None:
    """What is a click worth? A simulated annotator clicks into the largest error, and Dice is measured against clicks.

    Args:
        out: receives clicks.json, clicks.md, clicks.csv and clicks.png; run again to go on after an interruption.
        bundle: a bundle's folder or name; its weights are taken where there is no --checkpoint.
        checkpoint: model.pt of a training, with its model.json beside it.
        images: scans, a file or a folder; with --labels.
        labels: label files, named as the scans are.
        dataset_dir: instead of those two: a dataset whose --split is taken; with --bundle.
        split: validation or test. Choose nothing on the test scans.
        clicks: the most for each scan.
        tolerance_mm: a surface within this distance counts as found in the surface Dice (NSD).
        cases: take only this number of scans, from the first on.
        thorough: ask all windows that hold a click, and their mirror images; slower.
        device: cpu, cuda or cuda:1; a GPU, if there is one, by default.
        options: other keys of model.json, or with --dataset_dir of the bundle's evaluation.
    """
    from aps_components.bundle import locate_bundle
    from aps_components.bundle.locate import require_weights
    from aps_components.evaluation.clicks import measure_clicks
    from aps_components.options import truth

    if bundle is None and checkpoint is None:
        raise ValueError("give --checkpoint, or a --bundle that holds weights")
    root = None if bundle is None else locate_bundle(bundle)
    weights = checkpoint if checkpoint is not None or root is None else require_weights(root)
    assert weights is not None
    measure_clicks(
        checkpoint=weights,
        out=out,
        images=images,
        labels=labels,
        bundle=root,
        dataset_dir=dataset_dir,
        split=split,
        clicks=clicks,
        tolerance_mm=tolerance_mm,
        cases=cases,
        thorough=truth("thorough", thorough),
        device=device,
        options=options,
    )
    print((Path(out) / "clicks.md").read_text(encoding="utf-8"))
    print(f"written: {Path(out) / 'clicks.json'}, clicks.md, clicks.csv and clicks.png")
