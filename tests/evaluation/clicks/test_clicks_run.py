import csv
import json
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import torch
from workflows import LA

from aps_components.data import DataError, case_identities, load_datalist
from aps_components.evaluation.clicks import measure_clicks
from aps_components.evaluation.clicks.scan import Annotator
from aps_components.evaluation.metrics import Region
from aps_components.interactive import Predictor, load_model
from aps_components.models import read_settings, save_settings

CORRECT = "aps_components.evaluation.clicks.scan.Annotator.correct"
STORED = {"network_def": {"filters": 2, "sam_variant": "tiny"}, "simulated_user": {}, "spacing": [1.5, 1.5, 1.5]}


@pytest.fixture
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint(**STORED)


def arguments(phantoms, checkpoint, out, **changes):
    given = {"images": phantoms / "images", "labels": phantoms / "labels", "checkpoint": checkpoint, "out": out}
    return {**given, "clicks": 3, "cases": 1, "device": "cpu", "options": {"precision": "fp32"}} | changes


def labelled(phantoms, tmp_path):
    """A folder with the scans that have a label alone."""
    folder = tmp_path / "images"
    folder.mkdir()
    for file in (phantoms / "labels").iterdir():
        (folder / file.name).symlink_to(phantoms / "images" / file.name)
    return folder


def test_figures_and_files_and_no_scan_twice(phantoms, checkpoint, tmp_path):
    given = arguments(phantoms, checkpoint, tmp_path / "out", images=labelled(phantoms, tmp_path), cases=2)
    figures = measure_clicks(**given)
    assert list(figures["dice"]) == ["0", "1", "2", "3"]
    assert figures["scans"] == 2
    assert figures["obeyed"] == figures["kept"] == 1
    assert 0 <= figures["harmful"] <= 1
    assert set(figures["listening"]) >= {"own", "no_points", "flipped", "zeroed"}
    assert figures["listening"]["own"]["changed"] == 0
    assert 0 < figures["listening"]["zeroed"]["changed"] <= 1
    written = json.loads((tmp_path / "out" / "clicks.json").read_text())
    assert written == json.loads(json.dumps(figures))
    assert len(list(csv.reader((tmp_path / "out" / "clicks.csv").open()))) == 3
    assert (tmp_path / "out" / "clicks.png").stat().st_size > 10_000
    assert "| Dice % |" in (tmp_path / "out" / "clicks.md").read_text()
    with patch(CORRECT, side_effect=AssertionError("measured again")):
        assert measure_clicks(**given)["dice"] == figures["dice"]
        with pytest.raises(ValueError, match="clicks 3 there, 4 now"):
            measure_clicks(**given | {"clicks": 4})
        changed = {"inference_mirror_axes": [0], "largest_component": False}
        save_settings(read_settings(checkpoint) | changed, checkpoint)
        with pytest.raises(ValueError, match=r"largest_component True there, False now; mirror_axes \[\] there"):
            measure_clicks(**given)


def test_a_perfect_answer_needs_no_click_and_a_shifted_one_is_measured(phantoms, checkpoint, tmp_path):
    """Against its own answer as the label."""
    model = load_model(checkpoint, "cpu", settings={"precision": "fp32"})
    predictor = Predictor(model)
    image = next((phantoms / "images").iterdir())
    predictor.set_image(image)
    answer = predictor.predict()
    annotator = Annotator(predictor=predictor, num_classes=2, regions=[Region("one", (1,))], clicks=2)
    label = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(answer.label_map, answer.affine), label)
    record = annotator.correct({"image": str(image), "label": str(label)})
    assert (record["dice"], record["nsd"], record["obeyed"]) == ([100], [100], [])
    truth = answer.label_map.copy()
    truth[10:14, 12:15, 8:12] = 1 - truth[10:14, 12:15, 8:12]
    nib.save(nib.Nifti1Image(truth, answer.affine), label)
    record = annotator.correct({"image": str(image), "label": str(label)})
    expected = 200 * np.sum((truth == 1) & (answer.label_map == 1)) / (truth.sum() + (answer.label_map == 1).sum())
    assert record["dice"][0] == pytest.approx(expected)
    assert record["obeyed"] == [True, True]


