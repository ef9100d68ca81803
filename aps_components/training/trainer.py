"""The trainer: one iteration of two-stream, teacher-student training, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from aps_components.data.partial import UNDRAWN
from aps_components.models import Precision, TrainingOutput, TwoModels, autocast
from aps_components.ownership import own, release
from aps_components.ranks import TRAIN_ON, together
from aps_components.training.cuda_graphs import GraphedStudent, GraphedTeacher
from aps_components.training.mean_teacher import MeanTeacher
from aps_components.training.objective import Forward, SemiSupervisedObjective


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient that is not finite; the message names the cases of the batch."""


class _TrainingForward(nn.Module):
    """``training_forward`` as ``forward``, which is what DistributedDataParallel wraps."""

    def __init__(self, model: TwoModels) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, **asked: Any) -> TrainingOutput:
        return self.model.training_forward(image, **asked)


class SemiSupervisedTrainer(SupervisedTrainer):
    """MONAI's supervised trainer with an objective, a teacher and two streams of data.

    Everything random in epoch e is drawn from ``(seed, e, rank)``: a run that goes on from an epoch's checkpoint
    repeats, to the bit on a CPU, what it would have done without the interruption. In a process group the network is
    wrapped for distributed training; ranks then average their gradients and hold the same weights.

    Args:
        device: to run on.
        max_epochs: in all, a resumed run included.
        train_data_loader: of ``data.two_stream_loader``.
        network: the student.
        optimizer: of the student's parameters.
        lr_scheduler: stepped after every iteration.
        objective: which losses.
        teacher: follows the student; labels the unlabelled patches, and is what is evaluated and deployed.
        seed: of the run.
        precision: ``auto``, ``bf16`` or ``fp32``; see ``models.precision``.
        gradient_clip: largest norm of all gradients together.
        decision_interval: iterations between adjustments of the decision's offsets to the labelled patches; 0 for
            never.
        cuda_graphs: record the passes of student and teacher once and replay them. Without effect on a CPU, in several
            processes, with a simulated user, and where the network is not ``recordable``.
        train_handlers: ignite handlers.
        inferer: unused in training; MONAI's workflows want one named.
    """

    ckpt_dir = ""  # tells a training from others; TrainingCheckpoint says it

    def __init__(
        self,
        *,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: DataLoader,
        network: TwoModels,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        objective: SemiSupervisedObjective,
        teacher: MeanTeacher,
        seed: int = 0,
        precision: Precision = "auto",
        gradient_clip: float = 12.0,
        decision_interval: int = 4,
        cuda_graphs: bool = False,
        train_handlers: Sequence[Any] | None = None,
        inferer: Inferer | None = None,
    ) -> None:
        device = torch.device(device)
        autocast(device, precision)  # refuses an unknown precision now, not in the first iteration
        self.folders: list[Path] = []  # that handlers write into: no other training may at the same time
        self.objective, self.teacher, self.lr_scheduler = objective, teacher, lr_scheduler
        self.seed, self.precision, self.gradient_clip = seed, precision, gradient_clip
        self.decision_interval = decision_interval
        self.student_forward = _distributed(_TrainingForward(network), teacher, device)
        self.asked_teacher: TwoModels | GraphedTeacher = teacher.module
        alone = not isinstance(self.student_forward, DistributedDataParallel)
        if cuda_graphs and device.type == "cuda" and alone and network.recordable and objective.recordable:
            self.student_forward, self.asked_teacher = GraphedStudent(network), GraphedTeacher(teacher.module)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=objective,
            inferer=inferer,
            train_handlers=train_handlers,
            decollate=False,
            optim_set_to_none=True,
        )
        self.add_event_handler(Events.STARTED, self._start_teacher)  # after those of the handlers
        self.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)

    def run(self) -> None:
        """Train, or go on training, up to ``max_epochs``."""
        folders = self.folders if self.state.rank == 0 else []
        try:
            for folder in folders:
                own(folder)
            with together(TRAIN_ON):
                super().run()
        finally:
            for folder in folders:
                release(folder)

    def _start_teacher(self) -> None:
        """A handler may have loaded weights into the student: a teacher without an update yet takes them over."""
        if int(self.teacher.n_averaged) == 0:
            self.teacher.module.load_state_dict(self.network.state_dict())

    def _start_epoch(self) -> None:
        epoch = self.state.epoch - 1
        self.data_loader.batch_sampler.set_epoch(epoch)
        entropy = np.random.SeedSequence((self.seed, epoch, self.state.rank)).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(entropy >> 1))

    def _iteration(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, float]:
        """One step of the optimiser; gives every weighted loss and the gradient's norm by name."""
        iteration = self.state.iteration - 1
        batch = _to_device(batchdata, self.state.device)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.state.device, self.precision):
            patches = self.objective.patches(batch, teacher=self.asked_teacher, iteration=iteration)
            terms = self.objective(self.student_forward, patches, iteration=iteration)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip)
        # Asked here, before anything is changed: a question before the backward pass would have a GPU wait for it.
        self._refuse_non_finite("loss", terms["loss"], batchdata)
        self._refuse_non_finite("gradient", norm, batchdata)
        self.optimizer.step()
        self.lr_scheduler.step()
        if self.decision_interval and iteration % self.decision_interval == 0:
            self._adjust_decision(batch["labeled"])
        self.teacher.update_parameters(self.network)
        return {name: value.item() for name, value in terms.items()} | {"gradient_norm": norm.item()}

    @torch.no_grad()
    def _adjust_decision(self, labeled: Mapping[str, Tensor]) -> None:
        """By what the teacher says; it takes the student's offsets over, as all buffers."""
        image, label, undrawn = labeled["image"], labeled["label"].long(), labeled.get(UNDRAWN)
        with autocast(self.state.device, self.precision):
            if self.objective.train_b:
                prediction = self.asked_teacher.predict(image)
                answers = {"a": prediction.logits_a, "b": prediction.logits_b}
            else:
                answers = {"a": self.asked_teacher.logits_of_a(image)}
        for model, logits in answers.items():
            self.network.decision.update(logits, label, model, undrawn=undrawn)

    def _refuse_non_finite(self, what: str, value: Tensor, batchdata: Mapping[str, Any]) -> None:
        if torch.isfinite(value):
            return
        cases = ", ".join(name for part in batchdata.values() for name in part["name"])
        raise NonFiniteLossError(
            f"the {what} is {value.item()} in iteration {self.state.iteration}, on patches of {cases}. Nothing of this "
            "iteration was saved. Look at these scans; else lower the learning rate, or train with --precision fp32"
        )


def _distributed(forward: _TrainingForward, teacher: MeanTeacher, device: torch.device) -> Forward:
    """Wrap for distributed training where a process group is up; else give ``forward`` back."""
    if not dist.is_available() or not dist.is_initialized():
        return forward
    for tensor in teacher.module.state_dict().values():
        dist.broadcast(tensor, src=0)
    # Box and mask prompts exist but are not used in training, so some parameters never get a gradient.
    return DistributedDataParallel(
        forward, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=True
    )


def _to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        layout = torch.channels_last_3d if value.is_floating_point() else torch.contiguous_format
        return value.to(device, non_blocking=True, memory_format=layout)

    return {part: {key: move(value) for key, value in content.items()} for part, content in batch.items()}
