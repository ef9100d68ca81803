import pytest
import torch
from workflows import LA

from aps_components.data import case_name, load_datalist
from aps_components.evaluation.trained import load_trained
from aps_components.models import CheckpointError


def test_everything_comes_from_the_bundle_and_the_settings_of_the_checkpoint(phantoms, tiny_checkpoint, tiny_options):
    file = tiny_checkpoint(spacing=[2.0, 1.5, 1.0])
    model = load_trained(LA, dataset_dir=phantoms, checkpoint=file, options=tiny_options)
    weights = torch.load(file, weights_only=True)
    assert all(torch.equal(value, weights[key]) for key, value in model.network.state_dict().items())
    assert not model.network.training
    assert (list(model.inferer.roi_size), model.inferer.overlap, model.inferer.precision) == (
        [32, 32, 32],
        0.25,
        "fp32",
    )
    assert model.items == load_datalist(phantoms).validation
    data = model.preprocessing(model.items[0])
    assert [round(float(size), 3) for size in data["image"].pixdim] == [2.0, 1.5, 1.0]
    assert data["image"].shape == data["label"].shape == model.image_preprocessing(model.items[0])["image"].shape
    assert model.labels == {0: "background", 1: "left atrium"}
    assert model.settings["options"] == tiny_options


def test_figures_are_told_apart_by_what_the_file_beside_the_weights_decides(phantoms, tiny_checkpoint, tiny_options):
    file = tiny_checkpoint(inference_mirror_axes=[[0, 1], [2]])
    settings = load_trained(LA, dataset_dir=phantoms, checkpoint=file, options=tiny_options).settings
    assert (settings["mirror_axes"], settings["overlap"], settings["predictor"]) == ([[0, 1], [2]], 0.25, "average")


@pytest.mark.parametrize("count", [1, 3])
def test_the_scans_are_those_that_the_training_left_out(unsplit, tiny_checkpoint, tiny_options, count):
    everything = load_datalist(unsplit).labeled
    model = load_trained(
        LA, dataset_dir=unsplit, checkpoint=tiny_checkpoint(validation_count=count), options=tiny_options
    )
    assert [case_name(item) for item in model.items] == [case_name(item) for item in everything[-count:]]


def test_what_does_not_fit_is_named(phantoms, tiny_checkpoint, tiny_options, tmp_path):
    file = tiny_checkpoint()
    arguments = {"dataset_dir": phantoms, "checkpoint": file, "options": tiny_options}
    with pytest.raises(ValueError, match=r"no option --overlpa; did you mean --overlap\?"):
        load_trained(LA, **arguments | {"options": {"overlpa": 0.5}})
    with pytest.raises(ValueError, match="split 'training' must be one of"):
        load_trained(LA, **arguments, split="training")
    with pytest.raises(FileNotFoundError, match=r"configs/train\.json: give the folder of a bundle"):
        load_trained(tmp_path, **arguments)
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere\.pt"):
        load_trained(LA, **arguments | {"checkpoint": tmp_path / "nowhere.pt"})
    with pytest.raises(CheckpointError, match="another architecture"):
        load_trained(LA, **arguments | {"options": tiny_options | {"network_def#filters": 8}})
