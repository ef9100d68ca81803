"""``aps pseudo-label``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aps_components.cli.arguments import several


def pseudo_label(bundle: str, dataset_dir: str, checkpoints: str | Sequence[str], target: str, **options: Any) -> None:
    """Make a dataset whose unlabelled scans have the labels of several trained models together, to train one on it.

    Args:
        bundle: a bundle's folder or name.
        dataset_dir: the scans that the models were trained on.
        checkpoints: model.pt of one or more trainings, separated by commas, or as a list, "['/a,b/model.pt']"; their
            model.json must lie beside them.
        target: a folder for the labels and the datalist.
        options: other keys of the bundle's evaluation, such as --overlap 0.25, or --predictor a; without it each model
            answers as in inference.
    """
    from aps_components.bundle import locate_bundle
    from aps_components.evaluation.pseudo_labels import pseudo_label as label

    print(
        label(
            bundle=locate_bundle(bundle),
            dataset_dir=dataset_dir,
            checkpoints=[str(checkpoint) for checkpoint in several(checkpoints)],
            target=target,
            options=options,
        )
    )
