"""One command from scans to label maps, figures and pictures, by a bundle's own inference."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps_components.bundle import bundle_metadata, bundle_name, locate_bundle, version_differences
from aps_components.bundle.locate import CACHE_DIR
from aps_components.data import DataError
from aps_components.data.geometry import Geometry
from aps_components.data.nifti import read_geometry, read_scan
from aps_components.errors import in_a_line
from aps_components.evaluation.doubt.expected import Expectation
from aps_components.evaluation.preview import save_preview
from aps_components.files import expanded, sha256_of
from aps_components.interactive import Words, holds_a_persons_words
from aps_components.models import settings_file
from aps_components.segmentation.bundle_inference import BundleInference
from aps_components.segmentation.corrections import corrected, words_for
from aps_components.segmentation.dicom import is_multi_frame
from aps_components.segmentation.dicom_seg import Maker
from aps_components.segmentation.dicom_seg_output import DicomSegOutput, remove_own
from aps_components.segmentation.expected import expected_by_label, expected_in_words, with_expectation
from aps_components.segmentation.inputs import Case, find_cases
from aps_components.segmentation.outputs import Outputs, choose_outputs
from aps_components.segmentation.records import (
    Claim,
    Found,
    is_picture,
    look,
    preview_file,
    refuse_foreign_table,
    sign,
    statistics_file,
)
from aps_components.segmentation.sharing import Share
from aps_components.segmentation.statistics import (
    CUBIC_MM_PER_ML,
    class_statistics,
    folder_statistics,
    load_channels,
    read_statistics,
    write_statistics,
    write_table,
)
from aps_components.segmentation.workspace import one_at_a_time, work_folder
from aps_components.terminal import say, shown

RESEARCH_ONLY = "For research only. Not a medical device; not for diagnosis or treatment."
FEW_VALUES = 16  # a scan has more different ones
SAMPLED = 4  # every fourth voxel along each axis is enough to tell


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

    def __add__(self, other: Segmentation) -> Segmentation:
        """Of both, which have their results in the same place."""
        return Segmentation(
            self.outputs,
            self.statistics + other.statistics,
            self.done + other.done,
            self.skipped + other.skipped,
            self.failed | other.failed,
        )

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
    prompts: str | os.PathLike[str] | None = None,
    dicom_seg: bool = False,
    settings: Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike[str] = CACHE_DIR,
    share: Share | None = None,
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
        prompts: a file of a person's prompts for the one scan, as ``maps`` writes it, edited. The scan is segmented
            anew.
        dicom_seg: also write each label map as a DICOM SEG of its series.
        settings: further keys of the bundle's ``inference.json`` to other values.
        cache_dir: where zips are unpacked.
        share: only this part of the scans; other processes have the others.

    Raises:
        ValueError, OSError, RuntimeError: nothing could be started; which file or value is wrong and the mend.
    """
    root = locate_bundle(bundle, cache_dir=cache_dir)
    changes = dict(settings or {})
    changes |= {} if checkpoint is None else {"checkpoint": os.path.abspath(expanded(checkpoint))}
    inference = BundleInference(root, configs=configs, settings={**changes, "save_maps": maps})
    inputs = find_cases(source, modalities=inference.modalities, series=series)
    weights = inference.require_checkpoint()
    said = None if prompts is None else words_for(prompts, inputs.cases, labels=inference.labels, checkpoint=weights)
    outputs, metadata, name = choose_outputs(output, inputs.cases), bundle_metadata(root), bundle_name(root)
    made_by = {
        "bundle": name,
        "version": metadata.get("version"),
        "weights_sha256": sha256_of(weights),
        "weights_settings_sha256": sha256_of(beside) if (beside := settings_file(weights)).is_file() else None,
        "settings": {key: value for key, value in changes.items() if key != "checkpoint"},
        "configs": [file.name for file in inference.overrides],
        **({} if prompts is None else {"prompts_sha256": sha256_of(expanded(prompts))}),
    }
    segs = None
    if dicom_seg:
        maker = Maker.of_bundle(metadata, name=name, weights=str(made_by["weights_sha256"]), labels=inference.labels)
        segs = DicomSegOutput(outputs, inputs.cases, maker=maker, overwrite=overwrite, by_a_person=said is not None)
    notes = [*version_differences(root), *inference.other_classes(weights)]
    for line in (*(f"Note: {line}" for line in notes), *(f"Left out {x}" for x in inputs.left_out)):
        print(line)
    for note in [] if said is None else said.notes:
        print(f"Note: {prompts}: {note}")
    cases = inputs.cases if share is None else share.take(inputs.cases)
    run = _Run(inference, outputs, made_by, maps=maps, preview=preview, overwrite=overwrite, said=said, segs=segs)
    return run.every(cases, device=device)


