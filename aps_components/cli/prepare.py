"""``aps prepare``."""

from __future__ import annotations


def prepare(
    dataset: str,
    raw: str,
    out: str,
    labeled: int | None = None,
    validation: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    crop: str | None = None,
    order: str | None = None,
    label_grid: str | None = None,
    modality: str | None = None,
    protocol: str | None = None,
) -> None:
    """Turn an official download into a dataset folder; run it again to go on after an interruption.

    Args:
        dataset: "la", "amos" or "brats".
        raw: the unpacked download; nothing in it is changed.
        out: receives datalist.json, preparation.json and, for la, images/ and labels/.
        labeled: training cases that keep their label; no other training label is opened. All by default.
        validation: number of validation cases; the dataset's own by default.
        seed: draws the split's order.
        workers: processes; one per core, four at most, by default.
        crop: la: image (default: found without labels), true_mask (as published, needs every label) or none.
        order: la: published, hash, or auto (default: published if all 80 names are there).
        label_grid: la: own (default) compares the geometry of label and image, image takes the image's.
        modality: amos: ct (default), mr or all.
        protocol: amos: 180 (CT) or 216 (CT and MR), the published splits by their training scans.
    """
    from aps_components.data.preparation import prepare as prepare_download

    prepare_download(
        dataset,
        raw=raw,
        out=out,
        labeled=labeled,
        validation=validation,
        seed=seed,
        workers=workers,
        crop=crop,
        order=order,
        label_grid=label_grid,
        modality=modality,
        protocol=protocol,
    )
