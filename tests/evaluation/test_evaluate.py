import csv
import json
import math
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks import one_hot
from torch import nn

from aps_components.data import evaluation_transforms
from aps_components.evaluation import Evaluation
from aps_components.evaluation.doubt.evaluated import read_answers
from aps_components.evaluation.doubt.held_out import NO_TEMPERATURE
from aps_components.inference import PromptPoint, VolumePrediction

LABELS = {0: "background", 1: "atrium"}
SPACING = (1.5, 1.0, 2.0)
SIDE = 8


def cube(shift=0):
    """An 8 x 8 x 8 cube in 20 x 22 x 24 voxels, moved along the first axis."""
    volume = np.zeros((20, 22, 24), dtype=np.uint8)
    volume[5 + shift : 5 + shift + SIDE, 6 : 6 + SIDE, 7 : 7 + SIDE] = 1
    return volume


def write_case(folder, name="case", *, image=None, affine=None):
    """An image that shows what the stub is to find, and the cube as truth."""
    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    files = {}
    for kind, array in (("image", cube() if image is None else image), ("label", cube())):
        (folder / f"{kind}s").mkdir(parents=True, exist_ok=True)
        files[kind] = str(folder / f"{kind}s" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(array, affine), files[kind])
    return files


def probabilities(foreground):
    return torch.stack([1 - foreground, foreground])[None]


class Network(nn.Module):
    """Asked by none of the stubs, but for what to measure."""

    def __init__(self, predictor="average"):
        super().__init__()
        self.predictor = predictor


class Inferer:
    """Both A and the average find what the image shows; B moves it by one voxel along the first axis."""

    def __init__(self, points=()):
        self.points = list(points)

    def predict(self, inputs, network):
        assert inputs.shape[:2] == (1, 1)
        assert not network.training
        foreground = inputs[0, 0].clamp(0, 1)
        there = probabilities(foreground)
        nothing = torch.zeros(1, 1, *foreground.shape)
        return VolumePrediction(there, there, probabilities(foreground.roll(1, dims=0)), nothing, nothing, self.points)

    def __call__(self, inputs, network):
        assert torch.is_inference_mode_enabled()
        return probabilities(inputs[0, 0].clamp(0, 1))


def evaluate(items, folder, *, spacing=None, points=(), predictor="average", **options):
    return Evaluation(
        items=items,
        network=Network(predictor).train(),
        inferer=Inferer(points),
        preprocessing=evaluation_transforms(keys="image", spacing=spacing),
        labels={str(value): name for value, name in LABELS.items()},  # as JSON gives them
        device="cpu",
        output_dir=folder,
        **options,
    ).run()


def rows_of(report, **wanted):
    return [row for row in report.rows if all(row[key] == value for key, value in wanted.items())]


def test_a_perfect_and_a_shifted_prediction(tmp_path):
    report = evaluate([write_case(tmp_path)], tmp_path / "out")
    for predictor in ("average", "a"):
        (row,) = rows_of(report, predictor=predictor, variant="raw")
        assert (row["case"], row["class"], row["label"]) == ("case", "atrium", 1)
        assert (row["dice"], row["jaccard"], row["hd95_mm"], row["asd_mm"]) == (1, 1, 0, 0)
        assert row["prediction_voxels"] == row["truth_voxels"] == SIDE**3
    (row,) = rows_of(report, predictor="b", variant="raw")
    assert row["dice"] == pytest.approx((SIDE - 1) / SIDE)
    assert row["jaccard"] == pytest.approx((SIDE - 1) / (SIDE + 1))
    # More than a twentieth of each surface lies one voxel off, and none of it more: 1.5 mm along this axis.
    assert row["hd95_voxel"] == pytest.approx(1)
    assert row["hd95_mm"] == pytest.approx(1.5)


def test_with_predictor_a_the_others_do_not_run_and_a_measures_the_same(tmp_path):
    items = [write_case(tmp_path)]
    every, alone = (evaluate(items, tmp_path / name, predictor=name).rows for name in ("average", "a"))
    precision = {"prompt_precision": pytest.approx(math.nan, nan_ok=True)}
    assert [row | precision for row in every if row["predictor"] == "a"] == alone
    assert {row["predictor"] for row in alone} == {"a"}


@pytest.mark.parametrize("flip", [(-1, -1, 1), (1, 1, -1)])
def test_measured_on_the_scans_own_grid(tmp_path, flip):
    """A scan that is stored along other directions: the network sees it in RAS."""
    item = write_case(tmp_path, affine=np.diag([*(np.array(flip) * SPACING), 1.0]))
    report = evaluate([item], tmp_path / "out")
    assert rows_of(report, predictor="average", variant="raw")[0]["dice"] == 1
    assert rows_of(report, predictor="b", variant="raw")[0]["hd95_mm"] == pytest.approx(1.5)


