import json

import pytest
import torch
from ignite.engine import Engine, Events

from aps_components.training import TrainingHistory, read_history

LOSSES = [{"loss": 3.0, "iou": 1.0}, {"loss": 5.0}, {"loss": 2.0, "iou": 0.5}, {"loss": 1.0, "iou": 0.25}]


@pytest.fixture
def undrawn(monkeypatch):
    """Without the picture, which takes half a second an epoch."""
    monkeypatch.setattr("aps_components.training.history.plot_progress", lambda *_: None)


def make_engine(*, rank=0, outputs=LOSSES):
    """Two iterations an epoch, whose outputs are given."""
    engine = Engine(lambda engine, _: outputs[engine.state.iteration - 1])
    engine.state.rank, engine.state.max_epochs = rank, len(outputs) // 2
    engine.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.125)
    return engine


def run(engine):
    engine.run([0, 1], max_epochs=engine.state.max_epochs)


def make_evaluator(*, metrics):
    evaluator = Engine(lambda *_: None)
    evaluator.state.epoch, evaluator.state.metrics = 0, metrics
    return evaluator


@pytest.mark.usefixtures("undrawn")
def test_one_line_an_epoch_with_the_mean_of_each_loss(tmp_path):
    engine = make_engine()
    TrainingHistory(tmp_path / "new" / "folder").attach(engine)
    run(engine)
    first, second = read_history(tmp_path / "new" / "folder" / "history.jsonl")
    assert (first["epoch"], first["iteration"], first["learning_rate"]) == (1, 2, 0.125)
    assert first["losses"] == {"loss": 4.0, "iou": 0.5}
    assert (second["epoch"], second["iteration"]) == (2, 4)
    assert second["losses"] == {"loss": 1.5, "iou": 0.375}
    assert 0 <= first["seconds_per_iteration"] < 1
    assert "validation" not in first


@pytest.mark.usefixtures("undrawn")
def test_validation_is_written_in_the_epochs_that_it_ran_in(tmp_path):
    engine, evaluator = make_engine(), make_evaluator(metrics={"dice": 0.25})

    @engine.on(Events.EPOCH_COMPLETED(every=2))
    def _validate():
        evaluator.state.epoch = engine.state.epoch

    TrainingHistory(tmp_path, evaluator=evaluator).attach(engine)
    run(engine)
    first, second = read_history(tmp_path / "history.jsonl")
    assert "validation" not in first
    assert second["validation"] == {"dice": 0.25}


@pytest.mark.usefixtures("undrawn")
def test_an_undefined_figure_is_null(tmp_path):
    """A validation without prompts has no prompt precision, and JSON has no NaN."""
    engine, evaluator = make_engine(), make_evaluator(metrics={"dice": 0.25, "prompt_precision": float("nan")})
    evaluator.state.epoch = 1
    TrainingHistory(tmp_path, evaluator=evaluator).attach(engine)
    run(engine)
    assert "NaN" not in (tmp_path / "history.jsonl").read_text()
    assert read_history(tmp_path / "history.jsonl")[0]["validation"] == {"dice": 0.25, "prompt_precision": None}


def test_a_repeated_epoch_replaces_its_line(tmp_path):
    file = tmp_path / "history.jsonl"
    old = {"seconds_per_iteration": 1.0, "learning_rate": 0.25, "losses": {"loss": 9.0}}
    lines = [{"epoch": epoch, "iteration": 2 * epoch, **old} for epoch in (1, 2, 3)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    engine = make_engine()
    TrainingHistory(tmp_path).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "epoch", 1))
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "iteration", 2))
    run(engine)
    first, second = read_history(file)
    assert first == lines[0]
    assert second["losses"] == {"loss": 1.5, "iou": 0.375}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.jsonl", "progress.png"]


def test_other_ranks_write_nothing(tmp_path):
    engine = make_engine(rank=1)
    TrainingHistory(tmp_path).attach(engine)
    run(engine)
    assert read_history(tmp_path / "history.jsonl") == []


def test_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match=r"cannot write into .*file/eval"):
        TrainingHistory(tmp_path / "file" / "eval")


def run_in(folder, ckpt_dir, *, epochs=2, after=0):
    engine = make_engine(outputs=[{"loss": 1.0}] * 2 * epochs)
    engine.ckpt_dir = str(ckpt_dir)
    TrainingHistory(folder).attach(engine)

    @engine.on(Events.STARTED)
    def _resume():
        engine.state.epoch, engine.state.iteration = after, 2 * after

    run(engine)


@pytest.mark.usefixtures("undrawn")
def test_a_run_with_other_checkpoints_keeps_the_lines_of_the_one_before(tmp_path):
    out = tmp_path / "out"
    for models in ("a", "b", "c"):
        run_in(out, tmp_path / models)
    kept = {file.name: read_history(file)[-1]["ckpt_dir"] for file in out.glob("*.jsonl")}
    assert kept == {"history.jsonl": "../c", "history_1.jsonl": "../a", "history_2.jsonl": "../b"}
    run_in(out, tmp_path / "a", epochs=3, after=2)  # goes on
    lines = read_history(out / "history.jsonl")
    assert [(line["ckpt_dir"], line["epoch"]) for line in lines] == [("../a", 1), ("../a", 2), ("../a", 3)]


@pytest.mark.usefixtures("undrawn")
def test_two_runs_at_once_keep_their_lines_apart(tmp_path):
    out = tmp_path / "out"
    engine = make_engine(outputs=[{"loss": 1.0}] * 6)
    engine.ckpt_dir = str(tmp_path / "a")
    TrainingHistory(out).attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: run_in(out, tmp_path / "b"))
    run(engine)
    found = {(line["ckpt_dir"], line["epoch"]) for file in out.glob("*.jsonl") for line in read_history(file)}
    assert found == {("../a", 1), ("../a", 2), ("../a", 3), ("../b", 1), ("../b", 2)}
    assert all(len({line["ckpt_dir"] for line in read_history(file)}) == 1 for file in out.glob("*.jsonl"))


@pytest.mark.usefixtures("undrawn")
def test_the_same_run_goes_on_in_its_file_wherever_both_folders_lie(tmp_path):
    run_in(tmp_path / "x" / "out", tmp_path / "x" / "models")
    (tmp_path / "x").rename(tmp_path / "y")
    run_in(tmp_path / "y" / "out", tmp_path / "y" / "models", epochs=3, after=2)
    assert [line["epoch"] for line in read_history(tmp_path / "y" / "out" / "history.jsonl")] == [1, 2, 3]
    assert not (tmp_path / "y" / "out" / "history_1.jsonl").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"iteration": "1"},
        {"iteration": -1},
        {"learning_rate": "0.1"},
        {"seconds_per_iteration": [1]},
        {"losses": {"loss": "1"}},
        {"losses": []},
        {"validation": {"dice": {}}},
        {"validation": {"dice": True}},
        {"epoch": True},
    ],
)
def test_a_line_of_other_types_is_named(tmp_path, change):
    """Before a picture or a table is made of it."""
    line = {"epoch": 1, "iteration": 2, "learning_rate": 0.1, "losses": {"loss": 1.0}, "validation": {"dice": None}}
    (tmp_path / "history.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(line | change)}\n")
    with pytest.raises(ValueError, match=r"history\.jsonl, line 2: none of an epoch"):
        read_history(tmp_path / "history.jsonl")
