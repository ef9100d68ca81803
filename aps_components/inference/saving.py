"""Maps of a scan as files that lie where the scan lies."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from aps_components.data import DataError
from aps_components.data.marks import MADE_HERE, read_mark
from aps_components.data.nifti import read_header, write_like
from aps_components.data.transforms import HEADER_FILE

NIFTI = (".nii", ".nii.gz")


class SaveOnScansGridd(SaveImaged):
    """MONAI's SaveImaged, whose NIfTI files have the scan's own geometry in their headers.

    MONAI makes qform and sform alike and gives both the code 1, so that programs that read the other one of a scan
    would see scan and map apart. Files appear whole or not at all.

    Args:
        key: of the map, [C, D, H, W] on the scan's grid; may be missing.
        output_dir: made if missing.
        postfix: of the files' names.
        output_ext: their ending; what is no NIfTI is written by MONAI.
        dtype: of the voxels.
        separate_folder: one folder a scan.
    """

    def __init__(
        self,
        key: str,
        *,
        output_dir: str | Path,
        postfix: str,
        output_ext: str = ".nii.gz",
        dtype: str = "float32",
        separate_folder: bool = False,
    ) -> None:
        super().__init__(
            keys=key,
            meta_keys=f"{key}_meta_dict",
            output_dir=output_dir,
            output_postfix=postfix,
            output_ext=output_ext,
            output_dtype=np.dtype(dtype),
            resample=False,
            separate_folder=separate_folder,
            squeeze_end_dims=False,
            print_log=False,
            allow_missing_keys=True,
        )
        self.dtype = np.dtype(dtype)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file; the data go through unchanged.

        Raises:
            DataError: a file of that name is there, and was not made here; it may be the scan itself.
        """
        if self.saver.output_ext not in NIFTI:
            return super().__call__(data)
        for key in self.key_iterator(dict(data)):
            volume: MetaTensor = data[key]
            voxels = np.moveaxis(np.asarray(volume.as_tensor().cpu()), 0, 3).astype(self.dtype, copy=False)
            target = self.saver.folder_layout.filename(subject=volume.meta["filename_or_obj"])
            voxels = voxels if voxels.shape[3] > 1 else voxels[..., 0]
            _refuse_foreign(target)
            write_like(target, voxels, read_header(volume.meta[HEADER_FILE]), description=MADE_HERE)
        return dict(data)


def _refuse_foreign(target: str | os.PathLike[str]) -> None:
    """What cannot be read at all is no loss."""
    try:
        foreign = os.path.exists(target) and read_mark(target) is None
    except DataError:
        return
    if foreign:
        raise DataError(f"{target} is there, and was not made here: give another --output_dir, or move it away")
