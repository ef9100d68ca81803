"""Training in MONAI Label: a bundle's own, on the labels that were handed in and on all scans beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.tasks.train.bundle import BundleTrainTask

from aps_components.data.errors import DataError
from aps_components.data.nifti import read_scan
from aps_components.data.partial import DRAWN, IGNORE, SLICES, drawn_slices, is_partial
from aps_components.label_server.parameters import PARTIAL


class TrainTask(BundleTrainTask):
    """MONAI Label's task for bundles, which sees every scan of an archive, and labels that are not whole."""

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        fetch = getattr(datastore, "fetch_all", None)
        if fetch is not None:  # of an archive; unlabelled scans are trained on, too
            fetch()
        whole: list[dict[str, Any]] = super()._fetch_datalist(request, datastore)
        return [*whole, *partly_labelled(datastore, ignore=self.bundle_config.get(IGNORE))]

    def _partition_datalist(
        self, datalist: list[dict[str, Any]], request: Mapping[str, Any], shuffle: bool = False
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """Scans that validate have whole labels."""
        whole = [item for item in datalist if not is_partial(item)]
        training, validation = super()._partition_datalist(whole, request, shuffle)
        return [*training, *(item for item in datalist if is_partial(item))], validation


def partly_labelled(datastore: Datastore, *, ignore: int | None = None) -> list[dict[str, Any]]:
    """Items of scans whose label is tagged ``partial``, and none ``final``: slices that hold nothing are unlabelled.

    Args:
        datastore: of MONAI Label.
        ignore: the bundle's value of a voxel that nobody labelled.
    """
    tags = {image: datastore.get_labels_by_image_id(image) for image in datastore.list_images()}
    return [
        _item(datastore.get_image_uri(image), datastore.get_label_uri(labels[PARTIAL], PARTIAL), ignore=ignore)
        for image, labels in tags.items()
        if PARTIAL in labels and DefaultLabelTag.FINAL not in labels
    ]


def _item(image: str, label: str, *, ignore: int | None) -> dict[str, Any]:
    try:
        voxels = read_scan(label).voxels
        slices = drawn_slices((voxels != 0) & (voxels != ignore))
    except DataError:  # training names it, and leaves it out
        slices = DRAWN
    return {"image": image, "label": label, SLICES: slices, **({} if ignore is None else {IGNORE: ignore})}
