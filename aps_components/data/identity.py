"""Who a scan is: by its voxels, whatever its file is called, wherever it lies, and however it is packed.

Two scans are one if all their files are alike, in whatever order. One file of several is enough where it tells a scan
from others: not if it has one value everywhere, as in the place of a modality that was not taken, and not if different
scans of one part share it, as an atlas.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import numpy as np

from aps_components.data.datalist import Item, case_name, files_of
from aps_components.data.errors import DataError
from aps_components.data.geometry import geometry_of
from aps_components.data.nifti import read_header, read_scan, scaling_of, stored_shape, stored_voxels
from aps_components.data.partial import said_of
from aps_components.data.remembered import Remembered, facts
from aps_components.terminal import shown

Identity = dict[str, Any]
"""Of a case: "name"; "image": a text for each of its files; "label": a text, or None. What is said of a label that is
not whole belongs to its text."""
Cases = Mapping[str, Sequence[Identity]]
"""By part, in the order in which a training uses them."""

LABELED, UNLABELED, VALIDATION, EARLIER = "labeled", "unlabeled", "validation", "earlier"
LEARNED_FROM = (LABELED, UNLABELED, EARLIER)
READERS = 4  # threads; most of the time goes into unpacking and hashing, which run beside others
SHOWN = 3
DIGITS = 32


def case_identities(
    training: Sequence[Item],
    validation: Sequence[Item] = (),
    *,
    ordered: bool = True,
    earlier: Cases | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Cases:
    """The identity of every case of a training, by what it is used for.

    Args:
        training: labelled and unlabelled items.
        validation: items with labels.
        ordered: keep their order; False sorts them by name, for a source that gives them in any, a MONAI Label
            datastore: an unreadable scan there validates nothing, and is left out.
        earlier: the cases of the training that this one begins with, of which the model knows, too.
        cache_dir: where identities are kept, so that files that were read once are not read again.

    Raises:
        DataError: one scan stands twice in the training, or in training and validation, also under two names; or one
            that validates was learned from earlier.
    """
    remembered = Remembered(cache_dir)
    if not ordered:
        validation = [item for item in validation if _is_readable(item)]
    parts = {
        LABELED: [item for item in training if "label" in item],
        UNLABELED: [item for item in training if "label" not in item],
        VALIDATION: list(validation),
    }
    with ThreadPoolExecutor(READERS) as pool:
        cases = {part: list(pool.map(partial(identity, remembered=remembered), items)) for part, items in parts.items()}
    _refuse_repeats(parts, cases)
    if known := _learned_from(earlier or {}):
        if seen := seen_items(validation, earlier or {}):
            item, case, _ = seen[0]
            raise DataError(
                f"{files_of(item['image'])[0]} validates, but the pretrained model learned from it, as "
                f"{case['name'] or case['image'][0]!r}: pretrain without it, or let other scans validate"
            )
        cases[EARLIER] = list({_digest(case): case for case in known}.values())
    return cases if ordered else {part: sorted(found, key=lambda case: case["name"]) for part, found in cases.items()}


def _is_readable(item: Item) -> bool:
    try:
        identity(item)
    except DataError:
        return False
    return True


def identity(item: Mapping[str, Any], *, remembered: Remembered | None = None) -> Identity:
    """Of one case; files that are remembered are not read."""
    label = item.get("label")

    def of_file(file: str) -> str:
        if remembered is None or not os.path.isfile(file):
            return scan_identity(file)
        return remembered.of(f"identity {facts(file)}", lambda: scan_identity(file))

    return {
        "name": shown(case_name(item)),  # JSON has no half characters, which stand for bytes that are no UTF-8
        "image": [of_file(file) for file in files_of(item["image"])],
        "label": None if label is None else of_file(files_of(label)[0]) + said_of(item),
    }


def scan_identity(file: str | os.PathLike[str]) -> str:
    """Of a NIfTI file: a hash of its voxels as they are stored and, after a ":", one of where they lie and, where the
    header scales them, of how.

    A copy, a link, another name and another packing (``.nii``, ``.nii.gz``) change nothing; another type of numbers
    does, whatever their values.

    Raises:
        DataError: it cannot be read.
    """
    path = os.path.abspath(file)
    try:
        state = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); put the scan there") from error
    return _scan_identity(path, state.st_mtime_ns, state.st_size, state.st_ino)


def changes(found: Cases, now: Cases) -> str:
    """Which cases a training was begun with that are not those of now, in words; empty where all are the same."""
    lines = []
    for part in (LABELED, UNLABELED, VALIDATION):
        before, after = list(found.get(part, ())), list(now.get(part, ()))
        if _digests(before) == _digests(after):
            continue
        if sorted(map(str, _digests(before))) == sorted(map(str, _digests(after))):
            lines.append(f"the {part} scans stand in another order")
            continue
        gone = [case["name"] for case in before if _digest(case) not in _digests(after)]
        new = [case["name"] for case in after if _digest(case) not in _digests(before)]
        said = [f"without {_some(gone)}"] if gone else []
        said += [f"with {_some(new)}"] if new else []
        lines.append(f"the {part} scans are now {' and '.join(said)}")
    return "; ".join(lines)


def seen_items(items: Iterable[Item], cases: Cases) -> list[tuple[Item, Identity, str]]:
    """Those of some items whose image a training had, each with the training's case and the part it was in.

    Scans that a training validated on are none of them: it did not learn from those.
    """
    given = [(item, identity({"image": item["image"]})) for item in items]
    shared = _shared([*cases.values(), [who for _, who in given]])
    seen = {key: (case, part) for part in LEARNED_FROM for case in cases.get(part, ()) for key in _keys(case)}
    found = [(item, _known_by(item, who, seen, shared)) for item, who in given]
    return [(item, *seen[known[1]]) for item, known in found if known]


def had_any(items: Iterable[Item], cases: Cases) -> bool:
    """Whether a training had any of some items' images, in whatever part; the first that it had is enough."""
    had = {frozenset(_voxels(case)) for found in cases.values() for case in found}
    scans = (set(_voxels(identity({"image": item["image"]}))) for item in items)
    return any(case <= scan for scan in scans for case in had)


