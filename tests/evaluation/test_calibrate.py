import json
import shutil

import pytest
import torch
from workflows import LA

from aps_components import cli
from aps_components.data import load_datalist
from aps_components.evaluation.doubt.held_out import TEMPERATURES
from aps_components.evaluation.trained import load_trained
from aps_components.models import read_checkpoint, read_settings
from aps_components.segmentation.bundle_inference import BundleInference

PLACES = ("bundle", "dataset_dir", "checkpoint", "target")


@pytest.fixture
def arguments(phantoms, tiny_checkpoint, tiny_options, tmp_path):
    checkpoint = tiny_checkpoint(labeled_count=2, pretrained="somewhere")
    return {
        "bundle": str(LA),
        "dataset_dir": str(phantoms),
        "checkpoint": str(checkpoint),
        "target": str(tmp_path / "new" / "model.pt"),
        **tiny_options | {"overlap": 0},
    }


@pytest.mark.slow
def test_both_models_find_the_volumes_of_the_scans_they_were_trained_on(arguments, phantoms, tiny_options, tmp_path):
    cli.calibrate(**arguments, largest_component=False)
    target = tmp_path / "new" / "model.pt"
    assert json.loads(target.with_suffix(".json").read_text())["pretrained"] == "somewhere"
    model = load_trained(LA, dataset_dir=phantoms, checkpoint=target, seen=True, options=tiny_options | {"overlap": 0})
    assert model.items == load_datalist(phantoms).labeled[:2]
    found, true = torch.zeros(2), 0
    for item in model.items:
        data = model.preprocessing(item)
        prediction = model.inferer.predict(data["image"].as_tensor()[None], model.network)
        maps = (prediction.probabilities_a, prediction.probabilities_b)
        found += torch.tensor([(each.argmax(dim=1) == 1).sum() for each in maps])
        true += int((data["label"] == 1).sum())
    # where windows overlap, offsets before the blending are not quite those after it
    torch.testing.assert_close(found, torch.full((2,), float(true)), rtol=0.05, atol=0)


def test_nothing_but_the_offsets_changes_and_a_second_time_gives_the_same(arguments, tmp_path, capsys):
    cli.calibrate(**arguments, cases=1)
    said = capsys.readouterr().out
    assert "Model A, left atrium: offset" in said
    assert "Model B, left atrium: offset" in said
    before, after = read_checkpoint(arguments["checkpoint"]), read_checkpoint(arguments["target"])
    assert {key for key in after if not torch.equal(before[key], after[key])} == {"decision.offsets"}
    cli.calibrate(**arguments | {"checkpoint": arguments["target"], "target": str(tmp_path / "again.pt")}, cases=1)
    torch.testing.assert_close(read_checkpoint(tmp_path / "again.pt"), after, rtol=0, atol=1e-5)


def test_inference_and_evaluation_answer_as_it_was_calibrated(arguments, phantoms, tiny_options, tmp_path):
    cli.calibrate(**arguments | {"predictor": "a", "mirror_axes": [[0, 1]]}, cases=1)
    target = tmp_path / "new" / "model.pt"
    settings = json.loads(target.with_suffix(".json").read_text())
    assert (settings["inference_predictor"], settings["inference_mirror_axes"]) == ("a", [[0, 1]])
    assert settings["pretrained"] == "somewhere"
    network = {key: value for key, value in tiny_options.items() if key.startswith("network_def#")}
    parser = BundleInference(LA, settings=network | {"checkpoint": str(target)}).parser
    assert parser.get_parsed_content("inferer").mirror_axes == [(0, 1)]
    assert parser.get_parsed_content("network_def").predictor == "a"
    assert load_trained(LA, dataset_dir=phantoms, checkpoint=target, options=tiny_options).inferer.mirror_axes == [
        (0, 1)
    ]
    unmirrored = tiny_options | {"mirror_axes": []}
    assert load_trained(LA, dataset_dir=phantoms, checkpoint=target, options=unmirrored).inferer.mirror_axes == []
    plain = BundleInference(LA, settings=network | {"checkpoint": arguments["checkpoint"]}).parser
    assert plain.get_parsed_content("network_def").predictor == "average"


def test_a_negative_number_of_cases_is_refused(arguments):
    with pytest.raises(ValueError, match="cases -1 must be a whole number from 0 on"):
        cli.calibrate(**arguments, cases=-1)


def test_held_out_scans_say_how_sure_and_how_good_answers_are(arguments, phantoms, tmp_path, capsys):
    cli.calibrate(**arguments, cases=0)
    said = capsys.readouterr().out
    before, after = read_checkpoint(arguments["checkpoint"]), read_checkpoint(arguments["target"])
    assert all(torch.equal(before[key], after[key]) for key in before)  # no offset was set
    settings = read_settings(arguments["target"])
    held_out = [item for item in load_datalist(phantoms).validation if "label" in item]
    assert settings["temperature"] in TEMPERATURES
    assert settings["doubt"]["scans"] == len(held_out)
    assert "which scans it learned from" in said  # nothing beside the checkpoint does
    options = {key: value for key, value in arguments.items() if key not in PLACES}
    model = load_trained(LA, dataset_dir=phantoms, checkpoint=arguments["target"], options=options)
    assert model.network.temperature == settings["temperature"]
    cli.calibrate(**arguments | {"checkpoint": arguments["target"]}, cases=0, held_out="none")
    assert not {"doubt", "temperature"} & read_settings(arguments["target"]).keys()  # of other offsets, perhaps


def test_predicted_dice_is_of_classes_whatever_regions_are_measured(arguments, phantoms):
    cli.calibrate(**arguments, cases=0, regions={"heart": [1]})
    held_out = [item for item in load_datalist(phantoms).validation if "label" in item]
    points = read_settings(arguments["target"])["doubt"]["classes"]["left atrium"]
    assert len(points["dice"]) == len(held_out)


def test_a_folder_of_other_scans_serves_too(arguments, phantoms, tmp_path):
    for item in load_datalist(phantoms).test:
        for key, folder in (("image", "images"), ("label", "labels")):
            (tmp_path / "others" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(item[key], tmp_path / "others" / folder)
    cli.calibrate(**arguments, cases=0, held_out=str(tmp_path / "others"))
    assert read_settings(arguments["target"])["doubt"]["scans"] == len(load_datalist(phantoms).test)
    (tmp_path / "others" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "left atrium": 2}}))
    with pytest.raises(ValueError, match=r"dataset\.json: 2 is 'left atrium', but the model reads"):
        cli.calibrate(**arguments, cases=0, held_out=str(tmp_path / "others"))
    with pytest.raises(ValueError, match="held_out 'nowhere' is no folder"):
        cli.calibrate(**arguments, cases=0, held_out="nowhere")
