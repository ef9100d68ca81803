"""The report of an evaluation, from what an evaluation of stubs wrote on thick slices."""

import json
import math
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from reports import read_report

from aps_components.data import evaluation_transforms
from aps_components.evaluation import Evaluation
from aps_components.inference import VolumePrediction
from aps_components.models import save_settings
from aps_components.report import write_evaluation_report

SHAPE, SPACING = (37, 29, 11), (1.5, 1.5, 10.0)
EVIL = '<script>alert("a")<'
LABELS = {0: "background", 1: "left & <b>right</b>", 2: "wall"}


class Inferer:
    """Says the class that the image shows, with 90 % and doubts that the image tells."""

    def predict(self, image, network):
        shown = image[0, 0].round().long().clamp(0, 2)
        sure = torch.full((1, 3, *shown.shape), 0.05).scatter(1, shown[None, None], 0.9)
        doubts = (image - image.round()).abs()
        return VolumePrediction(sure, sure, sure, doubts, doubts, [])


def write_case(folder, name, *, missing, doubt):
    """A block of class 1 between two of class 2; of the first, ``missing`` slices of 1.5 mm are not seen."""
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[5:20, 6:17, 3:8], truth[25:31, 6:17, 3:8] = 1, 2
    seen = truth.astype(np.float32)
    seen[5 : 5 + missing] = 0
    seen[seen > 0] += doubt
    files = {}
    for kind, values in (("image", seen), ("label", truth)):
        file = folder / f"{kind}s" / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, np.diag([*SPACING, 1])), file)
        files[kind] = str(file)
    return files


