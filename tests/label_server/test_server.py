"""What a viewer asks of the real server; the tests share it and run in this order."""

import gzip
import json
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from workflows import BUNDLES, run_python

from aps_components.label_server import LabelRequestError
from aps_components.training.checkpoint import STATE_FILE

SCANS = ("RAS", "LPS", "PIL", "oblique")


@pytest.fixture
def model(server):
    return server.app / "model" / "small"


class Log:
    """What the server says from now on."""

    def __init__(self, file):
        self.file, self.start = file, file.stat().st_size

    def text(self):
        return self.file.read_bytes()[self.start :].decode(errors="replace")

    def says(self, text):
        """An error is answered a moment before it is logged."""
        deadline = time.monotonic() + 10
        while text not in self.text() and time.monotonic() < deadline:
            time.sleep(0.05)
        return text in self.text()


@pytest.fixture
def log(server):
    return Log(server.log)


def answer(client, image, folder):
    file = folder / f"{image}.nii.gz"
    content = client.infer("small", image)
    file.write_bytes(content if content[:2] == b"\x1f\x8b" else gzip.compress(content))
    return nib.load(file)


def command_line(model, image, folder):
    """Segment a scan or a folder with the bundle as it lies in the app."""
    done = run_python(
        [
            *["-m", "monai.bundle", "run", "inference", "--config_file", str(model / "configs" / "inference.json")],
            *["--bundle_root", str(model), "--image", str(image), "--output_dir", str(folder)],
        ],
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


def voxels(scan):
    return np.asanyarray(scan.dataobj)


def test_info_lists_the_bundles_with_their_classes(client):
    info = client.info()
    for name in ("la", "amos", "brats"):
        metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())
        classes = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        wanted = {text.lower(): int(value) for value, text in classes.items() if value != "0"}
        assert info["models"][name]["labels"] == wanted
        assert name in info["trainers"]


