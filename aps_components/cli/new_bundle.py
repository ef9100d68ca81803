"""``aps new-bundle``."""

from __future__ import annotations


def new_bundle(
    name: str,
    data: str,
    out: str,
    labels: str | None = None,
    validation: int | None = None,
    images: str | None = None,
    labels_dir: str | None = None,
    budget: str = "gpu",
    spacing: list[float] | None = None,
    roi_size: list[int] | None = None,
    seed: int = 0,
    labeled_slices: str | None = None,
) -> None:
    """Make a bundle for your own scans: look at them, propose settings, write it, and say what to do next.

    Args:
        name: name of the bundle.
        data: a folder with images/ and labels/, nnU-Net's raw folder, one of the Decathlon, or a datalist's file;
            labels for a few are enough.
        out: folder of the new bundle, such as bundles/NAME; must not exist or be empty.
        labels: names of the label values, as in "1:liver,2:tumour,255:ignore"; "ignore" means not labelled.
        validation: labelled cases kept for validation; those of a datalist by default, or a fifth of them.
        images: the sub-folder of the images, if it has another name.
        labels_dir: the sub-folder of the labels, if it has another name.
        budget: "gpu" or "cpu": for which voxels, patch and flips are proposed.
        spacing: voxel size in mm, such as "[1,1,3]", instead of the proposed one.
        roi_size: patch size in voxels, such as "[96,96,64]", instead of the proposed one.
        seed: decides which labelled cases are for validation.
        labeled_slices: "drawn" if slices that hold nothing were not labelled; "drawn:0" along axis 0 of the files.
    """
    from aps_components.bundle.new import new_bundle as write

    write(
        name,
        data=data,
        out=out,
        labels=labels,
        validation=validation,
        images=images,
        labels_dir=labels_dir,
        budget=budget,
        spacing=spacing,
        roi_size=roi_size,
        seed=seed,
        labeled_slices=labeled_slices,
    )
