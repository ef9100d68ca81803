"""Scans to segment, of which a broken one does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai.data import Dataset

from aps_components.data.datalist import FAULT
from aps_components.data.errors import DataError


class ScansToSegment(Dataset):
    """MONAI's Dataset; an item that cannot be used becomes ``{"fault": ...}``, a line that names it and the mend.

    ``aps_components.training.PromptedEvaluator`` passes over these, and names them at the end.

    Args:
        data: items with "image", or with a "fault" already.
        transform: what turns an item into a sample.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Sequence[Callable] | Callable) -> None:
        super().__init__(data, transform)

    def __getitem__(self, index: Any) -> Any:
        """The sample, or its fault; a Subset for a slice or a list."""
        if isinstance(index, int) and FAULT in self.data[index]:
            return {FAULT: self.data[index][FAULT]}
        try:
            return super().__getitem__(index)
        except DataError as error:
            return {FAULT: str(error)}
