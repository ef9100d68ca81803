"""``aps segment --dicom_seg``: the label map of a DICOM series goes back into the archive that it came from."""

import json
import sys
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_files import slice_of, stored, write_series
from pydicom.sr.codedict import codes as dictionary
from tiny_bundles import tiny_bundle
from workflows import BUNDLES

from aps_components import cli
from aps_components.bundle.segment_codes import read_segment_codes
from aps_components.segmentation.dicom_seg import Maker

STEM = "003_t1_axial_gd"
SEG = f"{STEM}_seg.dcm"


def aps(*arguments):
    with patch.object(sys, "argv", ["aps", "segment", *map(str, arguments), "--device=cpu", "--nopreview"]):
        cli.main()


def refusal(*arguments):
    with pytest.raises(SystemExit) as error:
        aps(*arguments)
    return str(error.value)


@pytest.fixture(scope="module")
def la(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "la", "la")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("study") / "DOE_JANE", ending=".dcm", StudyID="S7")


def classes(out):
    """By slice, row and column: of the SEG by highdicom, and of the NIfTI file."""
    seg = pytest.importorskip("highdicom", reason="highdicom is not installed").seg.segread(out / SEG)
    uids = [f"1.2.3.4.{z + 1}" for z in range(stored().shape[2])]
    pixels = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True, ignore_spatial_locations=False
    )
    return seg, pixels, np.asarray(nib.load(out / f"{STEM}_seg.nii.gz").dataobj).T


def test_the_label_map_is_there_as_dicom_and_follows_corrections(la, series, tmp_path, capsys):
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    out = tmp_path / "out"
    aps(series, out, "--bundle", la, "--dicom_seg")
    seg, pixels, label_map = classes(out)
    np.testing.assert_array_equal(pixels, label_map)
    (segment,) = seg.SegmentSequence
    assert segment.SegmentLabel == "left atrium"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "82471001"
    metadata = json.loads((la / "configs" / "metadata.json").read_text())
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (metadata["name"], metadata["version"])
    assert (seg.PatientID, seg.StudyID, seg.StudyInstanceUID) == ("4711", "S7", "1.2.3")

    first = (out / SEG).read_bytes()
    aps(series, out, "--bundle", la, "--dicom_seg")
    assert (out / SEG).read_bytes() == first
    (out / SEG).unlink()
    capsys.readouterr()
    aps(series, out, "--bundle", la, "--dicom_seg")
    assert "is there already" in capsys.readouterr().out
    assert pydicom.dcmread(out / SEG).SOPInstanceUID == seg.SOPInstanceUID

    image = nib.load(out / f"{STEM}_seg.nii.gz")
    mended = np.zeros(image.shape, dtype=np.uint8)
    mended[2:5, 3:11, 7:30] = 1
    nib.save(nib.Nifti1Image(mended, image.affine), out / f"{STEM}_seg.nii.gz")
    aps(series, out, "--bundle", la, "--dicom_seg")
    seg, pixels, _ = classes(out)
    np.testing.assert_array_equal(pixels, mended.T)
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"

    aps(series, out, "--bundle", la, "--overwrite")
    assert not (out / SEG).exists()  # it was of the earlier label map


@pytest.mark.slow
def test_each_job_writes_those_of_its_own_series(la, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    for number in (1, 2):
        folder = tmp_path / "study" / str(number)
        write_series(folder, SeriesInstanceUID=f"1.2.3.{number}", SeriesNumber=number, SeriesDescription="T1")
    for number in (1, 2):
        aps(tmp_path / "study", tmp_path / "out", "--bundle", la, "--dicom_seg", "--shard", f"{number}/2")
        written = {file.name.split("_")[0] for file in (tmp_path / "out").glob("*_seg.dcm")}
        assert written == {f"{index:03d}" for index in range(1, number + 1)}


def test_a_file_of_somebody_else_is_kept(la, series, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    slice_of(stored()[..., 0], 0, Modality="SEG", Manufacturer="Somebody").save_as(tmp_path / SEG)
    before = (tmp_path / SEG).read_bytes()
    assert STEM in refusal(series, tmp_path, "--bundle", la, "--dicom_seg")
    assert (tmp_path / SEG).read_bytes() == before
    aps(series, tmp_path, "--bundle", la, "--dicom_seg", "--overwrite")
    assert pydicom.dcmread(tmp_path / SEG).Manufacturer == "AutoPromptSeg"


def test_a_nifti_scan_has_no_archive_to_go_back_to(la, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    nib.save(nib.Nifti1Image(stored().astype(np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    said = refusal(tmp_path / "a.nii.gz", tmp_path / "out", "--bundle", la, "--dicom_seg")
    assert "a is no DICOM series" in said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_missing_highdicom_is_said_before_the_work(la, series, tmp_path):
    with patch.dict("sys.modules", {"highdicom": None}):
        said = refusal(series, tmp_path, "--bundle", la, "--dicom_seg")
    assert "highdicom, which writes DICOM SEG, is not installed; run: pip install highdicom" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["amos", "brats", "la"])
def test_the_codes_of_the_bundles_are_those_of_the_standard(name):
    """As pydicom has them, whose dictionary is made of DICOM's own tables."""
    metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())
    labels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    found = read_segment_codes(metadata["segment_codes"])
    assert {str(label) for label in found} <= labels.keys()
    context = {"type": dictionary.cid7151, "category": dictionary.cid7150, "modifier": dictionary.cid244}
    for label, codes in found.items():
        for part, group in context.items():
            code = getattr(codes, part)
            known = {(one.value, one.scheme_designator, one.meaning) for one in concepts(group)}
            assert code is None or (code.value, code.scheme, code.meaning) in known, labels[str(label)]
        sides = {side for side in ("left", "right") if labels[str(label)].startswith(f"{side} ")}
        said = set() if codes.modifier is None else {codes.modifier.meaning.lower()}
        assert codes.type.meaning == "Left atrium" or said == sides


def concepts(group):
    return [getattr(group, name) for name in dir(group) if name[0].isupper()]


def test_classes_that_the_metadata_call_otherwise_have_no_codes():
    """As with an override file that trains on other classes."""
    metadata = json.loads((BUNDLES / "brats" / "configs" / "metadata.json").read_text())
    maker = Maker.of_bundle(metadata, name="brats", weights="ab", labels={0: "background", 1: "whole tumour"})
    assert maker.codes == {}
    same = Maker.of_bundle(metadata, name="brats", weights="ab", labels={0: "background", 2: "oedema"})
    assert [codes.type.meaning for codes in same.codes.values()] == ["Edema"]
