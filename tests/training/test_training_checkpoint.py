import json
import logging
import time
from types import SimpleNamespace

import pytest
import torch
from forked import own_process
from ignite.engine import Events
from workflows import command, run_command, train, training_options

from aps_components.errors import root_cause
from aps_components.models import CheckpointError, build_auto_prompt_seg, load_weights, save_settings
from aps_components.training import TrainingCheckpoint, load_pretrained, read_history
from aps_components.training.checkpoint import learned_otherwise


class Killed(Exception):
    pass


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(same(*pair) for pair in zip(first, second, strict=True))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def read(file):
    return torch.load(file, weights_only=True)


def kill_in(trainer, *, iteration):
    """Stop a training in the middle of an iteration, as a kill would: nothing is cleaned up."""

    def kill():
        raise Killed

    trainer.optimizer.register_step_pre_hook(
        lambda *_: kill() if trainer.state.iteration == iteration else None  # gradients there, weights not changed
    )
    with pytest.raises(Killed):
        trainer.run()


def test_goes_on_to_the_bit(make_trainer, tmp_path):
    """Killed in the middle of epoch 2, it repeats that epoch."""
    small = {"batch": (1, 1)}
    make_trainer(ckpt_dir=tmp_path / "whole", **small).run()
    kill_in(make_trainer(ckpt_dir=tmp_path / "killed", **small), iteration=4)
    assert read(tmp_path / "killed" / "checkpoint.pt")["epoch"] == 1
    resumed = make_trainer(ckpt_dir=tmp_path / "killed", **small)
    iterations = []
    resumed.add_event_handler(Events.ITERATION_STARTED, lambda engine: iterations.append(engine.state.iteration))
    resumed.run()
    assert iterations == [3, 4]
    for file in ("model.pt", "checkpoint.pt"):
        assert same(read(tmp_path / "killed" / file), read(tmp_path / "whole" / file)), file


@pytest.mark.slow
def test_killed_process_goes_on_to_the_bit(phantoms, tmp_path, caplog):
    """The same options again after SIGKILL end where an uninterrupted training does."""
    train(training_options(phantoms, tmp_path / "whole"))
    killed = tmp_path / "killed"
    options = training_options(phantoms, killed)
    process = own_process(run_command, command("training", "train.json", options=options))
    deadline = time.monotonic() + 240
    while not (killed / "models" / "checkpoint.pt").is_file():
        assert process.is_alive(), process.exitcode
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -9
    done = read(killed / "models" / "checkpoint.pt")["epoch"]
    assert done < 2
    with caplog.at_level(logging.INFO):
        train(options)
    assert f"going on after epoch {done} of 2" in caplog.text
    for file in ("model.pt", "model_best.pt"):
        assert same(read(killed / "models" / file), read(tmp_path / "whole" / "models" / file)), file
    lines, whole_lines = (read_history(tmp_path / run / "eval" / "history.jsonl") for run in ("killed", "whole"))
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in (*lines, *whole_lines):
        del line["seconds_per_iteration"]
    assert lines == whole_lines


@pytest.mark.slow
def test_killed_between_its_files_a_training_has_one_line_for_each_epoch(phantoms, tmp_path, monkeypatch):
    """A checkpoint that says that an epoch is done comes after everything else of it."""
    options = training_options(phantoms, tmp_path)
    history, checkpoint = tmp_path / "eval" / "history.jsonl", tmp_path / "models" / "checkpoint.pt"

    def killed_in_epoch_2(handler, engine):
        if engine.state.epoch == 2:
            raise Killed
        save(handler, engine)

    save = TrainingCheckpoint.save
    with monkeypatch.context() as patched:
        patched.setattr(TrainingCheckpoint, "save", killed_in_epoch_2)
        with pytest.raises(RuntimeError) as error:
            train(options)
    assert isinstance(root_cause(error.value), Killed)
    first, second = read_history(history)
    assert read(checkpoint)["epoch"] == 1
    train(options)
    assert read(checkpoint)["epoch"] == 2
    kept, repeated = read_history(history)
    assert kept == first
    same_pace = {"seconds_per_iteration": second["seconds_per_iteration"]}
    assert repeated | same_pace == second


