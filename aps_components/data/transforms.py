"""From files to patches, as MONAI dict transforms.

Axes stay in NIfTI order: a scan is turned to RAS, and its x, y, z are the network's D, H, W. Every transform
skips a missing "label", so labelled and unlabelled cases go through one pipeline.
"""

import logging
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import AFFINE_TOL
from monai.transforms import (
    Compose,
    EnsureTyped,
    MapTransform,
    NormalizeIntensityd,
    Orientationd,
    RandFlipd,
    RandRotate90d,
    ScaleIntensityRanged,
    Spacingd,
    Transform,
)
from monai.utils import ensure_tuple

from aps_components.data.checks import header_faults, label_faults
from aps_components.data.datalist import case_name, files_of
from aps_components.data.errors import DataError, data_error_behind
from aps_components.data.label_values import LabelValues, map_values, parsed_label_values
from aps_components.data.modalities import SUFFIXES
from aps_components.data.nifti import read_channels, read_geometry
from aps_components.data.outliers import RefuseDrownedd
from aps_components.data.partial import KEYS as PARTIAL_KEYS
from aps_components.data.partial import MOST_CLASSES, NOT_LABELED, UNDRAWN, Partial, table_of
from aps_components.data.resampling import LinearResample
from aps_components.data.room import refuse_large_grid, refuse_unloadable
from aps_components.data.voxel_size import SAME_SPACING
from aps_components.options import Axes, axis_groups

IMAGE, LABEL = "image", "label"
HEADER_FILE = "header_file"  # in the meta data: whose header the files have that are made of a scan
RAS_AXES = (("L", "R"), ("P", "A"), ("I", "S"))

logger = logging.getLogger(__name__)

Intensity = str | Mapping[str, Sequence[float]] | None


class Pipeline(Compose):
    """A Compose that lets a DataError through; MONAI's own hides it behind "applying transform ...".

    Args:
        transforms: in order; a list among them counts as what is in it.
    """

    def __init__(self, transforms: Sequence[Callable | Sequence[Callable]]) -> None:
        nested = [entry if isinstance(entry, list | tuple) else [entry] for entry in transforms]
        super().__init__([transform for entry in nested for transform in entry])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the transforms as Compose does."""
        try:
            return super().__call__(*args, **kwargs)
        except RuntimeError as error:
            cause = data_error_behind(error)
            if cause is None:
                raise
            raise cause from cause.__cause__


class LoadVolumed(MapTransform):
    """Load NIfTI volumes as [C, D, H, W] MetaTensors, and refuse faulty ones with a DataError.

    The key "label" is a label, [1, D, H, W] uint8, and may be missing; every other key is an image, float32. An image
    of several files is named after its case, which is what MONAI names the files after that are made of it.

    What an item says of a label that is not whole is read here, and nowhere after it: voxels that nobody labelled are
    255, and of a label in which some classes alone were drawn "undrawn" tells the others, bool [256] by class.

    Args:
        keys: the keys to load.
        in_channels: the channels an image must have.
        num_classes: label values must lie in 0 to num_classes - 1.
        label_values: value in the label files to class, as in {"4": 3}, for files that number the classes in another
            way; all are replaced at once, and values not named keep their number.
    """

    def __init__(
        self,
        keys: KeysCollection = (IMAGE, LABEL),
        *,
        in_channels: int = 1,
        num_classes: int = 2,
        label_values: LabelValues = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if not 2 <= num_classes <= MOST_CLASSES:
            raise ValueError(f"num_classes {num_classes} must be 2 to {MOST_CLASSES}, labels are held as uint8")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.label_values = parsed_label_values(label_values, num_classes=num_classes)
        self.noted: set[str] = set()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the file names under the keys by volumes."""
        d = dict(data)
        for key in self.keys:
            if key not in d and key != LABEL:
                raise DataError(f'an item has no "{key}", only {sorted(map(str, d))}; mend its entry in the datalist')
        entries = {str(key): d[key] for key in self.key_iterator(d)}
        _refuse(header_faults(entries, in_channels=self.in_channels, label_key=LABEL))
        refuse_unloadable(entries)
        partial = Partial.of(d)
        for key, entry in entries.items():
            files = files_of(entry)
            d[key] = self._label(files, partial) if key == LABEL else self.checked(self._load(files), files[0])
        for key in PARTIAL_KEYS:
            d.pop(key, None)
        if LABEL in entries and (undrawn := partial.undrawn(self.num_classes)):
            d[UNDRAWN] = table_of(undrawn)
        return d

    def checked(self, image: MetaTensor, name: str) -> MetaTensor:
        """An image as it is, whose values can be those of a scan; a DataError calls it by its name."""
        bad = int((~torch.isfinite(image)).sum())
        if bad:
            raise DataError(f"{name}: {bad} voxels are NaN or infinite; replace them, for instance by the minimum")
        if image.amin() == image.amax():
            self._note(f"{name}: every voxel is {float(image.amin()):g}; is it the right scan?")
        return image

    def _label(self, files: list[str], partial: Partial) -> MetaTensor:
        label = self._load(files)
        _refuse(label_faults(files[0], label.numpy(), self.num_classes, self.label_values, partial))
        label = label.round()
        if self.label_values or not partial.is_whole:
            values = label.numpy()
            classes = map_values(values, self.label_values)
            unlabeled = partial.unlabeled(values, classes)
            label.copy_(torch.from_numpy(np.where(unlabeled, NOT_LABELED, classes)))
        return label.to(torch.uint8)

    def _load(self, files: list[str]) -> MetaTensor:
        """[C, D, H, W], float32; what is beyond it becomes infinite, which is reported as such."""
        grids = [read_geometry(file) for file in files]
        counts = [grid.channels for grid in grids]
        volume = np.empty((sum(counts), *grids[0].shape), dtype=np.float32)
        for part, file in zip(np.split(volume, np.cumsum(counts)[:-1]), files, strict=True):
            read_channels(file, part)
        self._note(*(note for grid in grids for note in grid.notes))
        affine, name = torch.from_numpy(grids[0].affine), os.fspath(files[0])
        if len(files) > 1 or not name.endswith(SUFFIXES):
            name = os.path.join(os.path.dirname(name), case_name({IMAGE: files}) + SUFFIXES[0])
        meta = {
            "filename_or_obj": name,
            HEADER_FILE: os.fspath(files[0]),
            "original_affine": affine.numpy().copy(),
            "spatial_shape": np.array(grids[0].shape),
            "original_channel_dim": 0,
            "space": "RAS",
        }
        return MetaTensor(torch.from_numpy(volume), affine=affine, meta=meta)

    def _note(self, *notes: str) -> None:
        """What is doubtful in a header, once."""
        for note in notes:
            if note not in self.noted:
                self.noted.add(note)
                logger.warning(note)


