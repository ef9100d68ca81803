"""Codes of a bundle's classes, as its ``metadata.json`` names them: what tells another program which organ it sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KEY = "segment_codes"
PARTS = ("category", "type", "modifier")
LONGEST = 16, 16, 64  # letters of a value, of a scheme and of a meaning, DICOM PS3.3, table 8.8-1


@dataclass(frozen=True)
class Code:
    """A value, the scheme that it is of, and what it means, such as 10200004, SCT, Liver."""

    value: str
    scheme: str
    meaning: str

    @classmethod
    def parse(cls, text: Any) -> Code:
        """Of one text: ``10200004 SCT Liver``.

        Raises:
            ValueError: it is none.
        """
        words = text.split(maxsplit=2) if isinstance(text, str) else []
        if len(words) != 3 or any(len(word) > most for word, most in zip(words, LONGEST, strict=True)):
            raise ValueError(f"{text!r} is no code: write value, scheme and meaning, such as '10200004 SCT Liver'")
        return cls(*words)


TISSUE = Code("85756007", "SCT", "Tissue")  # what every class is, whatever it is
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")


@dataclass(frozen=True)
class SegmentCodes:
    """What a class is.

    Args:
        type: what is segmented, of DICOM's context group 7151 where it has that.
        category: what kind of thing that is, of context group 7150.
        modifier: which of two it is, such as the right one.
    """

    type: Code = TISSUE
    category: Code = TISSUE
    modifier: Code | None = None


def read_segment_codes(content: Any) -> dict[int, SegmentCodes]:
    """Class value to its codes; a class that is not named has none of its own.

    Args:
        content: of ``segment_codes`` in ``metadata.json``: class value, as text, to its ``type`` and, if they are to be
            said, ``category`` (by default an anatomical structure) and ``modifier``; None is as good as nothing.

    Raises:
        ValueError: it is not of this form; which class, and what is wanted.
    """
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ValueError(f"{KEY} {content!r}: write the codes of each class, by its value")
    return dict(_codes(content))


def _codes(content: Mapping[Any, Any]) -> Iterator[tuple[int, SegmentCodes]]:
    for label, parts in content.items():
        where = f"{KEY} of class {label!r}"
        if not (str(label).isascii() and str(label).isdigit() and int(label) > 0):
            raise ValueError(f"{where}: classes are whole numbers from 1 on")
        if not isinstance(parts, Mapping) or "type" not in parts or set(parts) - set(PARTS):
            raise ValueError(f"{where}: {parts!r} must say type, and may say category and modifier")
        try:
            found = {name: Code.parse(text) for name, text in parts.items()}
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        yield int(label), SegmentCodes(**{"category": ANATOMICAL_STRUCTURE} | found)