def test_what_the_files_hold(make_trainer, tmp_path):
    trainer = make_trainer(
        epochs=1, epoch_length=1, ckpt_dir=tmp_path, settings={"seed": 0, "device": torch.device("cpu")}
    )
    trainer.run()
    assert set(contents(tmp_path)) == {"checkpoint.pt", "model.pt", "model.json"}
    assert json.loads((tmp_path / "model.json").read_text()) == {
        "seed": 0,
        "device": "cpu",
        "inference_predictor": "average",
    }
    assert same(read(tmp_path / "model.pt"), dict(trainer.teacher.module.state_dict()))
    state = read(tmp_path / "checkpoint.pt")
    assert (state["epoch"], state["iteration"]) == (1, 1)
    assert state["settings"] == json.loads((tmp_path / "model.json").read_text())
    assert same(state["student"], dict(trainer.network.state_dict()))
    network = build_auto_prompt_seg(num_classes=2, roi_size=(32, 32, 32), filters=2, sam_variant="tiny")
    load_weights(network, tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"seed": 1, "labeled_count": 8}, r"other settings \(seed 0 there, 1 now\)"),
        (
            {"seed": 2, "labeled_count": 16},
            r"\(labeled_count 8 there, 16 now; seed 0 there, 2 now\).*another --ckpt_dir",
        ),
        ({"seed": 0}, r"\(labeled_count 8 there, None now\)"),
    ],
)
def test_other_settings_are_refused_by_name(make_trainer, tmp_path, now, message):
    make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path, settings={"seed": 0, "labeled_count": 8}).run()
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path, settings=now).run()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 0, "labeled_count": 16}, r"rank 1 .*labeled_count 16 there, 8 now"),
        ({"labeled_count": 8}, r"rank 1 .*seed None there, 0 now"),
    ],
)
def test_ranks_that_were_given_different_things_do_not_begin(make_trainer, tmp_path, monkeypatch, other, message):
    monkeypatch.setattr("aps_components.training.checkpoint.of_all_ranks", lambda own: [own, other])
    with pytest.raises(CheckpointError, match=message):
        make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path, settings={"seed": 0, "labeled_count": 8}).run()
    assert contents(tmp_path) == {}


def test_ranks_that_do_not_find_the_same_checkpoint_do_not_begin(make_trainer, tmp_path, monkeypatch):
    """Rank 0 writes it; a node with a folder of its own has none, and would begin anew."""
    make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path).run()
    before = contents(tmp_path)
    monkeypatch.setattr(
        "aps_components.training.checkpoint.of_all_ranks", lambda own: [own, own if isinstance(own, dict) else None]
    )
    message = r"rank 0 found epoch 1 .*, rank 1 no checkpoint.*--ckpt_dir must be one folder that all nodes share"
    with pytest.raises(CheckpointError, match=message):
        make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path).run()
    assert contents(tmp_path) == before


def test_a_finished_run_has_nothing_to_do(make_trainer, tmp_path, caplog):
    make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path).run()
    before = contents(tmp_path)
    again = make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path)
    again.add_event_handler(Events.ITERATION_STARTED, lambda: pytest.fail("it trains on"))
    with caplog.at_level(logging.INFO):
        again.run()
    assert "all 1 epochs are done; nothing is left to train" in caplog.text
    assert contents(tmp_path) == before
    assert same(dict(again.teacher.module.state_dict()), read(tmp_path / "model.pt"))


@pytest.mark.parametrize("spoil", [lambda content: content[:1000], lambda content: b"", lambda content: b"no weights"])
def test_damaged_checkpoint_is_refused_by_name(make_trainer, tmp_path, spoil):
    make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path).run()
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged or no checkpoint"):
        make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path).run()


def test_best_weights_are_those_of_the_best_validation(make_trainer, tmp_path):
    metrics = {1: 0.4, 2: 0.7, 4: 0.7, 5: 0.6}  # none in epoch 3; an equal one is no better
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}, key_metric_name="dice"))
    weights = {}

    def validate(engine):
        if engine.state.epoch in metrics:
            evaluator.state.epoch = engine.state.epoch
            evaluator.state.metrics = {"dice": metrics[engine.state.epoch]}
        weights[engine.state.epoch] = {k: v.clone() for k, v in engine.teacher.module.state_dict().items()}

    trainer = make_trainer(epochs=5, epoch_length=1, batch=(1, 0), objective={"train_b": False})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    TrainingCheckpoint(tmp_path, settings={}, evaluator=evaluator).attach(trainer)
    trainer.run()
    assert same(read(tmp_path / "model_best.pt"), weights[2])
    assert same(read(tmp_path / "model.pt"), weights[5])
    state = read(tmp_path / "checkpoint.pt")
    assert (state["best_metric"], state["best_epoch"]) == (0.7, 2)


