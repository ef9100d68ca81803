"""``aps segment`` as its user calls it, on made-up scans and tiny networks."""

import csv
import json
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from dicom_files import SPACING, write_series
from tiny_bundles import tiny_bundle, write_weights
from workflows import BUNDLES, run_workflow

from aps_components import cli
from aps_components.evaluation.doubt.next_scan import ScanScore
from aps_components.models import read_settings, save_settings
from aps_components.segmentation import segment
from aps_components.segmentation.bundle_inference import BundleInference
from aps_components.segmentation.next_scan import score_scans
from aps_components.segmentation.segment import RESEARCH_ONLY

SHAPE = (17, 24, 40)
WHOLE = ["report.html", "statistics.csv"]  # of all scans
MAPS = ("probabilities", "epistemic", "aleatoric")
# Neither RAS nor along the axes.
AFFINE = np.array([[-0.56, 0.54, 0, 30], [0.42, 0.72, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


def aps(*arguments):
    with patch.object(sys, "argv", ["aps", "segment", *map(str, arguments)]):
        cli.main()


def refusal(*arguments):
    with pytest.raises(SystemExit) as error:
        aps(*arguments)
    return str(error.value)


def write_scan(path, seed=0, *, shape=SHAPE, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(300, 100, shape)
    values[4:12, 6:18, 10:30] += 400
    nib.save(nib.Nifti1Image(values.astype(np.int16), affine), path)
    return path


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def reference(bundle, folder, **options):
    """What `monai.bundle run inference` writes."""
    options = {"bundle_root": str(bundle), "output_dir": str(folder), "device": "cpu", **options}
    run_workflow("inference.json", kind="infer", options=options)
    return folder


@pytest.fixture(scope="module")
def la(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "la", "la")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    write_scan(folder / "a.nii.gz", 0)
    write_scan(folder / "b.nii", 1, shape=(40, 17, 24), affine=np.diag([1.0, 2.0, 1.5, 1.0]))
    return folder


@pytest.fixture(scope="module")
def results(la, scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "new" / "out"
    aps(scans, out, "--bundle", la, "--maps", "--device=cpu")
    return out


@pytest.fixture(scope="module")
def calibrated(la, tmp_path_factory):
    """The tiny bundle, as if its answers to held-out scans had been looked at."""
    folder = tmp_path_factory.mktemp("calibrated") / "la"
    shutil.copytree(la, folder)
    file = folder / "models" / "model.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    points = {"soft_dice": [0.5, 0.6, 0.7, 0.8], "dice": [0.4, 0.5, 0.6, 0.7]}
    looks = {"mean": [0.0] * 6, "std": [1e6] * 6, "scans": 9}
    doubt = {"format": 1, "scans": 4, "source": "test", "classes": {"left atrium": points}, "looks": looks}
    file.write_text(json.dumps({**settings, "temperature": 2.0, "doubt": doubt}))
    return folder


def test_a_calibrated_model_predicts_the_dice_of_every_scan(calibrated, results, scans, tmp_path, capsys):
    aps(scans, tmp_path / "out", "--bundle", calibrated, "--maps", "--device=cpu")
    said = capsys.readouterr().out
    for name in "ab":
        content = json.loads((tmp_path / "out" / f"{name}_statistics.json").read_text())
        (entry,) = content["classes"]
        assert 0 <= entry["predicted_dice"]["low"] <= entry["predicted_dice"]["value"]
        assert entry["predicted_dice"]["value"] <= entry["predicted_dice"]["high"] <= 1
        assert content["unlike_training"] in (True, False)
        assert f"{entry['predicted_dice']['value']:.2f} (" in said
        file = f"{name}_seg.nii.gz"
        np.testing.assert_array_equal(voxels(tmp_path / "out" / file), voxels(results / file))
        before, after = (voxels(folder / f"{name}_probabilities.nii.gz") for folder in (results, tmp_path / "out"))
        assert np.abs(after - 0.5).mean() < np.abs(before - 0.5).mean()  # less sure by the temperature
    with open(tmp_path / "out" / "statistics.csv", newline="") as stream:
        assert {"predicted_dice value", "unlike_training"} <= set(next(csv.DictReader(stream)))
    assert "predicted Dice" in (tmp_path / "out" / "report.html").read_text()


def test_another_predictor_than_the_calibrated_one_predicts_nothing(calibrated, scans, tmp_path):
    aps(scans / "a.nii.gz", tmp_path, "--bundle", calibrated, "--device=cpu", "--predictor", "a")
    assert "unlike_training" not in json.loads((tmp_path / "a_statistics.json").read_text())


def test_scores_of_the_next_scan_are_made_once_for_each_weights(calibrated, scans, tmp_path, capsys):
    def next_scan(source):
        with patch.object(sys, "argv", ["aps", "next-scan", str(source), "--bundle", str(calibrated), *more]):
            cli.main()
        return capsys.readouterr().out

    more = ["--out", str(tmp_path / "scores.json"), "--device", "cpu", "--strategy", "predicted_dice"]
    first = next_scan(scans)
    scores = json.loads((tmp_path / "scores.json").read_text())["scans"]
    assert set(scores) == {"a", "b"}
    assert first.splitlines()[0][0] == min(scores, key=lambda name: scores[name]["predicted_dice"])
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"one": str(scans / "a.nii.gz"), "gone": str(tmp_path / "gone.nii.gz")}))
    with pytest.raises(SystemExit, match=r"^1 of 2 scan\(s\) failed: gone$"):
        next_scan(listed)
    said = capsys.readouterr().out
    assert "gone: not scored" in said
    assert "one  entropy" in said
    listed.write_text(json.dumps({"one": str(scans / "a.nii.gz")}))
    with patch("aps_components.segmentation.next_scan.BundleInference.load", side_effect=AssertionError):
        next_scan(listed)


def test_a_series_that_was_converted_is_gone_once_it_is_scored(la, tmp_path, monkeypatch):
    for number in (3, 4, 5):
        write_series(tmp_path / "series" / str(number), SeriesNumber=number, SeriesInstanceUID=f"1.2.3.{number}")
    place, there = [], []

    def score(inference, files):
        assert [Path(file).is_file() for file in files] == [True]
        there.append(len([*Path(place[0]).rglob("*.nii*")]))
        return ScanScore(entropy={"left atrium": 0.5})

    monkeypatch.setattr(BundleInference, "load", lambda self, work, device=None: place.append(work))
    monkeypatch.setattr("aps_components.segmentation.next_scan._score", score)
    result = score_scans(tmp_path / "series", bundle=la, target=tmp_path / "scores.json")
    assert len(result.scores) == 3
    assert there == [1, 1, 1]


def test_scans_that_cannot_be_scored_are_named_and_the_others_are(calibrated, scans, tmp_path, capsys):
    """As with aps segment: a file cut short, one without content, and what lies there and is no scan."""
    shutil.copytree(scans, tmp_path / "scans")
    whole = (scans / "a.nii.gz").read_bytes()
    (tmp_path / "scans" / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "scans" / "a_seg.nii.gz").write_bytes(whole)
    (tmp_path / "scans" / "empty.nii").touch()
    out = tmp_path / "scores.json"
    options = ["--bundle", str(calibrated), "--out", str(out), "--device", "cpu"]
    command = ["aps", "next-scan", str(tmp_path / "scans"), *options]
    with patch.object(sys, "argv", command), pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().out
    assert ended.value.code == "2 of 4 scan(s) failed: cut, empty"
    assert set(json.loads(out.read_text())["scans"]) == {"a", "b"}
    assert {line.split(":")[0] for line in said.splitlines() if "not scored" in line} == {"cut", "empty"}
    assert "Left out a_seg: " in said


def test_where_no_scan_is_scored_no_scores_are_written(calibrated, tmp_path, capsys):
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"gone": str(tmp_path / "gone.nii.gz")}))
    for out in ("scores.json", "listed.txt", "list.json/scores.json"):
        options = ["--bundle", str(calibrated), "--out", str(tmp_path / out), "--device", "cpu"]
        with patch.object(sys, "argv", ["aps", "next-scan", str(listed), *options]), pytest.raises(SystemExit) as ended:
            cli.main()
        assert str(listed if out == "scores.json" else tmp_path / out).split("/scores")[0] in ended.value.code
    assert [file.name for file in tmp_path.iterdir()] == ["list.json"]


