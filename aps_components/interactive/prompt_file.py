"""A person's prompts from a file, refused with one line that names the file, the entry and the mend."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.data import DataError
from aps_components.files import expanded
from aps_components.inference.prompt_file import KINDS, MODEL, USER, WORLD, mark_of
from aps_components.interactive.words import Listener, Voxel, Words, without_contradictions
from aps_components.plain_json import read_object
from aps_components.prompts import Click, Scribble

HEAD = ("scan", "shape", "affine", "world")
KEYS = ("label", "name", "voxel", "world_mm", "score", "source", "mark")
SAME_PLACE = 0.05  # voxels, by which the two ways to say a place may differ: they are rounded
SAME_AFFINE = 1e-3
TO_RAS = {WORLD: (1.0, 1.0, 1.0), "LPS": (-1.0, -1.0, 1.0)}

Entry = Mapping[str, Any]


def read_prompts(
    file: str | os.PathLike[str],
    *,
    scan: str,
    shape: Sequence[int],
    affine: NDArray[np.floating],
    class_value: Callable[[int | str], int],
) -> Words:
    """What a person says in a file about a scan; the model's own points in it are passed over, unless edited.

    Args:
        file: as ``aps segment --maps`` writes it, edited.
        scan: its name.
        shape: (X, Y, Z) of its own grid.
        affine: of that grid, [4, 4], voxel to mm, RAS+.
        class_value: class value from a value or a name.

    Raises:
        DataError: the file cannot be read, is about another scan, or an entry does not fit.
    """
    path = expanded(file)
    content = _content(path)
    try:
        _refuse_another_scan(content, scan, shape, affine)
        return _Reader(content, Listener(shape, affine, class_value=class_value)).words()
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def holds_a_persons_words(file: str | os.PathLike[str]) -> bool:
    """Whether anything in a file of prompts is a person's; a file that cannot be read may be."""
    try:
        content = _content(Path(file))
        drawn = [entry for kind in KINDS[1:] for entry in content.get(kind, [])]
        return bool(drawn) or any(not _is_models(entry) for entry in content.get(KINDS[0], []))
    except (DataError, AttributeError, TypeError):
        return True