def test_a_resumed_training_remembers_its_best_validation(make_trainer, tmp_path):
    metrics = {1: 0.7, 2: 0.6}

    def make():
        evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}, key_metric_name="dice"))
        trainer = make_trainer(epochs=2, epoch_length=1, batch=(1, 0), objective={"train_b": False})

        def validate(engine):
            evaluator.state.epoch, evaluator.state.metrics = engine.state.epoch, {"dice": metrics[engine.state.epoch]}

        trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
        TrainingCheckpoint(tmp_path, settings={}, evaluator=evaluator).attach(trainer)
        return trainer

    kill_in(make(), iteration=2)
    best = (tmp_path / "model_best.pt").read_bytes()
    make().run()
    assert (tmp_path / "model_best.pt").read_bytes() == best
    state = read(tmp_path / "checkpoint.pt")
    assert (state["epoch"], state["best_metric"], state["best_epoch"]) == (2, 0.7, 1)


def test_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match=r"cannot write into .*file/models"):
        TrainingCheckpoint(tmp_path / "file" / "models", settings={})


def test_pretrained_gives_model_a_alone(make_trainer, tmp_path):
    trainer = make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path)
    trainer.run()
    torch.manual_seed(9)
    network = build_auto_prompt_seg(num_classes=2, roi_size=(32, 32, 32), filters=2, sam_variant="tiny")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert load_pretrained(network, None) is network
    assert same(dict(network.state_dict()), before)
    load_pretrained(network, tmp_path / "model.pt")
    taught = trainer.teacher.module.state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(value, taught[key] if key.startswith("model_a.") else before[key]), key


def test_all_of_a_pretrained_model(make_trainer, tmp_path):
    trainer = make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path)
    trainer.run()
    network = build_auto_prompt_seg(num_classes=2, roi_size=(32, 32, 32), filters=2, sam_variant="tiny")
    load_pretrained(network, tmp_path / "model.pt", part="all")
    assert same(dict(network.state_dict()), dict(trainer.teacher.module.state_dict()))
    with pytest.raises(ValueError, match="pretrained_part 'b' must be one of"):
        load_pretrained(network, tmp_path / "model.pt", part="b")
    save_settings({"network_def": {"fusion": "cafa"}}, tmp_path / "model.pt")
    load_pretrained(network, tmp_path / "model.pt", settings={"fusion": "none"})  # which Model A has no part in
    with pytest.raises(
        CheckpointError, match=r"fusion 'cafa' there, 'none' now. Give the same: --network_def#fusion '\"cafa\"'"
    ):
        load_pretrained(network, tmp_path / "model.pt", part="all", settings={"fusion": "none"})


AGREED = {"spacing": [1.0, 1.0, 1.0], "spacing_agreed": True}


@pytest.mark.parametrize(
    ("there", "here", "goes_on"),
    [
        ({"spacing": None}, AGREED, True),  # of an earlier version
        ({"spacing": [1.0, 1.0, 1.002], "spacing_agreed": True}, AGREED, True),
        ({"spacing": [2.0, 1.0, 1.0]}, AGREED, False),
        (AGREED, {"spacing": None}, False),
        ({"spacing": None}, {"spacing": [1.0, 1.0, 1.0]}, False),
    ],
)
def test_a_voxel_size_that_nobody_named_is_not_compared(tmp_path, there, here, goes_on):
    (tmp_path / "model.pt").touch()
    save_settings(there, tmp_path / "model.pt")
    checkpoint = TrainingCheckpoint(tmp_path, settings=here, restart=True)
    if goes_on:
        checkpoint._refuse_other_model()
        assert not checkpoint._different(there, here)
    else:
        with pytest.raises(CheckpointError, match="spacing"):
            checkpoint._refuse_other_model()


def test_what_a_pretrained_model_knows_by_another_meaning_is_told(tmp_path):
    file = str(tmp_path / "model.pt")
    here = {"labels": {"0": "background", "1": "spleen", "2": "liver"}, "intensity": "zscore", "modalities": None}
    save_settings(here | {"labels": {"0": "background", "1": "liver", "2": "spleen"}}, file)
    begun = here | {"pretrained": file, "pretrained_part": "all"}
    (line,) = learned_otherwise(begun)
    assert line.startswith(f"{file} was trained with labels")
    assert "learned anew" in line
    assert len(learned_otherwise(begun | {"intensity": {"window": [0, 1]}})) == 2
    assert not learned_otherwise(begun | {"pretrained_part": "a"})
    assert not learned_otherwise(here)


