"""``aps benchmark``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aps_components.cli.arguments import several


def benchmark(
    bundle: str,
    dataset_dir: str,
    checkpoint: str,
    out: str,
    split: str = "validation",
    cases: int | None = None,
    reference_cases: int = 2,
    overlaps: float | Sequence[float] = (0, 0.25, 0.5, 0.625),
    batches: int | Sequence[int] = (1, 2, 4),
    blendings: str | Sequence[str] = ("gaussian", "constant"),
    predictors: str | Sequence[str] = ("average", "a"),
    whole: bool = False,
    mirror_axes: int | Sequence[int | Sequence[int]] = (),
    seed: int = 0,
    **options: Any,
) -> None:
    """Which sliding window is worth its time: Dice against seconds, beside the stride of published figures.

    Args:
        bundle: a bundle's folder or name.
        dataset_dir: the scans.
        checkpoint: model.pt of a training.
        out: receives table.md, table.csv and speed.png; run again to go on after an interruption.
        split: validation or test. Choose nothing on the test scans.
        cases: take only this number of scans, from the first on.
        reference_cases: scans on which the reference, many windows, is measured; 0 leaves it out.
        overlaps: shares by which neighbouring windows overlap, in [0, 1).
        batches: windows at once.
        blendings: gaussian, constant.
        predictors: average, a, b; a is the V-Net alone.
        whole: also the whole scan as one window.
        mirror_axes: each setting also with mirror images of every window along these axes, such as 0,1,2;
            "[[0,1]]" flips both together.
        seed: draws the orders in which the settings run.
        options: other keys of the bundle's evaluation, such as --precision fp32.
    """
    from aps_components.bundle import locate_bundle
    from aps_components.options import truth
    from aps_components.studies.speed import benchmark as measure
    from aps_components.studies.speed import grid

    table = measure(
        bundle=locate_bundle(bundle),
        dataset_dir=dataset_dir,
        checkpoint=checkpoint,
        out=out,
        settings=grid(
            overlaps=several(overlaps),
            batches=several(batches),
            blendings=several(blendings),
            predictors=several(predictors),
            whole=truth("whole", whole),
            mirror_axes=several(mirror_axes),
        ),
        split=split,
        cases=cases,
        reference_cases=reference_cases,
        seed=seed,
        options=options,
    )
    print(f"\n{table.read_text(encoding='utf-8')}\nwritten: {table}, table.csv and speed.png beside it")
