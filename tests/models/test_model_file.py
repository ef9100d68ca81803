import os
import pickle

import pytest
import torch
from torch import nn

from aps_components.files import ensure_writable
from aps_components.models import (
    CheckpointError,
    load_weights,
    read_checkpoint,
    read_settings,
    save_atomically,
    save_settings,
    trained_setting,
)


class Pair(nn.Module):
    """Two parts, as Models A and B."""

    def __init__(self, width=3):
        super().__init__()
        self.model_a, self.model_b = nn.Linear(5, width), nn.Linear(7, 2)


class Trap:
    """Pickles into code that would make a file."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


class Unsaveable:
    def __reduce__(self):
        raise RuntimeError("disk full")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def same(network, weights):
    return all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def names(folder):
    return [entry.name for entry in folder.iterdir()]


def test_saved_and_loaded_again(path):
    network, other = Pair(), Pair()
    save_atomically(network.state_dict(), path)
    assert names(path.parent) == ["model.pt"]
    assert not same(other, network.state_dict())
    load_weights(other, path)
    assert same(other, network.state_dict())


def test_a_new_file_replaces_the_old_one(path):
    for value in (1.0, 2.0):
        save_atomically({"value": torch.tensor(value)}, str(path))
    assert read_checkpoint(path)["value"] == 2
    assert names(path.parent) == ["model.pt"]


def test_an_exception_while_saving_leaves_the_old_file_and_nothing_else(path):
    save_atomically({"value": torch.tensor(1.0)}, path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="disk full"):
        save_atomically({"large": torch.zeros(10_000), "last": Unsaveable()}, path)
    assert path.read_bytes() == before
    assert names(path.parent) == ["model.pt"]


def test_the_old_file_is_whole_until_the_new_one_is(path, monkeypatch):
    save_atomically({"value": torch.tensor(1.0)}, path)
    replace, seen = os.replace, []

    def watched(source, target):
        assert read_checkpoint(path)["value"] == 1  # still the old one
        assert torch.load(source, weights_only=True)["value"] == 2  # already whole
        seen.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    save_atomically({"value": torch.tensor(2.0)}, path)
    assert seen == [path]
    assert read_checkpoint(path)["value"] == 2


@pytest.mark.parametrize("wrapped", [False, True])
def test_raw_and_under_model(path, wrapped):
    network, other = Pair(), Pair()
    save_atomically({"model": network.state_dict(), "epoch": 3} if wrapped else network.state_dict(), path)
    load_weights(other, path)
    assert same(other, network.state_dict())


def test_only_a_part(path):
    network, other = Pair(), Pair()
    b_before = {key: value.clone() for key, value in other.model_b.state_dict().items()}
    save_atomically(network.state_dict(), path)
    load_weights(other, path, only="model_a.")
    assert same(other.model_a, network.model_a.state_dict())
    assert same(other.model_b, b_before)


def test_only_a_part_of_a_file_without_the_rest(path):
    network, other = Pair(), Pair()
    save_atomically({key: value for key, value in network.state_dict().items() if key.startswith("model_a.")}, path)
    load_weights(other, path, only="model_a.")
    assert same(other.model_a, network.model_a.state_dict())
    with pytest.raises(CheckpointError, match=r"missing: model_b\.weight"):
        load_weights(other, path)


def test_a_part_that_is_not_in_the_file_is_refused(path):
    save_atomically(nn.Linear(5, 3).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"(?s)missing: model_a.weight.*missing: model_a.bias"):
        load_weights(Pair(), path, only="model_a.")


def test_a_part_that_the_network_has_not_is_refused(path):
    save_atomically(Pair().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"no weight of the network starts with 'model_x\.'"):
        load_weights(Pair(), path, only="model_x.")


def test_another_architecture_is_refused_by_key_and_shape(path):
    weights = Pair(width=4).state_dict()
    weights["model_c.weight"] = weights.pop("model_b.weight")
    save_atomically(weights, path)
    network = Pair()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError) as refusal:
        load_weights(network, path)
    for part in (
        str(path),
        "missing: model_b.weight",
        "unexpected: model_c.weight",
        "other shape: model_a.weight: (4, 5) in the file, (3, 5) in the network",
        "other shape: model_a.bias: (4,) in the file, (3,) in the network",
    ):
        assert part in str(refusal.value)
    assert same(network, before)  # nothing was loaded halfway


def test_long_lists_are_cut(path):
    save_atomically({f"other_{index}": torch.zeros(1) for index in range(100)}, path)
    with pytest.raises(CheckpointError, match="unexpected: and 92 more") as refusal:
        load_weights(Pair(), path)
    assert len(str(refusal.value).splitlines()) < 20


@pytest.mark.parametrize("content", [{"model": 3}, {"epoch": 3}, {0: torch.zeros(1)}, {"model_a.weight": "text"}])
def test_a_file_of_something_else_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"model\.pt holds no state dict"):
        load_weights(Pair(), path)


def test_no_dictionary_is_refused(path):
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match=r"model\.pt holds a list, not a state dict"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_truncated_file_is_refused(path, share, zipped):
    torch.save(Pair().state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"model\.pt is damaged or no checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", b"hello world", b"version https://git-lfs", b"\x80\x02"]
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_file_of_another_kind_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pt is damaged or no checkpoint"):
        read_checkpoint(path)


def test_missing_file_and_folder_are_refused(path):
    for absent in (path, path.parent):
        with pytest.raises(CheckpointError, match=f"no checkpoint at {absent}"):
            read_checkpoint(absent)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_is_not_run(path, tmp_path, write):
    victim = tmp_path / "executed"
    write({"weight": Trap(victim)}, path)
    with pytest.raises(CheckpointError, match=r"model\.pt is damaged or no checkpoint of weights alone"):
        read_checkpoint(path)
    assert not victim.exists()


def test_writable_folder_is_made_and_left_empty(tmp_path):
    folder = tmp_path / "runs" / "first"
    assert ensure_writable(str(folder)) == folder
    assert ensure_writable(folder) == folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("below", [".", "runs/first"])
def test_folder_that_cannot_be_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("kept")
    folder = tmp_path / "file" / below
    with pytest.raises(PermissionError, match=f"cannot write into {folder}: .*choose another folder"):
        ensure_writable(folder)
    assert (tmp_path / "file").read_text() == "kept"


SETTINGS = {"spacing": [1.0, 1.25, 3.0], "num_classes": 4, "norm": None}


def test_settings_beside_the_file_are_compared(path):
    network = Pair()
    save_atomically(network.state_dict(), path)
    save_settings(SETTINGS | {"spacing": (1.0, 1.25, 3.0)}, path)  # a tuple is a list in JSON
    assert sorted(names(path.parent)) == ["model.json", "model.pt"]
    load_weights(network, path)
    load_weights(network, path, settings=SETTINGS)
    load_weights(network, path, settings=SETTINGS | {"spacing": (1.0, 1.25, 3.0), "new": 1})
    with pytest.raises(CheckpointError) as refusal:
        load_weights(network, path, settings={"spacing": [1, 1, 1], "num_classes": 4, "norm": "unit"})
    message = str(refusal.value)
    assert "spacing [1.0, 1.25, 3.0] there, [1, 1, 1] now; norm None there, 'unit' now" in message
    assert "--spacing '[1.0, 1.25, 3.0]' --norm '$None'" in message
    assert "num_classes" not in message


def test_a_trained_setting_comes_from_beside_the_file(path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*model\.pt"):
        trained_setting(path, "spacing")
    assert trained_setting(path, "spacing", [1, 1, 1]) == [1, 1, 1]
    save_atomically(Pair().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"model\.json is missing.*give --spacing"):
        trained_setting(path, "spacing")
    path.with_suffix(".json").write_text('{"seed": 0}')
    with pytest.raises(CheckpointError, match=r"model\.json.* does not say 'spacing': give it with --spacing"):
        trained_setting(path, "spacing")
    save_settings(SETTINGS, path)
    assert trained_setting(path, "spacing", [1, 1, 1]) == [1.0, 1.25, 3.0]
    assert trained_setting(path, "norm", "batch") is None
    path.with_suffix(".json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        trained_setting(path, "spacing", None)


def test_settings_without_a_file_beside_are_not_compared(path):
    save_atomically(Pair().state_dict(), path)
    load_weights(Pair(), path, settings=SETTINGS)


@pytest.mark.parametrize("inside", [False, True])
def test_settings_beside_a_file_and_in_it_are_data(path, inside):
    """Names of files may begin with anything, and go into no configuration; all else may not."""
    case = {"name": "$a", "image": ["00:00"], "label": None}
    kept = {"cases": {"labeled": [case]}, "pretrained": "$b/model.pt", "network_def": {"filters": 4}}

    def save(settings):
        save_atomically({"model": {}, "settings": settings} if inside else {}, path)
        if not inside:
            save_settings(settings, path)
        return read_settings(path)

    assert save(kept) == kept | {"backbone": "vnet", "strides": None, "kernel_sizes": None}
    with pytest.raises(CheckpointError, match="would run it as code"):
        save({"network_def": {"norm": "$open('x', 'w')"}})
    for key, value in {"network_def": 3, "cases": {"labeled": [3]}, "train_a": "no", "strides": [2]}.items():
        with pytest.raises(CheckpointError, match=rf"{key} is .*, where"):
            save({key: value})


@pytest.mark.parametrize(("asked", "answers"), [("average", "a"), ("a", "a"), ("b", None)])
def test_of_a_training_of_model_a_alone_model_a_answers(path, capsys, asked, answers):
    network = Pair()
    network.predictor = asked
    save_atomically(network.state_dict(), path)
    save_settings({"objective": {"train_b": False}}, path)
    if answers is None:
        with pytest.raises(CheckpointError, match="of Model A alone"):
            load_weights(network, path)
        return
    assert load_weights(network, path).predictor == answers
    assert ("Model A answers" in capsys.readouterr().out) is (asked != answers)
    network.predictor = asked
    assert load_weights(network, path, other_roi_size=True).predictor == asked  # to train it further
