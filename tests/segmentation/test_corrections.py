"""``aps segment --prompts``, on made-up scans and tiny networks."""

import json

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_series
from test_segment import AFFINE, SHAPE, aps, names, refusal, tiny_bundle, voxels, write_scan

from aps_components.inference.interactive import InteractiveVolume
from aps_components.models import copy_settings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Trained with prompts, as its settings say."""
    folder = tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", "la", largest_component=False)
    weights = folder / "models" / "model.pt"
    copy_settings(weights, weights, more={"simulated_user": {}})
    return folder


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "scans" / "a.nii.gz")


def segment(scan, out, bundle, *more):
    aps(scan, out, f"--bundle={bundle}", "--device=cpu", "--nopreview", *more)


def prompts(path, points, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"scan": "a", "points": points, **changes}))
    return path


def other(label_map, voxel):
    return 1 - int(label_map[voxel])


def test_what_maps_wrote_is_edited_and_given_back(bundle, scan, tmp_path, capsys):
    out = tmp_path / "out"
    segment(scan, out, bundle, "--maps")
    file = out / "a_prompts.json"
    content = json.loads(file.read_text())
    assert content["shape"] == list(SHAPE)
    np.testing.assert_allclose(content["affine"], AFFINE, atol=1e-4)
    assert {point["source"] for point in content["points"]} <= {"model"}
    before = voxels(out / "a_seg.nii.gz")
    clicks = [(3, 5, 7), (12, 20, 33)]
    content["points"] += [{"label": other(before, voxel), "voxel": list(voxel)} for voxel in clicks]
    file.write_text(json.dumps(content))
    segment(scan, out, bundle, "--maps", f"--prompts={file}")
    after = voxels(out / "a_seg.nii.gz")
    assert all(after[voxel] == 1 - before[voxel] for voxel in clicks)
    probabilities = voxels(out / "a_probabilities.nii.gz")
    assert probabilities.shape == (*SHAPE, 2)
    assert all(probabilities[(*voxel, after[voxel])] > 0.9 for voxel in clicks)
    assert names(out) == names_with_maps()
    np.testing.assert_allclose(nib.load(out / "a_seg.nii.gz").affine, AFFINE, atol=1e-5)
    again = json.loads(file.read_text())
    assert [point["voxel"] for point in again["points"] if point["source"] == "user"] == list(map(list, clicks))
    assert sum(point["source"] == "model" for point in again["points"]) == len(content["points"]) - 2
    first = file.read_text()
    segment(scan, out, bundle, f"--prompts={file}")
    np.testing.assert_array_equal(voxels(out / "a_seg.nii.gz"), after)
    assert file.read_text() == first
    said = capsys.readouterr().out
    assert "failed" not in said.replace("0 failed", "")
    gone = "a_probabilities.nii.gz, a_epistemic.nii.gz, a_aleatoric.nii.gz"
    assert f"(note: maps of the former answer are removed: {gone})" in said
    assert set(names_with_maps()) - set(names(out)) == set(gone.split(", "))
    refusal(scan, out, f"--bundle={bundle}", "--device=cpu", "--nopreview")
    assert f"{file} holds a person's prompts: segment with --prompts {file}" in capsys.readouterr().out


def names_with_maps():
    parts = ("aleatoric.nii.gz", "epistemic.nii.gz", "probabilities.nii.gz", "prompts.json", "seg.nii.gz")
    return sorted([*(f"a_{part}" for part in parts), "a_statistics.json", "report.html", "statistics.csv"])


def test_a_file_without_a_persons_words_changes_nothing(bundle, scan, tmp_path):
    segment(scan, tmp_path / "out", bundle, "--maps")
    segment(scan, tmp_path / "again", bundle, f"--prompts={tmp_path / 'out' / 'a_prompts.json'}")
    one, two = (voxels(tmp_path / folder / "a_seg.nii.gz") for folder in ("out", "again"))
    assert (one == two).mean() > 0.9999
    assert names(tmp_path / "again") == [
        "a_prompts.json",
        "a_seg.nii.gz",
        "a_statistics.json",
        "report.html",
        "statistics.csv",
    ]


def test_a_persons_file_is_not_overwritten(bundle, scan, tmp_path):
    out = tmp_path / "out"
    file = prompts(out / "a_prompts.json", [{"label": 1, "voxel": [1, 2, 3]}])
    text = file.read_text()
    message = refusal(scan, out, f"--bundle={bundle}", "--device=cpu", "--maps", "--overwrite")
    assert message == "1 of 1 scan(s) failed: a"
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("points", "changes", "message"),
    [
        ([{"label": 1, "voxel": [17, 0, 0]}], {}, "points[0]: voxel [17.0, 0.0, 0.0] lies outside the scan"),
        ([{"name": "liver", "voxel": [1, 0, 0]}], {}, "points[0]: there is no class 'liver'"),
        ([], {"scan": "b"}, "the prompts are of scan 'b', not of 'a'"),
        ([], {"shape": [1, 2, 3]}, "the prompts are of a scan of [1, 2, 3] voxels"),
    ],
)
def test_nothing_is_written_where_the_file_does_not_fit(bundle, scan, tmp_path, points, changes, message):
    file = prompts(tmp_path / "p.json", points, **changes)
    said = refusal(scan, tmp_path / "out", f"--bundle={bundle}", f"--prompts={file}")
    assert said.startswith(f"DataError: {file}: {message}")
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_trained_without_prompts_is_refused(scan, tmp_path):
    bundle = tiny_bundle(tmp_path / "untaught", "la")
    file = prompts(tmp_path / "p.json", [{"label": 1, "voxel": [1, 2, 3]}])
    said = refusal(scan, tmp_path / "out", f"--bundle={bundle}", f"--prompts={file}")
    assert "was trained without prompts" in said
    assert "--simulated_user" in said
    assert not (tmp_path / "out").exists()


def test_one_file_is_for_one_scan(bundle, scan, tmp_path):
    write_scan(scan.parent / "b.nii.gz", seed=1)
    file = prompts(tmp_path / "p.json", [])
    said = refusal(scan.parent, tmp_path / "out", f"--bundle={bundle}", f"--prompts={file}")
    assert "is about one scan, but there are 2" in said


def test_contradictions_are_said(bundle, scan, tmp_path, capsys):
    points = [{"label": 1, "voxel": [1, 2, 3]}, {"label": 0, "voxel": [1, 2, 3]}]
    file = prompts(tmp_path / "p.json", points)
    segment(scan, tmp_path / "out", bundle, f"--prompts={file}")
    assert voxels(tmp_path / "out" / "a_seg.nii.gz")[1, 2, 3] == 0
    assert "the later word counts" in capsys.readouterr().out


def test_what_the_answer_tells_of_a_box_is_said(bundle, scan, tmp_path, capsys, monkeypatch):
    segment(scan, tmp_path / "out", bundle)
    place = np.argwhere(voxels(tmp_path / "out" / "a_seg.nii.gz") == 0)[0].tolist()
    monkeypatch.setattr(InteractiveVolume, "_obey_box", lambda *_: None)
    file = prompts(tmp_path / "p.json", [], boxes=[{"label": 1, "voxel": [place, place]}])
    segment(scan, tmp_path / "again", bundle, f"--prompts={file}")
    assert "(note: box" in (said := capsys.readouterr().out)
    assert "the model finds nothing of class 1 in it" in said


def test_a_dicom_series_is_told_by_its_geometry(bundle, tmp_path):
    pytest.importorskip("SimpleITK")
    write_series(tmp_path / "study")
    segment(tmp_path / "study", tmp_path / "out", bundle, "--maps")
    (file,) = (tmp_path / "out").glob("*_prompts.json")
    content = json.loads(file.read_text())
    before = voxels(next((tmp_path / "out").glob("*_seg.nii.gz")))
    content["points"].append({"label": other(before, (2, 3, 4)), "voxel": [2, 3, 4]})
    file.write_text(json.dumps(content))
    segment(tmp_path / "study", tmp_path / "out", bundle, f"--prompts={file}")
    assert voxels(next((tmp_path / "out").glob("*_seg.nii.gz")))[2, 3, 4] == 1 - before[2, 3, 4]
