"""What MONAI Label asks of a bundle's model: answers to clicks and to scribbles.

The automatic answer is that of MONAI Label's own task for bundles.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device
from numpy.typing import NDArray

from aps_components.bundle.locate import WEIGHTS
from aps_components.data.nifti import write_nifti
from aps_components.interactive import Answer
from aps_components.label_server.clicks import BACKGROUND, Clicks, asked_points
from aps_components.label_server.label_check import check_label, label_voxels
from aps_components.label_server.label_names import named_values
from aps_components.label_server.parameters import RefusedRequestError
from aps_components.plain_json import read_object

TO_LPS = np.diag([-1.0, -1.0, 1.0])
NIFTI = (".nii", ".nii.gz")
FOREGROUND_SCRIBBLES, BACKGROUND_SCRIBBLES = "foreground_scribbles", "background_scribbles"


class _BundleTask(InferTask):
    """A task of a bundle that answers with a label map.

    Args:
        bundle: its folder in the app.
        clicks: what is kept between requests, of all bundles together.
    """

    kind: InferType
    about: str

    def __init__(self, bundle: Path, clicks: Clicks) -> None:
        metadata = read_object(bundle / "configs" / "metadata.json")
        classes = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        self.values = {str(name).lower(): int(value) for value, name in classes.items()}
        super().__init__(
            type=self.kind,
            labels=self.offered(),
            dimension=3,
            description=f"{self.about}; {metadata.get('description', '')}",
        )
        self.bundle, self.clicks, self.version = bundle, clicks, metadata.get("version")

    def offered(self) -> dict[str, int]:
        """Classes as the viewers are to list them."""
        return {name: value for name, value in self.values.items() if value}

    def is_valid(self) -> bool:
        """There are weights: an app has no bundle without."""
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """The weights."""
        path = self.bundle / WEIGHTS
        return str(path) if path.is_file() or not validate else None

    def config(self) -> dict[str, Any]:
        """What a viewer offers to choose."""
        weights = sorted((file.name for file in (self.bundle / WEIGHTS).parent.glob("*.pt")), key=len)
        return {"device": device_list(), "model_filename": weights}

    def info(self) -> dict[str, Any]:
        """What ``/info/`` says of it."""
        return {**super().info(), "version": self.version}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The file of a label map, and what is said with it."""
        begin = time.monotonic()
        label_map, affine, notes = self.answered(request)
        ending = request.get("result_extension") or _ending(request["image"])
        file = write_answer(label_map.astype(request.get("result_dtype") or "uint8"), affine, ending)
        seconds = round(time.monotonic() - begin, 3)
        return file, {"label_names": self.labels, "notes": notes, "latencies": {"total": seconds}}

    def answered(self, request: Mapping[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.float64], list[str]]:
        """Label map and affine of the scan's own grid, and what was passed over."""
        raise NotImplementedError

    def where(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The weights and the device of a request."""
        weights, device = request.get("model_filename") or Path(WEIGHTS).name, request.get("device") or "cuda"
        weights, device = (value[0] if isinstance(value, list) else value for value in (weights, device))
        return {"checkpoint": (self.bundle / WEIGHTS).parent / weights, "device": name_to_device(device)}


class ClicksTask(_BundleTask):
    """Answers points of every class, as viewers send them to DeepEdit."""

    kind, about = InferType.DEEPEDIT, "clicks of every class and of the background"

    def offered(self) -> dict[str, int]:
        """The background last: Slicer numbers segments in the order of this list."""
        return {**super().offered(), BACKGROUND: 0}

    def answered(self, request: Mapping[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.float64], list[str]]:
        """After all points of the request."""
        answer: Answer = self.clicks.answer(
            request["image"],
            asked_points(request, {**self.values, BACKGROUND: 0}),
            reset=bool(request.get("reset_state")),
            **self.where(request),
        )
        return answer.label_map, answer.affine, answer.notes


class ScribblesTask(_BundleTask):
    """Answers scribbles over the segments that the viewer shows, as Slicer's module sends them.

    It sends a label map of all its segments, in the order of ``label_info``, with the scribbles as two of them, and
    wants the chosen class alone.
    """

    kind, about = InferType.SCRIBBLES, "scribbles for the chosen class"

    def answered(self, request: Mapping[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.float64], list[str]]:
        """The chosen class, 1, after its scribbles."""
        chosen = str(request.get("selected_label_name") or "").lower()
        value = self.values.get(chosen, 0)
        if not value:
            raise RefusedRequestError(f"choose one of the classes {', '.join(self.offered())} to scribble")
        names = [str(entry.get("name", "")).lower() for entry in request.get("label_info") or []]
        if not request.get("label") or not {FOREGROUND_SCRIBBLES, BACKGROUND_SCRIBBLES} & set(names):
            raise RefusedRequestError("there are no scribbles: draw some first")
        check_label(request["label"], request["image"], values=range(len(names) + 1))
        drawn = label_voxels(request["label"])
        scribbles = [
            (np.argwhere(drawn == 1 + names.index(name)), target)
            for name, target in ((FOREGROUND_SCRIBBLES, value), (BACKGROUND_SCRIBBLES, 0))
            if name in names
        ]
        answer = self.clicks.scribbled(
            request["image"], scribbles, mask=named_values(drawn, names, self.values), **self.where(request)
        )
        return (answer.label_map == value).astype(np.uint8), answer.affine, answer.notes


def write_answer(label_map: NDArray[Any], affine: NDArray[np.float64], ending: str) -> str:
    """A label map as a file for a viewer, which whoever sends it removes; gives its path.

    Args:
        label_map: [X, Y, Z], of the scan's own axes.
        affine: [4, 4], voxel to mm, RAS+.
        ending: ``.nii``, ``.nii.gz`` or ``.nrrd``.
    """
    handle, file = tempfile.mkstemp(suffix=ending)
    os.close(handle)
    if ending in NIFTI:
        write_nifti(file, label_map, affine)
        return file
    header = {
        "space": "left-posterior-superior",
        "space directions": (TO_LPS @ affine[:3, :3]).T,
        "space origin": TO_LPS @ affine[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "raw",
    }
    nrrd.write(file, label_map, header, index_order="F")
    return file


def _ending(image: Sequence[str] | str) -> str:
    name = image if isinstance(image, str) else image[0]
    return next((ending for ending in (".nii.gz", ".nii", ".nrrd") if name.endswith(ending)), ".nii.gz")