def test_answer_equals_that_of_the_command_line_in_four_orientations(client, model, studies, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in SCANS:
        (scans / f"{name}.nii.gz").symlink_to(studies / f"{name}.nii.gz")
    command_line(model, scans, tmp_path)
    for name in SCANS:
        scan, served = nib.load(studies / f"{name}.nii.gz"), answer(client, name, tmp_path)
        expected = voxels(nib.load(tmp_path / f"{name}_seg.nii.gz"))
        assert served.shape == scan.shape
        assert served.get_data_dtype() == np.uint8
        np.testing.assert_allclose(served.affine, scan.affine, atol=1e-4)
        assert set(np.unique(expected)) == {0, 1}
        assert np.array_equal(voxels(served), expected), name
    # One scan stored in three orders: the same answer stored in three orders.
    one = [nib.as_closest_canonical(answer(client, name, tmp_path)) for name in SCANS[:3]]
    assert all(np.array_equal(voxels(one[0]), voxels(other)) for other in one[1:])


def test_broken_scan_gives_an_error_that_names_it_and_the_server_lives_on(client, log, tmp_path):
    with pytest.raises(LabelRequestError) as error:
        client.infer("small", "broken")
    assert error.value.status == 422
    for said in ("broken.nii.gz: cannot be read as NIfTI", "copy, download or convert it again"):
        assert said in str(error.value)
        assert log.says(said)
    assert voxels(answer(client, "RAS", tmp_path)).any()


def test_a_model_that_there_is_not_is_named_with_those_that_are_there(client):
    with pytest.raises(LabelRequestError, match=r"no model 'smal'; there are: .*small") as error:
        client.infer("smal", "RAS")
    assert error.value.status == 404


def test_training_without_a_label_says_so(client):
    task = client.train("small", max_epochs=1)
    assert task["status"] == "ERROR"
    assert "scan is left to train on" in "".join(task["details"])


def test_one_label_is_trained_on_with_all_other_scans_and_the_next_answer_uses_it(
    client, model, studies, phantom_data, log, tmp_path
):
    """As from Slicer: all options are sent, and the training runs in a process of its own."""
    labels = sorted((phantom_data / "labels").iterdir())
    client.put_label("scan_1", labels[1], bundle="small")
    stored = nib.load(studies / "labels" / "final" / "scan_1.nii.gz")
    assert np.array_equal(voxels(stored), voxels(nib.load(labels[1])))
    assert client.info()["datastore"]["completed"] == 1

    before, old = voxels(answer(client, "scan_2", tmp_path)), torch.load(model / "models" / "model.pt")
    task = client.train("small", max_epochs=3)
    assert task["status"] == "DONE", log.text()
    assert log.says("training on 1 labelled and 7 unlabelled scans")
    assert log.says("left out: ")
    assert log.says("broken.nii.gz")
    new = torch.load(model / "models" / "model.pt")
    assert old.keys() == new.keys()
    assert not all(torch.equal(old[key], new[key]) for key in old)
    settings = json.loads((model / "models" / "model.json").read_text())
    assert (settings["epochs"], settings["warmup_epochs"], settings["spacing"]) == (3, 1, [1.5, 1.25, 2.0])

    after = voxels(answer(client, "scan_2", tmp_path))
    assert not np.array_equal(before, after)
    command_line(model, studies / "scan_2.nii.gz", tmp_path)
    assert np.array_equal(after, voxels(nib.load(tmp_path / "scan_2_seg.nii.gz")))


def test_training_again_with_another_label_starts_from_the_model(client, model, phantom_data, log):
    label = sorted((phantom_data / "labels").iterdir())[3]
    client.put_label("scan_3", label, bundle="small", names=["left atrium"])
    old = torch.load(model / "models" / "model.pt")
    # Small steps from where it was; from another start the weights would be elsewhere.
    client.train("small", max_epochs=1, sync=True)
    assert log.says("training on 2 labelled and 6 unlabelled scans")
    assert log.says("a new schedule starts from the weights there are")
    new = torch.load(model / "models" / "model.pt")
    assert not all(torch.equal(old[key], new[key]) for key in old)
    learned = [key for key in old if old[key].is_floating_point() and not key.startswith("decision.")]
    assert max(float((old[key] - new[key]).abs().max()) for key in learned) < 0.02
    assert torch.load(model / "models" / STATE_FILE)["epoch"] == 1


def test_a_label_tagged_partial_is_trained_on_and_does_not_count_as_finished(
    client, phantom_data, studies, log, tmp_path
):
    label = nib.load(sorted((phantom_data / "labels").iterdir())[4])
    voxels_drawn = voxels(label).copy()
    voxels_drawn[..., [z for z in range(label.shape[2]) if z % 4]] = 0
    nib.save(nib.Nifti1Image(voxels_drawn, label.affine), tmp_path / "unfinished.nii.gz")
    client.put_label("scan_4", tmp_path / "unfinished.nii.gz", tag="partial", bundle="small")
    assert (studies / "labels" / "partial" / "scan_4.nii.gz").is_file()
    assert client.info()["datastore"]["completed"] == 2
    client.train("small", max_epochs=1, sync=True)
    assert log.says("training on 3 labelled (1 of them partly) and 5 unlabelled scans")


def test_training_that_was_stopped_goes_on(client, model, log):
    state = model / "models" / STATE_FILE
    client.train("small", max_epochs=4, wait=False)
    deadline = time.monotonic() + 120
    while torch.load(state)["settings"]["epochs"] != 4:
        assert time.monotonic() < deadline, log.text()
        time.sleep(0.05)
    client.stop_training()
    done = torch.load(state)["epoch"]
    assert done < 4
    client.train("small", max_epochs=4, sync=True)
    assert log.says(f"going on after epoch {done} of 4")
    assert torch.load(state)["epoch"] == 4


def test_another_voxel_size_than_the_models_is_refused(client, model, log):
    file = model / "configs" / "train.json"
    text = file.read_text()
    old = (model / "models" / "model.pt").read_bytes()
    try:
        file.write_text(json.dumps(json.loads(text) | {"spacing": [3.0, 3.0, 3.0]}))
        with pytest.raises(LabelRequestError) as error:
            client.train("small", max_epochs=1, sync=True)
    finally:
        file.write_text(text)
    assert error.value.status == 500
    assert log.says("spacing [1.5, 1.25, 2.0] there, [3.0, 3.0, 3.0] here")
    assert (model / "models" / "model.pt").read_bytes() == old
