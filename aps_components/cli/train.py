"""``aps train``."""

from __future__ import annotations

from typing import Any


def train(
    data: str,
    out: str,
    labels: str | None = None,
    time: str = "4h",
    device: str | None = None,
    seed: int = 0,
    dry_run: bool = False,
    spacing: list[float] | None = None,
    roi_size: list[int] | None = None,
    images: str | None = None,
    labels_dir: str | None = None,
    jobs: int | None = None,
    pretrained: str | None = None,
    recipe: dict[str, Any] | None = None,
    labeled_slices: str | None = None,
    **options: Any,
) -> None:
    """From scans, a few of them labelled, to the best model that a time allows: a complete bundle in OUT/bundle.

    Run it again to go on after any end. What it runs stands in OUT/commands.sh, what it measured in OUT/training.json.

    Args:
        data: a folder with images/ and labels/, nnU-Net's raw folder, one of the Decathlon, or a datalist's file.
        out: receives everything; missing, empty, or of an earlier call with the same options.
        labels: names of the label values, as in "1:liver,2:tumour,255:ignore"; "ignore" means not labelled.
        time: limit for all of it, such as 4h, 90m or 1h30m.
        device: cpu, cuda or cuda:1; a GPU, if there is one, by default.
        seed: draws folds and trainings.
        dry_run: print the plan with its times, and write nothing into OUT.
        spacing: voxel size in mm, such as "[1,1,3]", instead of the proposed one.
        roi_size: patch size in voxels, such as "[96,96,64]", instead of the proposed one.
        images: the sub-folder of the images, if it has another name.
        labels_dir: the sub-folder of the labels, if it has another name.
        jobs: trainings at once; by default one on a GPU, and on a CPU as many as there are cores and folds.
        pretrained: model.pt of another training, also of other classes or channels; what fits of it is taken.
        recipe: numbers of the recipe to change, such as "{'folds':3}".
        labeled_slices: "drawn" if slices that hold nothing were not labelled; "drawn:0" along axis 0 of the files.
        options: any further option of the bundle's training, for all trainings, such as --augmentation affine.
    """
    from aps_components.options import truth
    from aps_components.recipe import train as run

    run(
        data,
        out,
        time=time,
        labels=labels,
        device=device,
        seed=seed,
        spacing=spacing,
        roi_size=roi_size,
        images=images,
        labels_dir=labels_dir,
        jobs=jobs,
        pretrained=pretrained,
        recipe=recipe,
        options=options,
        dry_run=truth("dry_run", dry_run),
        labeled_slices=labeled_slices,
    )
