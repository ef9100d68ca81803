import csv
import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from workflows import LA

from aps_components import cli
from aps_components.data import case_identities, case_name, load_datalist
from aps_components.evaluation.pseudo_labels import _decision, _log_probabilities, _refuse_labels_of_others, _unaware
from aps_components.evaluation.trained import load_trained
from aps_components.label_map import keep_largest_component


@pytest.fixture
def options(tiny_options):
    return tiny_options | {"overlap": 0, "predictor": "a"}


@pytest.fixture
def arguments(phantoms, tiny_checkpoint, options, tmp_path):
    """Two models of 2 labelled phantoms, of other voxel sizes."""
    files = [
        tiny_checkpoint("first", labeled_count=2, validation_count=0),
        tiny_checkpoint("second", seed=1, labeled_count=2, validation_count=0, spacing=[1.5, 1.5, 1.5]),
    ]
    return {
        "bundle": str(LA),
        "dataset_dir": str(phantoms),
        "checkpoints": tuple(map(str, files)),
        "target": str(tmp_path / "second_round"),
        **options,
    }


def label_maps(folder):
    return {file.name: np.asarray(nib.load(file).dataobj) for file in sorted((folder / "labels").iterdir())}


def agreements(folder):
    with (folder / "agreement.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_dataset_whose_unlabelled_scans_are_labelled(arguments, phantoms, tmp_path, capsys):
    cli.pseudo_label(**arguments)
    before, after = load_datalist(phantoms, labeled_count=2), load_datalist(tmp_path / "second_round")
    said = capsys.readouterr().out
    assert "5 scans labelled by 2 model(s)" in said
    agreed = agreements(tmp_path / "second_round")
    assert sorted(row["scan"] for row in agreed) == sorted(case_name(item) for item in before.unlabeled)
    assert all(0 <= float(row["left atrium"]) <= 1 for row in agreed)
    assert [row["mean"] for row in agreed] == sorted(row["mean"] for row in agreed)
    assert f"least agreed on, and worth a look or a label by hand: {agreed[0]['scan']} (" in said
    assert (after.name, after.labels, after.unlabeled) == (before.name, before.labels, [])
    assert (after.labeled[:2], after.validation, after.test) == (before.labeled, before.validation, before.test)
    assert [item["image"] for item in after.labeled[2:]] == [item["image"] for item in before.unlabeled]
    assert after.labeled_by_hand == 2
    for item in after.labeled[2:]:
        image, label = nib.load(item["image"]), nib.load(item["label"])
        assert label.shape == image.shape
        assert np.array_equal(label.affine, image.affine)
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(label.dataobj)) <= {0, 1}


def test_the_mean_of_the_models_decides_at_the_volume_of_the_labelled_scans(
    arguments, tiny_checkpoint, phantoms, options, tmp_path
):
    """Computed once more; both models see the scans' own grid here."""
    third = tiny_checkpoint("third", seed=2, labeled_count=2, validation_count=0)
    checkpoints = (arguments["checkpoints"][0], str(third))
    cli.pseudo_label(**arguments | {"checkpoints": checkpoints})
    models = [
        load_trained(LA, dataset_dir=phantoms, checkpoint=file, seen=True, options=options) for file in checkpoints
    ]

    def margin(item):
        data = models[0].image_preprocessing({"image": item["image"]})
        answers = [model.inferer(data["image"].as_tensor()[None], model.network)[0].detach() for model in models]
        background, atrium = sum(answers) / 2
        return (atrium.log() - background.log()).numpy()

    labeled = [margin(item) for item in models[0].datalist.labeled]
    truth = [np.asarray(nib.load(item["label"]).dataobj) for item in models[0].datalist.labeled]
    volume = sum(int((each == 1).sum()) for each in truth)
    values = np.sort(np.concatenate([each.ravel() for each in labeled]))[::-1]
    threshold = (values[volume - 1] + values[volume]) / 2
    for item, found in zip(models[0].datalist.unlabeled, label_maps(tmp_path / "second_round").values(), strict=True):
        expected = keep_largest_component((margin(item) > threshold).astype(np.uint8), num_classes=2)
        assert (expected != found).mean() < 1e-4  # voxels at the threshold


def test_a_model_with_itself_is_that_model(arguments, tmp_path):
    first = arguments["checkpoints"][0]
    cli.pseudo_label(**arguments | {"checkpoints": first, "target": str(tmp_path / "once")})
    cli.pseudo_label(**arguments | {"checkpoints": f"{first},{first}", "target": str(tmp_path / "twice")})
    once, twice = label_maps(tmp_path / "once"), label_maps(tmp_path / "twice")
    assert once.keys() == twice.keys()
    assert all(np.array_equal(once[name], twice[name]) for name in once)
    assert not (tmp_path / "once" / "agreement.csv").exists()
    agreed = agreements(tmp_path / "twice")
    assert {row["left atrium"] for row in agreed} <= {"1.0000", ""}


def test_goes_on_with_the_scans_that_are_left(arguments, tmp_path):
    folder = tmp_path / "second_round"
    cli.pseudo_label(**arguments)
    files = sorted((folder / "labels").iterdir())
    before, times = label_maps(folder), [file.stat().st_mtime_ns for file in files]
    table, kept = (folder / "agreement.csv").read_text(), folder / "agreement.jsonl"
    files[-1].unlink()  # as a kill while the last scan was answered leaves it
    (folder / "agreement.csv").unlink()
    kept.write_bytes(kept.read_bytes()[:-7])
    cli.pseudo_label(**arguments)
    assert (folder / "agreement.csv").read_text() == table
    after = label_maps(folder)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    stayed = [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)]
    assert stayed == [True, True, True, True, False]
    assert len(kept.read_text().splitlines()) == 1 + len(files)  # the models, and each scan once


