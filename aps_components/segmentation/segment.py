"""One command from scans to label maps, figures and pictures, by a bundle's own inference."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from aps_components.bundle import bundle_metadata, locate_bundle, version_differences
from aps_components.bundle.locate import CACHE_DIR
from aps_components.files import sha256_of
from aps_components.segmentation.bundle_inference import BundleInference
from aps_components.segmentation.inputs import Case, find_cases
from aps_components.segmentation.outputs import Outputs, choose_outputs
from aps_components.segmentation.preview import save_preview
from aps_components.segmentation.statistics import (
    POSTFIX,
    class_statistics,
    load_channels,
    read_statistics,
    voxel_volume_ml,
    write_statistics,
    write_table,
)

RESEARCH_ONLY = "For research only. Not a medical device; not for diagnosis or treatment."
FEW_VALUES = 16  # a scan has more different ones
SAMPLED = 4  # every so manieth voxel is looked at to tell


@dataclass
class Segmentation:
    """What became of the scans.

    Args:
        outputs: where the results are.
        statistics: of every scan that has a label map, as in its JSON file.
        done: names of the scans segmented now.
        skipped: names of those that were already.
        failed: name to reason of those that could not be.
    """

    outputs: Outputs
    statistics: list[dict[str, Any]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def scans(self) -> int:
        """How many there were."""
        return len(self.done) + len(self.skipped) + len(self.failed)


def segment(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    maps: bool = False,
    preview: bool = True,
    overwrite: bool = False,
    configs: Sequence[str] = (),
    series: str | None = None,
    settings: Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike[str] = CACHE_DIR,
) -> Segmentation:
    """Segment scans with a bundle, and say on the way what is done.

    The label map is, voxel for voxel, that of ``python -m monai.bundle run inference``. A scan that cannot be segmented
    is named and the others go on; one that is segmented already is not segmented again.

    Args:
        source: a NIfTI file, a folder of them, or a folder with DICOM series.
        output: a folder, or for one scan the label map's file, ending in .nii.gz.
        bundle: a bundle's name, folder or zip.
        checkpoint: weights other than the bundle's ``models/model.pt``.
        device: "cpu", "cuda" or "cuda:1"; a GPU, if there is one, by default.
        maps: also write probabilities, both uncertainty maps and the prompt points.
        preview: also draw a picture of each scan.
        overwrite: segment again what is segmented already.
        configs: override files of the bundle, by name or path.
        series: only the DICOM series of this number, name or description.
        settings: further keys of the bundle's ``inference.json`` to other values.
        cache_dir: where zips are unpacked.

    Raises:
        ValueError, OSError, RuntimeError: nothing could be started; which file or value is wrong and the mend.
    """
    root = locate_bundle(bundle, cache_dir=cache_dir)
    changes = dict(settings or {})
    changes |= {} if checkpoint is None else {"checkpoint": os.path.abspath(Path(checkpoint).expanduser())}
    inference = BundleInference(root, configs=configs, settings={**changes, "save_maps": maps})
    inputs = find_cases(source, modalities=inference.modalities, series=series)
    weights = inference.require_checkpoint()
    outputs = choose_outputs(output, inputs.cases)
    made_by = {
        "bundle": root.name,
        "version": bundle_metadata(root).get("version"),
        "weights_sha256": sha256_of(weights),
        "settings": {key: value for key, value in changes.items() if key != "checkpoint"},
        "configs": [file.name for file in inference.overrides],
    }
    for line in (*(f"Note: {line}" for line in version_differences(root)), *(f"Left out {x}" for x in inputs.left_out)):
        print(line)
    return _Run(inference, outputs, made_by, preview=preview).every(
        inputs.cases, maps=maps, overwrite=overwrite, device=device
    )


class _Run:
    """What all scans of one call share."""

    def __init__(
        self, inference: BundleInference, outputs: Outputs, made_by: Mapping[str, Any], *, preview: bool
    ) -> None:
        self.inference, self.outputs, self.made_by, self.preview = inference, outputs, made_by, preview
        self.result = Segmentation(outputs)

    def every(self, cases: Sequence[Case], *, maps: bool, overwrite: bool, device: str | None) -> Segmentation:
        waiting = [case for case in cases if overwrite or not self._is_there(case, maps=maps)]
        with tempfile.TemporaryDirectory(prefix=".segmenting-", dir=self.outputs.folder) as folder:
            work = Path(folder)
            if waiting:
                where = self.inference.load(work, device=device, progress=sys.stderr.isatty())
                print(f"{len(waiting)} scan(s) to segment with {self.made_by['bundle']} on {where}", flush=True)
            for number, case in enumerate(cases, start=1):
                print(f"[{number}/{len(cases)}] {case.name}", end="", flush=True)
                try:
                    self._one(case, work, again=case in waiting)
                except Exception as error:  # whatever is wrong with one scan, the others can be right
                    self.result.failed[case.name] = _in_a_line(error)
                    print(f"  failed: {self.result.failed[case.name]}", flush=True)
                    _empty(work)
        self._write_table()
        return self.result

    def _one(self, case: Case, work: Path, *, again: bool) -> None:
        started = time.monotonic()
        if again:
            if sys.stderr.isatty():
                print(flush=True)  # the bar of the windows has a line of its own
            self.inference.segment(case.nifti(work))
            earlier = [file for file in self.outputs.wanted(case, maps=True) if file != self.outputs.label_map(case)]
            for stale in (self._statistics_file(case), self._preview_file(case), *earlier):
                stale.unlink(missing_ok=True)
            self.outputs.take(case, work)
        files = list(case.files) or [str(self.outputs.scan(case))]
        statistics = read_statistics(self._statistics_file(case))
        if statistics is None:
            statistics = self._measure(case, files)
            write_statistics(self._statistics_file(case), statistics)
        if self.preview and not self._preview_file(case).is_file():
            self._draw(case, files, statistics)
        self.result.statistics.append(statistics)
        (self.result.done if again else self.result.skipped).append(case.name)
        if again:
            print(f"  {time.monotonic() - started:.0f} s", flush=True)
        elif statistics.get("made_by") == self.made_by:
            print("  is there already", flush=True)
        else:
            print("  is there already, from another model or other settings; --overwrite makes it again", flush=True)

    def _measure(self, case: Case, files: Sequence[str]) -> dict[str, Any]:
        label_map = nib.load(self.outputs.label_map(case))
        channels = load_channels(files, self.inference.modalities)
        first = next(iter(channels.values()))[::SAMPLED, ::SAMPLED, ::SAMPLED]
        if len(np.unique(first)) <= FEW_VALUES and np.array_equal(first, np.rint(first)):
            print("  (few different values: is this a scan, or a label map?)", end="", flush=True)
        voxel_ml = voxel_volume_ml(label_map.affine)
        return {
            "scan": case.name,
            "voxel_ml": voxel_ml,
            "classes": class_statistics(
                np.asarray(label_map.dataobj), channels, voxel_ml=voxel_ml, labels=self.inference.labels
            ),
            "made_by": self.made_by,
        }

    def _draw(self, case: Case, files: Sequence[str], statistics: Mapping[str, Any]) -> None:
        label_map = nib.load(self.outputs.label_map(case))
        name, image = next(iter(load_channels(files[:1], None).items()))
        if modalities := self.inference.modalities:
            name = modalities[0]
        made_by = statistics.get("made_by", self.made_by)
        save_preview(
            self._preview_file(case),
            image=image,
            label_map=np.asarray(label_map.dataobj),
            affine=label_map.affine,
            volumes={entry["label"]: (entry["name"], entry["volume_ml"]) for entry in statistics["classes"]},
            title=case.name if name == "image" else f"{case.name}, {name}",
            note=f"{made_by['bundle']} {made_by['version'] or ''}. {RESEARCH_ONLY}",
        )

    def _is_there(self, case: Case, *, maps: bool) -> bool:
        return all(file.is_file() for file in self.outputs.wanted(case, maps=maps))

    def _statistics_file(self, case: Case) -> Path:
        return self.outputs.file(case, POSTFIX, ".json")

    def _preview_file(self, case: Case) -> Path:
        return self.outputs.file(case, "preview", ".png")

    def _write_table(self) -> None:
        """Of every scan in the folder, those of earlier calls too."""
        if self.outputs.stem is not None:
            scans = self.result.statistics
        else:
            files = sorted(self.outputs.folder.glob(f"*_{POSTFIX}.json"))
            scans = [content for file in files if (content := read_statistics(file)) is not None]
        if scans:
            write_table(self.outputs.table, scans)


def _in_a_line(error: Exception) -> str:
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"


def _empty(folder: Path) -> None:
    """So that nothing of a scan that failed is taken for the next one's."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
