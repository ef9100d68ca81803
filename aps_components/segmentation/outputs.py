"""Where a scan's results go, and that they appear there whole."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aps_components.data import DataError
from aps_components.files import ensure_writable, expanded
from aps_components.segmentation.inputs import LABEL_MAP, PROBABILITIES, Case
from aps_components.uncertainty import MAP_NAMES

NIFTI = ".nii.gz"


@dataclass(frozen=True)
class Outputs:
    """A folder for any number of scans, or, with a stem, one scan's label map and the files beside it.

    Args:
        folder: of all files.
        stem: the label map's name without ending; None names everything after the scan.
    """

    folder: Path
    stem: str | None = None

    def label_map(self, case: Case) -> Path:
        """``NAME_seg.nii.gz``, or the file that was asked for."""
        return self.file(case, LABEL_MAP, NIFTI) if self.stem is None else self.folder / f"{self.stem}{NIFTI}"

    def file(self, case: Case, postfix: str, ending: str) -> Path:
        """Such as ``NAME_preview.png``."""
        return self.folder / f"{self.stem or case.name}_{postfix}{ending}"

    def scan(self, case: Case) -> Path:
        """Where a DICOM series lies as NIfTI."""
        return self.file(case, "image", NIFTI)

    def dicom_seg(self, case: Case) -> Path:
        """Where the label map of a DICOM series lies as DICOM."""
        return self.file(case, LABEL_MAP, ".dcm")

    @property
    def table(self) -> Path:
        """The statistics as CSV, of all scans in the folder."""
        return self.folder / ("statistics.csv" if self.stem is None else f"{self.stem}_statistics.csv")

    def wanted(self, case: Case, *, maps: bool) -> list[Path]:
        """The files that a scan must have to count as segmented."""
        files = [self.label_map(case)] + ([] if case.series is None else [self.scan(case)])
        if maps:
            files += [*self.maps(case), self.file(case, "prompts", ".json")]
        return files

    def maps(self, case: Case) -> list[Path]:
        """The volumes that ``--maps`` writes of a scan."""
        return [self.file(case, PROBABILITIES, NIFTI), *self.uncertainties(case)]

    def uncertainties(self, case: Case) -> list[Path]:
        """The uncertainty maps of a scan: those of the form of which there are any, or of the default one."""
        forms = [[self.file(case, name.file, NIFTI) for name in names] for names in MAP_NAMES.values()]
        found = (files for files in forms if all(file.is_file() for file in files))
        started = (files for files in forms if any(file.is_file() for file in files))
        return next(found, next(started, forms[0]))

    def label_map_in(self, work: Path, case: Case) -> Path:
        """Where the bundle writes it."""
        return work / f"{case.name}_{LABEL_MAP}{NIFTI}"

    def take(self, case: Case, work: Path) -> None:
        """Move what the bundle wrote of a scan from a folder on the same disk; the label map, which counts, last."""
        moves = {self.label_map_in(work, case): self.label_map(case)}
        if case.series is not None:
            moves = {work / f"{case.name}{NIFTI}": self.scan(case)} | moves
        for written in work.iterdir():
            if written not in moves:
                postfix, dot, ending = written.name.removeprefix(f"{case.name}_").partition(".")
                moves = {written: self.file(case, postfix, dot + ending)} | moves
        for written, target in moves.items():
            os.replace(written, target)


def choose_outputs(output: str | os.PathLike[str], cases: Iterable[Case]) -> Outputs:
    """Understand what the user gave as OUTPUT, and make its folder.

    Args:
        output: a folder, or for a single scan a file that ends in .nii.gz.
        cases: the scans; none of their files may be among the results.

    Raises:
        DataError: it cannot be what the user means.
        PermissionError: its folder cannot be written into.
    """
    path, cases = expanded(output), list(cases)
    if not path.name.lower().endswith(NIFTI) or path.is_dir():
        if path.is_file() or path.suffix in (".nii", ".gz", ".dcm", ".zip"):
            raise DataError(f"OUTPUT {path} must be a folder, or for one scan a file that ends in {NIFTI}")
        outputs = Outputs(path)
    elif len(cases) == 1:
        outputs = Outputs(path.parent, path.name[: -len(NIFTI)])
    else:
        raise DataError(f"OUTPUT {path} is one file, but there are {len(cases)} scans; give a folder")
    inputs = {os.path.realpath(file) for case in cases for file in case.sources}
    for case in cases:
        for target in (*outputs.wanted(case, maps=True), outputs.dicom_seg(case)):
            if os.path.realpath(target) in inputs:
                raise DataError(f"OUTPUT {path} would overwrite the scan {target}; give another name or folder")
    ensure_writable(outputs.folder)
    return outputs