def test_measured_on_the_own_grid_of_a_resampled_scan(tmp_path):
    report = evaluate([write_case(tmp_path)], tmp_path / "out", spacing=[1.0, 1.0, 1.0])
    (row,) = rows_of(report, predictor="average", variant="raw")
    assert row["truth_voxels"] == SIDE**3
    assert row["dice"] > 0.95
    (row,) = rows_of(report, predictor="b", variant="raw")
    # One voxel of the network's grid is 1 mm: two thirds of a voxel of the scan.
    assert row["hd95_mm"] <= 1.5
    assert 0.85 < row["dice"] < 0.97


def test_labelled_slices_alone_are_measured(tmp_path):
    """B lies one voxel off along the first axis; across the labelled slices, 3 of the cube's 8, too."""
    item = write_case(tmp_path) | {"labeled_slices": [0, 7, 9, 14, 20]}
    report = evaluate([item], tmp_path / "out", points=[PromptPoint(1, (6, 7, 7), 1.0), PromptPoint(1, (6, 7, 8), 1.0)])
    (row,) = rows_of(report, predictor="b", variant="raw")
    assert row["truth_voxels"] == 3 * SIDE**2
    assert row["dice"] == pytest.approx((SIDE - 1) / SIDE)
    assert row["prompt_precision"] == 1
    assert all(math.isnan(row[key]) for key in ("hd95_mm", "asd_mm", "nsd"))
    (scan,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["scans"]
    assert scan["picture"]
    assert 3 * SIDE**2 < sum(scan["calibration"]["voxels"]) <= 5 * 20 * 22


def test_classes_that_nobody_drew_are_not_measured(tmp_path):
    items = [write_case(tmp_path, name) for name in ("a", "b")]
    items[0]["labeled_classes"] = [1]
    labels = {**LABELS, 2: "ventricle", 3: "vessel"}
    both = {"atrium": [1], "ventricle": [2], "either": [1, 2]}
    with patch.dict(LABELS, labels):
        report = evaluate(items, tmp_path / "out", regions=both)
    measured = {(row["case"], row["class"]) for row in report.rows}
    assert measured == {("a", "atrium"), ("b", "atrium"), ("b", "ventricle"), ("b", "either")}


def test_largest_component_is_a_variant_of_its_own(tmp_path):
    image = cube()
    image[0, 0, 0] = 1  # a second island
    report = evaluate([write_case(tmp_path, image=image)], tmp_path / "out")
    raw, largest = (rows_of(report, predictor="a", variant=v)[0] for v in ("raw", "largest_component"))
    assert raw["prediction_voxels"] == SIDE**3 + 1
    assert raw["dice"] == pytest.approx(2 * SIDE**3 / (2 * SIDE**3 + 1))
    assert largest["dice"] == 1


def test_prompt_precision_is_of_points_on_the_networks_grid(tmp_path):
    """An LPS scan of 20 x 22 x 24 voxels: (d, h, w) of the network is (19 - d, 21 - h, w) of the file."""
    item = write_case(tmp_path, affine=np.diag([-1.5, -1.0, 2.0, 1.0]))
    inside = (19 - 5, 21 - 6, 7)  # the first corner of the cube
    points = [
        PromptPoint(1, inside, 0.9),
        PromptPoint(1, (inside[0] + 1, *inside[1:]), 0.8),
        PromptPoint(0, (0, 0, 0), 0.7),
        PromptPoint(0, (19, 21, 23), 0.7),
        PromptPoint(0, inside, 0.7),
    ]
    report = evaluate([item], tmp_path / "out", points=points)
    assert all(row["prompt_precision"] == 0.5 for row in report.rows)
    report = evaluate([item], tmp_path / "out", points=points[:1] + points[2:])
    assert all(row["prompt_precision"] == 1.0 for row in report.rows)
    report = evaluate([item], tmp_path / "out", points=points[2:])
    assert all(np.isnan(row["prompt_precision"]) for row in report.rows)


def test_files_hold_every_predictor_case_and_the_context(tmp_path, capsys):
    items = [write_case(tmp_path, name) for name in ("one", "two")]
    evaluate(items, tmp_path / "out", split="validation", answering="a", context={"checkpoint": "m.pt"})
    with open(tmp_path / "out" / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["case"], row["predictor"], row["variant"]) for row in rows} == {
        (case, predictor, variant)
        for case in ("one", "two")
        for predictor in ("average", "a", "b")
        for variant in ("raw", "largest_component")
    }
    assert len(rows) == 12
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    context = {"split": "validation", "cases": 2, "inference_predictor": "a", "inference_variant": "raw"}
    context |= {"checkpoint": "m.pt"}
    assert document["context"] == context
    assert {entry["n"] for entry in document["summary"]} == {2}
    printed = capsys.readouterr().out
    assert "largest_component" in printed
    assert "with this checkpoint inference uses predictor a" in printed
    assert f"written: {tmp_path / 'out' / 'metrics.csv'}" in printed


