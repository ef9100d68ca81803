"""Label files whose numbers are not the classes: which value means which class."""

from collections.abc import Mapping

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


def map_values(values: np.ndarray, label_values: Mapping[int, int]) -> np.ndarray:
    """Whole numbers with every value replaced at once, so that two may swap; values not named keep their number."""
    if not label_values:
        return values
    mapped = values.copy()
    for value, target in label_values.items():
        mapped[values == value] = target
    return mapped