class Resampled(Spacingd):
    """Resample to a voxel size: bilinear for images, nearest for the label; not where the sizes agree to 1 %.

    Interpolation always blurs, and headers round: 0.6249 mm stays what it is where 0.625 is asked for.

    It hands only its own keys to Spacingd, which would also write into keys such as "image_path" that MONAI Label adds.

    Args:
        keys: the keys to resample; missing ones are skipped.
        spacing: voxel size in mm along x, y, z; None leaves the grid as it is.
    """

    def __init__(self, keys: KeysCollection, spacing: Sequence[float] | None) -> None:
        keys = ensure_tuple(keys)
        modes = ["nearest" if key == LABEL else "bilinear" for key in keys]
        size = np.array(spacing or (-1.0,) * 3)
        low, high = size / SAME_SPACING + AFFINE_TOL, size * SAME_SPACING - AFFINE_TOL  # which MONAI adds again
        agree = {"min_pixdim": np.minimum(low, size), "max_pixdim": np.maximum(high, size)} if spacing else {}
        super().__init__(keys, pixdim=size, mode=modes, allow_missing_keys=True, **agree)
        self.spacing = spacing
        self.spacing_transform.sp_resample = LinearResample(dtype=np.float64)

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Resample, or return the data as they are when there is no spacing."""
        if self.spacing is None:
            return dict(data)
        own = {key: data[key] for key in self.key_iterator(dict(data))}
        refuse_large_grid(own, self.spacing)
        return {**data, **super().__call__(own, lazy)}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Go back to the grid before resampling."""
        return dict(data) if self.spacing is None else super().inverse(data)


