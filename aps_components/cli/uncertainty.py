"""``aps uncertainty``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aps_components.cli.arguments import several


def uncertainty(
    bundle: str,
    dataset_dir: str,
    checkpoint: str,
    out: str,
    split: str = "validation",
    noise: float | Sequence[float] = (0, 0.1, 0.2, 0.4),
    band_mm: float = 10.0,
    cases: int | None = None,
    seed: int = 0,
    **options: Any,
) -> None:
    """Does the uncertainty find errors, answer to noise and labels, and are probabilities calibrated? A report.

    Args:
        bundle: a bundle's folder or name.
        dataset_dir: the scans.
        checkpoint: model.pt of a training; several, with commas between, trained with different numbers of labels.
        out: receives report.md, report.json and plots; run again to go on after an interruption.
        split: validation or test. Choose nothing on the test scans.
        noise: standard deviations of the noise added to the normalised image, such as 0,0.1,0.2,0.4.
        band_mm: reach of the band around a surface in which the difficult voxels lie.
        cases: take only this number of scans, from the first on.
        seed: draws the noise.
        options: other keys of the bundle's evaluation, such as --mc_samples 8 or --overlap 0.25.
    """
    from aps_components.bundle import locate_bundle
    from aps_components.studies.uncertainty import check_uncertainty

    report = check_uncertainty(
        bundle=locate_bundle(bundle),
        dataset_dir=dataset_dir,
        checkpoints=several(checkpoint),
        out=out,
        split=split,
        noises=several(noise),
        band_mm=band_mm,
        cases=cases,
        seed=seed,
        options=options,
    )
    print(f"written: {report}, report.json and plots beside it")
