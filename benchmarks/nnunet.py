"""nnU-Net beside ours: an environment of its own, its form of a dataset, and the process that runs in it."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nnunet_side import DATASET, STATE

from aps_components.data.datalist import Item, case_name, files_of
from aps_components.data.nifti import read_header, read_scan, write_like
from aps_components.data.partial import Partial, is_partial
from aps_components.files import expanded, replace_text
from aps_components.own_environment import OwnEnvironment
from aps_components.processes import run_logged

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
# This version of the second needs no torchvision, of which there is no build for every torch.
PACKAGES = ("torch", "nnunetv2==2.5.2", "dynamic-network-architectures==0.3.1")
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
ENDING = ".nii.gz"


def nnunet_environment(folder: str | os.PathLike[str]) -> OwnEnvironment:
    """Set it up, or finish what an interrupted call began; one that has nnU-Net is left as it is."""
    environment = OwnEnvironment(Path(os.path.abspath(expanded(folder))))
    if not _has_nnunet(environment):
        print(f"Setting up {environment.folder} with nnU-Net; takes some minutes, once", flush=True)
        environment.make()
        environment.install("-c", str(CONSTRAINTS), *PACKAGES)
    return environment


def _has_nnunet(environment: OwnEnvironment) -> bool:
    """pip installs it after all that it needs."""
    with suppress(OSError, subprocess.CalledProcessError):
        version = environment.answer("import importlib.metadata; print(importlib.metadata.version('nnunetv2'))")
        return f"nnunetv2=={version}" in PACKAGES
    return False


def write_raw(folder: Path, items: Sequence[Item], labels: Mapping[int, str], *, channels: Sequence[str]) -> None:
    """nnU-Net's raw folder of some labelled scans: links, and ``dataset.json``.

    What nobody labelled in a label that is not whole gets nnU-Net's ``ignore`` label, the number after the last class.

    Args:
        folder: receives ``imagesTr``, ``labelsTr`` and ``dataset.json``.
        items: with "image" and "label", and what is said of a label that is not whole.
        labels: class value to name, background included.
        channels: what nnU-Net normalises by: "CT", or any other name.

    Raises:
        ValueError: a scan has more or fewer channels, or all of them in one file; or some of its classes alone were
            drawn, which nnU-Net has no form for.
    """
    ignore = max(labels) + 1
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for item in items:
        name = case_name(item)
        for place, file in zip(raw_names(name, len(channels)), _files(item, len(channels)), strict=True):
            _linked(Path(file), folder / "imagesTr" / place)
        label = folder / "labelsTr" / f"{name}{ENDING}"
        if is_partial(item):
            _with_ignored(item, label, ignore=ignore)
        else:
            _linked(Path(item["label"]), label)
    partly = any(map(is_partial, items))
    content = {
        "channel_names": {str(number): channel for number, channel in enumerate(channels)},
        "labels": {name: value for value, name in labels.items()} | ({"ignore": ignore} if partly else {}),
        "numTraining": len(items),
        "file_ending": ENDING,
    }
    replace_text(folder / "dataset.json", json.dumps(content, indent=1) + "\n")


def raw_names(name: str, channels: int) -> list[str]:
    """Of the image files of a case, in channel order."""
    return [f"{name}_{channel:04d}{ENDING}" for channel in range(channels)]


def learn_and_answer(
    folder: Path,
    *,
    environment: OwnEnvironment,
    learned: Sequence[Item],
    judged: Sequence[Item],
    labels: Mapping[int, str],
    channels: Sequence[str],
    configuration: str,
    minutes: float,
    threads: int,
    seed: int,
    mirrored: bool,
    bf16: bool = False,
) -> dict[str, Any]:
    """Run nnU-Net, or go on where it was stopped.

    Args:
        folder: receives everything; the answers are ``answers/NAME.nii.gz``.
        environment: with nnU-Net.
        learned: labelled scans.
        judged: scans to answer.
        labels, channels: as of :func:`write_raw`.
        configuration: one of nnU-Net's.
        minutes: of planning, preprocessing and training.
        threads: that it computes with.
        seed: of its draws.
        mirrored: answer in all mirror images, too.
        bf16: compute in bf16 instead of fp32.

    Returns:
        ``seconds`` of learning and ``iterations``.
    """
    raw, links, answers = folder / "raw", folder / "judged", folder / "answers"
    write_raw(raw / f"Dataset{DATASET:03d}_peer", learned, labels, channels=channels)
    links.mkdir(exist_ok=True)
    scans = {}
    for item in judged:
        places = [links / name for name in raw_names(case_name(item), len(channels))]
        for place, file in zip(places, _files(item, len(channels)), strict=True):
            _linked(Path(file), place)
        scans[case_name(item)] = [str(place) for place in places]
    answers.mkdir(exist_ok=True)
    told = {"configuration": configuration, "budget": 60 * minutes, "threads": threads, "seed": seed, "bf16": bf16}
    places_ = {"folder": str(folder), "answers": str(answers)}
    replace_text(folder / "spec.json", json.dumps({**told, **places_, "scans": scans, "mirrored": mirrored}))
    command = [str(environment.python), str(Path(__file__).with_name("nnunet_side.py")), str(folder / "spec.json")]
    own = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    log, stop = folder / "log.txt", threading.Event()
    run_logged(command, log=log, stop=stop, threads=threads, variables=own)
    state = json.loads((folder / STATE).read_text())
    return {"seconds": state["trained"], "iterations": state["iterations"]}


def _files(item: Item, channels: int) -> list[str]:
    files = files_of(item["image"])
    if len(files) != channels:
        raise ValueError(f"{files[0]}: {len(files)} file(s) where --channels names {channels} channels")
    if len(nibabel.load(files[0]).shape) > 3:
        raise ValueError(f"{files[0]}: all channels in one file; nnU-Net takes a file for each: split them")
    return files


def _with_ignored(item: Item, place: Path, *, ignore: int) -> None:
    label, said = str(item["label"]), Partial.of(item)
    if said.classes is not None:
        raise ValueError(f"{label}: some classes alone were drawn; nnU-Net ignores voxels, and not classes of them")
    scan = read_scan(label)
    values = np.rint(scan.voxels).astype(np.uint8)
    write_like(place, np.where(said.unlabeled(values, values), ignore, values).astype(np.uint8), read_header(label))


def _linked(file: Path, place: Path) -> None:
    """Under nnU-Net's name; what is not compressed is written anew."""
    if place.exists():
        return
    if file.name.lower().endswith(ENDING):
        place.symlink_to(file.resolve())
    else:
        nibabel.save(nibabel.load(file), place)
