"""What runs in nnU-Net's own environment: plan, train for some seconds, answer. Started by ``peer_nnunet.py``.

    python nnunet_side.py SPEC.json

nnU-Net is that of Isensee et al. 2021, doi:10.1038/s41592-020-01008-z, as it is, but for its length: 1,000 epochs of
250 iterations take days on a CPU. Here the learning rate falls by nnU-Net's own rule over the seconds that it has
instead of over its epochs, and no time goes into its validation, which on fold "all" would be on what it learns from.
The seconds begin with the process and include planning and preprocessing; what is answered afterwards does not count.
"""

from __future__ import annotations

import time

STARTED = time.monotonic()

import json  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

DATASET = 1
EXPONENT = 0.9  # of nnU-Net's PolyLRScheduler
SAVE_SECONDS = 120
STATE, WEIGHTS = "seconds.json", "weights.pt"
WORKERS = "nnUNet_n_proc_DA"  # of nnU-Net's environment; planning takes it for a number of threads


def learning_rate(initial: float, *, seconds: float, budget: float) -> float:
    """At a moment of the training: nnU-Net's polynomial, over time."""
    return initial * max(0.0, 1 - seconds / budget) ** EXPONENT


class Clock:
    """Seconds of learning, over all processes that took part in it.

    Args:
        file: of what earlier ones took.
        started: of this one, by ``time.monotonic``.
    """

    def __init__(self, file: Path, *, started: float) -> None:
        self.file, self.started = file, started
        self.before: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}

    @property
    def seconds(self) -> float:
        """So far."""
        return self.before.get("seconds", 0.0) + time.monotonic() - self.started

    def write(self, **more: Any) -> None:
        """For the next process, with whatever else it should know."""
        self.before |= more
        unfinished = self.file.with_suffix(".new")
        unfinished.write_text(json.dumps({**self.before, "seconds": self.seconds}))
        os.replace(unfinished, self.file)


def prepare(configuration: str, *, processes: int) -> None:
    """nnU-Net's fingerprint, plan and preprocessing."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([DATASET], num_processes=processes, verbose=False)
    plan_experiments([DATASET])
    preprocess([DATASET], configurations=[configuration], num_processes=[processes])


def trainer_of(configuration: str) -> Any:
    """nnU-Net's trainer on all scans, on the CPU."""
    import torch
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as training
    from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name

    name = convert_id_to_dataset_name(DATASET)
    plans = json.loads((Path(nnUNet_preprocessed) / name / "nnUNetPlans.json").read_text())
    dataset = json.loads((Path(nnUNet_raw) / name / "dataset.json").read_text())
    if configuration not in plans["configurations"]:
        there = ", ".join(plans["configurations"])
        raise SystemExit(f"nnU-Net plans no {configuration} for these scans; give one of {there}")
    # Its scheduler, which newer versions of torch refuse, counts epochs; the learning rate is set in `train`.
    training.PolyLRScheduler = lambda *_, **__: None
    trainer = training.nnUNetTrainer(plans, configuration, "all", dataset, device=torch.device("cpu"))
    trainer.initialize()
    return trainer


def in_bf16(network: Any) -> None:
    """Let a network compute in bf16 and answer in fp32: on a GPU nnU-Net computes in fp16, on a CPU in fp32 alone."""
    import torch

    forward = network.forward

    def mixed(image: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer = forward(image)
        return [level.float() for level in answer] if isinstance(answer, list | tuple) else answer.float()

    network.forward = mixed


def train(trainer: Any, *, budget: float, clock: Clock, folder: Path) -> int:
    """Until the seconds are spent, from where an earlier process stopped; how many iterations there were in all."""
    import torch

    if torch.get_num_threads() == 1:
        os.environ[WORKERS] = "0"  # it augments patches itself
    iterations = 0
    if (folder / WEIGHTS).is_file():
        state = torch.load(folder / WEIGHTS, weights_only=True)
        trainer.network.load_state_dict(state["network"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        iterations = state["iterations"]

    def save() -> None:
        unfinished = folder / f"{WEIGHTS}.new"
        parts = {"network": trainer.network.state_dict(), "optimizer": trainer.optimizer.state_dict()}
        torch.save({**parts, "iterations": iterations}, unfinished)
        os.replace(unfinished, folder / WEIGHTS)
        clock.write(iterations=iterations)
        print(f"{clock.seconds / 60:.1f} of {budget / 60:g} minutes, {iterations} iterations", flush=True)

    trainer.plot_network_architecture = lambda: None
    trainer.on_train_start()
    trainer.network.train()
    saved = time.monotonic()
    while clock.seconds < budget:
        for group in trainer.optimizer.param_groups:
            group["lr"] = learning_rate(trainer.initial_lr, seconds=clock.seconds, budget=budget)
        trainer.train_step(next(trainer.dataloader_train))
        iterations += 1
        if time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
    save()
    return iterations


def answer(trainer: Any, *, folder: Path, scans: dict[str, list[str]], into: Path, mirrored: bool) -> None:
    """As ``nnUNetv2_predict`` answers: windows that overlap by half, in all their mirror images."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    state = torch.load(folder / WEIGHTS, weights_only=True)
    trainer.set_deep_supervision_enabled(False)
    *_, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    predictor = nnUNetPredictor(use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        *(trainer.network, trainer.plans_manager, trainer.configuration_manager, [state["network"]]),
        *(trainer.dataset_json, type(trainer).__name__, mirror_axes),
    )
    names = [str(into / name) for name in scans]
    predictor.predict_from_files_sequential(list(scans.values()), names, overwrite=False)


def run(spec: dict[str, Any]) -> None:
    """All that is not done yet.

    Args:
        spec: ``folder`` for what is kept, ``configuration``, ``budget`` in seconds, ``threads``, ``seed``, ``bf16``,
            ``scans`` to answer by name, ``answers``, the folder for them, and ``mirrored``.
    """
    import numpy as np
    import torch

    torch.set_num_threads(spec["threads"])
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(spec["seed"])
    os.environ[WORKERS] = str(spec["threads"])
    folder, configuration = Path(spec["folder"]), spec["configuration"]
    clock = Clock(folder / STATE, started=STARTED)

    def once(name: str, do: Callable[[], Any]) -> None:
        if name not in clock.before:
            do()
            clock.write(**{name: clock.seconds})

    once("prepared", lambda: prepare(configuration, processes=spec["threads"]))
    if clock.seconds >= spec["budget"] and not (folder / WEIGHTS).is_file():
        raise SystemExit(f"{spec['budget'] / 60:g} minutes are too short: preparing the scans took them; give more")
    trainer = trainer_of(configuration)
    if spec["bf16"]:
        in_bf16(trainer.network)
    once("trained", lambda: train(trainer, budget=spec["budget"], clock=clock, folder=folder))
    answer(trainer, folder=folder, scans=spec["scans"], into=Path(spec["answers"]), mirrored=spec["mirrored"])


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
