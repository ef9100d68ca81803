"""The same scans with whole labels, with a third of the slices and with scribbles: datasets, and what to run on them.

From a folder with whole labels, OUT receives three datasets of one pool. About as many slices are drawn for ``whole``
as for ``slices``. The scans that validate have whole labels and are the same everywhere; all others of the pool have no
label. Everything is drawn from the seed. The commands that train, evaluate and compare are printed; all ways of
labelling get the same iterations. ``--gather`` then writes ``OUT/figures.csv`` of what has been evaluated. The last
commands hold `aps train` against nnU-Net on each of the datasets, in equal time; what nobody labelled is nnU-Net's
``ignore`` label.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aps_components.data.case_folder import find_cases
from aps_components.data.nifti import read_header, read_scan, write_like
from aps_components.prompts.simulated import scribble_inside
from aps_components.recipe.parts import epochs_of
from aps_components.recipe.settings import Recipe

LabelMap = NDArray[np.integer]
NOT_LABELED = 255
NEAR = 6  # voxels around the classes in which the background is scribbled
MOST_SCRIBBLES = 20  # of a class
ARMS = ("whole", "slices", "scribbles")
EVALUATION, VARIANT = "evaluation", "largest_component"


@dataclass(frozen=True)
class Arm:
    """One way to label: how many scans, and what is left of a whole label."""

    scans: int
    drawn: Callable[[LabelMap, np.random.Generator], LabelMap]


def whole(label: LabelMap, rng: np.random.Generator) -> LabelMap:
    """Every voxel."""
    return label.copy()


def third_of_slices(label: LabelMap, rng: np.random.Generator) -> LabelMap:
    """Every third slice along the last axis, from a random one on."""
    drawn = np.full_like(label, NOT_LABELED)
    first = int(rng.integers(3))
    drawn[..., first::3] = label[..., first::3]
    return drawn


def scribbles(label: LabelMap, rng: np.random.Generator, *, voxels: int) -> LabelMap:
    """Lines inside every class, and of the background near them, until each has so many voxels, or nearly."""
    drawn = np.full_like(label, NOT_LABELED)
    near = ndimage.binary_dilation(label > 0, iterations=NEAR)
    for value in np.unique(label).tolist():
        mask = (label == value) & near
        for _ in range(MOST_SCRIBBLES):
            if not mask.any() or np.count_nonzero(drawn == value) >= voxels:
                break
            line = scribble_inside(mask, rng, label=value)
            for voxel in line.voxels[: voxels - np.count_nonzero(drawn == value)]:
                drawn[voxel] = value
    return drawn


def main() -> None:
    options = parse()
    if options.gather:
        print(gather(options.out, options.seed))
        return
    folder = find_cases(options.data)
    cases = {case.name: case for case in folder.cases if case.label is not None}
    names = np.random.default_rng(options.seed).permutation(sorted(cases)).tolist()
    validation, pool = names[: options.validation], names[options.validation :][: options.pool]
    arms = {
        "whole": Arm(options.whole, whole),
        "slices": Arm(options.slices, third_of_slices),
        "scribbles": Arm(options.scribbles, lambda label, rng: scribbles(label, rng, voxels=options.voxels)),
    }
    files = {
        name: (folder.root / case.images[0], folder.root / str(case.label))
        for name, case in cases.items()
        if name in {*validation, *pool}
    }
    classes = sorted({int(value) for _, label in files.values() for value in np.unique(read_scan(label).voxels)} - {0})
    for name, arm in arms.items():
        if arm.scans > len(pool):
            raise SystemExit(f"--{name} {arm.scans} is more than the pool of {len(pool)} scans: lower it")
        labelled = write_labels(options.out / name / "labels", arm, pool, files, seed=options.seed)
        write_datalist(options.out / name, labelled, pool, validation, files, classes=classes)
    print(commands(options, arms, images=folder.images, labels=folder.labels))


def write_labels(
    folder: Path, arm: Arm, pool: Sequence[str], files: Mapping[str, tuple[Path, Path]], *, seed: int
) -> dict[str, Path]:
    """The labels of the first scans of the pool, as far as they are drawn: name to file."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for index, name in enumerate(pool[: arm.scans]):
        truth = files[name][1]
        label = np.rint(read_scan(truth).voxels).astype(np.uint8)
        made[name] = folder / f"{name}.nii.gz"
        write_like(made[name], arm.drawn(label, np.random.default_rng([seed, index])), read_header(truth))
    return made


