"""Training data as MONAI Label hands them over: labelled scans alone, while the others lie beside them.

Its local datastore is a folder of scans with the finished labels in ``labels/final/`` below it and unfinished ones in
``labels/partial/``, each under the name of its scan. So the folder that the labelled scans come from also holds those
that nobody has labelled yet.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import Any

from aps_components.data.datalist import DATALIST, Datalist, Item, files_of, load_datalist, read_datalist, scans_in
from aps_components.data.errors import DataError
from aps_components.data.label_values import LabelValues
from aps_components.data.modalities import is_nifti_name, stem
from aps_components.data.partial import MOST_CLASSES, is_partial
from aps_components.data.sampling import EvaluationCache, SeededCacheDataset
from aps_components.data.transforms import IMAGE, LABEL, LoadVolumed
from aps_components.files import expanded

LABELS, FINAL, UNFINISHED = "labels", "final", "partial"  # folders
LEFT_OUT = "left_out"  # of an item: label files of its datastore that are none of this training's, as good as none
READERS = 4  # threads; most of the time goes into unpacking, which runs beside others
logger = logging.getLogger(__name__)


class TrainingDataset(SeededCacheDataset):
    """A SeededCacheDataset that knows whether its scans are those of a MONAI Label datastore.

    Attributes:
        in_datastore: whether they are: then the scans there without a label are among them.
    """

    in_datastore: bool = False


def training_dataset(
    data: Sequence[Item],
    transform: Sequence[Callable] | Callable,
    *,
    validation: Sequence[Item] = (),
    unlabeled: bool = True,
    in_channels: int = 1,
    label_values: LabelValues = None,
    cache_rate: float = 1.0,
    cache_dir: str | os.PathLike[str] | None = None,
    num_workers: int = 4,
    progress: bool = True,
) -> TrainingDataset:
    """The cases to train on; those of a MONAI Label datastore together with the scans there that have no label.

    How many of each are taken is logged. A scan or a label of a datastore that cannot be used is named in the log and
    left out.

    Args:
        data: items with "image" and, where there is one, "label", of a datalist or from MONAI Label.
        transform: see `SeededCacheDataset`; this and the last four.
        validation: items to keep out of the training.
        unlabeled: False leaves a datastore's scans without a label alone.
        in_channels: channels that each image must have.
        label_values: value in the label files to class, see `LoadVolumed`.
        cache_rate: the share of the items to cache in memory.
        cache_dir: a folder to cache all of them in instead.
        num_workers: threads that fill the cache.
        progress: show bars.

    Raises:
        DataError: no item has a label, or a labelled one is faulty.
    """
    if not any(LABEL in item for item in data):
        raise DataError(
            "no labelled scan is left to train on: label more scans, or keep fewer for validation (validation_count; "
            "val_split in MONAI Label)"
        )
    folder = studies_folder(data)
    items = [{key: value for key, value in item.items() if key != LEFT_OUT} for item in data]
    if folder is not None:
        items = usable_items(items, load=_loader(transform, in_channels, label_values))
        left_out = {file for item in data for file in item.get(LEFT_OUT, ())}
        known = [*items, *validation]
        added = unlabeled_items(folder, known=known, left_out=left_out, in_channels=in_channels) if unlabeled else []
        partly = f" ({count} of them partly)" if (count := sum(map(is_partial, items))) else ""
        logger.info("%s: training on %d labelled%s and %d unlabelled scans", folder, len(items), partly, len(added))
        items += added
    dataset = TrainingDataset(
        *(items, transform), cache_rate=cache_rate, cache_dir=cache_dir, num_workers=num_workers, progress=progress
    )
    dataset.in_datastore = folder is not None
    return dataset


def validation_dataset(
    data: Sequence[Item],
    transform: Sequence[Callable] | Callable,
    *,
    cache_rate: float = 1.0,
) -> EvaluationCache:
    """An EvaluationCache of the cases to validate on; of a MONAI Label datastore those that can be used.

    Args:
        data: items with "image" and "label".
        transform: see `training_dataset`; it begins with the loading.
        cache_rate: the share of the items to cache.
    """
    items = list(data)
    if studies_folder(items) is not None:
        items = usable_items(items, load=_loader(transform), least=0)
    return EvaluationCache(items, transform, cache_rate=cache_rate)


def usable_items(items: Sequence[Item], *, load: LoadVolumed, least: int = 1) -> list[Item]:
    """The items that can be loaded; the others are named in the log.

    Args:
        items: with "image" and, where there is one, "label".
        load: reads both, and refuses what cannot be used.
        least: number that must be left.

    Raises:
        DataError: fewer are left; what is wrong with the others.
    """
    with ThreadPoolExecutor(READERS) as pool:
        faults = list(pool.map(lambda item: _fault(item, load), items))
    for fault in filter(None, faults):
        logger.warning("left out: %s", fault)
    usable = [item for item, fault in zip(items, faults, strict=True) if fault is None]
    if len(usable) < least:
        raise DataError("no labelled scan can be used:\n" + "\n".join(filter(None, faults)))
    return usable


def _loader(transform: Any, in_channels: int = 1, label_values: LabelValues = None) -> LoadVolumed:
    """The one at the head of a pipeline, which knows the number of classes; one of its own where there is none."""
    first = next(iter(getattr(transform, "transforms", ())), None)
    if isinstance(first, LoadVolumed):
        return first
    return LoadVolumed((IMAGE, LABEL), in_channels=in_channels, num_classes=MOST_CLASSES, label_values=label_values)


def dataset_name(dataset_dir: str | os.PathLike[str], *, default: str | os.PathLike[str]) -> str | None:
    """The name in a dataset's own datalist.json, or else in the ``default`` one; None where there is neither.

    In MONAI Label a bundle has no dataset folder, and needs none.
    """
    for file in (expanded(dataset_dir) / DATALIST, Path(default)):
        if file.is_file():
            return str(read_datalist(file, keys=("name",))["name"])
    return None


@wraps(load_datalist)
def lazy_datalist(*args: Any, **kwargs: Any) -> Any:
    """What `load_datalist` gives, read when something of it is first asked for.

    Slicer's module has MONAI Label evaluate every line of a bundle's configuration, where there is no dataset folder.
    """
    return _LazyDatalist(partial(load_datalist, *args, **kwargs))


class _LazyDatalist:
    def __init__(self, load: Callable[[], Datalist]) -> None:
        self._load = load

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by whoever wants to know what this is, as copy does
            raise AttributeError(name)
        return getattr(self._content, name)

    @cached_property
    def _content(self) -> Datalist:
        return self._load()


def studies_folder(items: Sequence[Item]) -> Path | None:
    """The folder of the local MONAI Label datastore that all these items come from; None if they do not."""
    if not items or not all(LABEL in item and len(files_of(item[IMAGE])) == 1 for item in items):
        return None
    label_folders = {Path(files_of(item[LABEL])[0]).parent for item in items}
    above = {folder.parent for folder in label_folders}
    labels = above.pop()
    if above or labels.name != LABELS or not {folder.name for folder in label_folders} <= {FINAL, UNFINISHED}:
        return None
    studies = labels.parent
    scans = {os.path.realpath(scan) for scan in scans_in(studies)}
    return studies if all(_real_image(item) in scans for item in items) else None


def unlabeled_items(
    folder: Path, *, known: Iterable[Item], left_out: Iterable[str] = (), in_channels: int = 1
) -> list[Item]:
    """The readable scans of a datastore that have no finished label and are none of the known ones, sorted.

    Args:
        folder: of the datastore.
        known: items.
        left_out: files of labels that are as good as none.
        in_channels: channels that each scan must have.
    """
    labels, others = folder / LABELS / FINAL, {os.path.realpath(file) for file in left_out}
    files = sorted(labels.iterdir()) if labels.is_dir() else []
    labelled = {_stem(file.name) for file in files if os.path.realpath(file) not in others}
    taken = {_real_image(item) for item in known}
    scans = [
        {IMAGE: str(scan)}
        for scan in scans_in(folder)
        if _stem(scan.name) not in labelled and os.path.realpath(scan) not in taken
    ]
    return usable_items(scans, load=LoadVolumed((IMAGE,), in_channels=in_channels), least=0)


def _fault(item: Mapping[Any, Any], load: LoadVolumed) -> str | None:
    """What is wrong with a case, found by reading it: a header says nothing of a file that was cut short."""
    try:
        load(item)
    except DataError as error:
        return str(error)
    return None


def _real_image(item: Mapping[str, Any]) -> str:
    return os.path.realpath(files_of(item[IMAGE])[0])


def _stem(name: str) -> str:
    """Of labels in other formats than NIfTI, too."""
    return stem(name) if is_nifti_name(name) else Path(name).stem
