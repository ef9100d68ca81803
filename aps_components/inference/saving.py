"""Maps of a scan as files that lie where the scan lies."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, SaveImaged
from torch import Tensor

from aps_components.data import DataError
from aps_components.data.marks import MADE_HERE, read_mark
from aps_components.data.nifti import read_header, write_channels
from aps_components.data.transforms import HEADER_FILE
from aps_components.inference.own_grid import Maps, OwnGrid, WholeMaps
from aps_components.uncertainty import ALL_MAP_NAMES

NIFTI = (".nii", ".nii.gz")


class SaveOnScansGridd(SaveImaged):
    """MONAI's SaveImaged, whose NIfTI files have the scan's own geometry in their headers.

    MONAI makes qform and sform alike and gives both the code 1, so that programs that read the other one of a scan
    would see scan and map apart. Files appear whole or not at all.

    Args:
        key: of the map, [C, D, H, W]; may be missing.
        output_dir: made if missing.
        postfix: of the files' names.
        output_ext: their ending; what is no NIfTI is written by MONAI.
        dtype: of the voxels.
        separate_folder: one folder a scan.
        preprocessing: what the item's "image" went through; maps that are no MetaTensor lie on the grid after it, and
            are brought to the scan's own grid a channel at a time.
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
        preprocessing: InvertibleTransform | None = None,
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
        self.dtype, self.preprocessing = np.dtype(dtype), preprocessing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file; the data go through unchanged.

        Raises:
            DataError: a file of that name is there, and was not made here; it may be the scan itself.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            channels = self._channels(d[key], d)
            if self.saver.output_ext in NIFTI:
                self._write(channels)
            else:
                whole = torch.cat([channels.first, *channels.others])
                super().__call__({key: MetaTensor(whole, meta=channels.first.meta)})
        return d

    def _channels(self, maps: Any, data: Mapping[Hashable, Any]) -> Channels:
        """On the scan's grid."""
        if isinstance(maps, MetaTensor):
            return Channels(maps[:1], len(maps), (maps[index : index + 1] for index in range(1, len(maps))))
        assert self.preprocessing is not None
        grid = OwnGrid(self.preprocessing, data["image"])
        stored: Maps = WholeMaps(maps) if isinstance(maps, Tensor) else maps
        others = (grid.channel(stored, index) for index in range(1, stored.channels))
        return Channels(grid.channel(stored, 0), stored.channels, others)

    def _write(self, channels: Channels) -> None:
        meta = channels.first.meta
        target = self.saver.folder_layout.filename(subject=meta["filename_or_obj"])
        _refuse_foreign(target)
        voxels = (np.asarray(volume.as_tensor()[0].cpu()) for volume in chain([channels.first], channels.others))
        write_channels(
            target,
            voxels,
            shape=(*channels.first.shape[1:], *([channels.total] if channels.total > 1 else [])),
            dtype=self.dtype,
            header=read_header(meta[HEADER_FILE]),
            description=MADE_HERE,
        )


class SaveUncertaintyd(MapTransform):
    """Every uncertainty map that there is, in a file of its own, named after what it holds (``MAP_NAMES``).

    Args:
        output_dir, output_ext, separate_folder, preprocessing: as of :class:`SaveOnScansGridd`.
    """

    def __init__(
        self,
        *,
        output_dir: str | Path,
        output_ext: str = ".nii.gz",
        separate_folder: bool = False,
        preprocessing: InvertibleTransform | None = None,
    ) -> None:
        super().__init__(ALL_MAP_NAMES, allow_missing_keys=True)
        self.savers = [
            SaveOnScansGridd(
                name,
                output_dir=output_dir,
                postfix=name,
                output_ext=output_ext,
                separate_folder=separate_folder,
                preprocessing=preprocessing,
            )
            for name in ALL_MAP_NAMES
        ]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the data go through unchanged. Errors as of :class:`SaveOnScansGridd`."""
        for save in self.savers:
            save(data)
        return dict(data)


class Channels(NamedTuple):
    """Maps [1, D, H, W] that are made when they are needed."""

    first: Any
    total: int
    others: Iterator[Any]


def _refuse_foreign(target: str | os.PathLike[str]) -> None:
    """What cannot be read at all is no loss."""
    try:
        foreign = os.path.exists(target) and read_mark(target) is None
    except DataError:
        return
    if foreign:
        raise DataError(f"{target} is there, and was not made here: give another --output_dir, or move it away")
