"""Which scans are of one patient, by what file names say: two of one patient are no independent test of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable

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

    What six or more names all share, as ``site2_scan_001`` to ``site2_scan_120`` do, is rather the dataset's name than
    a patient's: each of them is then a patient of its own.

    Args:
        names: of all cases.
    """
    found = {name: patient_of(name) for name in names}
    is_the_datasets = len(found) >= MANY and len(set(found.values())) == 1
    return {name: name for name in found} if is_the_datasets else found
