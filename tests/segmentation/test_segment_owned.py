"""What lies in the output folder already, and what one bad file does to the others."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_series
from nifti_headers import SHAPE, VARIANTS, affine_of, voxels, write
from PIL import Image
from tiny_bundles import tiny_bundle, write_weights
from workflows import run_workflow

from aps_components import cli
from aps_components.data import DataError
from aps_components.data.marks import read_mark
from aps_components.errors import root_cause
from aps_components.segmentation import find_cases, segment
from aps_components.segmentation.workspace import work_folder


@pytest.fixture(scope="module")
def la(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "la", "la")


@pytest.fixture
def run(la):
    def run(source, out, **options):
        return segment(source, out, bundle=la, device="cpu", **{"preview": False, **options})

    return run


@pytest.fixture(scope="module")
def done(la, tmp_path_factory):
    """One scan and its results."""
    folder = tmp_path_factory.mktemp("done")
    write(folder / "p1" / "T1.nii.gz", sform=affine_of(), scode=1)
    segment(folder / "p1" / "T1.nii.gz", folder / "out", bundle=la, device="cpu")
    return folder


@pytest.fixture
def copy(done, tmp_path):
    return Path(shutil.copytree(done, tmp_path / "copy"))


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("variant", ["PIR_unlike_pixdim", "apart", "nothing_stated", "Nifti1Image_big"])
def test_every_door_uses_the_same_geometry_and_keeps_the_header(la, run, tmp_path, variant):
    arguments, _ = VARIANTS[variant]
    scan = write(tmp_path / "a.nii.gz", **arguments)
    (statistics,) = run(scan, tmp_path / "out").statistics
    options = {"bundle_root": str(la), "output_dir": str(tmp_path / "ref"), "device": "cpu", "image": scan}
    run_workflow("inference.json", kind="infer", options=options)
    one, two, image = (nib.load(tmp_path / file) for file in ("out/a_seg.nii.gz", "ref/a_seg.nii.gz", "a.nii.gz"))
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(two.dataobj))
    for label_map in (one, two):
        np.testing.assert_array_equal(label_map.affine, image.affine)
        for field in ("pixdim", "qform_code", "sform_code", "srow_x", "quatern_b", "qoffset_z", "xyzt_units"):
            np.testing.assert_array_equal(label_map.header[field], image.header[field])
    assert statistics["voxel_ml"] == pytest.approx(0.7 * 0.9 * 1.3 / 1000)


def test_a_single_slice_keeps_its_axes(run, tmp_path):
    scan = write(tmp_path / "a.nii.gz", voxels((40, 36, 1)), sform=affine_of(), scode=1)
    run(scan, tmp_path / "out", preview=True)
    assert nib.load(tmp_path / "out" / "a_seg.nii.gz").shape == (40, 36, 1)


@pytest.mark.parametrize("spoilt", [1e20, -3e15])
def test_a_voxel_that_drowns_all_others_is_refused(run, tmp_path, spoilt):
    image = voxels().astype(np.float32)
    image[3, 5, 8] = spoilt  # which the grid of the network meets
    scan = write(tmp_path / "a.nii.gz", image, sform=affine_of(), scode=1)
    constant = write(tmp_path / "b.nii.gz", np.full(SHAPE, 7, np.int16), sform=affine_of(), scode=1)
    assert "a few voxels of it reach from" in run(scan, tmp_path / "out").failed["a"]
    assert "it has no contrast" in run(constant, tmp_path / "out").failed["b"]


def test_another_scan_of_the_same_name_is_not_there_already(run, copy):
    other = write(copy / "p2" / "T1.nii.gz", voxels(seed=1), sform=affine_of(), scode=1)
    before = contents(copy / "out")
    result = run(other, copy / "out")
    assert (
        "T1_seg.nii.gz is of another scan of the same name; give another OUTPUT, or --overwrite"
        in (result.failed["T1"])
    )
    assert (result.statistics, contents(copy / "out")) == ([], before)
    assert run(other, copy / "out", overwrite=True).done == ["T1"]
    assert "of another scan" in run(copy / "p1" / "T1.nii.gz", copy / "out").failed["T1"]


def test_the_same_scan_elsewhere_is_there_already(run, copy):
    os.rename(copy / "p1", copy / "moved")
    assert run(copy / "moved" / "T1.nii.gz", copy / "out").skipped == ["T1"]


@pytest.mark.parametrize("change", ["weights", "setting"])
def test_another_model_or_setting_is_not_there_already(run, copy, tmp_path, change):
    weights = write_weights(tmp_path / "new" / "model.pt", num_classes=2, seed=5)
    options = {"checkpoint": weights} if change == "weights" else {"settings": {"overlap": 0.25}}
    reason = run(copy / "p1" / "T1.nii.gz", copy / "out", **options).failed["T1"]
    assert f"by another model or other settings ({change}" in reason


@pytest.mark.parametrize("end", [0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["T1_seg.nii.gz", "T1_statistics.json", "T1_preview.png"])
def test_what_is_empty_or_cut_off_is_made_again(run, copy, name, end):
    file, before = copy / "out" / name, contents(copy / "out")
    file.write_bytes(before[name][: int(len(before[name]) * end)])
    result = run(copy / "p1" / "T1.nii.gz", copy / "out", preview=True)
    assert not result.failed
    after = contents(copy / "out")
    assert after.keys() == before.keys()
    assert after["T1_seg.nii.gz"] == before["T1_seg.nii.gz"]
    assert json.loads(after["T1_statistics.json"]) == json.loads(before["T1_statistics.json"])
    assert after[name].endswith(before[name][-8:])


def test_a_label_map_mended_by_hand_is_kept_and_measured(run, copy):
    file = copy / "out" / "T1_seg.nii.gz"
    image = nib.load(file)
    mended = np.zeros(SHAPE, np.uint8)
    mended[:3, :4, :5] = 1
    nib.save(nib.Nifti1Image(mended, image.affine), file)
    (statistics,) = run(copy / "p1" / "T1.nii.gz", copy / "out").statistics
    assert statistics["classes"][0]["voxels"] == 60
    np.testing.assert_array_equal(np.asarray(nib.load(file).dataobj), mended)


@pytest.mark.parametrize("name", ["T1_seg.nii.gz", "T1_statistics.json", "T1_preview.png", "T1_epistemic.nii.gz"])
def test_files_of_others_are_never_replaced(run, tmp_path, name):
    """Input and output may be one folder."""
    scan = write(tmp_path / "T1.nii.gz", sform=affine_of(), scode=1)
    if name.endswith(".nii.gz"):
        write(tmp_path / name, sform=affine_of(), scode=1)
    else:
        Image.new("RGB", (4, 3)).save(tmp_path / name, format="PNG")
    before = contents(tmp_path)
    assert run(scan, tmp_path, preview=True).failed.keys() == {"T1"}
    assert {key: value for key, value in contents(tmp_path).items() if key in before} == before


def test_a_table_of_others_is_never_replaced(run, tmp_path):
    scan = write(tmp_path / "T1.nii.gz", sform=affine_of(), scode=1)
    (tmp_path / "statistics.csv").write_text("patient;age\nDoe;51\n")
    with pytest.raises(DataError, match=r"statistics.csv is no table of aps segment"):
        run(scan, tmp_path)


def test_results_are_no_scans_in_whatever_folder(run, copy, tmp_path):
    shutil.copy(copy / "out" / "T1_seg.nii.gz", copy / "p1" / "alone.nii.gz")
    inputs = find_cases(copy / "p1")
    assert [case.name for case in inputs.cases] == ["T1"]
    assert inputs.left_out == ["alone: a result of an earlier call"]
    series = write_series(tmp_path / "study", shape=(17, 24, 5))
    first = run(series, series)
    assert (first.done, first.failed) == (["003_t1_axial_gd"], {})
    assert run(series, series).skipped == ["003_t1_axial_gd"]


def test_one_damaged_study_stops_no_other(run, tmp_path):
    for number in ("1", "2"):
        write_series(tmp_path / number, shape=(17, 24, 5), ending=".dcm", SeriesInstanceUID=f"1.2.{number}")
    (tmp_path / "2" / "IM0005.dcm").write_bytes(b"no DICOM at all")
    result = run(tmp_path, tmp_path / "out")
    assert len(result.done) == len(result.failed) == 1
    assert "IM0005.dcm: not DICOM in spite of its name" in next(iter(result.failed.values()))


def test_a_damaged_file_of_another_name_is_a_failure_of_its_own(run, tmp_path):
    write_series(tmp_path / "study", shape=(17, 24, 5), ending=".dcm")
    (tmp_path / "study" / "extra.dcm").write_bytes(b"no DICOM at all")
    result = run(tmp_path / "study", tmp_path / "out")
    assert (len(result.done), list(result.failed)) == (1, ["extra_dcm"])


def test_a_case_that_lacks_a_modality_stops_no_other(tmp_path):
    for name, modalities in (("p1", ("t1n", "t2f")), ("p2", ("t1n",))):
        for modality in modalities:
            write(tmp_path / name / f"{name}-{modality}.nii.gz", sform=affine_of(), scode=1)
    one, two = find_cases(tmp_path, modalities=["t1n", "t2f"]).cases
    assert (one.name, one.fault, len(one.files)) == ("p1", "", 2)
    assert "no files of the modality t2f" in two.fault


def test_inference_names_a_broken_scan_at_its_end(la, tmp_path):
    write(tmp_path / "in" / "a.nii.gz", voxels().astype(np.complex64), sform=affine_of(), scode=1)
    write(tmp_path / "in" / "b.NII.GZ", sform=affine_of(), scode=1)
    broken = voxels().astype(np.float32)
    broken[0, 0, 0] = np.nan
    write(tmp_path / "in" / "c.nii", broken, sform=affine_of(), scode=1)
    options = {"bundle_root": str(la), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    with pytest.raises(RuntimeError) as error:
        run_workflow("inference.json", kind="infer", options={**options, "image": str(tmp_path / "in")})
    head, first, second = str(root_cause(error.value)).splitlines()
    assert head.startswith("2 of 3 scans were not segmented")
    assert "a.nii.gz: its voxels are of type complex64" in first
    assert "c.nii: 1 voxels are NaN or infinite" in second
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b_seg.nii.gz"]


@pytest.mark.parametrize("name", ["a$b__c$e", "x\udcff\udcfey", "öß #1", "[a]"])
def test_no_name_stops_a_scan_or_its_picture(run, tmp_path, name):
    write(tmp_path / "in" / f"{name}.nii.gz", sform=affine_of(), scode=1)
    result = run(tmp_path / "in", tmp_path / "out", preview=True)
    assert (result.done, result.failed) == ([name], {})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*(f"{name}_{end}" for end in ("preview.png", "seg.nii.gz", "statistics.json")), "statistics.csv"]
    )


def test_a_picture_that_cannot_be_drawn_fails_no_scan(run, copy, capsys):
    (copy / "out" / "T1_preview.png").unlink()
    with patch("aps_components.segmentation.segment.save_preview", side_effect=RuntimeError("no font")):
        assert run(copy / "p1" / "T1.nii.gz", copy / "out", preview=True).skipped == ["T1"]
    assert "(no picture: RuntimeError: no font)" in capsys.readouterr().out


def test_a_hash_in_a_path_is_part_of_it(la, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("scan#1.nii.gz", sform=affine_of(), scode=1)
    arguments = ["aps", "segment", "scan#1.nii.gz", "results#2", "--bundle", str(la), "--nopreview", "--device=cpu"]
    with patch.object(sys, "argv", arguments):
        cli.main()
    assert (tmp_path / "results#2" / "scan#1_seg.nii.gz").is_file()
    assert not (tmp_path / "results").exists()


def test_the_label_map_says_whose_it_is_and_nothing_of_the_patient(done):
    mark = read_mark(done / "out" / "T1_seg.nii.gz")
    record = json.loads((done / "out" / "T1_statistics.json").read_text())
    assert record["scan_sha256"].startswith(mark.scan)
    assert b"DOE" not in nib.load(done / "out" / "T1_seg.nii.gz").header.binaryblock


HOLD = """
import sys, time
from pathlib import Path
from aps_components.segmentation.workspace import work_folder
with work_folder(Path(sys.argv[1])) as work:
    (work / "patient.nii").write_text("secret")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks to tell by")
def test_what_a_killed_process_left_is_cleared_and_what_another_works_in_is_not(tmp_path):
    (tmp_path / ".segmenting-old").mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    with work_folder(tmp_path):
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2  # the process's and this one
    assert len(list(tmp_path.glob(".segmenting-*/patient.nii"))) == 1
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    started = time.monotonic()
    with work_folder(tmp_path):
        assert not list(tmp_path.rglob("patient.nii"))
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("postfix", ["", "manual"])
def test_inference_replaces_no_file_of_others_and_no_scan(la, tmp_path, postfix):
    scan = write(tmp_path / "a.nii.gz", sform=affine_of(), scode=1)
    shutil.copy(scan, tmp_path / "a_manual.nii.gz")
    before = contents(tmp_path)
    options = {"bundle_root": str(la), "output_dir": str(tmp_path), "output_postfix": postfix, "device": "cpu"}
    with pytest.raises(RuntimeError) as error:
        run_workflow("inference.json", kind="infer", options={**options, "image": scan})
    assert "is there, and was not made here" in str(root_cause(error.value))
    assert contents(tmp_path) == before
