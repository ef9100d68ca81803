"""What lies in the output folder already: of this scan and this model, whole, or somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_components.data import DataError
from aps_components.data.marks import Mark, maker_hash, mark_of, read_mark, scan_hash
from aps_components.data.nifti import read_header, read_scan, write_like
from aps_components.files import refuse_special, sha256_of
from aps_components.pictures import MADE_HERE
from aps_components.plain_json import read_json
from aps_components.segmentation.inputs import Case
from aps_components.segmentation.outputs import NIFTI, Outputs
from aps_components.segmentation.statistics import BEGINNING, POSTFIX, TABLE_BEGINNING, read_statistics

PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
ANOTHER = "give another OUTPUT, or --overwrite"
HEAD = 400  # bytes, in which a picture says what drew it


@dataclass(frozen=True)
class Claim:
    """A scan and what segments it, which a result must be of to count as there.

    Attributes:
        scan: hash of the scan's files.
        made_by: bundle, weights and settings.
    """

    scan: str
    made_by: Mapping[str, Any]

    @classmethod
    def of(cls, case: Case, made_by: Mapping[str, Any]) -> Claim:
        """Read the scan's files for their hash."""
        return cls(scan_hash(case.sources), made_by)

    @property
    def mark(self) -> Mark:
        """What the label map says in its header."""
        return mark_of(scan=self.scan, maker=maker_hash(self.made_by))


@dataclass(frozen=True)
class Found:
    """What there is of a scan.

    Attributes:
        complete: everything that was asked for is there and of the claim.
        statistics: those of the label map; None where they are missing, broken or of an earlier one.
        remark: for the user, such as that a label map was changed; may be empty.
    """

    complete: bool
    statistics: dict[str, Any] | None = None
    remark: str = ""


def statistics_file(outputs: Outputs, case: Case) -> Path:
    """``NAME_statistics.json``."""
    return outputs.file(case, POSTFIX, ".json")


def preview_file(outputs: Outputs, case: Case) -> Path:
    """``NAME_preview.png``."""
    return outputs.file(case, "preview", ".png")


def look(outputs: Outputs, case: Case, claim_of: Callable[[], Claim], *, maps: bool) -> Found:
    """What there is of a scan.

    Args:
        outputs: where.
        case: the scan.
        claim_of: gives its claim; of a scan without a label map nobody asks for it, as it takes the whole scan to read.
        maps: whether those have to be there.

    Raises:
        DataError: files under its names are of another scan, another model or nobody's here.
    """
    label_map, record = outputs.label_map(case), read_statistics(statistics_file(outputs, case))
    mark = _mark(label_map)
    if mark is None:
        _refuse_foreign(outputs, case)
        return Found(complete=False)
    claim = claim_of()
    known = record if record is not None and record.get("scan_sha256") == claim.scan else None
    edited = mark == Mark()
    if edited and known is None:
        raise DataError(f"{label_map} lies there, and nothing says that it is of this scan; {ANOTHER}")
    if not edited:
        _refuse_others(label_map, mark, claim, record)
    elif known is not None and known.get("made_by") != claim.made_by:
        raise DataError(f"{label_map} is by {_difference(known, claim)}; {ANOTHER}")
    if not all(_is_whole(file) for file in outputs.wanted(case, maps=maps)):
        if edited:
            raise DataError(f"{label_map} was changed since it was made, and other files are missing; {ANOTHER}")
        _refuse_foreign(outputs, case)
        return Found(complete=False)
    current = known if known is not None and known.get("label_map_sha256") == sha256_of(label_map) else None
    return Found(True, current, "its label map was changed since" if edited and current is None else "")


def is_picture(file: Path) -> bool:
    """Whether a PNG file is there and whole."""
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return content.startswith(PNG) and content.endswith(PNG_END)


def sign(label_map: Path, claim: Claim) -> None:
    """Have a label map say whose it is."""
    write_like(label_map, read_scan(label_map).voxels, read_header(label_map), description=claim.mark.text)


def refuse_foreign_table(outputs: Outputs) -> None:
    """A table that is not of this command is not replaced.

    Raises:
        DataError: there is one.
    """
    if outputs.table.is_file() and not _starts(outputs.table, TABLE_BEGINNING):
        raise DataError(f"{outputs.table} is no table of aps segment and would be replaced; {ANOTHER}")


def _mark(label_map: Path) -> Mark | None:
    """Without hashes for a whole file that says nothing; None where there is no file, or none that can be read."""
    try:
        mark = read_mark(label_map)
        if mark is None or not mark.scan:
            read_scan(label_map)
    except DataError:
        return None
    return mark or Mark()


def _refuse_others(label_map: Path, mark: Mark, claim: Claim, record: Mapping[str, Any] | None) -> None:
    if mark.scan != claim.mark.scan:
        raise DataError(f"{label_map} is of another scan of the same name; {ANOTHER}")
    if mark.maker != claim.mark.maker:
        raise DataError(f"{label_map} is by {_difference(record or {}, claim)}; {ANOTHER}")


def _difference(record: Mapping[str, Any], claim: Claim) -> str:
    earlier = record.get("made_by")
    keys = [key for key, value in claim.made_by.items() if isinstance(earlier, dict) and earlier.get(key) != value]
    names = ", ".join(key.removesuffix("_sha256").replace("_", " ") for key in keys)
    return f"another model or other settings ({names})" if names else "another model or other settings"


def _refuse_foreign(outputs: Outputs, case: Case) -> None:
    for file in (*outputs.wanted(case, maps=True), statistics_file(outputs, case), preview_file(outputs, case)):
        refuse_special(file)
        converted = file == outputs.scan(case) and read_statistics(statistics_file(outputs, case)) is not None
        if file.is_file() and file.stat().st_size and not (converted or _is_own(file)):
            raise DataError(f"{file} lies there, and aps segment did not make it; {ANOTHER}")


def _is_own(file: Path) -> bool:
    """Also a part of an own one, which is no loss."""
    if file.name.endswith(NIFTI):
        return _is_unreadable(file) or read_mark(file) is not None
    if file.name.endswith(".png"):
        with file.open("rb") as stream:
            return MADE_HERE.encode() in stream.read(HEAD) or not is_picture(file)
    return _starts(file, BEGINNING)


def _is_unreadable(file: Path) -> bool:
    try:
        read_scan(file)
    except DataError:
        return True
    return False


def _is_whole(file: Path) -> bool:
    if file.name.endswith(NIFTI):
        return file.is_file() and not _is_unreadable(file)
    try:
        return bool(read_json(file))
    except (OSError, ValueError):
        return False


def _starts(file: Path, beginning: str) -> bool:
    """With a text, or with as much of it as there is."""
    with file.open("rb") as stream:
        start = stream.read(len(beginning))
    return beginning.encode().startswith(start)