def scans_of(folder):
    return {scan["case"]: scan for scan in json.loads((folder / "metrics.json").read_text())["scans"]}


def test_each_scan_has_its_size_its_calibration_and_its_uncertainty(tmp_path):
    """B is the answer, one voxel off, and as sure as can be where it is wrong."""
    evaluate([write_case(tmp_path)], tmp_path / "out", answering="b")
    scan = scans_of(tmp_path / "out")["case"]
    assert (scan["shape"], scan["spacing_mm"]) == ([20, 22, 24], [1.5, 1.0, 2.0])
    assert scan["voxel_ml"] == pytest.approx(0.003)
    assert scan["uncertainty"] == {"epistemic": 0, "aleatoric": 0}
    calibration = scan["calibration"]
    voxels, wrong = sum(calibration["voxels"]), 2 * SIDE**2
    assert calibration["predictor"] == "b"
    assert voxels - sum(calibration["correct"]) == wrong
    assert calibration["ece"] == calibration["overconfidence"] == pytest.approx(wrong / voxels)


@pytest.mark.parametrize("most", [8_000_000, 800])  # every voxel; every third one along each axis
@pytest.mark.parametrize(
    "affine", [np.diag([-1.5, -1.0, 2.0, 1.0]), np.diag([*SPACING, 1.0])[:, [2, 0, 1, 3]]], ids=["turned", "transposed"]
)
def test_truth_is_looked_up_where_the_network_saw_it(tmp_path, monkeypatch, affine, most):
    """A perfect answer is not surprised anywhere; of one that is a voxel off, a wrong voxel costs 16 nats."""
    monkeypatch.setattr("aps_components.evaluation.doubt.measures.MOST_VALUES", most)
    evaluate([write_case(tmp_path, affine=affine)], tmp_path / "out")
    answers = scans_of(tmp_path / "out")["case"]["held_out"]["answers"]
    surprise = {predictor: answers[predictor]["surprise"][NO_TEMPERATURE] for predictor in ("average", "a", "b")}
    assert surprise["average"] == surprise["a"] == pytest.approx(0, abs=1e-5)
    assert surprise["b"] > 0.1


def test_what_is_not_segmented_has_no_uncertainty_and_a_alone_none(tmp_path):
    evaluate([write_case(tmp_path, image=0 * cube())], tmp_path / "out")
    assert scans_of(tmp_path / "out")["case"]["uncertainty"] == {"epistemic": None, "aleatoric": None}
    evaluate([write_case(tmp_path)], tmp_path / "out", predictor="a", answering="a")
    assert scans_of(tmp_path / "out")["case"]["uncertainty"] == {}


def test_pictures_are_of_the_worst_cases(tmp_path):
    """Of four, two: one finds nothing, one half, one all, and the last all but an island that inference drops."""
    half, island = cube(), cube()
    half[9:] = 0
    island[0, 0, 0] = 1
    images = {"all": cube(), "half": half, "none": 0 * cube(), "island": island}
    items = [write_case(tmp_path, name, image=image) for name, image in images.items()]
    evaluate(items, tmp_path / "out", largest_component=True, pictures=2)
    pictures = {name: scan["picture"] for name, scan in scans_of(tmp_path / "out").items()}
    assert pictures == {"all": None, "half": "worst_cases/half.png", "none": "worst_cases/none.png", "island": None}
    assert sorted(file.name for file in (tmp_path / "out" / "worst_cases").iterdir()) == ["half.png", "none.png"]


def test_without_a_picture_the_figures_are_there(tmp_path):
    with patch("aps_components.evaluation.scan_record.save_preview", side_effect=RuntimeError("no font")):
        evaluate([write_case(tmp_path)], tmp_path / "out")
    assert scans_of(tmp_path / "out")["case"]["picture"] is None


