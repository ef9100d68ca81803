"""Label files whose numbers are not the classes: which value means which class."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np

LabelValues = Mapping[str, int] | Mapping[int, int] | None


def parsed_label_values(label_values: LabelValues, *, num_classes: int | None = None) -> dict[int, int]:
    """Value in the label files to class, as integers; a config has the values as strings.

    Args:
        label_values: as in ``{"4": 3}``; None maps nothing.
        num_classes: if given, the classes must be below it.
    """
    parsed: dict[int, int] = {}
    for value, target in (label_values or {}).items():
        try:
            parsed[int(value)] = int(target)
        except (TypeError, ValueError):
            raise ValueError(
                f"label_values {label_values!r} must map whole numbers to classes, as in {{4: 3}}"
            ) from None
        if int(target) < 0 or (num_classes is not None and int(target) >= num_classes):
            last = "" if num_classes is None else f" to {num_classes - 1}"
            raise ValueError(f"label_values maps {value} to {target}, which is none of the classes 0{last}")
    return parsed


def file_values(label_values: LabelValues, classes: Collection[int]) -> dict[int, int]:
    """Class to the value that label files have for it: :func:`parsed_label_values` the other way round.

    Of several values of a class the first counts, of the background 0. A class that none is named for keeps its number;
    one whose number means another class has no value, and is left out.

    Args:
        label_values: as in ``{"4": 3}``.
        classes: those wanted.
    """
    parsed = parsed_label_values(label_values)
    keep = {label for label in classes if parsed.get(label, label) == label}
    named = {label: value for value, label in reversed(parsed.items()) if label or 0 not in keep}
    return {label: named.get(label, label) for label in classes if label in named or label in keep}


def map_values(values: np.ndarray, label_values: Mapping[int, int]) -> np.ndarray:
    """Whole numbers with every value replaced at once, so that two may swap; values not named keep their number."""
    if not label_values:
        return values
    mapped = values.copy()
    for value, target in label_values.items():
        mapped[values == value] = target
    return mapped


def ignore_faults(
    ignore: int,
    *,
    num_classes: int,
    label_values: Mapping[int, int] | None = None,
    undrawn: Collection[int] = (),
) -> Iterator[str]:
    """What stands against a value that is to mean that nobody labelled a voxel: it is a class as well, a sentence.

    A class with a value of its own leaves its number free, and so does one that was not drawn.

    Args:
        ignore: the value in the label files.
        num_classes: background included.
        label_values: value in the label files to class.
        undrawn: classes that the label leaves out.
    """
    mapping = label_values or {}
    taken = mapping.get(ignore)
    if taken is None and ignore < num_classes and ignore not in mapping.values():
        taken = ignore
    if taken is not None and taken not in undrawn:
        yield f"ignore {ignore} is class {taken} as well: take a value that no class has, such as 255"
