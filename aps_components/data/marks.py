"""Whose a result is: a NIfTI file made here says so in its header, with hashes of the scan and of what made it.

A file of the right name may be another patient's, another model's or nobody's here; its name does not tell.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from aps_components.data.errors import DataError
from aps_components.data.nifti import File, read_header
from aps_components.files import sha256_of

MADE_HERE = "AutoPromptSeg"
DIGITS = 32  # of each hash, so that both fit into the 80 bytes of `descrip`
SCAN_ENDING, LABEL_MAP_ENDING = "_image.nii.gz", "_seg.nii.gz"


class Mark(NamedTuple):
    """The mark in a file's header; the hashes are empty where it only tells that the file was made here."""

    scan: str = ""
    maker: str = ""

    @property
    def text(self) -> str:
        """As it stands in the header."""
        return " ".join((MADE_HERE, *filter(None, self)))


def scan_hash(files: Iterable[File]) -> str:
    """Of the content of a scan's files, in their order, whatever they are named."""
    return hashlib.sha256(" ".join(sha256_of(file) for file in files).encode()).hexdigest()


def maker_hash(made_by: Any) -> str:
    """Of what says which model and settings made a file, as JSON has it."""
    return hashlib.sha256(json.dumps(made_by, sort_keys=True, default=str).encode()).hexdigest()


def mark_of(*, scan: str, maker: str) -> Mark:
    """Of two hashes."""
    return Mark(scan[:DIGITS], maker[:DIGITS])


def read_mark(file: File) -> Mark | None:
    """The mark of a file; None if it was not made here.

    Raises:
        DataError: it is no NIfTI file, or its very beginning is broken.
    """
    words = bytes(read_header(file)["descrip"].tobytes()).rstrip(b"\0").decode("ascii", "replace").split()
    if not words or words[0] != MADE_HERE:
        return None
    return Mark(*words[1:3])


def is_result(file: File) -> bool:
    """Whether a NIfTI file is a result, and no scan; a converted series is one where its label map lies."""
    path = os.fspath(file)
    if path.endswith(SCAN_ENDING):
        path = path.removesuffix(SCAN_ENDING) + LABEL_MAP_ENDING
    try:
        return read_mark(path) is not None
    except DataError:
        return False
