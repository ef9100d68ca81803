"""The DICOM SEG beside a label map: written where it is missing or of an earlier one, never over somebody else's."""

from __future__ import annotations

from collections.abc import Sequence

from aps_components.data import DataError
from aps_components.data.marks import read_mark
from aps_components.segmentation.dicom_seg import Maker, is_of, is_own, require_highdicom, write_dicom_seg
from aps_components.segmentation.inputs import Case
from aps_components.segmentation.outputs import Outputs


class DicomSegOutput:
    """Of all scans of one call.

    Args:
        outputs: where the results are.
        cases: the scans, each a DICOM series.
        maker: of the label maps.
        overwrite: whether a file of that name that was not made here may be replaced.
        by_a_person: whether a person's prompts say what is segmented.

    Raises:
        DataError: a scan is no DICOM series.
        RuntimeError: highdicom is not installed.
    """

    def __init__(
        self, outputs: Outputs, cases: Sequence[Case], *, maker: Maker, overwrite: bool, by_a_person: bool
    ) -> None:
        require_highdicom()
        for case in cases:
            if case.series is None and not case.fault:
                raise DataError(
                    f"--dicom_seg: {case.name} is no DICOM series, to which a DICOM SEG would belong; "
                    "leave --dicom_seg out, or give the folder of the series"
                )
        self.outputs, self.maker, self.overwrite, self.by_a_person = outputs, maker, overwrite, by_a_person

    def refuse_foreign(self, case: Case) -> None:
        """Before a scan is segmented.

        Raises:
            DataError: a file lies there that was not made here.
        """
        file = self.outputs.dicom_seg(case)
        if file.is_file() and file.stat().st_size and not self.overwrite and not is_own(file):
            raise DataError(f"{file} lies there, and aps segment did not make it; give another OUTPUT, or --overwrite")

    def write(self, case: Case) -> None:
        """After its label map; one that a person changed by hand has lost its mark.

        Raises:
            DataError: the series says too little of itself for a DICOM SEG.
        """
        if case.series is None:
            return
        file, label_map = self.outputs.dicom_seg(case), self.outputs.label_map(case)
        if is_of(file, label_map, series=case.series, maker=self.maker):
            return
        by_a_person = self.by_a_person or read_mark(label_map) is None
        write_dicom_seg(file, label_map, series=case.series, maker=self.maker, by_a_person=by_a_person)


def remove_own(outputs: Outputs, case: Case) -> None:
    """The one of an earlier label map."""
    file = outputs.dicom_seg(case)
    if case.series is not None and file.is_file() and is_own(file):
        file.unlink()