def digest_of(items: Iterable[Item]) -> str:
    """Of some cases together, in their order: another one where any image or label is another."""
    return hashlib.sha256(repr([_digest(identity(item)) for item in items]).encode()).hexdigest()[:DIGITS]


@lru_cache(maxsize=4096)
def _scan_identity(path: str, changed: int, size: int, number: int) -> str:
    """``changed``, ``size`` and ``number`` tell the contents of a file apart."""
    header = read_header(path)
    affine = geometry_of(header, path).affine
    kind = header.get_data_dtype().newbyteorder("=").str
    voxels = hashlib.sha256(repr((stored_shape(header), kind)).encode())
    for block in stored_voxels(path, header):
        voxels.update(block)
    place = hashlib.sha256(np.round(affine, 4).tobytes())
    if (scaling := scaling_of(header)) != (1, 0):  # so that what was stored of all other scans stays right
        place.update(repr(scaling).encode())
    return f"{voxels.hexdigest()[:DIGITS]}:{place.hexdigest()[:8]}"


def _matters(part: str, other: str) -> bool:
    """Whether a scan may not be in both: without a label it only comes more often, unless it validates elsewhere."""
    return "validation" in (part, other) or "unlabeled" not in (part, other)


def _refuse_repeats(parts: Mapping[str, Sequence[Item]], cases: Cases) -> None:
    seen: dict[str, tuple[str, str]] = {}
    shared = _shared(cases.values())
    for part, items in parts.items():
        for item, case in zip(items, cases[part], strict=True):
            if known := _known_by(item, case, seen, shared):
                file, (other, there) = known[0], seen[known[1]]
                if _matters(part, there):
                    raise DataError(
                        f"{file} ({part}) and {other} ({there}) are one scan, voxel for voxel: take one of them out of "
                        "the datalist"
                    )
            files = files_of(item["image"])
            seen |= {key: (file, part) for key, file in zip(_keys(case), [files[0], *files], strict=True)}


def _shared(parts: Iterable[Iterable[Identity]]) -> set[str]:
    """Voxels of a file that different scans of one part have."""
    shared = set()
    for cases in parts:
        first: dict[str, str] = {}
        for case in cases:
            whole, *files = _keys(case)
            shared |= {voxels for voxels in files if first.setdefault(voxels, whole) != whole}
    return shared


def _known_by(item: Item, case: Identity, seen: Collection[str], shared: Collection[str]) -> tuple[str, str] | None:
    """The file by which a case is one of those whose keys were seen, and that key."""
    files = files_of(item["image"])
    whole, *parts = _keys(case)
    if whole in seen:
        return files[0], whole
    both = zip(files, parts, strict=True)
    return next((one for one in both if one[1] in seen and one[1] not in shared and not _is_constant(one[0])), None)


def _keys(case: Identity) -> list[str]:
    """The voxels of all files of a case together, and of each."""
    parts = _voxels(case)
    return ["+".join(sorted(parts)), *parts]


def _is_constant(file: str) -> bool:
    voxels = read_scan(file, scaled=False).voxels
    return bool(voxels.min() == voxels.max())


def _learned_from(cases: Cases) -> list[Identity]:
    return [case for part in LEARNED_FROM for case in cases.get(part, ())]


def _voxels(case: Identity) -> list[str]:
    return [scan.partition(":")[0] for scan in case["image"]]


def _digest(case: Identity) -> tuple[Any, ...]:
    return (*case["image"], case["label"])


def _digests(cases: Sequence[Identity]) -> list[tuple[Any, ...]]:
    return [_digest(case) for case in cases]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