def test_another_model_that_segments_the_same_scan_meanwhile_is_not_mixed_with(la, scans, tmp_path, capsys):
    """Whoever comes second is refused, and the first one's files stay as they are."""
    scan, first = scans / "a.nii.gz", tmp_path / "first"
    aps(scan, first, "--bundle", la, "--device=cpu", "--maps")
    out = tmp_path / "out"

    def meanwhile(self, answer):
        shutil.copytree(first, out, dirs_exist_ok=True)
        return write(self, answer)

    write = BundleInference.write
    command = ["--bundle", la, "--device=cpu", "--predictor", "a"]
    with patch.object(BundleInference, "write", meanwhile):
        assert "1 of 1 scan(s) failed: a" in refusal(scan, out, *command)
    assert "another model or other settings" in capsys.readouterr().out
    for file in first.iterdir():
        if file.name.startswith("a_"):
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name


def test_every_file_is_there_and_no_other(results):
    each = ("aleatoric.nii.gz", "epistemic.nii.gz", "preview.png", "probabilities.nii.gz", "prompts.json")
    each += ("seg.nii.gz", "statistics.json")
    assert names(results) == [f"{scan}_{name}" for scan in "ab" for name in each] + WHOLE


def test_files_are_those_of_the_bundles_own_inference(la, scans, results, tmp_path):
    """Voxel for voxel, in one process for all scans or in one for each, with the maps or without."""
    for scan in ("a.nii.gz", "b.nii"):
        reference(la, tmp_path / "maps", image=str(scans / scan), save_maps=True)
        reference(la, tmp_path / "plain", image=str(scans / scan))
    for name in "ab":
        own = nib.load(results / f"{name}_seg.nii.gz")
        assert 0 < voxels(results / f"{name}_seg.nii.gz").sum() < own.shape[0] * own.shape[1] * own.shape[2]
        for other in ("maps", "plain"):
            np.testing.assert_array_equal(np.asarray(own.dataobj), voxels(tmp_path / other / f"{name}_seg.nii.gz"))
        for which in MAPS:
            file = f"{name}_{which}.nii.gz"
            np.testing.assert_array_equal(voxels(results / file), voxels(tmp_path / "maps" / file))
        prompts = f"{name}_prompts.json"
        assert (results / prompts).read_text() == (tmp_path / "maps" / prompts).read_text()


