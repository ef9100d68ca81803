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
        seed: of the split's order.
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
) -> None:
    """Make a bundle for your own scans: look at them, propose settings, write it, and say what to do next.

    Args:
        name: of the bundle.
        data: the folder that holds images/ and labels/, or imagesTr/ and labelsTr/; labels for a few are enough.
        out: folder of the new bundle, such as bundles/NAME; must not exist or be empty.
        labels: names of the label values, as in "1:liver,2:tumour".
        validation: labelled cases kept for validation; a fifth by default, none if there are fewer than 5.
        images: the sub-folder of the images, if it has another name.
        labels_dir: the sub-folder of the labels, if it has another name.
        budget: "gpu" or "cpu": for which the patch size is proposed.
        spacing: voxel size in mm, such as "[1,1,3]", instead of the proposed one.
        roi_size: patch size in voxels, such as "[96,96,64]", instead of the proposed one.
        seed: decides which labelled cases are for validation.
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
    )


COMMANDS = {"demo": demo, "phantoms": phantoms, "prepare": prepare, "new-bundle": new_bundle, "overview": overview}


def main() -> None:
    """Run the command that the arguments name."""
    try:
        fire.Fire(COMMANDS, name="aps")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports Ctrl-C, and no traceback: it is no error
