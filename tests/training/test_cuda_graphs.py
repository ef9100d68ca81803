"""Training with recorded passes does what training without them does; what records needs a GPU."""

import copy

import pytest
import torch
from ignite.engine import Events

from aps_components.models import build_auto_prompt_seg
from aps_components.training.cuda_graphs import GraphedStudent, GraphedTeacher

ROI = (32, 32, 32)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def trained(make_trainer, **options):
    """What each iteration gave, and the weights at the end."""
    trainer, outputs = make_trainer(**{"epoch_length": 3, "decision_interval": 2} | options), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(dict(engine.state.output)))
    trainer.run()
    return outputs, copy.deepcopy(trainer.teacher.module.state_dict()), trainer


def test_a_cpu_trains_as_without(make_trainer):
    small = {"epochs": 1, "epoch_length": 2, "batch": (1, 1)}
    plain, weights, _ = trained(make_trainer, **small)
    asked, same_weights, trainer = trained(make_trainer, cuda_graphs=True, **small)
    assert plain == asked
    assert all(torch.equal(value, same_weights[key]) for key, value in weights.items())
    assert not isinstance(trainer.student_forward, GraphedStudent)


@pytest.mark.parametrize(
    ("options", "recordable"),
    [
        ({}, False),  # which patches get nothing of A is drawn in the middle
        ({"model_b": "vnet"}, False),
        ({"fusion": "none"}, True),
        ({"fusion": "cafa", "fusion_dropped": 0.0}, True),
    ],
)
def test_which_networks_can_be_recorded(options, recordable):
    assert build_auto_prompt_seg(num_classes=2, roi_size=ROI, filters=4, **options).recordable is recordable


def test_random_prompts_cannot_be_recorded():
    network = build_auto_prompt_seg(num_classes=2, roi_size=ROI, filters=4, prompts={"strategy": "random"})
    assert not network.recordable


@needs_cuda
@pytest.mark.parametrize("train_b", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_learns_the_same(make_trainer, precision, train_b):
    options = {"device": "cuda", "precision": precision, "objective": {"train_b": train_b}}
    options["network"] = {"fusion_dropped": 0.0}
    plain, weights, _ = trained(make_trainer, **options)
    replayed, same_weights, trainer = trained(make_trainer, cuda_graphs=True, **options)
    assert isinstance(trainer.student_forward, GraphedStudent)
    assert isinstance(trainer.asked_teacher, GraphedTeacher)
    tolerance = 1e-2 if precision == "fp32" else 5e-2  # sums are taken in another order in every run
    for before, after in zip(plain, replayed, strict=True):
        assert after == pytest.approx(before, rel=tolerance, abs=1e-3)
    moved = sum((value - same_weights[key]).abs().sum().item() for key, value in weights.items())
    assert moved <= tolerance * sum(value.abs().sum().item() for value in weights.values())