def write_datalist(
    folder: Path,
    labelled: Mapping[str, Path],
    pool: Sequence[str],
    validation: Sequence[str],
    files: Mapping[str, tuple[Path, Path]],
    *,
    classes: Sequence[int],
) -> None:
    """Labelled, unlabelled and validation scans; images stay where they are."""

    def path(file: Path) -> str:
        return os.path.relpath(file, folder)

    content = {
        "name": folder.name,
        "labels": {"0": "background", **{str(value): f"class {value}" for value in classes}},
        "ignore": NOT_LABELED,
        "training": [{"image": path(files[name][0]), "label": path(file)} for name, file in labelled.items()],
        "unlabeled": [{"image": path(files[name][0])} for name in pool if name not in labelled],
        "validation": [{"image": path(files[name][0]), "label": path(files[name][1])} for name in validation],
        "test": [],
    }
    (folder / "datalist.json").write_text(json.dumps(content, indent=1) + "\n")


def commands(options: argparse.Namespace, arms: Mapping[str, Arm], *, images: str, labels: str) -> str:
    """What to run, a line each; ``images`` and ``labels`` are the sub-folders of the data."""
    out, data = shlex.quote(str(options.out)), shlex.quote(str(options.data))
    bundle, run = f"{out}/bundle", "python -m monai.bundle run"
    recipe = Recipe(epochs=options.epochs, labeled_batch=options.batch, unlabeled_batch=options.batch)
    epochs, length, warmup = epochs_of(options.epochs * options.epoch_length, recipe)
    schedule = (
        f"--epochs {epochs} --epoch_length {length} --warmup_epochs {warmup} "
        f"--val_interval {options.epochs + 1} --labeled_batch {options.batch} --unlabeled_batch {options.batch}"
    )
    train = f"{schedule} '--objective#train_b' False --predictor a" if options.model_a else schedule
    judge = "--split validation --predictor a" if options.model_a else "--split validation"
    lines = [  # of the folders, and not of a datalist, which would be trained on
        f"aps new-bundle partial {data} {bundle} --budget cpu --validation 0 --seed {options.seed} "
        f"--images {shlex.quote(images)} --labels_dir {shlex.quote(labels)}"
    ]
    for name in arms:
        places = f"--bundle_root {bundle} --dataset_dir {out}/{name} --ckpt_dir {out}/{name}/models"
        lines += [
            f"{run} training --config_file {bundle}/configs/train.json {places} --output_dir {out}/{name}/training "
            f"--seed {options.seed} {train}",
            f"{run} evaluating --config_file \"['{bundle}/configs/train.json','{bundle}/configs/evaluate.json']\" "
            f"{places} --output_dir {out}/{name}/{EVALUATION} {judge}",
        ]
    lines.append(f"python benchmarks/partial_labels.py {data} {out} --seed {options.seed} --gather")
    for name, arm in arms.items():
        lines.append(
            f"python benchmarks/peer_nnunet.py {out}/peer_{name} --data {out}/{name} --ours {arm.scans} "
            f"--nnunet {arm.scans} --minutes {options.minutes:g} --bf16 True"
        )
    return "\n".join(lines)


def gather(out: Path, seed: int) -> str:
    """Write every Dice that the evaluations below a folder hold, and give a line for each way of labelling."""
    files = {name: out / name / EVALUATION / "metrics.csv" for name in ARMS}
    rows = [(name, row) for name, file in files.items() if file.is_file() for row in csv.DictReader(file.open())]
    kept = [(name, row) for name, row in rows if row["variant"] == VARIANT]
    if not kept:
        raise SystemExit(f"{out}: no {EVALUATION}/metrics.csv in {', '.join(ARMS)}; run the printed commands first")
    keys = ("predictor", "case", "class", "dice", "hd95_mm", "volume_ratio")
    with (out / "figures.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["labels", "seed", *keys])
        table.writerows([name, seed, *(row[key] for key in keys)] for name, row in kept)
    dice: dict[tuple[str, str], list[float]] = {}
    for name, row in kept:
        dice.setdefault((name, row["predictor"]), []).append(float(row["dice"]))
    lines = [f"{name:10} {predictor:8} Dice {100 * np.mean(values):.2f}" for (name, predictor), values in dice.items()]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images/ and whole labels/")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=160, help="scans to learn from")
    parser.add_argument("--validation", type=int, default=40)
    parser.add_argument("--whole", type=int, default=10, help="scans with a whole label")
    parser.add_argument("--slices", type=int, default=30, help="scans with a third of the slices")
    parser.add_argument("--scribbles", type=int, default=100, help="scans with scribbles")
    parser.add_argument("--voxels", type=int, default=40, help="scribbled of each class")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--epoch_length", type=int, default=100, help="iterations of an epoch")
    parser.add_argument("--batch", type=int, default=2, help="labelled patches of an iteration, and unlabelled ones")
    parser.add_argument("--minutes", type=float, default=20, help="of each training beside nnU-Net")
    parser.add_argument("--model_a", action="store_true", help="train and ask Model A alone, for a small budget")
    parser.add_argument("--gather", action="store_true", help="only write the figures of what has been evaluated")
    return parser.parse_args()


if __name__ == "__main__":
    main()