class _Reader:
    """The entries of one file, in the order in which they stand."""

    def __init__(self, content: Entry, listener: Listener) -> None:
        self.content, self.listener = content, listener
        self.to_ras = np.array(TO_RAS[content.get("world", WORLD)])

    def words(self) -> Words:
        said = Words()
        points = self._entries("points")
        for where, entry in points:
            if self._is_a_persons(entry, where, said.notes):
                said.clicks.append(Click(self._class(entry, where), self._voxels(entry, where, one=True)[0]))
        for where, entry in self._entries("boxes"):
            _refuse_another_source(entry, where)
            corners = self._voxels(entry, where)
            if len(corners) != 2:
                raise ValueError(f"{where}: a box has two opposite corners, not {len(corners)}; mend it")
            said.boxes.append(self.listener.box(corners, self._class(entry, where), frame="voxel"))
        for where, entry in self._entries("scribbles"):
            _refuse_another_source(entry, where)
            voxels = list(dict.fromkeys(self._voxels(entry, where)))
            said.scribbles.append(Scribble(self._class(entry, where), voxels))
        if unmarked := [where for where, entry in points if entry.get("source") == MODEL and "mark" not in entry]:
            others = f" and {len(unmarked) - 1} more" if len(unmarked) > 1 else ""
            said.notes.append(
                f"{unmarked[0]}{others}: source {MODEL!r} without a mark, taken as the model's own; delete "
                '"source" where the point is yours'
            )
        if not said:
            said.notes.append(
                "no prompt in it is yours, so the answer is the automatic one; deleting the model's own points changes "
                'nothing: add a point, such as {"name": "background", "voxel": [x, y, z]}'
            )
        return without_contradictions(said)

    def _entries(self, kind: str) -> list[tuple[str, Entry]]:
        entries = self.content.get(kind, [])
        if not isinstance(entries, list):
            raise ValueError(f"{kind} must be a list")
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise ValueError(f'{kind}[{index}] must be as in {{"name": "...", "voxel": [x, y, z]}}')
            _refuse_unknown(entry, KEYS, f"{kind}[{index}]: ")
        return [(f"{kind}[{index}]", entry) for index, entry in enumerate(entries)]

    def _is_a_persons(self, entry: Entry, where: str, notes: list[str]) -> bool:
        if entry.get("source", USER) not in (MODEL, USER):
            raise ValueError(f"{where}: source {entry['source']!r} must be {USER!r} or {MODEL!r}")
        if _is_models(entry):
            return False
        if entry.get("source") == MODEL:
            notes.append(f"{where}: the model's own point, edited: it counts as yours")
        return True

    def _class(self, entry: Entry, where: str) -> int:
        given = [entry[key] for key in ("label", "name") if entry.get(key) is not None]
        if not given:
            raise ValueError(f'{where}: has no class; add "name" or "label"')
        try:
            values = [self.listener.class_value(label) for label in given]
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if len(set(values)) > 1:
            raise ValueError(f"{where}: label {given[0]!r} is not {given[1]!r}; mend one of them, or delete it")
        return values[0]

    def _voxels(self, entry: Entry, where: str, *, one: bool = False) -> list[Voxel]:
        """The places of an entry, or its ``one``, in whichever of the two ways it says them."""
        given = {key: entry[key] for key in ("voxel", "world_mm") if entry.get(key) is not None}
        if not given:
            raise ValueError(f'{where}: has no place; add "voxel" or "world_mm"')
        both = {}
        for key, said in given.items():
            places = [said] if one else said
            if not isinstance(places, list) or not places:
                raise ValueError(f"{where}: {key} {said!r} must be a list of places")
            both[key] = [self._voxel(place, key, where) for place in places]
        if len(both) == 2 and self._differ(given, one=one):
            raise ValueError(
                f"{where}: voxel {given['voxel']} and world_mm {given['world_mm']} are different places; "
                "delete the one that you did not change"
            )
        return next(iter(both.values()))

    def _voxel(self, place: Any, key: str, where: str) -> Voxel:
        if not isinstance(place, list) or len(place) != 3 or not all(_is_number(value) for value in place):
            raise ValueError(f"{where}: {key} {place!r} is no place; give three numbers")
        try:
            if key == "voxel":
                return self.listener.voxel(place, frame="voxel")
            return self.listener.voxel((self.to_ras * place).tolist(), frame="world")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    def _differ(self, given: Entry, *, one: bool) -> bool:
        voxels = np.atleast_2d(np.asarray([given["voxel"]] if one else given["voxel"], dtype=float))
        world = np.atleast_2d(np.asarray([given["world_mm"]] if one else given["world_mm"], dtype=float)) * self.to_ras
        if voxels.shape != world.shape:
            return True
        back = self.listener.to_voxel
        return bool(np.abs(world @ back[:3, :3].T + back[:3, 3] - voxels).max() > SAME_PLACE)


def _content(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path}: no such file; check --prompts")
    return read_object(path, mend="give a file that aps segment --maps wrote", error=DataError)


def _refuse_another_scan(content: Entry, scan: str, shape: Sequence[int], affine: NDArray[np.floating]) -> None:
    """Prompts of another scan would land anywhere."""
    _refuse_unknown(content, (*HEAD, *KINDS), "")
    if content.get("world", WORLD) not in tuple(TO_RAS):
        raise ValueError(f"world {content['world']!r} must be one of {', '.join(TO_RAS)}: which way mm count")
    if "scan" not in content:
        raise ValueError(f'it names no scan; add "scan": "{scan}"')
    if content["scan"] != scan:
        raise ValueError(f"the prompts are of scan {content['scan']!r}, not of {scan!r}; give the file of this scan")
    if "shape" in content and content["shape"] != [int(size) for size in shape]:
        raise ValueError(
            f"the prompts are of a scan of {content['shape']} voxels, {scan!r} has {[int(size) for size in shape]}; "
            "give the file of this scan"
        )
    if "affine" in content and not _same_affine(content["affine"], affine):
        raise ValueError(f"the prompts are of a scan that lies elsewhere in space (affine); give the file of {scan!r}")


def _same_affine(given: Any, affine: NDArray[np.floating]) -> bool:
    try:
        found = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        return False
    return found.shape == (4, 4) and bool(np.abs(found - affine).max() <= SAME_AFFINE)


def _refuse_unknown(entry: Entry, known: Sequence[str], where: str) -> None:
    if unknown := [key for key in entry if key not in known]:
        raise ValueError(f"{where}there is no key {unknown[0]!r}; there are: {', '.join(known)}")


def _refuse_another_source(entry: Entry, where: str) -> None:
    """Boxes and scribbles are a person's: the model gives itself points alone."""
    if (given := entry.get("source", USER)) != USER:
        raise ValueError(f"{where}: source {given!r} of what only a person draws; write {USER!r}, or delete it")


def _is_models(entry: Entry) -> bool:
    return entry.get("source", USER) == MODEL and entry.get("mark", mark_of(entry)) == mark_of(entry)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