def test_the_label_map_lies_on_the_scans_own_grid(scans, results):
    for scan in ("a.nii.gz", "b.nii"):
        image, label_map = nib.load(scans / scan), nib.load(results / f"{scan[0]}_seg.nii.gz")
        assert label_map.shape == image.shape
        np.testing.assert_allclose(label_map.affine, image.affine, atol=1e-5)
        assert label_map.get_data_dtype() == np.uint8


def test_statistics_are_those_of_the_files(scans, results):
    content = json.loads((results / "a_statistics.json").read_text())
    (entry,) = content["classes"]
    inside = voxels(scans / "a.nii.gz")[voxels(results / "a_seg.nii.gz") == 1].astype(float)
    assert (content["scan"], entry["label"], entry["name"]) == ("a", 1, "left atrium")
    assert entry["voxels"] == len(inside)
    assert entry["volume_ml"] == pytest.approx(len(inside) * 0.7 * 0.9 * 3.0 / 1000, rel=1e-6)
    assert entry["intensity"]["image"] == pytest.approx(
        {"mean": inside.mean(), "std": inside.std(), "min": inside.min(), "max": inside.max()}
    )
    with open(results / "statistics.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["scan"] for row in table] == ["a", "b"]
    assert float(table[0]["volume_ml"]) == entry["volume_ml"]
    assert float(table[0]["mean"]) == entry["intensity"]["image"]["mean"]


def test_what_is_there_is_not_made_again(la, scans, results, tmp_path, capsys):
    out = shutil.copytree(results, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name not in WHOLE}
    (out / "b_statistics.json").unlink()
    with patch("aps_components.segmentation.bundle_inference.BundleInference.load") as load:
        aps(scans, out, "--bundle", la, "--device=cpu")
    load.assert_not_called()
    printed = capsys.readouterr().out
    assert "[1/2] a  is there already\n" in printed
    assert "0 segmented, 2 there already, 0 failed" in printed
    assert names(out) == names(results)  # what was missing is made from the label map
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name for name in before if after[name] != before[name]} == {"b_statistics.json"}
    assert (out / "statistics.csv").read_text() == (results / "statistics.csv").read_text()


