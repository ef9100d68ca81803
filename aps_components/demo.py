"""The whole method on made-up scans in a few minutes, by the commands that a user runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from aps_components.bundle import workflow_command
from aps_components.data.datalist import DATALIST, load_datalist
from aps_components.data.phantoms import write_phantoms
from aps_components.evaluation import overview_from_files
from aps_components.plain_json import read_object

SPACING, ROI_SIZE = "[2.5,2.5,2.5]", "[32,32,32]"  # twice the scans' voxels: a patch shows most of a phantom


class DemoError(RuntimeError):
    """A step of the demo failed; its own output above says why."""


def run_demo(output_dir: str | Path, *, bundle: str | Path, epochs: int = 12, seed: int = 0) -> Path:
    """Make phantom scans, pretrain, train, evaluate, segment and draw; print where everything is.

    Args:
        output_dir: receives data, checkpoints, figures; steps that are done already are not repeated.
        bundle: folder of the left-atrium bundle.
        epochs: of the semi-supervised training, 15 iterations each.
        seed: of the phantoms and the training.
    Returns:
        The picture.
    """
    started = time.time()
    out, bundle = Path(output_dir), Path(bundle)
    data, models, results = out / "data", out / "models", out / "results"
    if not (data / DATALIST).is_file():
        _say("1/6  making 32 phantom scans of an atrium, 6 of them with labels to learn from")
        write_phantoms(data, labeled=6, unlabeled=16, validation=4, test=6, seed=seed)
    scans = {"dataset_dir": data, "seed": seed, "labeled_count": 6}
    training = {**scans, "spacing": SPACING, "roi_size": ROI_SIZE, "epoch_length": 15, "val_interval": 4}

    _say("2/6  pretraining Model A, the V-Net, on the 6 labelled scans")
    pretraining = {"epochs": 16, "ckpt_dir": models / "pretrain", "output_dir": results / "pretrain"}
    _run(workflow_command(bundle, "training", ["train.json", "pretrain.json"], training | pretraining))
    _say("3/6  training Models A and B on all 22 training scans, semi-supervised")
    training |= {"epochs": epochs, "pretrained": models / "pretrain" / "model.pt"}
    training |= {"ckpt_dir": models, "output_dir": results / "training"}
    _run(workflow_command(bundle, "training", ["train.json"], training))
    _say("4/6  evaluating on 6 scans that training never saw")
    # Voxel size and patch come with the model, from here on.
    evaluation = {**scans, "ckpt_dir": models, "output_dir": results / "evaluation"}
    _run(workflow_command(bundle, "evaluating", ["train.json", "evaluate.json"], evaluation))
    _say("5/6  segmenting one of them, with its uncertainty maps and prompts")
    datalist = load_datalist(data)
    case = datalist.test[0]
    image, truth = case["image"], case["label"]
    inference = {"checkpoint": models / "model.pt", "image": image, "save_maps": True}
    inference["output_dir"] = results / "inference"
    _run(workflow_command(bundle, "inference", ["inference.json"], inference))
    _say("6/6  drawing it")
    folder, labels = results / "inference", datalist.labels
    picture = overview_from_files(out / "overview.png", image=image, truth=truth, output_dir=folder, labels=labels)
    _summary(out, picture, time.time() - started)
    print("\nNext, on your own scans (how to lay them out: docs/how-to/train-on-your-scans.md):\n")
    print(
        f"  {Path(sys.executable).name} -m monai.bundle run training "
        f"--config_file {shlex.quote(str(bundle / 'configs' / 'train.json'))} --bundle_root {shlex.quote(str(bundle))} "
        "--dataset_dir DIR"
    )
    return picture


def _say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def _run(command: list[str]) -> None:
    """Run one of the bundle's commands in a process of its own, and show it as a user would type it."""
    print("$ " + shlex.join(["python", *command[1:]]), flush=True)
    if subprocess.run(command, check=False).returncode:
        raise DemoError("the command above failed")


def _summary(out: Path, picture: Path, seconds: float) -> None:
    evaluation = read_object(out / "results" / "evaluation" / "metrics.json")
    cases = evaluation["context"]["cases"]
    print(f"\n=== done in {seconds / 60:.1f} minutes; mean over {cases} phantoms that training never saw:\n")
    for row in evaluation["summary"]:
        dice, distance = row["dice"]["mean"], row["hd95_mm"]["mean"]
        print(f"  {row['predictor']:8} {row['variant']:18} Dice {100 * dice:5.2f} %  HD95 {distance:5.2f} mm")
    print(
        f"\n  picture      {picture}\n  figures      {out / 'results' / 'evaluation' / 'metrics.csv'}\n"
        f"  segmentation {out / 'results' / 'inference'}\n  model        {out / 'models' / 'model.pt'}\n"
        f"  curves       tensorboard --logdir {out / 'results'}"
    )
