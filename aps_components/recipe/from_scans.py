"""``aps train``: from a folder of scans to a complete bundle, in one command that goes on after any end."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.locate import TRAINED
from aps_components.bundle.new import (
    NAME,
    LookedAt,
    check_kept_apart,
    look_at,
    make_datalist,
    parse_labels,
    write_new,
)
from aps_components.bundle.rules import Choice
from aps_components.data.datalist import DATALIST
from aps_components.data.errors import DataError
from aps_components.data.partial import SLICES, parsed_slices
from aps_components.data.scans import Scans, find_scans
from aps_components.files import ensure_writable, expanded, sha256_of
from aps_components.machine import chosen_device
from aps_components.memory import free_memory
from aps_components.options import SEED, whole
from aps_components.ownership import alone_in
from aps_components.processes import cores
from aps_components.recipe.asked import checked_options, parse_time, set_options
from aps_components.recipe.datasets import Learning
from aps_components.recipe.facts import Asked
from aps_components.recipe.journal import Journal
from aps_components.recipe.parts import PROMPT_STEP
from aps_components.recipe.plan import make_time_plan
from aps_components.recipe.results import PrintedPlan, TrainingResults, write_results
from aps_components.recipe.settings import Recipe, recipe_of
from aps_components.recipe.stages import Commands
from aps_components.recipe.whole import WholeTraining, facts_of, measured_pace, printed_plan
from aps_components.report import write_training_report
from aps_components.report.page import REPORT_FILE
from aps_components.report.reading import duration

MEMORY_OF_A_TRAINING = 4 * 2**30  # bytes; no more are run beside each other than fit
SCHEDULE = """Those of its training by `aps train`: see [Performance](#performance), where every step stands with its
iterations. `configs/train.json` trains anew by the bundle's own schedule: 12,000 iterations (120 epochs of 100), the
first 4,000 on labelled patches alone."""


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What was asked for, checked before a scan is read."""

    data: Path
    scans: Scans
    names: dict[int, str] | None
    budget: str
    spacing: list[float] | None
    roi_size: list[int] | None
    of_dataset: dict[str, Any]
    of_training: dict[str, Any]
    device: str | None
    pretrained: Path | None
    cache_dir: Path | None
    slices: Any
    asked: Asked

    def as_json(self) -> dict[str, Any]:
        """What makes a training the one it is: not where it runs."""
        return {
            "data": str(self.data),
            "labels": None if self.names is None else {str(value): name for value, name in self.names.items()},
            "time": self.asked.seconds,
            "seed": self.asked.seed,
            "spacing": self.spacing,
            "roi_size": self.roi_size,
            "pretrained": None if self.pretrained is None else sha256_of(self.pretrained),
            "options": {**self.of_dataset, **self.of_training},
            "recipe": asdict(self.asked.recipe),
            **({} if self.slices is None else {SLICES: self.slices}),
        }


def train(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    time: str | int | float = "4h",
    labels: str | Mapping[Any, str] | None = None,
    device: str | None = None,
    seed: int = 0,
    spacing: Sequence[float] | None = None,
    roi_size: Sequence[int] | None = None,
    images: str | None = None,
    labels_dir: str | None = None,
    jobs: int | None = None,
    pretrained: str | os.PathLike[str] | None = None,
    recipe: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    labeled_slices: str | None = None,
) -> TrainingResults:
    """Train the best model that some scans allow in a given time, and leave it as a complete bundle in ``OUT/bundle``.

    The same call goes on after any end. What is run are commands of the bundle, which stand in ``OUT/commands.sh``.

    Args:
        data: a folder with images/ and labels/ for a few of them, nnU-Net's raw folder, one of the Medical Segmentation
            Decathlon, a folder with a datalist.json, or a datalist's file.
        out: receives everything; the bundle is ``OUT/bundle``.
        time: that all of it may take, such as "4h" or "90m".
        labels: names of the values in the label files, as in "1:liver,2:tumour"; by default those of a datalist or a
            dataset.json, or else "label 1" and so on.
        device: such as "cuda:1" or "cpu"; by default a GPU, if there is one.
        seed: of the folds and the trainings.
        spacing: voxel size in mm, instead of the proposed one.
        roi_size: patch in voxels, instead of the proposed one.
        images: the sub-folder of the images, if it has another name.
        labels_dir: the sub-folder of the labels, if it has another name.
        jobs: trainings at once; by default one on a GPU, and on a CPU as many as there are cores and folds.
        pretrained: ``model.pt`` of another training, also of other classes or channels: every training begins with what
            fits of it. If it learned from labelled scans of these, none is held out.
        recipe: numbers of :class:`Recipe` to change.
        options: further options of the bundle's ``train.json``, for every training.
        dry_run: look, measure and print the plan alone; nothing is written into ``out``.
        labeled_slices: "drawn" if slices that hold nothing were not labelled; see :func:`parsed_slices`.

    Returns:
        What was planned, done, measured and decided, as in ``OUT/training.json``; of a dry run the plan alone.

    Raises:
        ValueError: an argument that does not fit, scans that cannot be used, too short a time, or an ``out`` that holds
            a training with other options or scans.
        FolderInUseError: another process trains into ``out``.
        StageFailedError: a command failed; the message names its log.
    """
    wanted = _checked(
        data,
        time=time,
        labels=labels,
        device=device,
        seed=seed,
        spacing=spacing,
        roi_size=roi_size,
        images=images,
        labels_dir=labels_dir,
        jobs=jobs,
        pretrained=pretrained,
        recipe=recipe,
        options=options,
        labeled_slices=labeled_slices,
    )
    place = Path(os.path.abspath(expanded(out)))
    if dry_run:
        with TemporaryDirectory(prefix="aps_train_") as folder:
            return _planned(wanted, Path(folder))
    with alone_in(ensure_writable(place)):
        return _trained(wanted, place)


def _checked(
    data: str | os.PathLike[str],
    *,
    time: str | int | float,
    labels: str | Mapping[Any, str] | None,
    device: str | None,
    seed: int,
    spacing: Sequence[float] | None,
    roi_size: Sequence[int] | None,
    images: str | None,
    labels_dir: str | None,
    jobs: int | None,
    pretrained: str | os.PathLike[str] | None,
    recipe: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None,
    labeled_slices: str | None,
) -> _Wanted:
    """Everything that can be refused before a scan is read."""
    seconds = parse_time(time)
    where = chosen_device("device", device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = where.type == "cuda"
    numbers = recipe_of(recipe, on_gpu=on_gpu)
    sizes = {key: value for key, value in (("spacing", spacing), ("roi_size", roi_size)) if value is not None}
    of_dataset, of_training = checked_options({**(options or {}), **sizes})
    cache_dir = of_training.pop("cache_dir", None)  # a place of this machine, of which the bundle knows nothing
    at_once = _jobs(numbers, on_gpu=on_gpu) if jobs is None else whole(least=1)("jobs", jobs)
    slices = None if labeled_slices is None else parsed_slices(labeled_slices)
    names, scans = parse_labels(labels), find_scans(data, images=images, labels_dir=labels_dir)
    scans = scans.told(slices=slices)
    return _Wanted(
        data=Path(os.path.abspath(expanded(data))),
        scans=scans,
        names=names or scans.names,
        budget="gpu" if on_gpu else "cpu",
        spacing=of_dataset.pop("spacing", None),
        roi_size=of_dataset.pop("roi_size", None),
        of_dataset=of_dataset,
        of_training=of_training,
        device=None if device is None else str(where),
        pretrained=_weights(pretrained),
        cache_dir=None if cache_dir is None else Path(os.path.abspath(expanded(cache_dir))),
        slices=slices,
        asked=Asked(
            seconds=seconds,
            seed=SEED("seed", seed),
            recipe=numbers,
            jobs=at_once,
            threads=max(1, cores() // at_once),
            cores=cores(),
        ),
    )


def _weights(pretrained: str | os.PathLike[str] | None) -> Path | None:
    if pretrained is None:
        return None
    file = Path(os.path.abspath(expanded(pretrained)))
    if not file.is_file():
        raise FileNotFoundError(f"no checkpoint at {file}: give model.pt of a training by --pretrained")
    return file


def _jobs(recipe: Recipe, *, on_gpu: bool) -> int:
    """On a CPU trainings beside each other, with fewer threads each, do more than one with all of them."""
    free = free_memory()
    fit = max(1, int(free // MEMORY_OF_A_TRAINING)) if free is not None else recipe.folds
    return 1 if on_gpu else max(1, min(cores(), recipe.folds, fit))


def _planned(wanted: _Wanted, folder: Path) -> TrainingResults:
    """The plan alone, made in a folder that is gone afterwards."""
    bundle = _new_bundle(wanted, folder / TRAINED)
    commands, learning = _parts(wanted, bundle)
    block = DatasetBlock.read(bundle / "configs" / "train.json")
    facts = facts_of(learning, block, jobs=wanted.asked.jobs, pretrained=wanted.pretrained)
    print("Measuring the pace of a training on this machine ...", flush=True)
    pace = measured_pace(wanted.asked, commands, learning, folder, facts=facts)
    plan = make_time_plan(facts, pace, seconds=wanted.asked.seconds, recipe=wanted.asked.recipe)
    said = printed_plan(plan, facts, wanted.asked.recipe, block=block, data=wanted.data)
    print(describe(said, wanted.asked))
    return TrainingResults(plan=said)


def _trained(wanted: _Wanted, out: Path) -> TrainingResults:
    journal = Journal(out, wanted.as_json())
    listed, known, bundle = wanted.scans.facts(), journal.recall("files"), out / TRAINED
    if known != listed and not journal.stages:
        journal.begin_anew()
        shutil.rmtree(bundle, ignore_errors=True)  # of scans or options that were refused
    elif known is not None:
        _refuse_other_scans(known, listed, wanted=wanted, out=out)
    journal.remember("files", listed)
    if not bundle.is_dir():
        unfinished = journal.work / TRAINED
        shutil.rmtree(unfinished, ignore_errors=True)
        os.replace(_new_bundle(wanted, unfinished), bundle)
    commands, learning = _parts(wanted, bundle)
    training = WholeTraining(wanted.asked, commands=commands, learning=learning, journal=journal, data=wanted.data)
    if journal.recall("pace") is None:
        print("Measuring the pace of a training on this machine, which takes a few minutes ...", flush=True)
    print(describe(training.printed_plan(), wanted.asked), flush=True)
    results = training.run()
    write_results(out, results)
    write_training_report(out)
    print(_ended(results, out, worked=journal.worked))
    return results


def _new_bundle(wanted: _Wanted, bundle: Path) -> Path:
    """Of the scans, with everything but weights."""
    found = look_at(
        wanted.scans.folder,
        names=wanted.names,
        budget=wanted.budget,
        spacing=wanted.spacing,
        roi_size=wanted.roi_size,
        largest_component=wanted.of_dataset.get("largest_component"),
    )
    found = _with_options(found, wanted.of_dataset)
    print("\n" + found.described() + "\n", flush=True)
    check_kept_apart(wanted.scans, found)
    name = _name(found.folder.root)
    datalist = make_datalist(name, found.fingerprint, found.plan.block.labels, scans=wanted.scans, validation=0)
    written = write_new(bundle, name=name, found=found, datalist=datalist, trained=SCHEDULE)
    set_options(written, wanted.of_training)
    return written


def _with_options(found: LookedAt, given: Mapping[str, Any]) -> LookedAt:
    """What was asked for in the place of what was proposed."""
    if not given:
        return found
    choices = {**found.plan.choices, **{key: Choice(value, "as given") for key, value in given.items()}}
    plan = replace(found.plan, block=replace(found.plan.block, **given), choices=choices)
    return replace(found, plan=plan)


def _name(root: Path) -> str:
    """Of the dataset, from its folder."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", root.name).lstrip("_.-")
    return plain if NAME.fullmatch(plain) else "scans"


def _parts(wanted: _Wanted, bundle: Path) -> tuple[Commands, Learning]:
    commands = Commands(
        bundle=bundle,
        recipe=wanted.asked.recipe,
        device=wanted.device,
        pretrained=wanted.pretrained,
        cache_dir=wanted.cache_dir,
    )
    root, file = wanted.scans.folder.root, bundle / "configs" / DATALIST
    return commands, Learning.read(root, file, wanted.scans.patients)


def _refuse_other_scans(known: Mapping[str, Any], listed: Mapping[str, Any], *, wanted: _Wanted, out: Path) -> None:
    """Folds and labels of a training that was begun are of the scans of then."""
    new = sorted(name for name in listed if name not in known)
    gone = sorted(name for name in known if name not in listed)
    other = sorted(name for name in known if name in listed and known[name] != listed[name])
    said = [
        f"{what} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for what, names in (("now with", new), ("now without", gone), ("another image, label or part for", other))
        if names
    ]
    if said:
        raise DataError(
            f"{wanted.data} has other scans than when the training in {out} began ({'; '.join(said)}): give another "
            "--out to train on these"
        )


def describe(plan: PrintedPlan, asked: Asked) -> str:
    """The plan with its times, for a terminal."""
    data = plan.data
    kept = f", {data['validation']} kept apart for validation" if data["validation"] else ""
    several = asked.jobs > 1 and any("trainings" in step.what for step in plan.stages)
    at_once = f"up to {asked.jobs} trainings at once with {asked.threads} thread(s) each"
    beside = at_once if several else "one at a time"
    width = max(len(step.name) for step in plan.stages)
    steps = [f"  {step.name:{width}}  {duration(step.seconds):>10}  {step.what}" for step in plan.stages]
    lines = [
        f"Plan for {duration(asked.seconds)}, {beside}:",
        f"{data['labelled']} labelled scans of {data['patients']} patients, {data['unlabelled']} unlabelled{kept}.",
        "",
        *steps,
        f"  {'in all':{width}}  {duration(plan.seconds):>10}",
    ]
    if plan.unknown:
        lines += ["", "What will not be known:", *(f"- {line}" for line in plan.unknown)]
    return "\n".join(lines) + "\n"


def _ended(results: TrainingResults, out: Path, *, worked: float) -> str:
    """What there is now, and what to do with it."""
    bundle, folder = shlex.quote(str(out / TRAINED)), shlex.quote(str(out))
    choices = [f"  {choice.name}: {choice.chosen} ({choice.note})" for choice in results.choices]
    prompted = any(step.name == PROMPT_STEP for step in results.plan.stages)
    label = [f"  aps label --bundles {bundle} --studies SCANS"] if prompted else []
    no_clicks = "\nIt answers no clicks: the time was too short for Model B, so give a new training more --time."
    return "\n".join(
        [
            f"\nDone after {duration(worked)}. What was decided:",
            *choices,
            *([] if prompted else [no_clicks]),
            f"\nReport: {out / REPORT_FILE}\nThe model and its figures: {out / TRAINED}/docs/README.md",
            f"  aps segment SCANS RESULTS --bundle {bundle}",
            f"  aps evaluate {folder} TESTSCANS",
            *label,
            f"  aps package {bundle}   (first fill in {out / TRAINED}/docs/data_license.txt)",
        ]
    )
