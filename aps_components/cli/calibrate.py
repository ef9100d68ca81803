"""``aps calibrate``."""

from __future__ import annotations

from typing import Any


def calibrate(
    bundle: str,
    dataset_dir: str,
    checkpoint: str,
    target: str,
    cases: int = 20,
    held_out: str = "validation",
    **options: Any,
) -> None:
    """Give a trained model offsets with which it finds the true volumes of the labelled scans it was trained on.

    Training adjusts offsets by itself, on patches. This command does so on whole scans, and for another sliding window.
    On labelled scans that the model did not learn from it also finds the temperature at which the probabilities are
    right, and how good the answers are. From that aps segment predicts the Dice of every scan.

    Args:
        bundle: a bundle's folder or name.
        dataset_dir: the scans that it was trained on.
        checkpoint: model.pt of a training; its model.json must lie beside it.
        target: the calibrated model.pt.
        cases: number of labelled scans, from the first on; 0 leaves the offsets as they are.
        held_out: scans that it did not learn from: validation or test, that part of the dataset, or a folder with
            others; none leaves this out.
        options: other keys of the bundle's evaluation, such as --overlap 0.25. A --predictor or --mirror_axes becomes
            the calibrated model's default in inference.
    """
    from aps_components.bundle import locate_bundle
    from aps_components.evaluation.calibrate import calibrate as adjust

    print(
        adjust(
            bundle=locate_bundle(bundle),
            dataset_dir=dataset_dir,
            checkpoint=checkpoint,
            target=target,
            cases=cases,
            held_out=held_out,
            options=options,
        )
    )
