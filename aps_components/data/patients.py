"""Which scans are of one patient, by what file names say: two of one patient are no independent test of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# A part of a name that says which scan of a patient it is, such as "_frame01", "_ses-02", "_visit2" or "_baseline".
_NUMBERED = r"frame|phase|time|timepoint|tp|t|visit|v|session|ses|scan|day|week|month|year|follow-?up|fu"
_NAMED = r"ed|es|pre|post|baseline|follow-?up"
WHICH_SCAN = re.compile(rf"(?i)[_-](?:(?:{_NUMBERED})[_-]?\d+|(?:{_NAMED}))(?=[_-]|$)")
BIDS = re.compile(r"sub-[A-Za-z0-9]+")  # Gorgolewski et al. 2016, doi:10.1038/sdata.2016.44
SERIES = re.compile(r"(.+-\d{5})-\d{3}")  # patient and time point, as in the BraTS challenge since 2021
MANY = 6  # scans, which are hardly all of one patient


def patient_of(name: str) -> str:
    """The patient of a case by its name; the name itself where it says nothing of several scans.

    Args:
        name: of a case, such as ``patient061_frame10``, which is of ``patient061``.
    """
    if found := BIDS.match(name):
        return found[0]
    if found := SERIES.fullmatch(name):
        return found[1]
    before = name[: found.start()] if (found := WHICH_SCAN.search(name)) else name
    return before if any(letter.isdigit() for letter in before) else name


def patients_of(names: Iterable[str]) -> dict[str, str]:
    """The patient of each case of a dataset by its name, see :func:`patient_of`.

    What many names all share is no patient's, see :func:`shared_start`: each of them is then a patient of its own.

    Args:
        names: of all cases.
    """
    names = list(names)
    return {name: patient_of(name) if shared_start(names) is None else name for name in names}


def shared_start(names: Sequence[str]) -> str | None:
    """What six or more names all begin with, as ``site2_scan_001`` to ``site2_scan_120`` do: rather a dataset's name
    than a patient's. None where there are fewer, where they differ, or where a standard says that it is a patient's."""
    starts = {patient_of(name) for name in names}
    standard = any(BIDS.match(name) or SERIES.fullmatch(name) for name in names)
    return starts.pop() if len(starts) == 1 and len(names) >= MANY and not standard else None
