import copy
import math
import re

import pytest
import torch
from ignite.engine import Events

from aps_components.training import NonFiniteLossError


def weights_of(module):
    return copy.deepcopy(module.state_dict())


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


def run_recording(trainer):
    """Run, and give the output of each iteration and the names of its batch."""
    outputs = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: outputs.append((engine.state.output, [part["name"] for part in engine.state.batch.values()])),
    )
    trainer.run()
    return outputs


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_and_reports_every_loss(make_trainer, precision):
    trainer = make_trainer(precision=precision, epoch_length=1)
    before = weights_of(trainer.network)
    outputs = run_recording(trainer)
    assert (trainer.state.epoch, trainer.state.iteration, len(outputs)) == (2, 2, 2)
    warm_up, *mixed = [set(output) for output, _ in outputs]
    assert warm_up == {"supervised_a", "heteroscedastic", "supervised_b", "iou", "loss", "gradient_norm"}
    assert all(terms == warm_up | {"pseudo_label_a", "pseudo_label_b", "consistency"} for terms in mixed)
    assert all(isinstance(value, float) for output, _ in outputs for value in output.values())
    changed = {key for key, value in trainer.network.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in changed} == {"model_a", "model_b", "fusion", "decision"}
    assert all(value.dtype == torch.float32 for value in trainer.network.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_with_a_user(make_trainer, precision):
    objective = {"user": {"simulated": 2.0, "corrected": 1.0}}
    outputs = [output for output, _ in run_recording(make_trainer(precision=precision, epochs=1, objective=objective))]
    of_users = {"interaction", "clicks"}
    assert all(of_users | {"supervised_a", "supervised_b", "iou"} <= set(output) for output in outputs)
    assert all(math.isfinite(value) for output in outputs for value in output.values())
    assert all(output[name] > 0 for output in outputs for name in of_users)


def test_same_seed_same_weights_with_a_user(make_trainer):
    runs = [make_trainer(seed=seed, epochs=1, batch=(1, 1), objective={"user": {}}) for seed in (0, 0, 1)]
    records = [run_recording(trainer) for trainer in runs]
    assert records[0] == records[1] != records[2]
    assert same(weights_of(runs[0].network), weights_of(runs[1].network))


@pytest.mark.parametrize("user", [None, {}])
def test_model_b_learns_beside_a_model_a_that_stays(make_trainer, user):
    """Weight decay does not move it, either."""
    trainer = make_trainer(epochs=1, objective={"train_a": False, "user": user}, learning_rate=1e-2)
    assert trainer.optimizer.param_groups[0]["weight_decay"] > 0
    before = weights_of(trainer.network)
    outputs = [output for output, _ in run_recording(trainer)]
    assert not any(name.endswith("_a") for output in outputs for name in output)
    changed = {key for key, value in trainer.network.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in changed} == {"model_b", "fusion", "decision"}
    assert all(parameter.grad is None for parameter in trainer.network.model_a.parameters())


def test_precision_is_applied(make_trainer):
    losses = {}
    for precision in ("fp32", "bf16"):
        losses[precision] = run_recording(make_trainer(precision=precision, epochs=1, epoch_length=1))[0][0]["loss"]
    assert losses["fp32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_the_loss_falls(make_trainer):
    trainer = make_trainer(
        epochs=1,
        epoch_length=12,
        batch=(1, 0),
        objective={"train_b": False},
        learning_rate=3e-3,
        network={"filters": 4},
    )
    losses = [output["supervised_a"] for output, _ in run_recording(trainer)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize(("interval", "train_b", "adjusted"), [(0, True, ""), (1, True, "ab"), (1, False, "a")])
def test_the_decision_is_adjusted_by_the_teacher(make_trainer, interval, train_b, adjusted):
    trainer = make_trainer(
        epochs=1, epoch_length=2, decision_interval=interval, batch=(1, 1), objective={"train_b": train_b}
    )
    trainer.run()
    offsets = trainer.network.decision.offsets
    assert "".join(model for model, row in zip("ab", offsets, strict=True) if row.any()) == adjusted
    assert torch.equal(trainer.teacher.module.decision.offsets, offsets)


def test_the_decision_is_adjusted_every_few_iterations(make_trainer):
    seen, trainer = [], make_trainer(epochs=1, epoch_length=5, decision_interval=2, batch=(1, 0))
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.network.decision.volumes[0, 0, 0].item())
    )
    trainer.run()
    assert [first != second for first, second in zip([0.0, *seen], seen, strict=False)] == [True, False] * 2 + [True]


def test_same_seed_same_weights(make_trainer):
    runs = [make_trainer(seed=seed, epochs=1, batch=(1, 1)) for seed in (0, 0, 1)]
    records = [run_recording(trainer) for trainer in runs]
    assert records[0] == records[1] != records[2]
    for part in ("network", "teacher"):
        first, again, other = (weights_of(getattr(trainer, part)) for trainer in runs)
        assert same(first, again)
        assert not same(first, other)


def test_epochs_go_on_through_the_cases(make_trainer):
    """Two epochs of one batch of 2 + 2 draw each of the 4 unlabelled cases once, and every labelled one."""
    outputs = run_recording(make_trainer(epoch_length=1, objective={"train_b": False}))
    labeled, unlabeled = (sorted(name for _, parts in outputs for name in parts[stream]) for stream in (0, 1))
    assert len(unlabeled) == len(set(unlabeled)) == 4
    assert (len(labeled), len(set(labeled))) == (4, 3)


def test_what_came_before_does_not_change_an_epoch(make_trainer):
    """The global random state is reset at each epoch: a handler that draws does not change the next one."""
    plain, disturbed = (make_trainer(epoch_length=1, batch=(1, 1)) for _ in range(2))
    disturbed.add_event_handler(Events.EPOCH_COMPLETED, lambda: torch.rand(17))
    plain.run()
    disturbed.run()
    assert same(weights_of(plain.network), weights_of(disturbed.network))


def test_teacher_follows_the_student_and_stays_in_eval_mode(make_trainer):
    trainer = make_trainer(epochs=1, epoch_length=2)
    steps = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: steps.append(weights_of(trainer.network)))
    trainer.run()
    for key, value in trainer.teacher.module.state_dict().items():
        torch.testing.assert_close(value, (steps[0][key] + steps[1][key]) / 2)
    assert not trainer.teacher.module.training
    assert trainer.network.training


