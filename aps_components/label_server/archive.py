"""An archive of DICOM series behind DICOMweb, as MONAI Label's datastore.

MONAI Label 0.8.5 looks for CT alone, remembers for two hours which series have a label, takes the first label of a
series for ever, and takes the number of a segment for its class. OHIF stores what was segmented as a DICOM SEG in the
archive, numbered by the alphabet. Here the newest SEG of a series is its label, and its segments are known by name.
MONAI Label also keeps what was fetched once for ever, whole or not, and reads it as it comes; here a series is fetched
again where the archive has other slices of it, and read by this project's own reader, which refuses what is not whole.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom_seg
import SimpleITK
from filelock import FileLock, Timeout
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import nifti_to_dicom_seg
from monailabel.datastore.utils.dicom import dicom_web_download_series, dicom_web_upload_dcm
from numpy.typing import NDArray

from aps_components.data import DataError
from aps_components.data.nifti import read_geometry, write_nifti
from aps_components.label_server.handed_in import Kept, drawn_values, finished_info, handed_in
from aps_components.label_server.hooks import known_image
from aps_components.label_server.label_check import label_affine, label_voxels
from aps_components.label_server.label_names import Served, bundles_by_most_names, is_of, type_of
from aps_components.label_server.parameters import FINAL, RefusedRequestError, check_tag
from aps_components.plain_json import read_object
from aps_components.segmentation import dicom
from aps_components.segmentation.dicom_tilt import TILT, tilt_of
from aps_components.terminal import shown

logger = logging.getLogger(__name__)
# Of a SEG; the date of its series, which comes first in DICOM's own order, is often missing.
MOMENT = ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")
SEGMENTATION_TYPES = ("BINARY", "FRACTIONAL")
INSIDE = 0.5  # of a fractional SEG: the least share that counts
FETCHING = ".fetching-"  # how the lock of a series is called
UNFINISHED = ".fetched-"  # how the folder of a series is called until it is whole
LOOK_AGAIN = 60.0  # seconds after which the archive is asked anew whether a series has changed
READER, OURS = "reader", "aps_components"  # noted with a scan that this project's reader has made


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
        self.served = [Served.of(bundle) for bundle in bundles]
        self._filters = [dict(search_filter)] if search_filter is not None else modalities(bundles)
        self._segmentations: dict[str, Any] = {}
        self._compared: dict[str, float] = {}
        self._refused: dict[str, tuple[set[str], str]] = {}  # series that are no volume: slices, and why
        self._left_out: set[str] = set()  # SEGs that were named in the log
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
        """The scan's NIfTI file, fetched at first and where it has changed; empty where there is no such series.

        Raises:
            DataError: the series cannot be read as a volume; why, in a line.
        """
        file = self.fetched(image_id)
        if file and time.monotonic() - self._compared.get(image_id, -math.inf) < LOOK_AGAIN:
            return file
        if not file and image_id not in self.list_images():
            return ""
        # A training fetches, too, and nobody waits for it who can have the copy that is here.
        try:
            with FileLock(os.path.join(self._datastore_path, f"{FETCHING}{image_id}"), timeout=0 if file else -1):
                self._renew(image_id)
        except Timeout:
            return file
        return self.fetched(image_id)

    def _renew(self, image_id: str) -> None:
        """Fetch a series unless the copy is as the archive has it; one that was refused, only if it has changed."""
        instances = self._instances(image_id)
        refused, reason = self._refused.get(image_id, (set(), ""))
        if instances and instances == refused:
            raise DataError(reason)
        if not self._is_current(image_id, instances):
            self._fetch(image_id, instances)
        self._compared[image_id] = time.monotonic()

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The label's file; empty where there is none. MONAI Label's own would fetch the series of that name for it."""
        return str(LocalDatastore.get_label_uri(self, label_id, label_tag))

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

    def _folder(self, image_id: str) -> str:
        """Of the copy of a series."""
        return os.path.realpath(os.path.join(self._datastore.image_path(), image_id))

    def _instances(self, image_id: str) -> set[str]:
        """UIDs of the slices that the archive has of a series; empty where it does not say them."""
        try:
            series = self._client.search_for_series(search_filters={"SeriesInstanceUID": image_id})
            study = next(str(one["0020000D"]["Value"][0]) for one in series if _uid(one) == image_id)
            found: set[str] = set()
            while page := self._page(study, image_id, offset=len(found)) - found:  # some ignore the offset
                found |= page
            return found
        except Exception as error:  # of whichever archive; what was fetched is as good as it was
            logger.warning(f"series {image_id}: the archive does not say its slices ({error})")
            return set()

    def _page(self, study: str, image_id: str, *, offset: int) -> set[str]:
        """UIDs of slices from one on: as many as the archive says at once."""
        found = self._client.search_for_instances(study, image_id, offset=offset)
        return {str(one["00080018"]["Value"][0]) for one in found}

    def _is_current(self, image_id: str, instances: set[str]) -> bool:
        """Whether the scan and its slices are here, as the archive has them, and read by this project's reader."""
        if not self.fetched(image_id) or LocalDatastore.get_image_info(self, image_id).get(READER) != OURS:
            return False
        return not instances or instances == _names_in(self._folder(image_id))

    def _fetch(self, image_id: str, instances: set[str]) -> None:
        """A series and its scan, both whole or not at all; a label that came from the archive is taken anew.

        Args:
            image_id: the series' UID.
            instances: UIDs of its slices, or none.
        """
        unfinished = f"{UNFINISHED}{image_id}-"
        for left in Path(self._datastore_path).glob(f"{unfinished}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=self._datastore_path, prefix=unfinished) as place:
            folder, file = os.path.join(place, image_id), os.path.join(place, f"{image_id}.nii.gz")
            dicom_web_download_series(None, image_id, folder, self._client, self._fetch_by_frame)
            if instances and instances != _names_in(folder):
                raise DataError(
                    f"series {image_id}: {len(instances & _names_in(folder))} of its {len(instances)} slices came from "
                    "the archive; try again"
                )
            try:
                _convert(folder, image_id, file)
            except DataError as error:
                self._refused[image_id] = (instances, str(error))
                raise
            info = {**self._dicom_info(image_id), READER: OURS}  # before anything is deleted
            shutil.rmtree(self._folder(image_id), ignore_errors=True)
            os.rename(folder, self._folder(image_id))
            self._replace_scan(image_id, file, info)

    def _replace_scan(self, image_id: str, file: str, info: dict[str, Any]) -> None:
        if stale := LocalDatastore.get_label_uri(self, image_id, FINAL):
            Path(stale).unlink(missing_ok=True)  # else it would be found again, as one of unknown origin
        known = self._datastore.objects.get(image_id)
        labels = {} if known is None else {tag: one for tag, one in known.labels.items() if tag != FINAL}
        if old := self.fetched(image_id):
            os.unlink(old)
        LocalDatastore.add_image(self, image_id, file, info)
        if labels and (kept := self._datastore.objects.get(image_id)):
            kept.labels.update(labels)
            self._update_datastore_file()

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Keep a label, and a final one as a SEG in the archive, too."""
        image = self.get_image_uri(known_image(self, image_id))
        info = {key: value for key, value in (label_info or {}).items() if key != "label_info"}
        former = LocalDatastore.get_label_info(self, image_id, label_tag)
        with (
            _as_image(label_filename, image) as named,
            handed_in(
                *(named, label_info, self.served),
                tag=check_tag(label_tag),
                scan=image,
                former=former,
                finished=finished_info(self, image_id),
                sure=label_tag == FINAL,
            ) as (file, _, bundles),
        ):
            if label_tag == FINAL:
                info["SeriesInstanceUID"] = self._stored(image_id, file, bundles[0])
            return str(LocalDatastore.save_label(self, image_id, file, label_tag, Kept.of(info, bundles)))

    def _stored(self, image_id: str, label: str, bundle: Served) -> str:
        """UID of the new series with a label map as SEG, whose segments have the names of the bundle's classes."""
        classes = bundle.class_map(label_voxels(label))
        names = {value: name for name, value in bundle.classes.items()}
        drawn = drawn_values(classes)
        if not drawn:  # a SEG has a segment at least
            raise RefusedRequestError("the label is empty, and an archive cannot hold that: draw something first")
        segments = [{"name": names[value], "model_name": "AutoPromptSeg"} for value in drawn]
        with tempfile.TemporaryDirectory() as place:
            file = os.path.join(place, "classes.nii.gz")
            write_nifti(file, classes, label_affine(label))
            segmentation = nifti_to_dicom_seg(self._folder(image_id), file, segments, use_itk=False)
        try:
            return str(dicom_web_upload_dcm(segmentation, self._client))
        finally:
            os.unlink(segmentation)

    def _newest(self) -> dict[str, Any]:
        """Series to the header of its newest SEG that knows a class."""
        images, newest = set(self.list_images()), dict[str, Any]()
        known = {name for bundle in self.served for name in bundle.values}
        for one in self._client.search_for_series(search_filters={"Modality": "SEG"}):
            try:
                header = self._header(one)
                image, names = _referenced(header), set(_segments(header).values())
            except Exception as error:  # a SEG of whoever
                self._leave_out(one, error)
                continue
            newer = image not in newest or _moment(header) >= _moment(newest[image])
            if image in images and newer and known & names:
                newest[image] = header
        return newest

    def _leave_out(self, series: Mapping[str, Any], error: Exception) -> None:
        """Say it once: whoever looks for labels meets it again."""
        uid = str(series.get("0020000E", {}).get("Value", ["without a UID"])[0])
        if uid not in self._left_out:
            self._left_out.add(uid)
            logger.warning(f"left out: the SEG {uid}: {type(error).__name__}: {error}")

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
            info = LocalDatastore.get_label_info(self, image, FINAL)
            if info.get("SeriesInstanceUID") == uid and any(is_of(info, bundle) for bundle in self.served):
                continue  # the copy is of it, and of a bundle of today
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
            found, bundles = label_of_segmentation(dataset, scan, self.served)
            SimpleITK.WriteImage(found, label)
            info = Kept.of({"SeriesInstanceUID": uid}, bundles)
            LocalDatastore.save_label(self, image, label, FINAL, info)


def label_of_segmentation(dataset: Any, scan: str, served: Sequence[Served]) -> tuple[Any, list[Served]]:
    """A SEG as a label map on a scan's grid, numbered as the labels of the bundles that know most of its names.

    Args:
        dataset: the SEG.
        scan: NIfTI file.
        served: the bundles that it can be of.

    Returns:
        The image, and the bundles.

    Raises:
        RefusedRequestError: it is of no kind that is read here, of several bundles with other classes or numbers, two
            of its segments overlap, or none of its classes has a voxel on the scan's grid.
    """
    kind = str(dataset.get("SegmentationType", ""))
    if kind not in SEGMENTATION_TYPES:
        raise RefusedRequestError(f"its SegmentationType is {kind!r}, none of {', '.join(SEGMENTATION_TYPES)}")
    segments = _segments(dataset)
    bundles = bundles_by_most_names(list(segments.values()), served)
    values = bundles[0].values
    grid = SimpleITK.ReadImage(scan)
    label = np.zeros(grid.GetSize()[::-1], dtype=type_of(values))
    found = pydicom_seg.SegmentReader().read(dataset)
    for number, name in segments.items():
        if name in values and number in found.available_segments:
            # A fractional one has shares from 0 to 1.
            segment = SimpleITK.Cast(found.segment_image(number), SimpleITK.sitkFloat32) >= INSIDE
            placed = SimpleITK.Resample(segment, grid, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0)
            _draw(label, SimpleITK.GetArrayViewFromImage(placed) > 0, name, values)
    if not label.any():
        raise RefusedRequestError(
            f"none of its segments {shown(', '.join(segments.values()))[:80]} has a voxel in the scan"
        )
    image = SimpleITK.GetImageFromArray(label)
    image.CopyInformation(grid)
    return image, bundles


def _draw(label: NDArray[np.integer], inside: NDArray[np.bool_], name: str, values: Mapping[str, int]) -> None:
    """A segment into a label map, in which a voxel has one class."""
    taken = set(np.unique(label[inside]).tolist()) - {0, values[name]}
    if others := [other for other, value in values.items() if value in taken]:
        raise RefusedRequestError(
            f"its segments '{others[0]}' and '{name}' overlap, and a voxel has one class: make them apart"
        )
    label[inside] = values[name]


def _convert(folder: str, uid: str, file: str) -> None:
    """The series of a folder as a NIfTI file, by the reader of ``aps segment``.

    Raises:
        DataError: it is not whole, or no volume whose voxels are those that a viewer shows.
    """
    found = next((series for series in dicom.find_series(folder) if series.uid == uid), None)
    if found is None:
        raise DataError(f"series {uid}: none of its files can be read as DICOM; send it to the archive again")
    if reason := found.no_volume:
        raise DataError(f"series {uid}: {reason}, which is no volume")
    if dicom.is_multi_frame(found):
        raise DataError(
            f"series {uid}: a multi-frame file, whose voxels lie otherwise in the viewer: use aps segment, or label it "
            "as NIfTI"
        )
    if not found.fault and tilt_of(dicom.geometry(found)[1]) > TILT:
        raise DataError(
            f"series {uid}: its gantry was tilted, and put upright its voxels are not those of the viewer; use aps "
            "segment, or label it as NIfTI"
        )
    dicom.write_nifti(found, file)


def _names_in(folder: str) -> set[str]:
    """Of files, without their ending: UIDs of the slices in a folder."""
    return {Path(name).stem for name in os.listdir(folder)} if os.path.isdir(folder) else set()


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
