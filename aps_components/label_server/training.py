"""Training in MONAI Label: a bundle's own, on its labels that were handed in and on all scans beside them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask

from aps_components.data.datastore import LEFT_OUT
from aps_components.data.errors import DataError
from aps_components.data.nifti import read_scan
from aps_components.data.partial import CLASSES, DRAWN, IGNORE, SLICES, drawn_slices, is_partial
from aps_components.label_server.label_names import Served, bundles_of_label, is_of, served_bundles
from aps_components.label_server.parameters import FINAL, PARTIAL

logger = logging.getLogger(__name__)


class TrainTask(BundleTrainTask):
    """MONAI Label's task for bundles: with every scan of an archive, and its own labels, also unfinished ones."""

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        fetch = getattr(datastore, "fetch_all", None)
        if fetch is not None:  # of an archive; unlabelled scans are trained on, too
            fetch()
        whole: list[dict[str, Any]] = super()._fetch_datalist(request, datastore)
        bundle = Path(self.bundle_path)
        served = served_bundles(bundle.parent.parent, self.conf)
        own = Served.of(bundle)
        others = dict(labels_of_others(datastore, bundle=own, served=served))
        for label, reason in others.items():
            logger.warning(f"left out: {label}: {reason}")
        by_class = None if self.bundle_config.get("regions") else own  # a region is of several classes
        partly = partly_labelled(datastore, ignore=self.bundle_config.get(IGNORE), left_out=others, bundle=by_class)
        items = [*(item for item in whole if item["label"] not in others), *partly]
        return [{**item, LEFT_OUT: sorted(others)} for item in items] if others else items

    def _partition_datalist(
        self, datalist: list[dict[str, Any]], request: Mapping[str, Any], shuffle: bool = False
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """Scans that validate have whole labels."""
        whole = [item for item in datalist if not is_partial(item)]
        training, validation = super()._partition_datalist(whole, request, shuffle)
        judged = validation and [{key: value for key, value in item.items() if key != LEFT_OUT} for item in validation]
        return [*training, *(item for item in datalist if is_partial(item))], judged


def labels_of_others(datastore: Datastore, *, bundle: Served, served: Collection[str]) -> Iterator[tuple[str, str]]:
    """Labels that a bundle does not learn from: the file of each, and why.

    The same number means one class in one bundle and another in the next; a bundle that an earlier one was trained anew
    as has the same meanings under another name. A label that does not say whose it is, such as one that was copied into
    the folder, counts where a single bundle is served.

    Args:
        datastore: of MONAI Label.
        bundle: that which is trained.
        served: names of all that are served.
    """
    for image, labels in _labels(datastore).items():
        for tag, file in labels.items():
            info = datastore.get_label_info(image, tag)
            names = bundles_of_label(info)
            if names and not is_of(info, bundle):
                yield file, _other(names, bundle)
            elif not names and len(served) > 1:
                yield file, f"it does not say which bundle it is of, and {', '.join(served)} are served"


def _other(names: Sequence[str], bundle: Served) -> str:
    if bundle.name in names:
        return f"{bundle.name} had other classes, or other values of them, when it was handed in"
    return f"it is a label of {', '.join(names)}, not of {bundle.name}, whose classes or values are others"


def partly_labelled(
    datastore: Datastore, *, ignore: int | None = None, left_out: Collection[str] = (), bundle: Served | None = None
) -> list[dict[str, Any]]:
    """Items of scans whose label is tagged ``partial``, and none ``final``: slices that hold nothing are unlabelled,
    and classes that it does not hold were not drawn.

    Args:
        datastore: of MONAI Label.
        ignore: the bundle's value of a voxel that nobody labelled.
        left_out: files of labels that are as good as none.
        bundle: whose classes the labels have; None where all classes count as drawn.
    """
    counted = {
        image: {tag: file for tag, file in labels.items() if file not in left_out}
        for image, labels in _labels(datastore).items()
    }
    files = {image: labels[PARTIAL] for image, labels in counted.items() if PARTIAL in labels and FINAL not in labels}
    scans = {image: scan for image in files if (scan := _scan(datastore, image))}
    for image in files.keys() - scans.keys():
        logger.warning(f"left out: {files[image]}: its scan could not be read")
    return [_item(scan, files[image], ignore=ignore, bundle=bundle) for image, scan in scans.items()]


def _scan(datastore: Datastore, image: str) -> str:
    """File of a scan, of an archive as it was fetched: one that it could not read, and said so, is none; else empty."""
    file: str = getattr(datastore, "fetched", datastore.get_image_uri)(image)
    return file


def _labels(datastore: Datastore) -> dict[str, dict[str, str]]:
    """Of each scan its labels by hand: tag to file."""
    found = {image: datastore.get_labels_by_image_id(image) for image in datastore.list_images()}
    return {
        image: {tag: datastore.get_label_uri(labels[tag], tag) for tag in (FINAL, PARTIAL) if tag in labels}
        for image, labels in found.items()
    }


def _item(image: str, label: str, *, ignore: int | None, bundle: Served | None) -> dict[str, Any]:
    item: dict[str, Any] = {
        "image": image,
        "label": label,
        SLICES: DRAWN,
        **({} if ignore is None else {IGNORE: ignore}),
    }
    try:
        voxels = read_scan(label).voxels
    except DataError:  # training names it, and leaves it out
        return item
    drawn = (voxels != 0) & (voxels != ignore)
    if bundle is not None:
        there = sorted(set(np.unique(bundle.class_map(voxels[drawn])).tolist()) & set(bundle.classes.values()))
        if there and len(there) < len(bundle.classes):
            item[CLASSES] = there
    return {**item, SLICES: drawn_slices(drawn)}