def test_learning_rate_falls_with_every_iteration(make_trainer):
    trainer = make_trainer(epochs=1, epoch_length=3, batch=(1, 0), objective={"train_b": False})
    rates = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.run()
    assert rates == pytest.approx([1e-3 * (1 - step / 3) ** 0.9 for step in range(3)])


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_gradients_are_clipped_together(make_trainer, clip):
    trainer = make_trainer(epochs=1, epoch_length=1, gradient_clip=clip)
    norms = []

    def record(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())

    trainer.optimizer.register_step_pre_hook(record)
    ((output, _),) = run_recording(trainer)
    assert output["gradient_norm"] > 1e-2
    assert norms == pytest.approx([min(clip, output["gradient_norm"])], rel=1e-3)


def spoil_loss(trainer, dataset):
    for item in dataset._cache[:3]:
        item["image"][..., 5] = torch.nan


def spoil_gradient(trainer, _dataset):
    next(trainer.network.model_a.parameters()).register_hook(lambda gradient: gradient * torch.inf)


@pytest.mark.parametrize(("spoil", "what"), [(spoil_loss, "loss"), (spoil_gradient, "gradient")])
def test_non_finite_is_refused_by_case_and_leaves_weights_and_files(
    make_trainer, dataset_of_its_own, tmp_path, spoil, what
):
    trainer = make_trainer(dataset=dataset_of_its_own, ckpt_dir=tmp_path)
    trainer.add_event_handler(Events.EPOCH_STARTED(once=2), lambda: spoil(trainer, dataset_of_its_own))
    kept = {}

    @trainer.on(Events.EPOCH_COMPLETED)
    def _keep():
        kept.update(network=weights_of(trainer.network), teacher=weights_of(trainer.teacher))
        kept["files"] = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    with pytest.raises(NonFiniteLossError, match=rf"the {what} is (nan|inf) in iteration 3") as error:
        trainer.run()
    names = re.findall(r"phantom_\d+", str(error.value))
    batch = trainer.state.batch
    assert names == [*batch["labeled"]["name"], *batch["unlabeled"]["name"]]
    assert len(names) == 4
    assert same(weights_of(trainer.network), kept["network"])
    assert same(weights_of(trainer.teacher), kept["teacher"])
    assert set(kept["files"]) == {"checkpoint.pt", "model.pt", "model.json"}
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept["files"]


class LoadQuarters:
    """A handler that loads weights when the training starts, as MONAI Label's CheckpointLoader does."""

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine):
        weights = engine.network.state_dict()
        engine.network.load_state_dict({key: torch.full_like(value, 0.25) for key, value in weights.items()})


def test_teacher_takes_over_weights_that_a_handler_loads_into_the_student(make_trainer):
    """It labels patches in the first iteration already, if there is no warm-up."""
    trainer = make_trainer(epochs=1, epoch_length=1, handlers=[LoadQuarters()])
    seen = {}
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: seen.update(weights_of(engine.teacher.module)))
    trainer.run()
    assert seen
    assert all(bool((value == 0.25).all()) for value in seen.values())