CASES = {"good": (0, 0.01), EVIL: (9, 0.2), "middling": (3, 0.1), "lost": (15, 0.3)}
WORST_FIRST = ["lost", EVIL, "middling", "good"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluated")
    Evaluation(
        items=[write_case(place, name, missing=lost, doubt=doubt) for name, (lost, doubt) in CASES.items()],
        network=SimpleNamespace(predictor="average", to=lambda _: SimpleNamespace(eval=lambda: None)),
        inferer=Inferer(),
        preprocessing=evaluation_transforms(keys="image", intensity=None, spacing=None),
        labels=LABELS,
        device="cpu",
        output_dir=place / "out",
        split="validation",
        pictures=3,
    ).run()
    return place / "out"


@pytest.fixture(scope="module")
def report(folder):
    return read_report(write_evaluation_report(folder, name="<i>mine</i>", commands=["aps evaluate 'a b' <c>"]))


def test_names_are_letters_and_no_elements(report):
    assert not {"script", "i", "b"} & set(report.tags)
    assert EVIL in report.words
    assert LABELS[1] in report.words
    assert "<i>mine</i>" in report.titles[0]
    assert "aps evaluate 'a b' <c>" in report.words


def test_the_worst_case_stands_first_everywhere(report):
    tables = [table for table in report.tables if table[0][0] == "case" and table[0][1] == "mean"]
    assert len(tables) == 2  # Dice and NSD
    for table in tables:
        assert [row[0] for row in table[1:]] == WORST_FIRST
    assert [alt.partition(":")[0] for alt, _ in report.pictures("worst error")] == WORST_FIRST[:3]


def test_figures_are_those_of_the_cases(report):
    by_class = {row[0]: row for row in report.table("class", "cases", "Dice %")}
    assert list(by_class) == [LABELS[1], "wall"]  # the worst class first
    expected = [2 * (15 - lost) / (30 - lost) for lost, _ in CASES.values()]
    assert by_class[LABELS[1]][2] == f"{100 * np.mean(expected):.1f} ± {100 * np.std(expected):.1f}"
    assert by_class[LABELS[1]][-1] == "lost (0.0)"
    assert by_class["wall"][2] == "100.0 ± 0.0"
    dice = next(table for table in report.tables if table[0][:2] == ["case", "mean"])
    assert dice[1] == ["lost", "50.0", "0.0", "100.0"]


def test_volumes_are_in_millilitres_the_largest_difference_first(report):
    slice_ml = 11 * 5 * math.prod(SPACING) / 1000
    rows = report.table("case", "class", "truth, ml")
    assert [(row[0], row[1]) for row in rows[:3]] == [(case, LABELS[1]) for case in WORST_FIRST[:3]]
    assert rows[0][2:] == [f"{15 * slice_ml:.4g}", "0", f"{-15 * slice_ml:+.3g}", "-100.0"]
    assert float(rows[1][4]) == pytest.approx(-9 * slice_ml, rel=0.01)
    agreement = {row[0]: row for row in report.table("class", "cases", "truth, mean ml")}
    assert float(agreement[LABELS[1]][4]) == pytest.approx(-(0 + 9 + 3 + 15) / 4 * slice_ml, rel=0.01)
    assert agreement["wall"][5] == "+0 to +0"


def test_calibration_is_pooled_and_doubtful_cases_are_ranked(report, folder):
    scans = json.loads((folder / "metrics.json").read_text())["scans"]
    ece = [100 * scan["calibration"]["ece"] for scan in scans]
    rows = {row[0]: row[1] for row in report.table("measure")}
    assert rows["expected calibration error (ECE)"] == f"{np.mean(ece):.1f} ± {np.std(ece):.1f}"
    ranked = report.table("case", "epistemic uncertainty")
    assert [row[0] for row in ranked] == WORST_FIRST
    assert float(ranked[0][1]) == pytest.approx(0.3, abs=0.01)
    assert "Rank correlation (Spearman) -1.00 over 4 cases" in report.words


def test_pictures_show_three_planes_at_their_true_proportions(report):
    """Black between them: the axial plane is 37 x 29 voxels of 1.5 mm, the others 110 mm high."""
    for _, picture in report.pictures("worst error"):
        lit = np.asarray(picture.convert("L")) > 40
        assert picture.width / picture.height > 1.5
        assert lit.any(axis=0).mean() > 0.3


def test_the_same_files_give_the_same_page(folder, report):
    assert write_evaluation_report(folder, name="<i>mine</i>", commands=["aps evaluate 'a b' <c>"]).read_text() == (
        report.source
    )


def test_what_an_older_evaluation_did_not_write_is_left_out(tmp_path, folder):
    content = json.loads((folder / "metrics.json").read_text())
    del content["scans"], content["context"]["inference_variant"]
    for row in content["cases"]:
        del row["nsd"]
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    report = read_report(write_evaluation_report(tmp_path))
    assert report.titles[1:] == ["What was evaluated", "Dice and NSD by class and case"]
    assert report.images == []
    assert {row[4] for row in report.table("class", "cases", "Dice %")} == {"\N{EN DASH}"}


@pytest.mark.parametrize("picture", ["../../secret.png", "/etc/hostname", 7, ["a"], "metrics.json"])
def test_no_picture_comes_from_elsewhere(tmp_path, folder, picture):
    content = json.loads((folder / "metrics.json").read_text())
    for scan in content["scans"]:
        scan["picture"] = picture
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(next((folder / "worst_cases").iterdir()).read_bytes())
    (tmp_path / "in" / "metrics.json").write_text(json.dumps(content))
    assert read_report(write_evaluation_report(tmp_path / "in")).pictures("worst error") == []


def test_another_page_of_that_name_is_not_replaced(tmp_path, folder):
    (tmp_path / "metrics.json").write_bytes((folder / "metrics.json").read_bytes())
    (tmp_path / "report.html").write_text("<html>mine</html>")
    with pytest.raises(FileExistsError, match=r"report.html is no report of AutoPromptSeg .*; move it away"):
        write_evaluation_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "<html>mine</html>"


def test_that_scans_are_new_to_the_model_is_said_only_where_its_settings_tell(tmp_path, folder, report):
    """Those of the evaluation above had no checkpoint; a scan's fingerprint beside one tells."""
    unknown, known = "whether these are new to it is unknown", "on scans that it did not learn from"
    assert unknown in report.words
    assert known not in report.words
    content = json.loads((folder / "metrics.json").read_text())
    content["context"]["checkpoint"] = str(tmp_path / "model.pt")
    case = {"name": "a", "image": ["0:0"], "label": "1:1"}
    save_settings(
        {"cases": {"labeled": [case], "unlabeled": [case, case]}, "flip_axes": [[0, 1]]}, tmp_path / "model.pt"
    )
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    words = read_report(write_evaluation_report(tmp_path)).words
    assert known in words
    assert unknown not in words
    assert words.partition("unlabelled scans learned from")[2].startswith("2")
    assert "[0, 1]" in words


def test_scans_of_the_training_are_named_so(tmp_path, folder):
    content = json.loads((folder / "metrics.json").read_text())
    content["context"]["split"] = "training"
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert "on scans that it learned from" in read_report(write_evaluation_report(tmp_path)).words
