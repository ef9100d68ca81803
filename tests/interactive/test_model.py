import json
import shutil

import pytest
import torch
from tiny_model import NETWORK, ROI, SETTINGS

from aps_components.interactive import load_model
from aps_components.interactive.model import untaught
from aps_components.models import CheckpointError, build_auto_prompt_seg, save_settings


def copy(model_file, folder, **changes):
    """The weights with other settings beside them; None removes one."""
    file = folder / "model.pt"
    shutil.copy(model_file, file)
    settings = {key: value for key, value in (SETTINGS | changes).items() if value is not None}
    save_settings(settings, file)
    return file


def test_the_file_alone_says_how_it_was_built(model, model_file):
    assert model.labels == {0: "background", 1: "kidney", 2: "liver"}
    assert list(model.inferer.roi_size) == ROI
    assert not model.largest_component
    assert model.prompted
    assert not model.network.training
    state = torch.load(model_file, weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in model.network.state_dict().items())
    assert load_model(model_file.parent, "cpu").checkpoint == model_file


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"simulated_user": None}, "no simulated_user in its settings"),
        ({"simulated_user": {}, "objective": {"train_b": False}}, "its Model B was not trained"),
        ({"simulated_user": {}, "network_def": {"model_b": "vnet"}}, "its Model B is no SAM"),
        ({"simulated_user": {}}, None),
    ],
)
def test_why_a_model_does_not_know_what_a_click_means(changes, reason):
    assert untaught(changes) == reason


def test_settings_of_a_training_that_stored_no_arguments(model_file, tmp_path):
    """What a bundle builds by default, here with four modalities."""
    torch.manual_seed(0)
    network = build_auto_prompt_seg(num_classes=2, in_channels=4, roi_size=ROI, fusion="cafa")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    settings = {"labels": {"0": "background", "1": "tumour"}, "fusion": "cafa", "modalities": ["a", "b", "c", "d"]}
    settings |= {"roi_size": ROI, "spacing": None, "intensity": None, "inference_predictor": "a"}
    save_settings(settings, tmp_path / "model.pt")
    model = load_model(tmp_path / "model.pt", "cpu")
    assert model.in_channels == 4
    assert model.network.predictor == "a"
    assert not model.prompted  # nothing says so


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": None}, "model.json does not say 'spacing'"),
        ({"labels": None}, "model.json does not say 'labels'"),
        (
            {"network_def": {**NETWORK, "no_such": 1}},
            "another version of this package, whose networks have 'no_such'",
        ),
        ({"network_def": {"filters": 4}}, "checkpoint of another architecture"),
    ],
)
def test_what_is_missing_is_named(model_file, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(copy(model_file, tmp_path, **changes), "cpu")


def test_no_file_and_no_settings(model_file, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*none\.pt"):
        load_model(tmp_path / "none.pt")
    file = shutil.copy(model_file, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"no .*model\.json: put the one that training wrote beside model\.pt"):
        load_model(file)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_model(file)


def test_settings_can_be_changed_and_mistyped_ones_are_found(model_file):
    model = load_model(model_file, "cpu", settings={"predictor": "b", "overlap": 0.25, "mirror_axes": [0]})
    assert (model.network.predictor, model.inferer.overlap) == ("b", 0.25)
    assert model.inferer.mirror_axes == [(0,)]
    with pytest.raises(ValueError, match="did you mean --overlap"):
        load_model(model_file, "cpu", settings={"overlp": 0.25})


@pytest.mark.parametrize("changes", [{"simulated_user": None}, {"network_def": {**NETWORK, "model_b": "vnet"}}])
def test_a_model_that_was_trained_without_prompts_says_so(model_file, tmp_path, changes):
    file = copy(model_file, tmp_path, **changes)
    if "network_def" in changes:
        network = build_auto_prompt_seg(num_classes=3, roi_size=ROI, **changes["network_def"])
        torch.save(network.state_dict(), file)
    model = load_model(file, "cpu")
    with pytest.raises(ValueError, match=r"model\.pt was trained without prompts .* --simulated_user"):
        model.require_prompted()
    assert "simulated_user" not in json.loads((tmp_path / "model.json").read_text()) or "network_def" in changes


def test_a_class_has_a_value_and_a_name(model):
    assert model.class_value("liver") == model.class_value(2) == 2
    for wrong in ("lung", 3, -1, True, None, [1], {"value": 1}):
        with pytest.raises(ValueError, match=r"there is no class .*; there are: 0 'background', 1 'kidney', 2 'liver'"):
            model.class_value(wrong)
