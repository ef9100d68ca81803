"""Scans to segment, of which a broken one does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai.data import Dataset

from aps_components.data.datalist import FAULT, files_of
from aps_components.data.errors import DataError
from aps_components.data.room import refuse_large_segmentation

PREPARED = "prepared"  # the key of an item that is a sample already


class ScansToSegment(Dataset):
    """MONAI's Dataset; an item that cannot be used becomes ``{"fault": ...}``, a line that names it and the mend.

    ``aps_components.inference.PromptedEvaluator`` passes over these, and names them at the end.

    Args:
        data: items with "image", with a "fault" already, or with what `sample` gave as "prepared".
        transform: what turns an item into a sample.
        room: of `segmentation_room`: a scan whose segmentation the memory does not hold is a fault before it is read.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Sequence[Callable] | Callable,
        *,
        room: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.room = room

    def __getitem__(self, index: Any) -> Any:
        """The sample, or its fault; a Subset for a slice or a list."""
        if isinstance(index, int) and FAULT in self.data[index]:
            return {FAULT: self.data[index][FAULT]}
        if isinstance(index, int) and PREPARED in self.data[index]:
            return self.data[index][PREPARED]
        try:
            if isinstance(index, int) and self.room is not None:
                refuse_large_segmentation(files_of(self.data[index]["image"]), **self.room)
            return super().__getitem__(index)
        except DataError as error:
            return {FAULT: str(error)}

    def sample(self, item: Mapping[str, Any]) -> Any:
        """The sample of an item, which need not be one of the data; in any thread.

        Raises:
            DataError: it cannot be used.
        """
        found = ScansToSegment([item], self.transform)[0]
        if FAULT in found:
            raise DataError(found[FAULT])
        return found
