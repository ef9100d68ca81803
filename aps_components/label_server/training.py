"""Training in MONAI Label: a bundle's own, on the labels that were handed in and on all scans beside them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.tasks.train.bundle import BundleTrainTask

from aps_components.label_server.parameters import PARTIAL

logger = logging.getLogger(__name__)


class TrainTask(BundleTrainTask):
    """MONAI Label's task for bundles, which sees every scan of an archive, and labels that are not whole."""

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        fetch = getattr(datastore, "fetch_all", None)
        if fetch is not None:  # of an archive; unlabelled scans are trained on, too
            fetch()
        whole: list[dict[str, Any]] = super()._fetch_datalist(request, datastore)
        return [*whole, *partly_labelled(datastore)]


def partly_labelled(datastore: Datastore) -> list[dict[str, Any]]:
    """Items of scans whose label is tagged ``partial``, and none ``final``: ``image``, ``label`` and what is labelled.

    Training on them is not there yet: they stay among the scans without a label, and the log says so. This is the one
    place that then gives items such as ``{"image": FILE, "label": FILE, "labeled_slices": [...]}``: a slice without a
    drawn voxel is one that nobody has labelled.
    """
    for image in datastore.list_images():
        tags = datastore.get_labels_by_image_id(image)
        if PARTIAL in tags and DefaultLabelTag.FINAL not in tags:
            logger.warning(f"{image}: its label is tagged {PARTIAL!r}, so it is taken for a scan without a label")
    return []