def test_what_was_killed_goes_on_with_another_device(tmp_path):
    """Also where ``auto`` means another precision there."""

    def model(device, precision, *, asked="auto", **options):
        settings = {"checkpoint_sha256": "7", "device": device, "precision": precision}
        settings["options"] = {"device": device, **options}
        return SimpleNamespace(settings=settings, inferer=SimpleNamespace(precision=asked))

    made_by = _refuse_labels_of_others(tmp_path, [model("cuda:0", "bf16")])
    assert _refuse_labels_of_others(tmp_path, [model("cpu", "fp32")]) == made_by
    for other in (model("cuda:0", "bf16", asked="bf16"), model("cuda:0", "bf16", overlap=0)):
        with pytest.raises(ValueError, match="holds labels of other models or settings"):
            _refuse_labels_of_others(tmp_path, [other])


def test_a_target_behind_a_link(arguments, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    cli.pseudo_label(**arguments | {"target": str(tmp_path / "link")})
    for item in load_datalist(tmp_path / "link").labeled:
        assert nib.load(item["image"]).shape == nib.load(item["label"]).shape


def test_a_model_of_the_second_round_labels_the_same_scans_and_is_calibrated_on_those_by_hand(
    arguments, tiny_checkpoint, phantoms, tmp_path
):
    cli.pseudo_label(**arguments)
    second = tiny_checkpoint("of_the_second", labeled_count=7, labeled_by_hand=2, validation_count=0)
    options = {key: value for key, value in arguments.items() if key not in ("checkpoints", "target")}
    cli.pseudo_label(**options, checkpoints=str(second), target=str(tmp_path / "third_round"))
    assert label_maps(tmp_path / "third_round").keys() == label_maps(tmp_path / "second_round").keys()
    del options["bundle"], options["dataset_dir"]
    for folder in (phantoms, tmp_path / "second_round"):
        model = load_trained(LA, dataset_dir=folder, checkpoint=second, seen=True, options=options)
        assert model.items == load_datalist(phantoms, labeled_count=2).labeled


def test_numbers_of_the_datasets_own_label_files(arguments, tmp_path):
    cli.pseudo_label(**arguments | {"label_values": {"7": 1}})
    values = {value for each in label_maps(tmp_path / "second_round").values() for value in np.unique(each).tolist()}
    assert values == {0, 7}


def test_what_cannot_be_is_refused(arguments, tiny_checkpoint, phantoms, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint to label the scans with"):
        cli.pseudo_label(**arguments | {"checkpoints": ()})
    other = tiny_checkpoint("other", labeled_count=3, validation_count=0)
    with pytest.raises(ValueError, match="were trained on other labelled or validation scans"):
        cli.pseudo_label(**arguments | {"checkpoints": (arguments["checkpoints"][0], str(other))})
    cli.pseudo_label(**arguments)
    with pytest.raises(ValueError, match="holds labels of other models or settings"):
        cli.pseudo_label(**arguments | {"checkpoints": arguments["checkpoints"][0]})
    folder = tmp_path / "labelled"
    folder.mkdir()
    content = json.loads((phantoms / "datalist.json").read_text())
    cases = [{key: str(phantoms / file) for key, file in case.items()} for case in content["training"][:2]]
    (folder / "datalist.json").write_text(json.dumps({**content, "training": cases, "validation": [], "unlabeled": []}))
    with pytest.raises(ValueError, match="no unlabelled training scan"):
        cli.pseudo_label(**arguments | {"dataset_dir": str(folder)})


@pytest.mark.parametrize("there", ["datalist.json", "labels/phantom_001.nii.gz", "the dataset"])
def test_a_folder_of_others_is_refused_and_left_as_it_is(arguments, phantoms, tmp_path, there):
    target = tmp_path / "second_round"
    if there == "the dataset":
        (target := tmp_path / "link").symlink_to(phantoms)
    else:
        (target / there).parent.mkdir(parents=True)
        (target / there).write_text("mine")
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="give another"):
        cli.pseudo_label(**{**arguments, "target": str(target)})
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before


def test_a_label_that_is_cut_off_or_of_another_scan_is_made_again(arguments, tmp_path):
    cli.pseudo_label(**arguments)
    files = sorted((tmp_path / "second_round" / "labels").iterdir())
    before = [file.read_bytes() for file in files]
    files[0].write_bytes(before[0][:-20])
    files[1].write_bytes(before[2])
    cli.pseudo_label(**arguments)
    assert [file.read_bytes() for file in files] == before


def test_volumes_are_set_by_models_that_did_not_learn_from_a_scan(tiny_checkpoint, phantoms, options, monkeypatch):
    """Two models of folds: each labelled scan is known to one of them; a third knows both, and is never asked."""
    labeled = load_datalist(phantoms, labeled_count=2).labeled
    known = [[labeled[0]], [labeled[1]], labeled]
    files = [
        tiny_checkpoint(f"fold_{seed}", seed=seed, labeled_count=2, validation_count=0, cases=case_identities(items))
        for seed, items in enumerate(known)
    ]
    models = [load_trained(LA, dataset_dir=phantoms, checkpoint=file, seen=True, options=options) for file in files]
    assert [list(_unaware(models, item)) for item in labeled] == [[models[1]], [models[0]]]
    assert list(_unaware(models[2:], labeled[0])) == models[2:]
    asked = []

    def recorded(chosen, item, answers=None):
        asked.append(list(chosen))
        return _log_probabilities(chosen, item, answers)

    monkeypatch.setattr("aps_components.evaluation.pseudo_labels._log_probabilities", recorded)
    _decision(models[:2], load_datalist(phantoms, labeled_count=2))
    assert asked == [[models[1]], [models[0]]]
