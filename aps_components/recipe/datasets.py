"""The datasets of the single trainings: a datalist each, of scans that stay where they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aps_components.bundle.writer import render_datalist
from aps_components.data.datalist import DATALIST, Item, case_name, datalist_of, load_datalist
from aps_components.files import replace_text


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What all trainings learn from; items have absolute paths.

    Attributes:
        name: of the dataset.
        labels: class to name.
        labelled, unlabelled: scans to learn from.
        validation: kept apart from all trainings.
        patients: by the name of a case.
    """

    name: str
    labels: dict[int, str]
    labelled: list[Item]
    unlabelled: list[Item]
    validation: list[Item]
    patients: Mapping[str, str]

    @classmethod
    def read(cls, root: Path, file: Path, patients: Mapping[str, str]) -> Learning:
        """Of a bundle's datalist, whose paths are relative to ``root``."""
        found = load_datalist(root, file=file)
        return cls(
            name=found.name,
            labels=found.labels,
            labelled=found.labeled,
            unlabelled=found.unlabeled,
            validation=found.validation,
            patients=patients,
        )

    def patient(self, name: str) -> str:
        """Whose scan a case is."""
        return self.patients.get(name, name)

    def without(self, held_out: Collection[str]) -> Learning:
        """Some labelled scans validate instead; no other scan of their patients is learned from, either."""
        of_fold = {self.patient(name) for name in held_out}

        def other(item: Item) -> bool:
            return self.patient(case_name(item)) not in of_fold

        return Learning(
            name=self.name,
            labels=self.labels,
            labelled=[item for item in self.labelled if other(item)],
            unlabelled=[item for item in self.unlabelled if other(item)],
            validation=[item for item in self.labelled if case_name(item) in held_out],
            patients=self.patients,
        )

    def write(self, folder: Path, *, unlabelled: Sequence[Item] | None = None) -> Path:
        """Write ``datalist.json`` into a folder, which is then a dataset's; ``unlabelled``: those of these alone."""
        folder.mkdir(parents=True, exist_ok=True)

        content = datalist_of(
            self.name,
            self.labels,
            folder=folder,
            training=self.labelled,
            unlabeled=self.unlabelled if unlabelled is None else unlabelled,
            validation=self.validation,
        )
        replace_text(folder / DATALIST, render_datalist(content))
        return folder