def test_results_of_other_settings_are_refused_and_replaced_on_request(la, scans, results, tmp_path, capsys):
    out = shutil.copytree(results, tmp_path / "out")
    arguments = (scans / "a.nii.gz", out, "--bundle", la, "--device=cpu", "--predictor=a")
    assert refusal(*arguments) == "1 of 1 scan(s) failed: a"
    said = capsys.readouterr().out
    assert "a_seg.nii.gz is by another model or other settings (settings); give another OUTPUT, or --overwrite" in said
    np.testing.assert_array_equal(voxels(out / "a_seg.nii.gz"), voxels(results / "a_seg.nii.gz"))
    aps(*arguments, "--overwrite")
    reference(la, tmp_path / "ref", image=str(scans / "a.nii.gz"), predictor="a")
    np.testing.assert_array_equal(voxels(out / "a_seg.nii.gz"), voxels(tmp_path / "ref" / "a_seg.nii.gz"))
    assert (voxels(out / "a_seg.nii.gz") != voxels(results / "a_seg.nii.gz")).any()
    assert [name for name in names(out) if name.startswith("a_")] == [  # no maps of the earlier answer beside it
        "a_preview.png",
        "a_seg.nii.gz",
        "a_statistics.json",
    ]
    assert json.loads((out / "a_statistics.json").read_text())["made_by"]["settings"] == {"predictor": "a"}


def test_one_scan_may_go_to_a_file(la, scans, results, tmp_path, capsys):
    aps(scans / "a.nii.gz", tmp_path / "new" / "mine.nii.gz", "--bundle", la, "--nopreview", "--device=cpu")
    assert names(tmp_path / "new") == ["mine.nii.gz", "mine_statistics.csv", "mine_statistics.json"]
    np.testing.assert_array_equal(voxels(tmp_path / "new" / "mine.nii.gz"), voxels(results / "a_seg.nii.gz"))
    lines = capsys.readouterr().out.splitlines()
    assert f"label map   {tmp_path / 'new' / 'mine.nii.gz'}" in lines
    assert lines[-1] == RESEARCH_ONLY


