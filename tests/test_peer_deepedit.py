"""DeepEdit beside ours: its clicks lie where they were made, its network takes any patch, and the figures compare."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from workflows import LA, ROOT

from aps_components.data import evaluation_transforms

SHAPE = (31, 43, 19)  # sizes that cannot be confused
AFFINE = np.array([[0.0, -1.0, 0, 20], [-0.75, 0, 0, 35], [0, 0, 2.5, -7], [0, 0, 0, 1]])
NAMES = {"background": 0, "kidney": 1, "liver": 2}


@pytest.fixture
def deepedit(benchmark):
    return benchmark("deepedit")


@pytest.fixture
def peer(benchmark):
    return benchmark("peer_deepedit")


class Echo(torch.nn.Module):
    """Answers with a ball about each click."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, inputs):
        return self.gain * (inputs[:, 1:] > 0.8)


def test_monai_labels_patch_has_monai_labels_strides(deepedit):
    assert deepedit.strides_for((128, 128, 128)) == list(deepedit.STRIDES)


@pytest.mark.parametrize("roi_size", [(112, 112, 80), (144, 160, 8), (20, 36, 28), (128, 128, 128)])
def test_the_answer_has_the_patchs_shape(deepedit, roi_size):
    with torch.device("meta"):
        network = deepedit.DeepEdit(num_classes=3, roi_size=roi_size, filters=4).network
        assert network(torch.zeros(1, 4, *roi_size)).shape == (1, 3, *roi_size)


def test_a_patch_that_cannot_be_halved_is_refused(deepedit):
    with pytest.raises(ValueError, match="31"):
        deepedit.strides_for((31, 43, 19))


@pytest.mark.parametrize("view", ["patch", "whole"])
def test_a_click_lies_where_it_was_made(deepedit, tmp_path, view):
    """On a scan whose axes are turned and mirrored, and on another grid than the network's."""
    file = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), AFFINE), file)
    predictor = deepedit.DeepEditPredictor(
        Echo(),
        evaluation_transforms(keys="image", spacing=(1.25, 1.0, 2.0), num_classes=3),
        NAMES,
        roi_size=(24, 16, 16),
        view=view,
        overlap=0.25,
        largest_component=True,
    )
    predictor.set_image(str(file))
    assert not predictor.predict().label_map.any()
    kidney, liver = (5, 37, 3), (25, 8, 14)
    predictor.predict([(kidney, 1)])
    answer = predictor.predict([(liver, 2)]).label_map
    assert answer.shape == SHAPE
    for voxel, label in ((kidney, 1), (liver, 2)):
        centre = [np.average(line, weights=(answer == label).ravel()) for line in np.indices(SHAPE).reshape(3, -1)]
        assert np.abs(np.subtract(centre, voxel) * (1, 0.75, 2.5)).max() < 2.5  # mm; the rims cut a ball
        assert (answer == label).sum() > 8
    predictor.set_image(str(file))
    assert not predictor.predict().label_map.any()


def figures(dice, **changes):
    curve = {str(step): value for step, value in enumerate(dice)}
    settings = {"clicks": 2, "tolerance_mm": 2.0}
    means = {"auc": 91.5, "auc_nsd": 70.25, "obeyed": 1.0, "kept": 0.5, "harmful": None}
    times = {"first_ms": 1234.5, "click_ms": None}
    return {"scans": 3, "dice": curve, "nsd": curve, **means, **times, "settings": settings} | changes


def test_the_table_holds_both_curves(peer):
    lines = peer.table(figures([90, 91, 92.125]), figures([80, 81, 82])).splitlines()
    assert lines[0].split("|")[2:5] == [" 0 ", " 1 ", " 2 "]
    assert any(line.startswith("| ours | 90.00 | 91.00 | 92.12 | 91.50") for line in lines)
    assert any(line.startswith("| DeepEdit | 80.00 | 81.00 | 82.00 | 91.50") for line in lines)
    assert any(line.startswith("| ours | 100.0 | 50.0 | - |") for line in lines)


@pytest.mark.parametrize(
    "changes",
    [{"scans": 4}, {"settings": {"clicks": 10, "tolerance_mm": 2.0}}, {"settings": {"clicks": 2, "tolerance_mm": 1}}],
)
def test_figures_of_other_scans_or_clicks_are_not_compared(peer, changes):
    with pytest.raises(ValueError, match="measure both"):
        peer.table(figures([90, 91, 92], **changes), figures([80, 81, 82]))


def test_the_scans_are_those_of_our_training(peer, tiny_checkpoint):
    checkpoint = tiny_checkpoint(labeled_count=12, labeled_by_hand=5, spacing=[1.5, 1.5, 1.5])
    shared = peer.shared_with(checkpoint)
    assert (shared["labeled_count"], shared["validation_count"], shared["spacing"]) == (5, 2, [1.5, 1.5, 1.5])


@pytest.fixture
def run(phantoms, tmp_path):
    """Runs the command for some seconds of training and two clicks; its results lie in ``out``."""
    pytest.importorskip("skimage")
    command = [sys.executable, str(ROOT / "benchmarks" / "peer_deepedit.py"), str(tmp_path / "out")]
    data = ["--bundle", str(LA), "--dataset_dir", str(phantoms), "--labeled_count", "2", "--roi_size", "[32,24,16]"]
    small = ["--filters", "4", "--clicks", "2", "--threads", "1", "--device", "cpu", "--precision", "fp32"]

    def run(*more):
        return subprocess.run([*command, *data, *small, *more], capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
def test_deepedit_trains_is_clicked_and_goes_on(run, tmp_path):
    done, out = run("--minutes", "0.02"), tmp_path / "out"
    assert done.returncode == 0, done.stderr
    written = json.loads((out / "clicks.json").read_text())
    assert list(written["dice"]) == ["0", "1", "2"]
    assert written["scans"] == 2
    assert written["settings"]["iterations"] > 0
    assert {file.name for file in out.iterdir()} >= {"deepedit.pt", "clicks.md", "clicks.csv", "clicks.png"}
    again = run("--minutes", "0.02", "--ours", str(out / "clicks.json"))
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "clicks.json").read_text()) == written  # neither trained nor measured again
    assert "| ours |" in again.stdout
    other = run("--minutes", "0.03")
    assert other.returncode != 0
    assert "minutes 0.02 there, 0.03 now" in other.stderr


@pytest.mark.slow
def test_deepedit_sees_whole_scans_as_in_monai_label(run, tmp_path):
    done = run("--minutes", "0.02", "--recipe", "monailabel", "--cases", "1")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out" / "clicks.json").read_text())
    assert (written["scans"], written["settings"]["view"], written["settings"]["learning_rate"]) == (1, "whole", 1e-4)
