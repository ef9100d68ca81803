"""A label that somebody hands in: what it is refused for, before anything is stored, and what is kept with it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.label_server.label_check import check_label, label_voxels
from aps_components.label_server.label_names import (
    BUNDLE,
    MEANING,
    Served,
    bundles_by_value,
    bundles_of_label,
    is_of,
    names_in_order,
    renumbered,
)
from aps_components.label_server.parameters import BY_HAND, FINAL, PARTIAL, RefusedRequestError

ANSWER = {"model", "params"}  # what MONAI Label says with a model's answer that it stores; viewers say a model alone
EMPTY = "empty"  # in a label's params: the scan holds none of the classes
CONFLICT = 409  # HTTP: there is something already


class Kept(dict[str, Any]):
    """What is kept with a label that was looked at; a request cannot make one."""

    @classmethod
    def of(cls, info: Mapping[str, Any] | None, bundles: Sequence[Served]) -> Kept:
        """What was said with it, the bundles, and what the label's values mean in them."""
        said = {key: value for key, value in (info or {}).items() if key != MEANING}
        meaning = {MEANING: bundles[0].meaning} if bundles else {}
        return cls({**said, BUNDLE: [bundle.name for bundle in bundles], **meaning})


def finished_info(datastore: Any, image: str) -> Mapping[str, Any] | None:
    """What MONAI Label's datastore keeps with the final label of a scan; None where it has none."""
    return datastore.get_label_info(image, FINAL) or {} if FINAL in datastore.get_labels_by_image_id(image) else None


def known_values(bundles: Collection[Served], *, partly: bool = False) -> set[int]:
    """What bundles call their classes, and label files of their datasets do; 0 among them.

    Args:
        bundles: that a label may be of.
        partly: also the value that means "not labelled here", where a bundle has one.
    """
    ignored = {bundle.ignore for bundle in bundles if partly and bundle.ignore is not None}
    return ignored.union({0}, *(bundle.known for bundle in bundles))


def drawn_values(voxels: NDArray[Any]) -> list[int]:
    """Values other than 0."""
    return [value for value in np.unique(voxels).astype(int).tolist() if value]


@contextmanager
def handed_in(
    label: str | os.PathLike[str],
    info: Mapping[str, Any] | None,
    served: Sequence[Served],
    *,
    tag: str,
    scan: str,
    former: Mapping[str, Any],
    finished: Mapping[str, Any] | None = None,
    sure: bool = False,
) -> Iterator[tuple[str, Kept, list[Served]]]:
    """A label as it is to be stored.

    Args:
        label: its file.
        info: what was said with it.
        served: the bundles that it can be of.
        tag: of those by hand more is asked than of a model's answer.
        scan: its file; of a folder of DICOM slices the grid is known where the label is sent back.
        former: what was kept with the label that it takes the place of.
        finished: what was kept with the scan's final label; None where it has none.
        sure: its bundle must be known.

    Yields:
        The file, with the values of its bundle's label files; what is kept with it; and its bundles.

    Raises:
        RefusedRequestError: it is a model's answer, does not fit its scan, leaves open what its values mean, or takes
            the place of another bundle's.
    """
    if tag in BY_HAND and set(info or {}) >= ANSWER:
        raise RefusedRequestError(f"a model's label is not stored with the tag {tag!r}")
    with renumbered(label, info, served) as (file, bundles):
        if os.path.isfile(scan):
            check_label(file, scan, values=known_values(bundles or served, partly=tag == PARTIAL))
        if tag in BY_HAND:
            drawn, said = drawn_values(label_voxels(file)), info or {}
            if not drawn and not (tag == FINAL and said.get(EMPTY)):
                # Of an empty label nobody can be sure whose it is.
                instead = f', or say {{"{EMPTY}": true}} in its params if there is nothing to draw'
                raise RefusedRequestError(
                    "the label is empty: draw something first" + (instead if tag == FINAL and not sure else "")
                )
            if not names_in_order(said.get("label_info")):
                _refuse_unclear_numbers(drawn, bundles or served)
            if sure:
                bundles = bundles or bundles_by_value(drawn, served)
            _refuse_loss(former, bundles, tag=tag)
        if tag == PARTIAL and finished is not None:
            _refuse_unread(finished, bundles)
        yield file, Kept.of(info, bundles), bundles


def _refuse_unclear_numbers(values: Sequence[int], bundles: Sequence[Served]) -> None:
    """Of a label without names, where a bundle's answers number its classes otherwise than its label files do."""
    for bundle in bundles:
        of_answers = set(values) <= set(bundle.classes.values())
        if of_answers and any(bundle.label_values.get(value, value) != value for value in values):
            raise RefusedRequestError(
                f"the label has the values {list(values)[:8]} and no names: are these the numbers of an answer of "
                f"{bundle.name}, or of its label files? Name its segments (label_info in the label's params)"
            )


def _refuse_unread(finished: Mapping[str, Any], bundles: Sequence[Served]) -> None:
    """Of a bundle's labels of a scan the finished one counts, and nobody would learn from an unfinished one."""
    if bundles and _is_of_others(finished, bundles):
        return
    raise RefusedRequestError(
        "the scan has a finished label, which counts: remove that one first (DELETE /datastore/label?id=SCAN&"
        f"tag={FINAL}) if it was not finished after all",
        CONFLICT,
    )


def _refuse_loss(former: Mapping[str, Any], bundles: Sequence[Served], *, tag: str) -> None:
    """A scan has one label of each tag, and that of another bundle would be gone."""
    if not _is_of_others(former, bundles):
        return
    names = [bundle.name for bundle in bundles]
    raise RefusedRequestError(
        f"the scan has a label of {', '.join(bundles_of_label(former))} already, and this one, of "
        f"{', '.join(names) or 'unknown origin'}, "
        f"would take its place: copy that one and remove it first (DELETE /datastore/label?id=SCAN&tag={tag})"
        + ("" if names else f", or say the {BUNDLE} of this one in its params"),
        CONFLICT,
    )


def _is_of_others(info: Mapping[str, Any], bundles: Sequence[Served]) -> bool:
    """Whether a label, by what was kept with it, is of other bundles than these; one of unknown origin is not."""
    of = set(bundles_of_label(info))
    return bool(of) and not any(bundle.name in of or is_of(info, bundle) for bundle in bundles)