class NormalizeScand(MapTransform):
    """Intensities of a scan, normalised as `intensity_transforms` says.

    Args:
        keys: of images.
        intensity: see `intensity_transforms`.
    """

    def __init__(self, keys: KeysCollection, intensity: Intensity = None) -> None:
        super().__init__(keys)
        self.steps = intensity_transforms(keys, intensity)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise."""
        d = dict(data)
        for step in self.steps:
            d = step(d)
        return d


def flips_and_quarter_turns(keys: KeysCollection, *, flip_axes: Axes, roi_size: Sequence[int]) -> list[Transform]:
    """Random moves of whole voxels, which keep a label exact.

    Quarter turns about z are made where the first two sizes of a patch are equal and both 0 and 1 are flipped alone:
    they mix the two axes, and would undo what leaving one out protects.

    Args:
        keys: of the image and the label; missing ones are skipped.
        flip_axes: to flip along; leave out 0 where left and right are different classes. Axes in a list of their own,
            as in [[0, 1]], are flipped together: a half turn.
        roi_size: of the patch, along x, y, z.
    """
    groups = axis_groups("flip_axes", flip_axes)
    flips = [RandFlipd(keys, prob=0.5, spatial_axis=group, allow_missing_keys=True) for group in groups]
    if roi_size[0] != roi_size[1] or not _may_be_turned(flip_axes):
        return flips  # a quarter turn would change the patch's shape or mix the axes, and a half turn is two flips
    return [RandRotate90d(keys, prob=0.75, max_k=3, spatial_axes=(0, 1), allow_missing_keys=True), *flips]


def most_turn(flip_axes: Axes) -> float:
    """How far a patch may be turned about z, in radians: half a turn where that mixes no classes up, else 30 degrees.

    Args:
        flip_axes: see `flips_and_quarter_turns`.
    """
    return np.pi if _may_be_turned(flip_axes) else np.pi / 6


def _may_be_turned(flip_axes: Axes) -> bool:
    """Whether flips along x and along y, each alone, are allowed, and so every turn about z."""
    return {(0,), (1,)} <= set(axis_groups("flip_axes", flip_axes))


def evaluation_transforms(
    *,
    spacing: Sequence[float] | None = None,
    intensity: Intensity = None,
    in_channels: int = 1,
    num_classes: int = 2,
    label_values: LabelValues = None,
    keys: KeysCollection = (IMAGE, LABEL),
) -> Compose:
    """Whole scans, without anything random: the preprocessing that bundles list in their configurations.

    Args:
        spacing: voxel size in mm; None keeps each scan's own.
        intensity: see `intensity_transforms`.
        in_channels: channels of the image.
        num_classes: classes of the label, background included.
        label_values: value in the label files to class, see `LoadVolumed`.
        keys: to load.
    """
    keys = ensure_tuple(keys)
    images = [key for key in keys if key != LABEL]
    dtypes = [torch.uint8 if key == LABEL else torch.float32 for key in keys]
    return Pipeline(
        [
            LoadVolumed(keys, in_channels=in_channels, num_classes=num_classes, label_values=label_values),
            Orientationd(keys, axcodes="RAS", labels=RAS_AXES, allow_missing_keys=True),
            Resampled(keys, spacing),
            *([NormalizeScand(images, intensity)] if images else []),
            EnsureTyped(keys, dtype=dtypes, allow_missing_keys=True),
        ]
    )


def intensity_transforms(keys: KeysCollection, intensity: Intensity) -> list[Transform]:
    """Intensity normalisation, chosen by data.

    None
        leaves the values, for scans that are normalised already.
    "zscore"
        mean 0 and deviation 1 per scan and channel: MRI, whose scale is arbitrary.
    "zscore_nonzero"
        the same over non-zero voxels only: scans whose background was set to 0, such as skull-stripped MRI.
    {"window": [low, high]}
        clip, then map low to 0 and high to 1, the same for every scan: CT, whose scale is absolute (nnU-Net too
        normalises CT by fixed numbers and MRI per scan, Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).
    """
    if intensity is None:
        return []
    if intensity in ("zscore", "zscore_nonzero"):
        nonzero = intensity == "zscore_nonzero"
        return [
            RefuseDrownedd(keys, nonzero=nonzero),
            NormalizeIntensityd(keys, nonzero=nonzero, channel_wise=True),
        ]
    if isinstance(intensity, Mapping) and set(intensity) == {"window"} and len(intensity["window"]) == 2:
        low, high = intensity["window"]
        if low < high:
            return [ScaleIntensityRanged(keys, a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)]
    raise ValueError(
        f'intensity {intensity!r} must be None, "zscore", "zscore_nonzero" or {{"window": [low, high]}} with low < high'
    )


def _refuse(faults: Iterable[str]) -> None:
    lines = list(faults)
    if lines:
        raise DataError("\n".join(lines))
