"""Preprocessed scans in a folder, memory-mapped: a patch costs the pages that it is in, and memory stays flat.

MONAI's PersistentDataset reads a whole scan for each patch, takes a file that was replaced for the one before, and
unpickles what it finds. Here an entry is NumPy's plain arrays, under a hash of the scan's voxels and of the
preprocessing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import monai
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from aps_components.data.errors import DataError
from aps_components.data.identity import identity
from aps_components.data.remembered import Remembered
from aps_components.files import expanded
from aps_components.plain_json import read_object

FORM = 2  # of an entry; another one where a version of this project preprocesses in another way
DIGITS = 32
FACTS = "facts.json"
ARRAYS = "arrays"  # in the facts: how many there are under a key, such as the voxels of each class
AFFINE = "affine"  # of a volume; a plain tensor, such as a table of classes, has none
UNFINISHED = ".unfinished-"  # how a folder begins in which an entry is being written
DAY = 24 * 60 * 60  # seconds, after which nobody writes into it any more
PASSED_OVER = ("lazy", "noted", "tracing")  # attributes of transforms that change nothing of what they do


class Stored(NamedTuple):
    """An item in the folder."""

    place: Path

    def opened(self) -> dict[str, Any]:
        """Its volumes, which are read where something of them is needed, and may be written to in memory."""
        return {key: self._value(key, about) for key, about in read_object(self.place / FACTS).items()}

    @property
    def is_whole(self) -> bool:
        """Whether all its files are there: some systems delete what nobody opened for long, file by file."""
        try:
            facts = read_object(self.place / FACTS)
        except (OSError, ValueError):
            return False
        return all((self.place / name).is_file() for name in _files(facts))

    def _value(self, key: str, about: Mapping[str, Any]) -> Any:
        if ARRAYS in about:
            return [self._tensor(name) for name in _files({key: about})]
        if AFFINE not in about:
            return self._tensor(f"{key}.npy")
        affine = torch.tensor(about[AFFINE], dtype=torch.float64)
        return MetaTensor(self._tensor(f"{key}.npy"), affine=affine, meta={"filename_or_obj": about["file"]})

    def _tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.load(self.place / name, mmap_mode="c"))


class DiskCache:
    """A folder of preprocessed items.

    Args:
        folder: made if missing; several trainings may share it.
        transforms: the preprocessing.
    """

    def __init__(self, folder: str | os.PathLike[str], transforms: Sequence[Callable]) -> None:
        self.folder = expanded(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear()
        self.remembered = Remembered(self.folder)
        self.preprocessing = json.dumps([FORM, monai.__version__, *map(described, transforms)])

    def stored(self, item: Mapping[str, Any], prepare: Callable[[], Mapping[str, Any]]) -> Stored:
        """An item's entry, which is made if it is not there, or not whole.

        Args:
            item: with the files of "image" and, where there is one, "label".
            prepare: gives the preprocessed item.

        Raises:
            DataError: the disk is full, or the item cannot be used.
        """
        who = identity(item, remembered=self.remembered)
        key = hashlib.sha256(json.dumps([who["image"], who["label"], self.preprocessing]).encode()).hexdigest()[:DIGITS]
        entry = Stored(self.folder / key[:2] / key)
        if not entry.is_whole:
            self._write(entry, prepare())
        return entry

    def _write(self, entry: Stored, item: Mapping[str, Any]) -> None:
        """A new entry is there whole or not at all; who comes second leaves the first one's."""
        entry.place.parent.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
        try:
            _fill(work, item)
            if not entry.place.exists():
                os.replace(work, entry.place)
            elif not entry.is_whole:
                _mend(entry.place, work)
        except OSError as error:
            if not entry.is_whole:  # not made by another process meanwhile
                raise DataError(
                    f"{self.folder}: a preprocessed scan cannot be kept there ({error.strerror}); free some room, or "
                    "give another --cache_dir"
                ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _clear(self) -> None:
        """What processes left that were killed in the middle of an entry."""
        for work in self.folder.glob(f"{UNFINISHED}*"):
            try:
                is_left = time.time() - work.stat().st_mtime > DAY
            except OSError:  # just finished
                continue
            if is_left:
                shutil.rmtree(work, ignore_errors=True)


def described(value: Any) -> Any:
    """What a transform does, as JSON has it: its class and what it was given."""
    if isinstance(value, Transform):
        attributes = {key.strip("_"): each for key, each in sorted(vars(value).items())}
        return [type(value).__name__, {k: described(v) for k, v in attributes.items() if k not in PASSED_OVER}]
    if isinstance(value, Mapping):
        return {str(key): described(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | torch.Tensor):
        return described(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [described(each) for each in value]
    if isinstance(value, float) and math.isnan(value):
        return "nan"  # which is no other's equal
    if isinstance(value, Enum):
        return str(value.value)
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__ + _name(value)


def _name(value: Any) -> str:
    """Of a function, a type or a member of an enumeration; an object's place in memory is none."""
    return str(getattr(value, "name", getattr(value, "__name__", "")))


def _fill(work: Path, item: Mapping[str, Any]) -> None:
    facts: dict[str, Any] = {}
    for key, value in item.items():
        if isinstance(value, MetaTensor):
            np.save(work / f"{key}.npy", np.ascontiguousarray(value.as_tensor().numpy()))
            facts[key] = {AFFINE: value.affine.tolist(), "file": str(value.meta.get("filename_or_obj", ""))}
        elif isinstance(value, list) and all(isinstance(entry, np.ndarray | torch.Tensor) for entry in value):
            for index, entry in enumerate(value):
                np.save(work / f"{key}.{index}.npy", np.asarray(entry))
            facts[key] = {ARRAYS: len(value)}
        elif isinstance(value, torch.Tensor):
            np.save(work / f"{key}.npy", value.numpy())
            facts[key] = {}
    (work / FACTS).write_text(json.dumps(facts))


def _files(facts: Mapping[str, Any]) -> Iterator[str]:
    """Names of the arrays of an entry."""
    for key, about in facts.items():
        if ARRAYS in about:
            yield from (f"{key}.{index}.npy" for index in range(about[ARRAYS]))
        else:
            yield f"{key}.npy"


def _mend(place: Path, work: Path) -> None:
    """Put a new entry's files in the places of those of an entry that is not whole, the facts last.

    Others may do the same meanwhile, or have some of these files open: each is replaced at once, by an equal one.
    """
    for file in sorted(work.iterdir(), key=lambda file: file.name == FACTS):
        os.replace(file, place / file.name)
