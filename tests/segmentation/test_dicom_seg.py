"""Label maps as DICOM SEG, looked at by pydicom, by highdicom, and on the grid that SimpleITK gives the series."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import COLUMN, ROW, SHAPE, SPACING, multi_frame, slice_of, stored

from aps_components import __version__
from aps_components.bundle.segment_codes import Code, SegmentCodes
from aps_components.data import DataError
from aps_components.data.nifti import write_nifti
from aps_components.segmentation import dicom_convert
from aps_components.segmentation.dicom import find_series, read_series
from aps_components.segmentation.dicom_seg import Maker, is_of, is_own, write_dicom_seg

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")

LABELS = {0: "background", 1: "left atrium", 2: "nowhere", 3: "Ödem \\ links"}
ATRIUM = SegmentCodes(Code("82471001", "SCT", "Left atrium"), Code("91723000", "SCT", "Anatomical Structure"))
LEFT_KIDNEY = SegmentCodes(
    Code("64033007", "SCT", "Kidney"), Code("91723000", "SCT", "Anatomical Structure"), Code("7771000", "SCT", "Left")
)
MAKER = Maker("Atria", "1.2.3", "ab" * 32, LABELS, {1: ATRIUM, 3: LEFT_KIDNEY})
PATIENT = {
    "PatientName": "Müller^Jörg",
    "PatientID": "4711",
    "PatientSex": "M",
    "StudyID": "S1",
    "AccessionNumber": "A77",
    "StudyDate": "20200229",
    "SpecificCharacterSet": "ISO_IR 100",
}


def class_of(values):
    """A class for each value of a scan: 1 and 3 are there, 2 is not, and whole slices have none."""
    return np.where(values % 7 == 0, 1, np.where(values % 5 == 0, 3, 0)) * (values < 12000)


def write_slices(folder, *, row=ROW, column=COLUMN, order=range(SHAPE[2]), steps=(0.0, 0.0, SPACING[2]), **changes):
    """A series whose files are named in an order of their own; `steps` are along row, column and normal, mm."""
    folder.mkdir(parents=True)
    normal = np.cross(row, column)
    for name, z in enumerate(order):
        place = np.array([11.5, -23.25, 37.0]) + z * (steps[0] * row + steps[1] * column + steps[2] * normal)
        slice_of(
            stored()[..., z],
            z,
            InstanceNumber=name + 1,
            ImageOrientationPatient=[*np.round(row, 9), *np.round(column, 9)],
            ImagePositionPatient=[round(float(value), 6) for value in place],
            **PATIENT | changes,
        ).save_as(folder / f"IM{name:04d}", enforce_file_format=True)
    return folder


def label_map_of(folder, classes=class_of):
    """The one series of a folder and a label map made of its values, as a NIfTI file beside the folder."""
    (series,) = find_series(folder)
    voxels, affine = read_series(series)
    file = folder.parent / "label_map.nii.gz"
    write_nifti(file, classes(voxels.astype(int)).astype(np.uint8), affine)
    return series, file


def written(folder, classes=class_of, **options):
    series, file = label_map_of(folder, classes)
    target = folder.parent / "seg.dcm"
    write_dicom_seg(target, file, series=series, maker=MAKER, **options)
    return target


AXIAL = {"row": np.array([1.0, 0, 0]), "column": np.array([0, 1.0, 0])}
SAGITTAL = {"row": np.array([0, 1.0, 0]), "column": np.array([0, 0, -1.0])}
SHUFFLED = np.random.default_rng(2).permutation(SHAPE[2]).tolist()


@pytest.mark.parametrize(
    "series",
    [
        AXIAL,
        SAGITTAL,
        {},
        {"order": range(SHAPE[2])[::-1]},
        {"order": SHUFFLED, "row": -ROW},
        {"row": -ROW, "column": -COLUMN, "order": range(SHAPE[2])[::-1]},
    ],
    ids=["axial", "sagittal", "oblique", "backwards", "shuffled and mirrored", "turned"],
)
def test_every_pixel_is_the_class_of_the_voxel_at_its_place(tmp_path, series):
    """SimpleITK says which value of the scan lies at the place that pydicom reads of a pixel of the SEG."""
    folder = write_slices(tmp_path / "series", **series)
    seg = pydicom.dcmread(written(folder))
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    axes = np.reshape(seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
    assert measures.SpacingBetweenSlices == pytest.approx(SPACING[2])
    found = np.zeros(image.GetSize(), dtype=int)
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        first = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        for at_row, at_column in np.argwhere(frame):
            place = first + at_column * measures.PixelSpacing[1] * axes[0] + at_row * measures.PixelSpacing[0] * axes[1]
            found[image.TransformPhysicalPointToIndex(place.tolist())] += number
    values = sitk.GetArrayFromImage(image).T.astype(int)
    np.testing.assert_array_equal(found, class_of(values))


def test_frames_refer_to_the_slices_that_they_lie_on(tmp_path):
    folder = write_slices(tmp_path / "series", order=SHUFFLED)
    seg = highdicom.seg.segread(written(folder))
    sources = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    pixels = seg.get_pixels_by_source_instance(
        [source.SOPInstanceUID for source in sources], combine_segments=True, ignore_spatial_locations=False
    )
    rescaled = np.stack([source.pixel_array.astype(int) + int(source.RescaleIntercept) for source in sources])
    np.testing.assert_array_equal(pixels, class_of(rescaled))
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == sources[0].SeriesInstanceUID
    uids = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert uids == {source.SOPInstanceUID for source in sources}


def test_it_is_of_the_patient_the_study_and_the_space_of_the_series(tmp_path):
    folder = write_slices(tmp_path / "series")
    source, seg = pydicom.dcmread(folder / "IM0000"), pydicom.dcmread(written(folder))
    for name in ("PatientName", *PATIENT, "StudyInstanceUID", "FrameOfReferenceUID"):
        if name != "SpecificCharacterSet":
            assert str(seg[name].value) == str(source[name].value), name
    assert seg.Modality == "SEG"
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    assert (seg.Rows, seg.Columns) == (source.Rows, source.Columns)
    assert seg.ContentDescription == "Research only"


def test_segments_say_what_they_are_and_what_made_them(tmp_path):
    seg = pydicom.dcmread(written(write_slices(tmp_path / "series")))
    atrium, nowhere, oedema = seg.SegmentSequence
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["left atrium", "nowhere", "Ödem / links"]

    def coded(item):
        return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning

    assert coded(atrium.SegmentedPropertyTypeCodeSequence[0]) == ("82471001", "SCT", "Left atrium")
    assert coded(atrium.SegmentedPropertyCategoryCodeSequence[0]) == ("91723000", "SCT", "Anatomical Structure")
    assert coded(nowhere.SegmentedPropertyTypeCodeSequence[0]) == ("85756007", "SCT", "Tissue")
    assert coded(nowhere.SegmentedPropertyCategoryCodeSequence[0]) == ("85756007", "SCT", "Tissue")
    (modifier,) = oedema.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert coded(modifier) == ("7771000", "SCT", "Left")
    for item in seg.SegmentSequence:
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Atria", "1.2.3")
        assert "ab" * 32 in algorithm.AlgorithmParameters
        assert (item.SegmentAlgorithmType, item.SegmentAlgorithmName) == ("AUTOMATIC", "Atria")
    assert seg.SoftwareVersions == __version__


def test_a_persons_hand_is_said(tmp_path):
    seg = pydicom.dcmread(written(write_slices(tmp_path / "series"), by_a_person=True))
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"SEMIAUTOMATIC"}


def test_an_empty_segmentation_is_one_too(tmp_path):
    target = written(write_slices(tmp_path / "series"), np.zeros_like)
    seg = highdicom.seg.segread(target)
    assert not seg.pixel_array.any()
    assert [item.SegmentLabel for item in seg.SegmentSequence][:2] == ["left atrium", "nowhere"]


def test_a_tilted_series_gets_its_classes_on_its_own_slices(tmp_path):
    """The label map is upright; on the slices a boundary is where it was, within a pixel."""
    tilt = (0.0, 0.25 * SPACING[2], SPACING[2])
    folder = write_slices(tmp_path / "series", steps=tilt)
    (series,) = find_series(folder)
    voxels, affine = read_series(series)
    assert voxels.shape[1] > SHAPE[1]
    radius = 8.0
    middle = affine[:3] @ [*(np.array(voxels.shape) / 2), 1]

    def distance(places):
        return np.linalg.norm(places - middle, axis=-1)

    grid = np.stack(np.meshgrid(*map(np.arange, voxels.shape), indexing="ij"), axis=-1)
    ball = distance(grid @ affine[:3, :3].T + affine[:3, 3]) < radius
    write_nifti(tmp_path / "ball.nii.gz", ball.astype(np.uint8), affine)
    write_dicom_seg(tmp_path / "seg.dcm", tmp_path / "ball.nii.gz", series=series, maker=MAKER)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    sources = {source.SOPInstanceUID: source for source in map(pydicom.dcmread, folder.iterdir())}
    x, y = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]))
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        first = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        (derived,) = group.DerivationImageSequence
        source = sources[derived.SourceImageSequence[0].ReferencedSOPInstanceUID]
        np.testing.assert_allclose(first, np.array(source.ImagePositionPatient, dtype=float), atol=1e-5)
        places = first + (x[..., None] * SPACING[0] * ROW) + (y[..., None] * SPACING[1] * COLUMN)
        away = distance(places * [-1, -1, 1]) - radius
        assert frame[away < -SPACING[1]].all()
        assert not frame[away > SPACING[1]].any()
    assert len(seg.pixel_array) > 3


@pytest.mark.skipif(dicom_convert.program() is None, reason="dcm2niix is not installed")
def test_a_multi_frame_file_gets_its_classes_on_its_own_frames(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    multi_frame(SHUFFLED).save_as(folder / "IM0001", enforce_file_format=True)
    source, seg = pydicom.dcmread(folder / "IM0001"), highdicom.seg.segread(written(folder))
    numbers = list(range(1, SHAPE[2] + 1))
    pixels = seg.get_pixels_by_source_frame(source.SOPInstanceUID, numbers, combine_segments=True)
    np.testing.assert_array_equal(pixels, class_of(source.pixel_array.astype(int) - 1024))


def test_the_same_label_map_has_the_same_uid_and_another_has_another(tmp_path):
    folder = write_slices(tmp_path / "series")
    series, file = label_map_of(folder)
    uids = []
    for name, classes in (("a", class_of), ("b", class_of), ("c", np.zeros_like)):
        label_map_of(folder, classes)
        write_dicom_seg(tmp_path / name, file, series=series, maker=MAKER)
        uids.append(pydicom.dcmread(tmp_path / name).SOPInstanceUID)
    assert uids[0] == uids[1] != uids[2]
    assert not is_of(tmp_path / "a", file, series=series, maker=MAKER)
    assert is_of(tmp_path / "c", file, series=series, maker=MAKER)
    assert is_own(tmp_path / "a")
    assert not is_own(folder / "IM0000")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FrameOfReferenceUID", "frame of reference"),
        ("StudyInstanceUID", "study"),
        ("SOPInstanceUID", "UID of its own"),
    ],
)
def test_a_series_that_says_too_little_is_refused(tmp_path, name, message):
    folder = write_slices(tmp_path / "series")
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        delattr(data, name)
        data.save_as(file)
    with pytest.raises(DataError, match=f"no {message}, which a DICOM SEG needs; export it again"):
        written(folder)


def test_what_no_patient_has_may_be_missing(tmp_path):
    """As a de-identified series: nothing of a person, and no thickness."""
    folder = write_slices(tmp_path / "series", **dict.fromkeys(PATIENT))
    seg = pydicom.dcmread(written(folder))
    assert str(seg.PatientName or "") == ""


def test_a_label_map_of_something_else_is_refused(tmp_path):
    folder = write_slices(tmp_path / "series")
    series, file = label_map_of(folder)
    voxels, affine = read_series(series)
    elsewhere = affine.copy()
    elsewhere[:3, 3] += 0.4 * affine[:3, 2]  # between the slices
    wider = affine @ np.diag([1.1, 1, 1, 1])
    for shape, moved in ((voxels.shape, elsewhere), (voxels.shape, wider), ((17, 24, 39), affine)):
        write_nifti(file, np.zeros(shape, dtype=np.uint8), moved)
        with pytest.raises(DataError, match="no label map of 003_t1_axial_gd"):
            write_dicom_seg(tmp_path / "seg.dcm", file, series=series, maker=MAKER)
    write_nifti(file, np.full(voxels.shape, 4, dtype=np.uint8), affine)
    with pytest.raises(DataError, match="value 4 of the label map is no class"):
        write_dicom_seg(tmp_path / "seg.dcm", file, series=series, maker=MAKER)
    assert not (tmp_path / "seg.dcm").exists()
