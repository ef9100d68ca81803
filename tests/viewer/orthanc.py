"""Orthanc on this machine alone, with series of phantoms that are made here."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def missing() -> str:
    """Why there can be no archive; empty where there can."""
    if shutil.which("Orthanc") is None:
        return "there is no Orthanc: apt-get install orthanc"
    return "" if PLUGIN.is_file() else "Orthanc has no DICOMweb: apt-get install orthanc-dicomweb"


class Orthanc:
    """An archive in a folder, until the end of the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Orthanc":
        self.folder.mkdir(parents=True)
        settings = {
            "Name": "tests",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(settings))
        with open(self.folder / "orthanc.log", "wb") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(file)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ask("/system")
                return self
            except OSError:
                assert self.process.poll() is None, (self.folder / "orthanc.log").read_text()
                assert time.monotonic() < deadline, "Orthanc does not answer"
                time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(30)

    def ask(self, path: str, body: bytes | None = None):
        request = urllib.request.Request(self.url + path, data=body, method="POST" if body else "GET")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def add(self, folder: Path) -> None:
        for file in sorted(folder.iterdir()):
            self.ask("/instances", file.read_bytes())

    def segmentations(self) -> list[bytes]:
        """The SEG objects that were stored."""
        found = []
        for series in self.ask("/series?expand"):
            if series["MainDicomTags"]["Modality"] == "SEG":
                for instance in series["Instances"]:
                    with urllib.request.urlopen(f"{self.url}/instances/{instance}/file", timeout=60) as answer:
                        found.append(answer.read())
        return found


def write_series(scan: Path, folder: Path, *, name: str, axes: str = "LPS") -> tuple[str, str]:
    """A NIfTI scan as a DICOM series, its slices along the third of the axes; gives the UIDs of study and series."""
    image = nib.load(scan)
    image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(axes)))
    voxels = np.asanyarray(image.dataobj)
    voxels = np.rint(voxels - voxels.min()).astype(np.uint16)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True)
    for number in range(voxels.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
        slice_.PatientName, slice_.PatientID, slice_.Modality = name, name, "MR"
        slice_.PatientBirthDate, slice_.PatientSex, slice_.AccessionNumber, slice_.StudyID = "", "", "", "1"
        slice_.StudyDate = slice_.SeriesDate = slice_.ContentDate = "20260101"
        slice_.StudyTime = slice_.SeriesTime = slice_.ContentTime = "120000"
        slice_.StudyDescription, slice_.SeriesDescription, slice_.Manufacturer = "phantom", "phantom", "phantom"
        slice_.ReferringPhysicianName, slice_.PositionReferenceIndicator = "", ""
        slice_.SeriesNumber, slice_.InstanceNumber, slice_.ImageType = 1, number + 1, ["ORIGINAL", "PRIMARY", "OTHER"]
        slice_.ScanningSequence, slice_.SequenceVariant, slice_.MRAcquisitionType = "GR", "NONE", "3D"
        slice_.ImagePositionPatient = [f"{x:.6f}" for x in (affine @ [0, 0, number, 1])[:3]]
        slice_.ImageOrientationPatient = [
            f"{x:.6f}" for x in (*(affine[:3, 0] / spacing[0]), *(affine[:3, 1] / spacing[1]))
        ]
        slice_.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        slice_.SliceThickness = slice_.SpacingBetweenSlices = float(spacing[2])
        slice_.Columns, slice_.Rows = voxels.shape[:2]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation, slice_.PixelRepresentation = 1, "MONOCHROME2", 0
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.WindowCenter, slice_.WindowWidth = float(voxels.max()) / 2, float(voxels.max())
        slice_.PixelData = voxels[:, :, number].T.tobytes()
        pydicom.dcmwrite(folder / f"{number:03}.dcm", slice_, enforce_file_format=True)
    return study, series
