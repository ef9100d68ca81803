"""What the unlabelled scans of a MONAI Label datastore bring: /train/ with and without them, on a real server.

For each seed a server is started with two bundles, equal but for their batches. The seed chooses the scans that
are labelled through the API, and the weights that both start from. Both are trained by /train/ for the same number of
iterations, and asked by /infer/ for held-back scans. What is finished is kept in OUT and not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from aps_components.bundle.new import new_bundle
from aps_components.label_server import LabelClient, LabelEnvironment, LabelServer, ensure_environment, prepare_app

# What differs in train.json; 4 patches each.
ARMS: dict[str, dict[str, int]] = {"with": {}, "without": {"labeled_batch": 4, "unlabeled_batch": 0}}


def main() -> None:
    options = parse()
    scans = sorted(file.name for file in (options.data / "images").glob("*.nii.gz"))
    random.Random(0).shuffle(scans)
    studies, held_back = scans[: options.scans], scans[options.scans :][: options.held_back]
    environment = ensure_environment(options.environment)
    results = []
    for seed in options.seeds:
        results.append(run_seed(seed, options, studies, held_back, environment))
    print(table(results, options))


def run_seed(
    seed: int,
    options: argparse.Namespace,
    studies: Sequence[str],
    held_back: Sequence[str],
    environment: LabelEnvironment,
) -> dict[str, Any]:
    """Everything of one seed; a finished arm is read from its file."""
    folder = options.out / f"seed_{seed}"
    labelled = sorted(random.Random(seed).sample(studies, options.labelled))
    bundles = make_bundles(folder, seed, options, studies, labelled)
    missing = [arm for arm in ARMS if not (folder / f"{arm}.json").is_file()]
    if missing:
        (folder / "studies").mkdir(exist_ok=True)
        for name in studies:
            shutil.copy(options.data / "images" / name, folder / "studies")
        prepare_app(folder / "app", bundles=bundles, untrained=True)
        server = LabelServer(
            environment=environment,
            app=folder / "app",
            studies=folder / "studies",
            models=list(ARMS),
            port=0,
            log=folder / "server.log",
        )
        with server:
            client = LabelClient(server.url, timeout=24 * 3600)
            for name in labelled:
                client.put_label(name.removesuffix(".nii.gz"), options.data / "labels" / name)
            for arm in missing:
                result = run_arm(client, arm, folder, options, held_back)
                (folder / f"{arm}.json").write_text(json.dumps(result))
    return {arm: json.loads((folder / f"{arm}.json").read_text()) for arm in ARMS}


def make_bundles(
    folder: Path, seed: int, options: argparse.Namespace, studies: Sequence[str], labelled: Sequence[str]
) -> list[Path]:
    """A bundle from what an annotator would have, the scans and the few labels, once for each arm."""
    data = folder / "data"
    for part, names in (("images", studies), ("labels", labelled)):
        (data / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(options.data / part / name, data / part)
    bundles = [folder / "bundles" / arm for arm in ARMS]
    for bundle, batches in zip(bundles, ARMS.values(), strict=True):
        shutil.rmtree(bundle, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()):
            new_bundle(bundle.name, data=data, out=bundle, labels=options.classes, validation=0, budget="cpu")
        file = bundle / "configs" / "train.json"
        changes = {"seed": seed, "epoch_length": options.epoch_length, **batches}
        file.write_text(json.dumps(json.loads(file.read_text()) | changes, indent=4))
    return bundles


def run_arm(
    client: LabelClient, arm: str, folder: Path, options: argparse.Namespace, held_back: Sequence[str]
) -> dict[str, Any]:
    """Train one bundle and segment the held-back scans with it."""
    started = time.monotonic()
    client.train(arm, sync=True, max_epochs=options.epochs, val_split=0)
    minutes = (time.monotonic() - started) / 60
    dice = {}
    for name in held_back:
        path = (options.data / "images" / name).resolve()
        answer = folder / f"answer_{arm}.nii.gz"
        answer.write_bytes(client.infer(arm, str(path)))
        dice[name] = mean_dice(answer, options.data / "labels" / name)
    result = {"minutes": round(minutes, 1), "dice": dice}
    print(f"{folder.name} {arm}: Dice {100 * np.mean(list(dice.values())):.2f}, {minutes:.1f} min", flush=True)
    return result


def mean_dice(answer: Path, truth: Path) -> float:
    """Mean over the classes of the truth."""
    guess, label = (np.asanyarray(nib.load(file).dataobj) for file in (answer, truth))
    values = [2 * ((guess == c) & (label == c)).sum() / ((guess == c).sum() + (label == c).sum()) for c in (1, 2)]
    return float(np.mean(values))


def table(results: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> str:
    """The figures as Markdown."""
    means = {arm: [100 * float(np.mean(list(result[arm]["dice"].values()))) for result in results] for arm in ARMS}
    minutes = {arm: [result[arm]["minutes"] for result in results] for arm in ARMS}
    titles = {
        "without": f"{options.labelled} labelled scans",
        "with": f"and {options.scans - options.labelled} without labels",
    }
    lines = ["| `/train/` on | " + " | ".join(f"seed {seed}" for seed in options.seeds) + " | mean | minutes |"]
    lines.append("|---|" + "---:|" * (len(options.seeds) + 2))
    for arm, title in titles.items():
        cells = [f"{value:.2f}" for value in [*means[arm], np.mean(means[arm])]]
        lines.append(f"| {title} | {' | '.join(cells)} | {min(minutes[arm]):.1f} to {max(minutes[arm]):.1f} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and labels/ of the hippocampus")
    parser.add_argument("--out", type=Path, default=Path("runs/label_server"))
    parser.add_argument("--environment", default=".venv-label")
    parser.add_argument("--classes", default="1:anterior,2:posterior")
    parser.add_argument("--scans", type=int, default=40, help="in the datastore")
    parser.add_argument("--labelled", type=int, default=5)
    parser.add_argument("--held_back", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--epoch_length", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


if __name__ == "__main__":
    main()