def test_a_broken_scan_is_named_and_the_others_go_on(la, scans, results, tmp_path, capsys):
    """In whatever order: what comes after a scan that broke off is what it is alone."""
    folder = shutil.copytree(scans, tmp_path / "in")
    content = (folder / "a.nii.gz").read_bytes()
    (folder / "a1.nii.gz").write_bytes(content[: len(content) // 2])
    values = voxels(folder / "a.nii.gz").astype(np.float32)
    values[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(values, AFFINE), folder / "a2.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([values, values], -1), AFFINE), folder / "a3.nii.gz")
    nib.save(nib.Nifti1Image(values[..., 0], AFFINE), folder / "a4.nii.gz")
    out = tmp_path / "out"
    assert refusal(folder, out, "--bundle", la, "--nopreview", "--device=cpu") == (
        "4 of 6 scan(s) failed: a1, a2, a3, a4"
    )
    printed = capsys.readouterr().out
    for number, reason in enumerate(
        ("cannot be read as NIfTI", "1 voxels are NaN or infinite", "2 channel(s) where 1 are wanted", "a 2-D image"),
        start=1,
    ):
        assert f"a{number}  failed: {folder / f'a{number}.nii.gz'}: {reason}" in printed
    assert "2 segmented, 0 there already, 4 failed" in printed
    assert names(out) == ["a_seg.nii.gz", "a_statistics.json", "b_seg.nii.gz", "b_statistics.json", *WHOLE]
    for name in ("a_seg.nii.gz", "b_seg.nii.gz"):
        np.testing.assert_array_equal(voxels(out / name), voxels(results / name))


def test_a_label_map_is_all_there_or_not(la, scans, tmp_path):
    """Killed while the bundle writes: the next call does not take a part for the whole."""
    with (
        patch("aps_components.segmentation.outputs.os.replace", side_effect=KeyboardInterrupt),
        pytest.raises(SystemExit) as error,
    ):
        aps(scans / "a.nii.gz", tmp_path, "--bundle", la, "--device=cpu")
    assert error.value.code == 130
    assert names(tmp_path) == []


def test_another_checkpoint(la, scans, results, tmp_path):
    weights = write_weights(tmp_path / "models" / "model.pt", num_classes=2, seed=5)
    arguments = ("--bundle", la, "--checkpoint", weights, "--nopreview", "--device=cpu")
    aps(scans / "a.nii.gz", tmp_path / "out", *arguments)
    reference(la, tmp_path / "ref", image=str(scans / "a.nii.gz"), checkpoint=str(weights))
    label_map = voxels(tmp_path / "out" / "a_seg.nii.gz")
    np.testing.assert_array_equal(label_map, voxels(tmp_path / "ref" / "a_seg.nii.gz"))
    assert (label_map != voxels(results / "a_seg.nii.gz")).any()


def test_weights_of_other_classes_are_noted(la, scans, tmp_path, capsys):
    weights = write_weights(tmp_path / "models" / "model.pt", num_classes=2, seed=5)
    save_settings({**read_settings(weights), "labels": {"0": "background", "1": "tumour"}}, weights)
    arguments = ("--checkpoint", weights, "--nopreview", "--device=cpu")
    aps(scans / "a.nii.gz", tmp_path / "out", "--bundle", la, *arguments)
    assert f"Note: {weights} finds tumour; the bundle 'la' is made for left atrium" in capsys.readouterr().out


def test_a_bundle_in_a_zip_is_the_bundle(la, scans, results, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.make_archive(str(tmp_path / "la_v0.1.0"), "zip", la.parent, "la")
    aps(scans / "a.nii.gz", tmp_path / "out", "--bundle", tmp_path / "la_v0.1.0.zip", "--nopreview", "--device=cpu")
    np.testing.assert_array_equal(voxels(tmp_path / "out" / "a_seg.nii.gz"), voxels(results / "a_seg.nii.gz"))
    assert len(list((tmp_path / "cache" / "aps" / "bundles").iterdir())) == 1


def test_a_dicom_series_is_its_nifti_file(la, tmp_path):
    series = write_series(tmp_path / "DOE_JANE", ending=".dcm")
    out = tmp_path / "out"
    aps(series, out, "--bundle", la, "--device=cpu")
    stem = "003_t1_axial_gd"
    files = [f"{stem}_{name}" for name in ("image.nii.gz", "preview.png", "seg.nii.gz", "statistics.json")]
    assert names(out) == [*files, *WHOLE]
    image, label_map = nib.load(out / f"{stem}_image.nii.gz"), nib.load(out / f"{stem}_seg.nii.gz")
    assert image.header.get_zooms() == pytest.approx(SPACING)
    np.testing.assert_allclose(label_map.affine, image.affine, atol=1e-5)
    reference(la, tmp_path / "ref", image=str(out / f"{stem}_image.nii.gz"))
    np.testing.assert_array_equal(voxels(tmp_path / "ref" / f"{stem}_image_seg.nii.gz"), np.asarray(label_map.dataobj))
    assert not any("DOE" in path.read_text().upper() for path in out.glob("*.[jch][st]*"))


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "brats", "brats")


def test_several_modalities_and_an_override_file(brats, tmp_path):
    modalities = ("t1n", "t1c", "t2w", "t2f")
    for seed, modality in enumerate(modalities):
        write_scan(tmp_path / "p-1" / f"p-1-{modality}.nii.gz", seed)
    parts = [voxels(tmp_path / "p-1" / f"p-1-{modality}.nii.gz") for modality in modalities]
    nib.save(nib.Nifti1Image(np.stack(parts, axis=-1), AFFINE), tmp_path / "whole.nii.gz")
    for source, name in ((tmp_path / "p-1", "p-1"), (tmp_path / "whole.nii.gz", "whole")):
        aps(source, tmp_path / "out", "--bundle", brats, "--device=cpu", "--nopreview")
        content = json.loads((tmp_path / "out" / f"{name}_statistics.json").read_text())
        assert [entry["name"] for entry in content["classes"]] == ["necrotic core", "oedema", "enhancing tumour"]
        for entry in content["classes"]:
            mask = voxels(tmp_path / "out" / f"{name}_seg.nii.gz") == entry["label"]
            assert list(entry["intensity"]) == list(modalities)
            for modality, part in zip(modalities, parts, strict=True):
                assert entry["intensity"][modality]["mean"] == pytest.approx(part[mask].mean() if mask.any() else None)
    np.testing.assert_array_equal(
        voxels(tmp_path / "out" / "p-1_seg.nii.gz"), voxels(tmp_path / "out" / "whole_seg.nii.gz")
    )
    weights = write_weights(tmp_path / "flair" / "model.pt", num_classes=2)
    options = ("--bundle", brats, "--config=flair_whole_tumour", "--checkpoint", weights, "--device=cpu")
    aps(tmp_path / "p-1", tmp_path / "flair_out", *options)
    content = json.loads((tmp_path / "flair_out" / "p-1-t2f_statistics.json").read_text())
    assert [entry["name"] for entry in content["classes"]] == ["whole tumour"]
    assert content["made_by"]["configs"] == ["flair_whole_tumour.json"]


def test_a_missing_modality_says_which(brats, tmp_path):
    write_scan(tmp_path / "p-1-t1n.nii.gz")
    assert "no files of the modality t1c" in refusal(tmp_path, tmp_path / "out", "--bundle", brats)


FAULTS = [
    (("--bundle", "nope"), "no bundle 'nope': there are "),
    (("--bundle", "{la}", "--checkpoint", "no.pt"), "no checkpoint at "),
    (("--bundle", "{la}", "--overlp=0.1"), "no option --overlp; did you mean --overlap?"),
    (("--bundle", "{la}", "--output_postfix=x"), "no option --output_postfix; there are: amp"),
    (("--bundle", "{la}", "--overlap=1"), "overlap 1 must be a number in [0, 1)"),
    (("--bundle", "{la}", "--predictor=c"), "predictor 'c' must be 'a', 'b' or 'average'"),
    (("--bundle", "{la}", "--device=tpu9"), "device 'tpu9' is no device"),
    (("--bundle", "{la}", "--device=cuda:99"), "device 'cuda:99': this machine has "),
    (("--bundle", "{la}", "--config=nope"), "no config 'nope': give a path, or "),
    (("--bundle", "{la}", "--spacing=[3,3,3]"), "{la}/models/model.pt was trained with other settings: spacing"),
    (("--bundle", "{la}", "--report=perhaps"), "report 'perhaps' must be true or false"),
    (("--bundle", "{la}", "--maps=perhaps"), "maps 'perhaps' must be true or false"),
]


@pytest.mark.parametrize(
    ("options", "message"), FAULTS, ids=lambda value: value[-1] if isinstance(value, tuple) else ""
)
def test_a_wrong_option_is_one_plain_line(la, scans, tmp_path, options, message):
    message = message.partition("; there are")[0].format(la=la)
    said = refusal(scans / "a.nii.gz", tmp_path / "out", *(option.format(la=la) for option in options))
    assert said.partition(": ")[2].startswith(message)
    assert "\n" not in said
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_no_weights_say_how_to_get_some_before_any_work(scans, tmp_path):
    with patch("aps_components.segmentation.segment.choose_outputs") as later:
        said = refusal(scans / "a.nii.gz", tmp_path / "out", "--bundle", BUNDLES / "amos")
    assert "the bundle 'amos' has no weights" in said
    later.assert_not_called()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("{scans}/a.nii.gz", "would overwrite the scan"),
        ("{out}/a.nii", "must be a folder, or for one scan a file that ends in .nii.gz"),
        ("{scans}/a.nii.gz/out", "cannot write into"),
    ],
)
def test_an_output_that_cannot_be_is_refused(la, scans, tmp_path, output, message):
    before = (scans / "a.nii.gz").read_bytes()
    said = refusal(scans / "a.nii.gz", output.format(scans=scans, out=tmp_path), "--bundle", la, "--overwrite")
    assert message in said
    assert (scans / "a.nii.gz").read_bytes() == before
    assert names(tmp_path) == []


def test_several_scans_do_not_go_to_one_file(la, scans, tmp_path):
    assert "but there are 2 scans; give a folder" in refusal(scans, tmp_path / "x.nii.gz", "--bundle", la)


def test_a_bundle_of_another_kind_is_refused(scans, tmp_path):
    (tmp_path / "zoo" / "configs").mkdir(parents=True)
    (tmp_path / "zoo" / "configs" / "inference.json").write_text('{"network_def": {}}')
    said = refusal(scans / "a.nii.gz", tmp_path / "out", "--bundle", tmp_path / "zoo")
    assert "no key 'labels', as every bundle of AutoPromptSeg has" in said


@pytest.mark.parametrize("name", ["2024_01_05", "20240105", "./2024_01_05"])
def test_a_path_that_reads_as_a_number_is_a_path(la, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    assert f"{Path(name)}: neither a .nii or .nii.gz file nor DICOM" in refusal(name, "out", "--bundle", la)


def test_a_label_map_for_a_scan_is_remarked_on(la, results, tmp_path, capsys):
    aps(results / "a_seg.nii.gz", tmp_path, "--bundle", la, "--nopreview", "--device=cpu")
    assert "(few different values: is this a scan, or a label map?)" in capsys.readouterr().out


def test_other_settings_of_the_bundle_are_options(la, scans, tmp_path):
    result = segment(
        scans / "a.nii.gz", tmp_path, bundle=la, device="cpu", preview=False, settings={"largest_component": False}
    )
    reference(la, tmp_path / "ref", image=str(scans / "a.nii.gz"), largest_component=False)
    np.testing.assert_array_equal(voxels(tmp_path / "a_seg.nii.gz"), voxels(tmp_path / "ref" / "a_seg.nii.gz"))
    assert (result.done, result.skipped, result.failed, result.scans) == (["a"], [], {}, 1)


@pytest.mark.slow
def test_a_real_scan(la, shared_data, tmp_path):
    """Of its own size and spacing; the network is not trained, so only the grid and the files are looked at."""
    scan = sorted((shared_data / "la" / "images").glob("*.nii.gz"))[0]
    aps(scan, tmp_path, "--bundle", la, "--device=cpu")
    name = scan.name.removesuffix(".nii.gz")
    assert nib.load(tmp_path / f"{name}_seg.nii.gz").shape == nib.load(scan).shape
    assert (tmp_path / f"{name}_preview.png").stat().st_size > 10_000