@dataclass
class _Job:
    """A scan on its way through reading, network and writing.

    Args:
        number: such as ``[3/7]``.
        case: the scan.
        found: what there is of it, or why it cannot be used.
    """

    number: str
    case: Case
    found: Found | Exception
    read: Future[None] | None = None
    claim: Claim | None = None
    files: list[str] = field(default_factory=list)
    sample: Any = None
    answer: dict[str, Any] | None = None
    expectation: Expectation | None = None
    failure: Exception | None = None
    started: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether it is to be segmented."""
        return isinstance(self.found, Found) and not self.found.complete


class _Threads:
    """One thread that reads and one that writes; of each there is one scan beside the network's."""

    def __init__(self) -> None:
        self.reader, self.writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.written: Future[None] | None = None

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.shutdown(cancel_futures=True)
        self.writer.shutdown()

    def wait_for_writer(self) -> None:
        """Until the last scan is written; what broke its line is raised here."""
        if self.written is not None:
            self.written.result()
            self.written = None


class _Run:
    """What all scans of one call share."""

    def __init__(
        self,
        inference: BundleInference,
        outputs: Outputs,
        made_by: Mapping[str, Any],
        *,
        maps: bool,
        preview: bool,
        overwrite: bool,
        said: Words | None,
        segs: DicomSegOutput | None,
    ) -> None:
        self.inference, self.outputs, self.made_by = inference, outputs, made_by
        self.maps, self.preview, self.overwrite, self.said = maps, preview, overwrite, said
        self.segs = segs
        self.result = Segmentation(outputs)
        self.line: list[str] = []
        self.read: tuple[Sequence[str], dict[str, NDArray[np.float32]]] | None = None

    def every(self, cases: Sequence[Case], *, device: str | None) -> Segmentation:
        """While the network has a scan, the one before is written and the next one read, where memory allows that."""
        if not self.overwrite:
            refuse_foreign_table(self.outputs)
        found = {case.name: self._found(case) for case in cases}
        waiting = [name for name, there in found.items() if isinstance(there, Found) and not there.complete]
        folder = self.outputs.folder
        with work_folder(folder) as work, work_folder(folder) as ahead, _Threads() as threads:
            if waiting:
                where = self.inference.load(work, device=device, progress=sys.stderr.isatty())
                say(f"{len(waiting)} scan(s) to segment with {self.made_by['bundle']} on {where}")
            jobs = [_Job(f"[{number}/{len(cases)}]", case, found[case.name]) for number, case in enumerate(cases, 1)]
            for job, following in zip_longest(jobs, jobs[1:]):
                if job.read is None:
                    job.started = time.monotonic()
                    job.read = threads.reader.submit(self._read, job, ahead)
                together = following is not None and self._both_fit(job, following)
                if together:
                    following.read = threads.reader.submit(self._read, following, ahead)
                self._ask(job)
                threads.wait_for_writer()
                threads.written = threads.writer.submit(self._finish, job, work)
                if not together:
                    threads.wait_for_writer()
            threads.wait_for_writer()
        self._write_table()
        return self.result

    def _both_fit(self, job: _Job, following: _Job) -> bool:
        """Whether the memory holds two scans."""
        if not (job.waits and following.waits):
            return True
        try:
            for case in (job.case, following.case):
                if case.series is None:
                    self.inference.require_room(case.files, scans=2)
                elif is_multi_frame(case.series):
                    return False  # its size is known when it is converted
                else:
                    shape, affine = case.grid()
                    self.inference.require_room_of(Geometry(shape, 1, affine), name=case.name, scans=2)
        except (ValueError, IndexError):
            return False
        return self.said is None

    def _read(self, job: _Job, ahead: Path) -> None:
        """In a thread of its own: the scan as the network sees it."""
        try:
            if isinstance(job.found, Exception):
                raise job.found
            job.claim = Claim.of(job.case, self.made_by)
            if job.waits:
                self._refuse_words(job.case)
                job.files = job.case.nifti(ahead)
                if self._asks_network:
                    job.sample = self.inference.prepare(job.files)
        except Exception as error:
            job.failure = error

    @property
    def _asks_network(self) -> bool:
        """A correction does so itself."""
        return self.said is None or self.maps

    def _ask(self, job: _Job) -> None:
        """In the main thread, which the network has for itself."""
        assert job.read is not None
        job.read.result()
        job.started = job.started or time.monotonic()
        if job.failure is None and job.sample is not None:
            if sys.stderr.isatty():
                say(f"{job.number} {job.case.name}")  # the bar of the windows has a line of its own
            try:
                job.answer = self.inference.answer(job.sample)
                job.expectation = self.inference.expect(job.answer) if self.said is None else None
            except Exception as error:
                job.failure = error
            job.sample = None

    def _finish(self, job: _Job, work: Path) -> None:
        """In a thread of its own: everything after the network, and a line that says so."""
        self.line = [f"{job.number} {shown(job.case.name)}"]
        try:
            self._one(job, work)
        except Exception as error:  # whatever is wrong with one scan, the others can be right
            self.result.failed[job.case.name] = in_a_line(error)
            self.line.append(f"  failed: {self.result.failed[job.case.name]}")
            _empty(work)
        self.read = job.answer = None
        say("".join(self.line))

    def _found(self, case: Case) -> Found | Exception:
        """What there is of a scan, or why it cannot be used."""
        try:
            if case.fault:
                raise DataError(case.fault)
            if self.segs is not None:
                self.segs.refuse_foreign(case)
            if self.overwrite:
                return Found(complete=False)
            if self.said is not None:
                look(self.outputs, case, partial(self._claim_of_before, case), maps=False)
                return Found(complete=False)
            try:
                return look(self.outputs, case, partial(Claim.of, case, self.made_by), maps=self.maps)
            except DataError:
                self._refuse_words(case)  # to which --overwrite, which others are advised, does nothing
                raise
        except (ValueError, OSError) as error:
            return error

    def _claim_of_before(self, case: Case) -> Claim:
        """That of a label map after other prompts, or none, which a correction replaces."""
        record = read_statistics(statistics_file(self.outputs, case)) or {}
        earlier = record.get("made_by") or {}
        prompts = {key: value for key, value in earlier.items() if key == "prompts_sha256"}
        same = {key: value for key, value in self.made_by.items() if key != "prompts_sha256"}
        return Claim.of(case, same | prompts)

    def _one(self, job: _Job, work: Path) -> None:
        if job.failure is not None:
            raise job.failure
        assert job.claim is not None
        assert isinstance(job.found, Found)
        case, found, claim = job.case, job.found, job.claim
        statistics = found.statistics
        if not found.complete:
            statistics = self._segment(job, work, claim)
        elif statistics is None:
            statistics = self._measure(case, self.outputs.label_map(case), self._files(case), claim)
            write_statistics(statistics_file(self.outputs, case), statistics)
            if found.remark:  # the picture shows what it was before
                preview_file(self.outputs, case).unlink(missing_ok=True)
        if self.preview and not is_picture(preview_file(self.outputs, case)):
            self._draw(case, statistics)
        if self.segs is not None:
            self.segs.write(case)
        self.result.statistics.append(statistics)
        (self.result.skipped if found.complete else self.result.done).append(case.name)
        if found.complete:
            self.line.append("  is there already" + (f"; {found.remark}" if found.remark else ""))
        else:
            self.line.append(f"  {time.monotonic() - job.started:.0f} s")

    def _refuse_words(self, case: Case) -> None:
        words = self.outputs.file(case, "prompts", ".json")
        if self.said is None and words.is_file() and holds_a_persons_words(words):
            raise DataError(f"{words} holds a person's prompts: segment with --prompts {words}, or move it away")

    def _segment(self, job: _Job, work: Path, claim: Claim) -> dict[str, Any]:
        """Everything is made in the work folder; the old label map goes first and the new one comes last."""
        case, files = job.case, job.files
        words = self.outputs.file(case, "prompts", ".json")
        for note in (note for file in files for note in read_geometry(file).notes):
            self.line.append(f"  (note: {note.partition(': ')[2]})")
        if job.answer is not None:
            self.inference.write(job.answer)
            job.answer = None
        if self.said is not None:
            told = corrected(case.name, files, self.said, predictor=self.inference.predictor(), folder=work)
            self.line += [f"  (note: {note})" for note in told]
        label_map = self.outputs.label_map_in(work, case)
        sign(label_map, claim)
        statistics = with_expectation(self._measure(case, label_map, files, claim), job.expectation)
        with one_at_a_time(self.outputs.folder):
            self._refuse_what_came_meanwhile(case, claim)
            earlier = (preview_file(self.outputs, case), *self.outputs.wanted(case, maps=True)[1:])
            if not self.maps and (gone := [file.name for file in self.outputs.maps(case) if file.exists()]):
                self.line.append(f"  (note: maps of the former answer are removed: {', '.join(gone)})")
            for stale in (self.outputs.label_map(case), *(file for file in earlier if file != words)):
                stale.unlink(missing_ok=True)
            remove_own(self.outputs, case)
            if self.said is None and not self.maps:
                words.unlink(missing_ok=True)
            write_statistics(statistics_file(self.outputs, case), statistics)
            for file in [] if case.series is None else files:
                os.replace(file, work / Path(file).name)
            self.outputs.take(case, work)
        return statistics

    def _refuse_what_came_meanwhile(self, case: Case, claim: Claim) -> None:
        """Another call, with another model, may have written the same scan since this one looked."""
        if not self.overwrite and self.said is None:
            look(self.outputs, case, lambda: claim, maps=self.maps)

    def _files(self, case: Case) -> list[str]:
        """The scan as NIfTI."""
        return list(case.files) or [str(self.outputs.scan(case))]

    def _measure(self, case: Case, label_map: Path, files: Sequence[str], claim: Claim) -> dict[str, Any]:
        geometry = read_geometry(files[0])
        channels = self._channels(files)
        first = next(iter(channels.values()))[::SAMPLED, ::SAMPLED, ::SAMPLED]
        if len(np.unique(first)) <= FEW_VALUES and np.array_equal(first, np.rint(first)):
            self.line.append("  (few different values: is this a scan, or a label map?)")
        voxel_ml = geometry.voxel_mm3 / CUBIC_MM_PER_ML
        return {
            "scan": case.name,
            "scan_sha256": claim.scan,
            "shape": list(geometry.shape),
            "affine": geometry.affine.round(6).tolist(),
            "notes": [note.partition(": ")[2] for note in geometry.notes],
            "label_map_sha256": sha256_of(label_map),
            "voxel_ml": voxel_ml,
            "classes": class_statistics(
                read_scan(label_map).voxels, channels, voxel_ml=voxel_ml, labels=self.inference.labels
            ),
            "made_by": claim.made_by,
        }

    def _channels(self, files: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Those of a scan that was just measured are there to be drawn."""
        if self.read is None or self.read[0] != files:
            self.read = None  # not two scans in memory
            self.read = (files, load_channels(files, self.inference.modalities))
        return self.read[1]

    def _draw(self, case: Case, statistics: Mapping[str, Any]) -> None:
        """A picture is a help: where it fails, the scan does not."""
        files = self._files(case)
        name, image = next(iter(self._channels(files).items()))
        made_by = statistics.get("made_by", self.made_by)
        try:
            save_preview(
                preview_file(self.outputs, case),
                image=image,
                label_map=read_scan(self.outputs.label_map(case)).voxels,
                affine=read_geometry(files[0]).affine,
                volumes={entry["label"]: (entry["name"], entry["volume_ml"]) for entry in statistics["classes"]},
                title=", ".join([case.name, *([] if name == "image" else [name]), *expected_in_words(statistics)]),
                shares=expected_by_label(statistics),
                note=f"{made_by['bundle']} {made_by['version'] or ''}. {RESEARCH_ONLY}",
            )
        except Exception as error:
            self.line.append(f"  (no picture: {in_a_line(error)})")

    def _write_table(self) -> None:
        """Of every scan in the folder, those of earlier calls and of other processes, too: the last one has all."""
        with one_at_a_time(self.outputs.folder):
            scans = folder_statistics(self.outputs, self.result.statistics)
            if scans:
                write_table(self.outputs.table, scans)


def _empty(folder: Path) -> None:
    """So that nothing of a scan that failed is taken for the next one's."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