class Tissues:
    """A network that names the class that the image shows; B calls everything class 2."""

    def predict(self, inputs, network):
        shown = inputs[0, 0].round().long()
        there, two = (one_hot(classes[None, None], 4) for classes in (shown, torch.where(shown > 0, 2, 0)))
        points = [PromptPoint(1, (5, 6, 7), 0.9), PromptPoint(2, (6, 6, 7), 0.8), PromptPoint(3, (0, 0, 0), 0.7)]
        return VolumePrediction(there, there, two, shown[None, None].float(), shown[None, None].float(), points)


class TestRegions:
    labels = {0: "background", 1: "core", 2: "oedema", 3: "enhancing"}  # noqa: RUF012
    regions = {"whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing tumour": [3]}  # noqa: RUF012

    def evaluate(self, folder, **options):
        """Truth: half of the cube is 1 and half of it 3, which the file calls 4; the image has the halves swapped."""
        shown = cube() * 3
        shown[5 : 5 + SIDE // 2, :, :] //= 3
        label = np.where(cube() == 1, np.where(shown == 1, 4, 1), 0).astype(np.uint8)
        shown[0, 0, 0] = shown[0, 0, 2] = 1  # islands
        item = write_case(folder, image=shown)
        nib.save(nib.Nifti1Image(label, np.diag([*SPACING, 1.0])), item["label"])
        return Evaluation(
            items=[item],
            network=Network(),
            inferer=Tissues(),
            preprocessing=evaluation_transforms(keys="image"),
            labels={str(value): name for value, name in self.labels.items()},
            device="cpu",
            output_dir=folder / "out",
            label_values={"4": 3},
            **options,
        )

    def test_each_region_is_measured_as_one(self, tmp_path):
        report = self.evaluate(tmp_path, regions=self.regions).run()
        assert len(report.rows) == 3 * 2 * 3
        assert [row["class"] for row in report.rows[:3]] == list(self.regions)
        whole, core, enhancing = rows_of(report, predictor="a", variant="largest_component")
        assert [row["label"] for row in (whole, core, enhancing)] == ["1+2+3", "1+3", 3]
        assert [row["dice"] for row in (whole, core, enhancing)] == [1, 1, 0]  # each half has the other's class
        whole, core, enhancing = rows_of(report, predictor="b", variant="raw")
        assert whole["prediction_voxels"] == SIDE**3 + 2
        assert whole["dice"] == pytest.approx(2 * SIDE**3 / (2 * SIDE**3 + 2))
        assert [row["dice"] for row in (core, enhancing)] == [0, 0]

    def test_the_classes_can_be_calibrated_beside_regions_of_their_names(self, tmp_path):
        """Each half of the cube has the other's class: the region "core" is all right, and the class all wrong."""
        self.evaluate(tmp_path, regions={"core": [1, 3], "oedema": [1, 2, 3]}, largest_component=True).run()
        (answer,) = read_answers(tmp_path / "out", predictor="a", largest_component=True)
        assert answer.dice == {1: 0, 2: 1, 3: 0}

    def test_precision_is_of_all_points_of_the_regions_classes(self, tmp_path):
        report = self.evaluate(tmp_path, regions=self.regions).run()
        precision = [row["prompt_precision"] for row in rows_of(report, predictor="average", variant="raw")]
        assert precision == pytest.approx([2 / 3, 1 / 2, 0])

    def test_without_regions_the_classes_are_measured(self, tmp_path):
        report = self.evaluate(tmp_path).run()
        rows = rows_of(report, predictor="a", variant="raw")
        assert [(row["class"], row["label"]) for row in rows] == [("core", 1), ("oedema", 2), ("enhancing", 3)]
        assert [row["dice"] for row in rows] == [0, 1, 0]
        assert [row["truth_voxels"] for row in rows] == [SIDE**3 // 2, 0, SIDE**3 // 2]

    def test_a_region_of_unknown_classes_is_refused_before_anything_runs(self, tmp_path):
        with pytest.raises(ValueError, match=r"region 'whole' is \[1, 4\]: list classes of \[1, 2, 3\]"):
            self.evaluate(tmp_path, regions={"whole": [1, 4]})


def test_nothing_to_evaluate_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no test cases with labels to evaluate"):
        evaluate([], tmp_path / "out")


def test_a_label_outside_the_classes_is_refused(tmp_path):
    item = write_case(tmp_path)
    nib.save(nib.Nifti1Image(cube() * 2, np.diag([*SPACING, 1.0])), item["label"])
    with pytest.raises(ValueError, match=r"labels/case.nii.gz: label values 2 are outside"):
        evaluate([item], tmp_path / "out")
