"""An archive of DICOM series behind DICOMweb, as MONAI Label's datastore.

MONAI Label 0.8.5 looks for CT alone, remembers for two hours which series have a label, takes the first label of a
series for ever, and takes the number of a segment for its class. OHIF stores what was segmented as a DICOM SEG in the
archive, numbered by the alphabet. Here the newest SEG of a series is its label, and its segments are known by name.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom_seg
import SimpleITK
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import nifti_to_dicom_seg
from monailabel.datastore.utils.dicom import dicom_web_download_series, dicom_web_upload_dcm

from aps_components.data.nifti import read_geometry, write_nifti
from aps_components.label_server.label_check import check_label, label_voxels
from aps_components.label_server.label_names import classes_of, renumbered
from aps_components.label_server.parameters import FINAL, RefusedRequestError
from aps_components.plain_json import read_object

logger = logging.getLogger(__name__)
MOMENT = ("SeriesDate", "SeriesTime", "ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")


def archive_client(url: str) -> Any:
    """A client of the archive, with the name and the password that MONAI Label's settings have for it."""
    from dicomweb_client.session_utils import create_session_from_user_pass

    name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    return DICOMwebClientX(
        url=url,
        session=create_session_from_user_pass(name, password) if name and password else None,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )


class Archive(DICOMWebDatastore):
    """Series are scans, by their UID; a copy of what was looked at lies in a folder.

    Args:
        client: of DICOMweb.
        search_filter: which series; None takes those of the modalities that the bundles are for.
        cache_path: folder of the copies.
        fetch_by_frame: as MONAI Label has it.
        bundles: folders of those that are served.
    """

    def __init__(
        self,
        *,
        client: Any,
        search_filter: Mapping[str, Any] | None,
        cache_path: str,
        fetch_by_frame: bool,
        bundles: Sequence[Path],
    ) -> None:
        self.classes = [classes_of(bundle) for bundle in bundles]
        self._filters = [dict(search_filter)] if search_filter is not None else modalities(bundles)
        self._segmentations: dict[str, Any] = {}
        super().__init__(client=client, search_filter={}, cache_path=cache_path, fetch_by_frame=fetch_by_frame)

    def list_images(self) -> list[str]:
        """UIDs of the series, as the archive has them now."""
        found = [one for wanted in self._filters for one in self._client.search_for_series(search_filters=wanted)]
        return list(dict.fromkeys(_uid(one) for one in found))

    def get_labeled_images(self, label_tag: str | None = None, labels: Sequence[str] | None = None) -> list[str]:
        """UIDs of the series of which a SEG knows a class."""
        return list(self._newest())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: Sequence[str] | None = None) -> list[str]:
        """UIDs of the others."""
        labelled = self._newest()
        return [image for image in self.list_images() if image not in labelled]

    def get_image_uri(self, image_id: str) -> str:
        """The scan's NIfTI file, fetched at the first time; empty where there is no such series."""
        if file := self.fetched(image_id):
            return file
        return str(super().get_image_uri(image_id)) if image_id in self.list_images() else ""

    def fetched(self, image_id: str) -> str:
        """The scan's NIfTI file, if it was fetched already; else empty."""
        file = os.path.realpath(os.path.join(self._datastore.image_path(), f"{image_id}.nii.gz"))
        return file if os.path.isfile(file) and image_id in self._datastore.objects else ""

    def fetch_all(self) -> None:
        """Every series, so that training sees those without a label; what cannot be read is said and left out."""
        for image in self.list_images():
            try:
                self.get_image_uri(image)
            except Exception as error:  # whatever a reader of DICOM makes of a series
                logger.warning(f"left out: series {image}: {error}")

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Keep a label, and a final one as a SEG in the archive, too."""
        image = self.get_image_uri(image_id)
        with _as_image(label_filename, image) as named, renumbered(named, label_info, self.classes) as file:
            info = {key: value for key, value in (label_info or {}).items() if key != "label_info"}
            if label_tag == FINAL:
                values = {value for classes in self.classes for value in classes.values()}
                check_label(file, image, values={0, *values})
                info["SeriesInstanceUID"] = self._stored(image_id, file)
            return str(LocalDatastore.save_label(self, image_id, file, label_tag, info))

    def _stored(self, image_id: str, label: str) -> str:
        """UID of the new series with a label map as SEG."""
        values = [value for value in np.unique(label_voxels(label)).astype(int).tolist() if value]
        if not values:  # a SEG has a segment at least
            raise RefusedRequestError("the label is empty, and an archive cannot hold that: draw something first")
        names = next(
            ({value: name for name, value in one.items()} for one in self.classes if {*values} <= {*one.values()}), {}
        )
        folder = os.path.realpath(os.path.join(self._datastore.image_path(), image_id))
        segments = [{"name": names[value], "model_name": "AutoPromptSeg"} for value in values]
        file = nifti_to_dicom_seg(folder, label, segments, use_itk=False)
        try:
            return str(dicom_web_upload_dcm(file, self._client))
        finally:
            os.unlink(file)

    def _newest(self) -> dict[str, Any]:
        """Series to the header of its newest SEG that knows a class."""
        images, newest = set(self.list_images()), dict[str, Any]()
        known = {name for classes in self.classes for name in classes}
        for one in self._client.search_for_series(search_filters={"Modality": "SEG"}):
            header = self._header(one)
            image = _referenced(header)
            newer = image not in newest or _moment(header) >= _moment(newest[image])
            if image in images and newer and known & set(_segments(header).values()):
                newest[image] = header
        return newest

    def _header(self, series: Mapping[str, Any]) -> Any:
        """A SEG never changes, so it is asked for once."""
        uid = _uid(series)
        if uid not in self._segmentations:
            study = str(pydicom.Dataset.from_json(dict(series)).StudyInstanceUID)
            answer = self._client.retrieve_series_metadata(study, uid)
            self._segmentations[uid] = pydicom.Dataset.from_json(answer[0])
        return self._segmentations[uid]

    def _download_labeled_data(self) -> None:
        """Before a training: the newest SEG of each series as its label; a label whose SEG is gone goes, too."""
        newest = self._newest()
        for image in LocalDatastore.get_labeled_images(self):
            if image not in newest:
                LocalDatastore.remove_label(self, image, FINAL)
                self.refresh()
        for image, header in newest.items():
            uid = str(header.SeriesInstanceUID)
            if LocalDatastore.get_label_info(self, image, FINAL).get("SeriesInstanceUID") == uid:
                continue
            try:
                self._take(image, uid)
            except Exception as error:  # a SEG of whoever
                logger.warning(f"left out: the SEG {uid} of series {image}: {error}")

    def _take(self, image: str, uid: str) -> None:
        scan = self.get_image_uri(image)
        with tempfile.TemporaryDirectory() as folder:
            dicom_web_download_series(None, uid, folder, self._client, False)
            dataset = pydicom.dcmread(next(file for file in Path(folder).iterdir()))
            label = os.path.join(folder, "label.nii.gz")
            SimpleITK.WriteImage(label_of_segmentation(dataset, scan, self.classes), label)
            LocalDatastore.save_label(self, image, label, FINAL, {"SeriesInstanceUID": uid})


def label_of_segmentation(dataset: Any, scan: str, classes: Sequence[Mapping[str, int]]) -> Any:
    """A SEG as a label map on a scan's grid; the segments of the bundle that knows most of them, by name.

    Args:
        dataset: the SEG.
        scan: NIfTI file.
        classes: name to value, of each bundle.
    """
    segments = _segments(dataset)
    values = max(classes, key=lambda one: len(set(one) & set(segments.values())))
    grid = SimpleITK.ReadImage(scan)
    label = np.zeros(grid.GetSize()[::-1], dtype=np.uint8)
    found = pydicom_seg.SegmentReader().read(dataset)
    for number, name in segments.items():
        if name in values and number in found.available_segments:
            segment = SimpleITK.Cast(found.segment_image(number), SimpleITK.sitkUInt8)
            placed = SimpleITK.Resample(segment, grid, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
            label[SimpleITK.GetArrayViewFromImage(placed) > 0] = values[name]
    image = SimpleITK.GetImageFromArray(label)
    image.CopyInformation(grid)
    return image


@contextmanager
def _as_image(label: str, scan: str) -> Iterator[str]:
    """A label on its scan's grid; a browser sends its bare voxels, the scan's first axis fastest."""
    if not label.endswith(".bin"):
        yield label
        return
    geometry, voxels = read_geometry(scan), np.fromfile(label, dtype=np.uint8)
    if voxels.size != math.prod(geometry.shape):
        raise RefusedRequestError(f"the label has {voxels.size} voxels, its scan {geometry.shape}: open the scan again")
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "label.nii.gz")
        write_nifti(file, voxels.reshape(geometry.shape, order="F"), geometry.affine)
        yield file


def modalities(bundles: Sequence[Path]) -> list[dict[str, str]]:
    """Search filters for the series that the bundles are for."""
    found = []
    for bundle in bundles:
        metadata = read_object(bundle / "configs" / "metadata.json")
        image = next(iter(metadata["network_data_format"]["inputs"].values()))
        found += [{"Modality": name} for name in str(image.get("modality", "")).upper().split("/") if name.isalpha()]
    return [dict(pair) for pair in dict.fromkeys(tuple(one.items()) for one in found)] or [{}]


def _uid(series: Mapping[str, Any]) -> str:
    return str(series["0020000E"]["Value"][0])


def _segments(header: Any) -> dict[int, str]:
    """Number to name, in small letters."""
    return {int(one.SegmentNumber): str(one.SegmentLabel).lower() for one in header.get("SegmentSequence", [])}


def _referenced(header: Any) -> str:
    sequence = header.get("ReferencedSeriesSequence")
    return str(sequence[0].SeriesInstanceUID) if sequence else ""


def _moment(header: Any) -> tuple[str, ...]:
    return tuple(str(header.get(name, "")) for name in MOMENT)
