"""What every command refuses alike: devices, places of files, altered weights, scans that share a name."""

import errno
import os

import nibabel as nib
import numpy as np
import pytest
import torch

from aps_components.configuration.options import OPTIONS
from aps_components.data import DataError
from aps_components.data.marks import mark_of, scan_hash
from aps_components.errors import plainly
from aps_components.evaluation import overview_from_files, unseen_items
from aps_components.evaluation.clicks import measure_clicks
from aps_components.evaluation.records import results_folder
from aps_components.files import append_line, refuse_special, replace_text
from aps_components.machine import chosen_device
from aps_components.models import CheckpointError, load_weights, read_settings, save_settings


@pytest.mark.parametrize("name", ["cdua", "cuda:99", "tpu9", "cpu:x", "cuda:-1", ""])
def test_a_device_that_there_is_not_is_refused_by_name(name):
    for check in (chosen_device, OPTIONS["device"]):
        with pytest.raises(ValueError, match="device") as error:
            check("device", name)
        assert "cpu" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key_and_value",
    [("mc_samples", 10**9), ("roi_size", [10**5] * 3), ("spacing", [1e-300, 1, 1]), ("spacing", [1, 1, 1e4])],
)
def test_a_number_that_no_machine_can_work_with_is_refused(key_and_value):
    key, value = key_and_value
    with pytest.raises(ValueError, match=key):
        OPTIONS[key](key, value)


def folder(path):
    path.mkdir()


def folder_behind_a_link(path):
    (path.parent / "there").mkdir()
    path.symlink_to(path.parent / "there")


@pytest.mark.parametrize("make", [folder, folder_behind_a_link, os.mkfifo])
def test_what_is_no_file_keeps_its_place(tmp_path, make):
    path = tmp_path / "model.pt"
    make(path)
    before = os.lstat(path).st_ino
    for write in (lambda: replace_text(path, "mine"), lambda: refuse_special(path)):
        with pytest.raises(FileExistsError, match=r"model\.pt"):
            write()
    assert os.lstat(path).st_ino == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("name", ["model", "model.json", "scan.nii.gz"])
def test_weights_have_a_name_beside_which_their_settings_fit(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.pt"):
        refuse_special(tmp_path / name, ending=".pt")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_named_with_the_file_that_a_line_was_for():
    with pytest.raises(OSError, match="/dev/full") as error:
        append_line("/dev/full", "a")
    assert error.value.errno == errno.ENOSPC


def test_of_an_error_of_the_system_file_and_mend_are_said(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a", tmp_path / ("x" * 300), tmp_path / "missing" / "a", tmp_path):
        with pytest.raises(OSError) as error:  # noqa: PT011
            path.write_text("a")
        said = plainly(error.value)
        assert str(tmp_path) in said
        assert ";" in said
        assert "Errno" not in said


def network():
    return torch.nn.Linear(7, 5)


def altered(path):
    content = bytearray(path.read_bytes())
    place = bytes(content).index(torch.load(path)["weight"].numpy().tobytes()[:8])
    content[place] ^= 1
    path.write_bytes(bytes(content))


def with_numbers(value):
    def change(path):
        state = torch.load(path)
        torch.save({key: tensor * value for key, tensor in state.items()}, path)

    return change


@pytest.mark.parametrize(
    "change", [altered, *map(with_numbers, (float("nan"), float("inf"), 1j))], ids=["bit", "nan", "infinite", "complex"]
)
def test_weights_that_were_altered_or_are_no_numbers_are_not_loaded(tmp_path, change):
    path = tmp_path / "model.pt"
    torch.save(network().state_dict(), path)
    load_weights(network(), path)
    change(path)
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        load_weights(network(), path)


@pytest.mark.parametrize("labels", [{"0": "background"}, {"0": "background", "1": "a", "2": "b"}])
def test_names_of_other_classes_than_the_network_has_are_refused(tmp_path, labels):
    save_settings({"labels": labels, "network_def": {"num_classes": 2}}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.json"):
        read_settings(tmp_path / "model.pt")


def test_scans_of_one_name_are_not_measured_as_one(tmp_path):
    items = [{"image": str(tmp_path / patient / "T1.nii.gz")} for patient in ("p1", "p2")]
    with pytest.raises(DataError, match="T1"):
        unseen_items(items, checkpoint=tmp_path / "model.pt", split="validation")


def test_of_a_refusal_no_folder_is_left(tmp_path):
    def refused(place):
        with results_folder(place):
            raise ValueError

    (tmp_path / "there").mkdir()
    for place in ("new", "new/inner", "there", "there/new"):
        with pytest.raises(ValueError):  # noqa: PT011
            refused(tmp_path / place)
    assert os.listdir(tmp_path) == ["there"]
    assert not os.listdir(tmp_path / "there")
    with results_folder(tmp_path / "kept") as kept:
        (kept / "figures").touch()
    assert (tmp_path / "kept" / "figures").is_file()


@pytest.mark.parametrize(
    "given",
    [{"clicks": 0}, {"clicks": 1.5}, {"clicks": "x"}, {"tolerance_mm": "nan"}, {"tolerance_mm": -1}, {"cases": 1.5}],
)
def test_numbers_of_clicks_are_typed_before_anything_is_read(tmp_path, given):
    with pytest.raises(ValueError, match=next(iter(given))):
        measure_clicks(checkpoint="none.pt", out=tmp_path / "out", images="a", labels="b", **given)
    assert not os.listdir(tmp_path)


class TestOverview:
    SHAPE = (7, 11, 13)

    def write(self, path, array, *, shift=0.0, description=""):
        path.parent.mkdir(exist_ok=True)
        image = nib.Nifti1Image(array, np.diag([1.0, 1.5, 2.0, 1.0]))
        image.affine[0, 3] = shift
        image = nib.Nifti1Image(array, image.affine)
        image.header["descrip"] = description
        nib.save(image, path)
        return path

    def draw(self, tmp_path, **options):
        return overview_from_files(
            tmp_path / "o.png", image=tmp_path / "a" / "s.nii.gz", output_dir=tmp_path / "out", **options
        )

    @pytest.fixture
    def scan(self, tmp_path):
        rng = np.random.default_rng(0)
        scan = self.write(tmp_path / "a" / "s.nii.gz", rng.normal(size=self.SHAPE).astype(np.float32))
        mark = mark_of(scan=scan_hash([scan]), maker="m").text
        self.write(tmp_path / "out" / "s_seg.nii.gz", np.ones(self.SHAPE, np.uint8), description=mark)
        return scan

    def test_another_patient_of_the_same_name_is_refused(self, tmp_path, scan):
        self.write(scan, np.zeros(self.SHAPE, np.float32))
        with pytest.raises(DataError, match="another scan"):
            self.draw(tmp_path)

    @pytest.mark.parametrize(
        ("values", "shift", "shape"),
        [
            (0.5, 0.0, SHAPE),
            (300, 0.0, SHAPE),
            (-1, 0.0, SHAPE),
            (np.nan, 0.0, SHAPE),
            *((1, 3.0, SHAPE), (1, 0.0, (7, 11, 12)), (1, 0.0, (*SHAPE, 2))),
        ],
    )
    def test_a_truth_that_does_not_fit_is_refused(self, tmp_path, scan, values, shift, shape):
        truth = self.write(tmp_path / "t.nii.gz", np.full(shape, values, np.float32), shift=shift)
        with pytest.raises(DataError, match=r"t\.nii\.gz"):
            self.draw(tmp_path, truth=truth)
        assert not (tmp_path / "o.png").exists()
