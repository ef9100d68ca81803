"""The bundles' workflows on tiny networks and phantoms, in this process or in one of their own."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from monai.bundle import ConfigWorkflow

from aps_components.errors import root_cause
from aps_components.training import SemiSupervisedTrainer

ROOT = Path(__file__).parents[1]
BUNDLES = ROOT / "bundles"
LA = BUNDLES / "la"
DRAWN = ("aps_components.training.history.plot_progress", "aps_components.evaluation.scan_record._draw")
OURS = ("amos", "brats", "la")  # a user may have made others beside them
TINY = {
    "bundle_root": str(LA),
    "roi_size": [32, 32, 32],
    "network_def#filters": 2,
    "network_def#sam_variant": "tiny",
    "precision": "fp32",
    "overlap": 0.25,
    "device": "cpu",
}


def untrained_copy(bundle: Path, folder: Path, *more: str) -> Path:
    """A bundle without its weights and without what trainings have left in it; ``more``: patterns to leave out."""
    left = ("*.pt", "model*.json", "eval", "logs", "__pycache__", *more)
    return Path(shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns(*left)))


def training_options(dataset: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Overrides of train.json: two epochs of two iterations on two patches, the first one labelled only."""
    options = {
        "dataset_dir": str(dataset),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "eval"),
        "labeled_count": 3,
        "labeled_batch": 1,
        "unlabeled_batch": 1,
        "validation_count": 1,
        "epochs": 2,
        "epoch_length": 2,
        "warmup_epochs": 1,
        "val_interval": 2,
    }
    return TINY | options | changes


def inference_options(folder: Path, **changes: Any) -> dict[str, Any]:
    """Overrides of inference.json."""
    return TINY | {"output_dir": str(folder)} | changes


def make_workflow(*files: str, kind: str, options: Mapping[str, Any]) -> ConfigWorkflow:
    """A workflow of some of the config files of the bundle in ``bundle_root``, not yet initialised."""
    configs = Path(options["bundle_root"]) / "configs"
    return ConfigWorkflow(
        config_file=[str(configs / file) for file in files],
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        **options,
    )


def run_workflow(*files: str, kind: str, options: Mapping[str, Any], pictures: bool = False) -> ConfigWorkflow:
    """Initialise, run and finalise; as a rule without pictures, which take most of the time."""
    workflow = make_workflow(*files, kind=kind, options=options)
    # The bundles change how Python reports an uncaught error; pytest is not to be changed by it.
    undrawn = [] if pictures else [patch(name) for name in DRAWN]
    with ExitStack() as patched:
        for each in (patch.object(sys, "excepthook", sys.excepthook), *undrawn):
            patched.enter_context(each)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


def train(options: Mapping[str, Any], *more: str) -> ConfigWorkflow:
    return run_workflow("train.json", *more, kind="train", options=options)


def evaluate(options: Mapping[str, Any], *more: str) -> ConfigWorkflow:
    return run_workflow("train.json", *more, "evaluate.json", kind="train", options=options)


def infer(options: Mapping[str, Any], *more: str) -> ConfigWorkflow:
    return run_workflow("inference.json", *more, kind="infer", options=options)


def refusal(*files: str, kind: str, options: Mapping[str, Any]) -> str:
    """What a workflow says when it refuses its input; training must do so before its first iteration."""

    def too_late(*_: Any) -> None:
        pytest.fail("training started")

    with patch.object(SemiSupervisedTrainer, "_iteration", too_late), pytest.raises(Exception) as error:  # noqa: PT011
        run_workflow(*files, kind=kind, options=options)
    cause = root_cause(error.value)
    return f"{type(cause).__name__}: {cause}"


def command(run_id: str, *files: str, options: Mapping[str, Any]) -> list[str]:
    """The command line of ``monai.bundle run``."""
    paths = [str(LA / "configs" / file) for file in files]
    config = paths[0] if len(paths) == 1 else str(paths)
    return ["-m", "monai.bundle", "run", run_id, "--config_file", config, *flags(options)]


def run_command(arguments: Sequence[str]) -> None:
    """Run ``-m MODULE ...`` in this process, as its interpreter would."""
    _, module, *sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def flags(options: Mapping[str, Any]) -> list[str]:
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def environment() -> dict[str, str]:
    """Of a process that finds the package, installed or not, and this module, and computes on one thread."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


def start(arguments: Sequence[str], *, cwd: Path) -> subprocess.Popen[str]:
    """Start Python on some arguments from another folder."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run_python(arguments: Sequence[str], *, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run Python on some arguments from another folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(),
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