def test_a_pretrained_model_goes_on_with_patches_of_another_size(make_trainer, tmp_path):
    trainer = make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path)
    trainer.run()
    coarse = trainer.teacher.module.eval()
    fine = build_auto_prompt_seg(
        num_classes=2,
        roi_size=(48, 32, 64),
        filters=2,
        sam_variant="tiny",
        prompts={"points_per_class": 4, "min_probability": 0.5},
    ).eval()
    load_pretrained(fine, tmp_path / "model.pt", part="all")
    volume = torch.randn(1, 1, 48, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(fine.predict(volume).logits, coarse.predict(volume).logits)
    assert fine.model_b.image_encoder.pos_embed.shape[1:4] == (6, 4, 8)


class TestRestart:
    """What a training does that is started again and again by a button."""

    def run(self, make_trainer, folder, *, weights=None, epochs=1, **settings):
        trainer = make_trainer(epochs=epochs, epoch_length=1, learning_rate=1e-6)
        TrainingCheckpoint(folder, settings=settings, restart=True).attach(trainer)
        seen = []
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(engine.state.epoch))
        if weights is not None:
            trainer.network.load_state_dict(weights)
        trainer.run()
        return trainer, seen

    def test_other_data_start_a_new_schedule_from_the_students_weights(self, make_trainer, tmp_path, caplog):
        first, _ = self.run(make_trainer, tmp_path, datastore="a")
        weights = {key: value + 0.5 for key, value in first.network.state_dict().items() if value.is_floating_point()}
        weights = dict(first.network.state_dict()) | weights
        with caplog.at_level(logging.INFO):
            second, epochs = self.run(make_trainer, tmp_path, weights=weights, datastore="b")
        assert epochs == [1]
        assert "a new schedule starts from the weights there are" in caplog.text
        assert "datastore 'a' there, 'b' now" in caplog.text
        written = read(tmp_path / "model.pt")
        assert all(
            torch.allclose(written[key], weights[key], atol=1e-4) for key, _ in second.network.named_parameters()
        )
        assert read(tmp_path / "checkpoint.pt")["settings"]["datastore"] == "b"

    def test_a_finished_run_starts_again(self, make_trainer, tmp_path):
        self.run(make_trainer, tmp_path, datastore="a")
        assert self.run(make_trainer, tmp_path, datastore="a")[1] == [1]

    def test_an_unfinished_run_of_the_same_data_goes_on(self, make_trainer, tmp_path):
        trainer = make_trainer(epochs=3, epoch_length=1)
        TrainingCheckpoint(tmp_path, settings={"datastore": "a"}, restart=True).attach(trainer)
        kill_in(trainer, iteration=2)
        assert self.run(make_trainer, tmp_path, epochs=3, datastore="a")[1] == [2, 3]

    def test_a_damaged_checkpoint_is_no_obstacle(self, make_trainer, tmp_path):
        self.run(make_trainer, tmp_path)
        (tmp_path / "checkpoint.pt").write_bytes(b"")
        assert self.run(make_trainer, tmp_path)[1] == [1]

    def test_a_model_at_another_voxel_size_is_refused(self, make_trainer, tmp_path):
        self.run(make_trainer, tmp_path, spacing=[1.0, 1.0, 2.0])
        before = contents(tmp_path)
        message = r"model\.pt was trained with other .*spacing \[1.0, 1.0, 2.0\] there, None here.*configs/train\.json"
        with pytest.raises(CheckpointError, match=message):
            self.run(make_trainer, tmp_path, spacing=None)
        assert contents(tmp_path) == before


def test_the_whole_state_can_be_taken_for_a_model(make_trainer, tmp_path):
    """MONAI Label offers every file beside model.pt for one, and runs random weights where it finds no "model"."""
    make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path).run()
    assert same(read(tmp_path / "checkpoint.pt")["model"], read(tmp_path / "model.pt"))


def test_what_fits_of_a_model_of_other_classes_and_channels(make_trainer, tmp_path, caplog):
    trainer = make_trainer(epochs=1, epoch_length=1, ckpt_dir=tmp_path)
    trainer.run()
    taught = trainer.teacher.module.state_dict()
    torch.manual_seed(9)
    network = build_auto_prompt_seg(num_classes=3, in_channels=2, roi_size=(32, 32, 32), filters=2, sam_variant="tiny")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with caplog.at_level(logging.INFO):
        load_pretrained(network, tmp_path / "model.pt", part="fitting", settings={"fusion": "other"})
    after = network.state_dict()
    fits = {key for key in after if key in taught and taught[key].shape == after[key].shape}
    assert 0.8 * len(after) < len(fits) < len(after)
    for key, value in after.items():
        assert torch.equal(value, taught[key] if key in fits else before[key]), key
    assert (
        "left as they are: model_a.encoder.0.layers.0.weight: (2, 1, 3, 3, 3) in the file, (2, 2, 3, 3, 3)"
        in caplog.text
    )
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other.pt: not one of its weights fits this network"):
        load_pretrained(network, tmp_path / "other.pt", part="fitting")