def test_a_bundles_validation_scans(phantoms, checkpoint, tiny_options, tmp_path):
    figures = measure_clicks(
        bundle=LA,
        dataset_dir=phantoms,
        checkpoint=checkpoint,
        out=tmp_path / "out",
        clicks=1,
        options=tiny_options,
    )
    assert figures["scans"] == 2


def test_labels_are_read_as_the_model_reads_them(phantoms, tiny_checkpoint, tmp_path):
    """Its class has another value in the files, and a value says that nobody labelled."""
    image = next((phantoms / "labels").iterdir()).name
    label = nib.load(phantoms / "labels" / image)
    values = np.asarray(label.dataobj).astype(np.uint8)
    given = {"images": phantoms / "images" / image, "labels": tmp_path / "label.nii.gz", "clicks": 1}
    nib.save(label, given["labels"])
    plain = measure_clicks(**arguments(phantoms, tiny_checkpoint("plain", **STORED), tmp_path / "out", **given))
    stored = STORED | {"label_values": {"7": 1}, "ignore": 9, "regions": {"whole": [1]}}
    checkpoint = tiny_checkpoint("other", **stored)
    nib.save(nib.Nifti1Image(7 * values, label.affine), given["labels"])
    figures = measure_clicks(**arguments(phantoms, checkpoint, tmp_path / "mapped", **given))
    assert figures["dice"] == plain["dice"]
    assert figures["settings"]["label_values"] == {"7": 1}
    values = 7 * values
    values[:, :, ::2] = 9
    nib.save(nib.Nifti1Image(values, label.affine), given["labels"])
    assert measure_clicks(**arguments(phantoms, checkpoint, tmp_path / "ignored", **given))["scans"] == 1


def test_scans_that_it_learned_from_are_refused(phantoms, tiny_checkpoint, tmp_path):
    datalist = load_datalist(phantoms)
    checkpoint = tiny_checkpoint(**STORED, cases=case_identities(datalist.training_items, datalist.validation))
    seen, unseen = datalist.labeled[0], datalist.validation[0]
    given = {"images": unseen["image"], "labels": unseen["label"], "clicks": 1}
    assert measure_clicks(**arguments(phantoms, checkpoint, tmp_path / "out", **given))["scans"] == 1
    given |= {"images": seen["image"], "labels": seen["label"]}
    with pytest.raises(ValueError, match=r"was trained on 1 of the 1 given scans .* Leave them out"):
        measure_clicks(**arguments(phantoms, checkpoint, tmp_path / "seen", **given))
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "give --images and --labels, or --dataset_dir"),
        ({"images": None, "labels": None, "dataset_dir": "."}, "--dataset_dir needs --bundle"),
        ({"clicks": 0}, "clicks 0"),
        ({"options": {"overlp": 1}}, "did you mean --overlap"),
    ],
)
def test_what_does_not_fit_is_named(phantoms, checkpoint, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        measure_clicks(**arguments(phantoms, checkpoint, tmp_path / "out", **changes))


def test_a_scan_without_a_label_is_named(phantoms, checkpoint, tmp_path):
    with pytest.raises(DataError, match=r"no label .*\.nii\.gz in"):
        measure_clicks(**arguments(phantoms, checkpoint, tmp_path / "out", labels=tmp_path))


def test_a_model_without_prompts_is_refused(phantoms, tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint(**STORED | {"simulated_user": None})
    given = arguments(phantoms, checkpoint, tmp_path / "out", images=labelled(phantoms, tmp_path))
    with patch(CORRECT, side_effect=AssertionError("too late")), pytest.raises(ValueError, match="without prompts"):
        measure_clicks(**given)
    assert torch.load(checkpoint, weights_only=True)  # the file is as it was
