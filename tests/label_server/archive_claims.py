"""What the datastore over an archive claims; run by ``test_archive.py`` in the environment with MONAI Label.

The archive is made up, everything else is real.
"""

import json
import threading
from types import SimpleNamespace

import dicom_files
import nibabel as nib
import numpy as np
import pydicom
import pytest
from monailabel.datastore.local import LocalDatastore

from aps_components.data import DataError
from aps_components.label_server import archive as module
from aps_components.label_server import hooks
from aps_components.label_server.archive import Archive, label_of_segmentation
from aps_components.label_server.label_names import Served
from aps_components.label_server.parameters import FINAL, PARTIAL, RefusedRequestError
from aps_components.label_server.training import labels_of_others

SHAPE = (17, 24, 11)
SERIES = "1.2.3.4"
KIDNEYS = {"left kidney": 1, "right kidney": 2}
OTHERS = {"spleen": 1, "liver": 2}


class Client:
    """A DICOMweb server: data sets by the UID of their series."""

    base_url = "http://archive"

    def __init__(self):
        self.series, self.least, self.page = {}, None, None

    def add(self, dataset):
        dataset.is_little_endian, dataset.is_implicit_VR, dataset.preamble = True, False, bytes(128)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        self.series.setdefault(str(dataset.SeriesInstanceUID), []).append(dataset)

    def search_for_series(self, search_filters):
        first = [members[0] for members in self.series.values()]
        found = [one for one in first if all(str(one[key].value) == wanted for key, wanted in search_filters.items())]
        return [self._said(one, "StudyInstanceUID", "SeriesInstanceUID", "Modality") for one in found]

    def search_for_instances(self, study, series, offset):
        """As many at once as a page has; without pages all of them, whatever the offset."""
        members = self.series[series]
        if self.page:
            members = members[offset : offset + self.page]
        return [self._said(one, "SOPInstanceUID") for one in members]

    def retrieve_series(self, study, series):
        for number, dataset in enumerate(self.series[series]):
            if number == self.least:
                raise ConnectionError("the line is dead")
            yield dataset

    def retrieve_series_metadata(self, study, series):
        return [dataset.to_json_dict() for dataset in self.series[series]]

    def store_instances(self, datasets):
        for dataset in datasets:
            self.add(dataset)
        answer = pydicom.Dataset()
        answer.RetrieveURL = f"http://archive/studies/1/series/{datasets[0].SeriesInstanceUID}"
        return answer

    def segmentation(self):
        (members,) = [members for members in self.series.values() if members[0].Modality == "SEG"]
        return members[0]

    @staticmethod
    def _said(dataset, *names):
        answer = pydicom.Dataset()
        for name in names:
            setattr(answer, name, dataset[name].value)
        return answer.to_json_dict()


def slices(shape=SHAPE, **changes):
    voxels = dicom_files.stored(shape)
    said = {"PatientBirthDate": "", "PatientSex": "", "StudyID": "1", "AccessionNumber": "", "InstanceNumber": 1}
    said |= {"StudyDate": "20260101", "StudyTime": "120000", "ReferringPhysicianName": ""}
    return [dicom_files.slice_of(voxels[..., z], z, **said, **changes) for z in range(shape[2])]


def enhanced():
    """The same in one file."""
    said = dicom_files.multi_frame(range(dicom_files.SHAPE[2]))
    said.StudyID, said.AccessionNumber, said.PatientBirthDate, said.PatientSex = "1", "", "", ""
    return said


def bundle(folder, name, classes, **training):
    configs = folder / "model" / name / "configs"
    configs.mkdir(parents=True)
    channels = {"0": "background", **{str(value): text for text, value in classes.items()}}
    data = {"inputs": {"image": {"modality": "CT"}}, "outputs": {"pred": {"channel_def": channels}}}
    (configs / "metadata.json").write_text(json.dumps({"network_data_format": data}))
    (configs / "train.json").write_text(json.dumps({"labels": channels, **training}))
    return configs.parent


@pytest.fixture
def client():
    client = Client()
    for dataset in slices():
        client.add(dataset)
    return client


@pytest.fixture
def bundles(tmp_path):
    """That with other classes of the same values comes first, by the alphabet and here."""
    return [
        bundle(tmp_path, "abdomen", OTHERS),
        bundle(tmp_path, "kidneys", KIDNEYS, label_values={"2": 1, "3": 2}),
    ]


@pytest.fixture
def served(bundles, tmp_path, monkeypatch):
    """As in the server's own process: what is stored is looked at. A bundle of an earlier start lies there, too."""
    bundle(tmp_path, "aged", {**OTHERS, **{name: 7 + value for name, value in KIDNEYS.items()}})
    monkeypatch.setattr(module.settings, "MONAI_LABEL_APP_DIR", str(tmp_path))
    monkeypatch.setattr(module.settings, "MONAI_LABEL_APP_CONF", {"models": "abdomen,kidneys"})
    for name in ("save_label", "add_image"):
        checked = getattr(hooks, f"_{name}")(getattr(LocalDatastore, name))
        monkeypatch.setattr(LocalDatastore, name, checked)


@pytest.fixture
def archive(client, bundles, served, tmp_path):
    archive = Archive(
        client=client, search_filter=None, cache_path=str(tmp_path / "copies"), fetch_by_frame=False, bundles=bundles
    )
    yield archive
    archive._observer.stop()


@pytest.fixture
def drawn(archive, tmp_path):
    """Two segments on the scan's grid, numbered as a viewer does."""
    scan = nib.load(archive.get_image_uri(SERIES))
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    voxels[2:7, 3:12, 1:5], voxels[9:14, 3:12, 4:9] = 1, 2
    file = tmp_path / "drawn.nii.gz"
    nib.save(nib.Nifti1Image(voxels, scan.affine), file)
    return SimpleNamespace(file=str(file), voxels=voxels)


def hand_in(archive, drawn, *names, **info):
    archive.save_label(SERIES, drawn.file, FINAL, {"label_info": [{"name": name} for name in names], **info})


def kept(archive):
    """The label, and the bundles that it is of."""
    info = archive.get_label_info(SERIES, FINAL)
    return np.asanyarray(nib.load(archive.get_label_uri(SERIES, FINAL)).dataobj), info["bundle"]


def slicers(*names, model):
    """What 3D Slicer's module says with a label since December 2025."""
    segments = [{"name": name, "idx": number} for number, name in enumerate(names, start=1)]
    return {"label_info": segments, "model": model, "client_id": "user-xyz"}


@pytest.fixture
def scans(served, archive, tmp_path):
    """A folder with one scan."""
    scans = LocalDatastore(str(tmp_path / "scans"))
    scans.add_image("a", archive.get_image_uri(SERIES), {})
    return scans


def test_what_slicer_hands_in_is_taken_and_what_a_model_answered_is_not(archive, client, scans, drawn):
    archive.save_label(SERIES, drawn.file, FINAL, slicers("spleen", "liver", model="abdomen"))
    assert kept(archive)[1] == ["abdomen"]
    scans.save_label("a", drawn.file, FINAL, slicers("spleen", "liver", model="abdomen_clicks"))
    assert scans.get_label_info("a", FINAL)["bundle"] == ["abdomen"]
    answer, before = {"model": "abdomen", "params": {"label_names": {"spleen": 1}}}, set(client.series)
    for tag in (FINAL, PARTIAL):
        for store, image in ((archive, SERIES), (scans, "a")):
            with pytest.raises(RefusedRequestError, match=f"a model's label is not stored with the tag '{tag}'"):
                store.save_label(image, drawn.file, tag, answer)
    assert set(client.series) == before
    scans.save_label("a", drawn.file, "original", answer)


def test_a_label_of_another_bundle_is_not_overwritten(archive, client, scans, drawn):
    for store, image in ((archive, SERIES), (scans, "a")):
        store.save_label(image, drawn.file, FINAL, slicers("spleen", "liver", model="abdomen"))
        before = set(client.series)
        with pytest.raises(RefusedRequestError, match="a label of abdomen already, and this one, of kidneys") as error:
            store.save_label(image, drawn.file, FINAL, slicers("left kidney", "right kidney", model="abdomen"))
        assert error.value.status == 409
        assert set(client.series) == before
        store.save_label(image, drawn.file, PARTIAL, slicers("left kidney", "right kidney", model="kidneys"))
        store.save_label(image, drawn.file, FINAL, slicers("liver", "spleen", model="kidneys"))  # a better one


@pytest.mark.parametrize("tag", [FINAL, PARTIAL])
def test_numbers_that_an_answer_and_label_files_have_otherwise_need_names(scans, drawn, tag):
    """The docs' way: an answer, corrected, with the classes 1 and 2; a 2 of a label file is class 1."""
    with pytest.raises(RefusedRequestError, match=r"numbers of an answer of kidneys, or of its label files\? Name"):
        scans.save_label("a", drawn.file, tag, {"bundle": "kidneys"})
    scans.save_label("a", drawn.file, "original", {"model": "kidneys", "params": {}})
    named = {"bundle": "kidneys", "label_info": [{"name": "left kidney"}, {"name": "right kidney"}]}
    scans.save_label("a", drawn.file, tag, named)
    label = np.asanyarray(nib.load(scans.get_label_uri("a", tag)).dataobj)
    assert np.array_equal(label, np.array([0, 2, 3])[drawn.voxels])
    only_left = {**named, "label_info": [{"name": "left kidney"}, {"name": "left kidney"}]}
    scans.save_label("a", drawn.file, tag, only_left)  # a 2 alone, and it was named


def test_a_label_by_name_has_the_values_of_label_files_and_its_seg_the_names(archive, client, drawn):
    hand_in(archive, drawn, "Right kidney", "Left kidney")
    expected = np.array([0, 3, 2])[drawn.voxels]
    label, of = kept(archive)
    assert of == ["kidneys"]
    assert np.array_equal(label, expected)
    segments = {one.SegmentLabel: one.SegmentNumber for one in client.segmentation().SegmentSequence}
    assert segments == {"left kidney": 1, "right kidney": 2}

    archive.remove_label(SERIES, FINAL)
    archive.refresh()
    archive._download_labeled_data()
    again, of = kept(archive)
    assert of == ["kidneys"]
    assert np.array_equal(again, expected)


def test_a_folder_of_scans_keeps_the_bundle_of_a_label_by_name(scans, drawn, bundles, tmp_path):
    segments = [{"name": "right kidney"}, {"name": "left kidney"}]
    scans.save_label("a", drawn.file, FINAL, {"label_info": segments})
    assert scans.get_label_info("a", FINAL)["bundle"] == ["kidneys"]
    label = np.asanyarray(nib.load(scans.get_label_uri("a", FINAL)).dataobj)
    assert np.array_equal(label, np.array([0, 3, 2])[drawn.voxels])
    abdomen, kidneys = (Served.of(one) for one in bundles)
    others = ["abdomen", "kidneys"]
    assert dict(labels_of_others(scans, bundle=kidneys, served=others)) == {}
    again = bundle(tmp_path, "trained_again", KIDNEYS, label_values={"2": 1, "3": 2})
    assert dict(labels_of_others(scans, bundle=Served.of(again), served=["trained_again"])) == {}
    (file,) = dict(labels_of_others(scans, bundle=abdomen, served=others))
    assert file == scans.datalist()[0]["label"]


def test_values_without_names_are_guessed_only_where_they_say_it(archive, client, drawn):
    with pytest.raises(RefusedRequestError, match="answer of kidneys, or of its label files"):
        hand_in(archive, drawn)
    assert set(client.series) == {SERIES}
    hand_in(archive, drawn, bundle="abdomen")
    assert {one.SegmentLabel for one in client.segmentation().SegmentSequence} == set(OTHERS)
    assert kept(archive)[1] == ["abdomen"]


def test_a_seg_that_was_deleted_takes_its_label_with_it_and_nothing_else(archive, client, drawn):
    hand_in(archive, drawn, "spleen", "liver")
    del client.series[str(client.segmentation().SeriesInstanceUID)]
    archive._download_labeled_data()
    assert archive.get_label_uri(SERIES, FINAL) == ""
    assert archive.datalist() == []


def test_the_newest_seg_is_that_of_the_latest_content():
    def header(**said):
        dataset = pydicom.Dataset()
        for name, value in said.items():
            setattr(dataset, name, value)
        return dataset

    older = header(SeriesDate="20260301", ContentDate="20260101", ContentTime="235959")
    newer = header(ContentDate="20260102", ContentTime="000000")
    assert module._moment(older) < module._moment(newer)
    same = {"ContentDate": "20260102", "ContentTime": "000000", "InstanceCreationDate": "20260103"}
    assert module._moment(newer) < module._moment(header(**same))


def fractional(segmentation, share):
    """The same SEG, with a share of every voxel inside."""
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(written(segmentation)))
    frames = (dataset.pixel_array * round(200 * share)).astype(np.uint8)
    dataset.SegmentationType, dataset.MaximumFractionalValue = "FRACTIONAL", 200
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = frames.tobytes()
    return dataset


def written(dataset):
    stream = pydicom.filebase.DicomBytesIO()
    dataset.save_as(stream, write_like_original=False)
    return stream.getvalue()


def test_of_a_fractional_seg_half_a_voxel_counts(archive, client, bundles, drawn):
    hand_in(archive, drawn, "spleen", "liver")
    scan, served = archive.get_image_uri(SERIES), [Served.of(one) for one in bundles]
    image, of = label_of_segmentation(fractional(client.segmentation(), 0.5), scan, served)
    assert [one.name for one in of] == ["abdomen"]
    assert np.array_equal(module.SimpleITK.GetArrayFromImage(image).T, drawn.voxels)
    with pytest.raises(RefusedRequestError, match="none of its segments spleen, liver has a voxel"):
        label_of_segmentation(fractional(client.segmentation(), 0.49), scan, served)
    other = fractional(client.segmentation(), 1)
    other.SegmentationType = "LABELMAP"
    with pytest.raises(RefusedRequestError, match="SegmentationType is 'LABELMAP'"):
        label_of_segmentation(other, scan, served)


def test_a_series_is_read_as_aps_segment_reads_it(archive, client):
    """Each slice with its own slope; SimpleITK gives all of them the type of the first."""
    client.series[SERIES][3].RescaleSlope = 0.25
    voxels = np.asanyarray(nib.load(archive.get_image_uri(SERIES)).dataobj)
    expected = dicom_files.stored(SHAPE).astype(np.float64)
    expected[..., 3] *= 0.25
    assert np.array_equal(voxels, expected + dicom_files.INTERCEPT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda members: members.pop(5), "slices are missing"),
        (lambda members: members[2].update({"Rows": 23, "PixelData": members[2].PixelData[:782]}), "several sizes"),
        (lambda members: members.__setitem__(slice(None), [enhanced()]), "a multi-frame file, whose voxels lie otherw"),
    ],
)
def test_a_series_that_is_no_volume_is_refused_in_a_line(archive, client, change, said):
    change(client.series[SERIES])
    with pytest.raises(DataError, match=said) as error:
        archive.get_image_uri(SERIES)
    assert "\n" not in str(error.value)
    assert archive.fetched(SERIES) == ""
    archive.fetch_all()  # names it in the log, and goes on
    client.least = 0  # and does not ask for it again, as long as it is the same
    with pytest.raises(DataError, match=said):
        archive.get_image_uri(SERIES)
    client.least = None
    client.series[SERIES] = slices((17, 24, 13))
    assert nib.load(archive.get_image_uri(SERIES)).shape == (17, 24, 13)


def test_a_tilted_series_is_refused_since_a_viewer_shows_other_voxels(archive, client):
    for number, one in enumerate(client.series[SERIES]):
        one.ImagePositionPatient = list(dicom_files.lps(0, 0.5 * number, number))
    with pytest.raises(DataError, match="gantry was tilted"):
        archive.get_image_uri(SERIES)


def test_a_series_that_grew_is_fetched_again(archive, client, monkeypatch):
    assert nib.load(archive.get_image_uri(SERIES)).shape == SHAPE
    for dataset in slices((17, 24, 13))[11:]:
        client.add(dataset)
    assert nib.load(archive.get_image_uri(SERIES)).shape == SHAPE  # looked at a moment ago
    monkeypatch.setattr(module, "LOOK_AGAIN", 0.0)
    assert nib.load(archive.get_image_uri(SERIES)).shape == (17, 24, 13)
    monkeypatch.setattr(client, "retrieve_series", lambda *_: pytest.fail("it has not changed"))
    assert nib.load(archive.get_image_uri(SERIES)).shape == (17, 24, 13)


@pytest.mark.parametrize("page", [None, 3])
def test_archives_say_their_slices_in_pages_or_all_of_them_whatever_is_asked(archive, client, page):
    client.page = page
    assert len(archive._instances(SERIES)) == SHAPE[2]


def test_nobody_waits_for_a_series_that_is_fetched_elsewhere_if_a_copy_is_here(archive, client, monkeypatch):
    file = archive.get_image_uri(SERIES)
    monkeypatch.setattr(module, "LOOK_AGAIN", 0.0)
    begun, go_on = threading.Event(), threading.Event()

    def slow(image):
        begun.set()
        assert go_on.wait(20)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "_renew", slow)
        other = threading.Thread(target=archive.get_image_uri, args=[SERIES])
        other.start()
        assert begun.wait(20)
        assert archive.get_image_uri(SERIES) == file
        go_on.set()
        other.join()


def test_what_others_fetch_meanwhile_is_not_cleared_away(archive, tmp_path):
    (place,) = (tmp_path / "copies").iterdir()
    own, others = place / f"{module.UNFINISHED}{SERIES}-killed", place / f"{module.UNFINISHED}{SERIES}5-running"
    for folder in (own, others):
        folder.mkdir()
    archive.get_image_uri(SERIES)
    assert (own.exists(), others.exists()) == (False, True)


def test_a_copy_stays_until_all_is_known_that_takes_its_place(archive, client, drawn, monkeypatch):
    hand_in(archive, drawn, "spleen", "liver")
    file, label = archive.get_image_uri(SERIES), archive.get_label_uri(SERIES, FINAL)
    monkeypatch.setattr(module, "LOOK_AGAIN", 0.0)
    for dataset in slices((17, 24, 13))[11:]:
        client.add(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "_dicom_info", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            archive.get_image_uri(SERIES)
    assert nib.load(file).shape == SHAPE
    assert archive.get_label_uri(SERIES, FINAL) == label
    assert nib.load(archive.get_image_uri(SERIES)).shape == (17, 24, 13)
    archive.refresh()
    assert archive.get_label_uri(SERIES, FINAL) == ""  # else it is found again, on a grid of earlier


def test_a_seg_that_says_too_little_is_left_out(archive, client, drawn, caplog):
    hand_in(archive, drawn, "spleen", "liver")
    other = pydicom.dcmread(pydicom.filebase.DicomBytesIO(written(client.segmentation())))
    other.SeriesInstanceUID, other.SOPInstanceUID = "1.2.3.9", "1.2.3.9.1"
    del other.SegmentSequence[0].SegmentLabel
    client.add(other)
    for _ in range(2):
        assert archive.get_labeled_images() == [SERIES]
    assert caplog.text.count("left out: the SEG 1.2.3.9: AttributeError") == 1


def test_overlapping_segments_are_refused_by_name(archive, client, bundles, drawn):
    drawn.voxels[:] = np.minimum(drawn.voxels, 1)
    nib.save(nib.Nifti1Image(drawn.voxels, nib.load(drawn.file).affine), drawn.file)
    hand_in(archive, drawn, "liver")
    twice = client.segmentation()
    second = pydicom.Dataset.from_json(twice.SegmentSequence[0].to_json_dict())
    second.SegmentNumber, second.SegmentLabel = 9, "spleen"
    twice.SegmentSequence.append(second)
    frames = len(twice.PerFrameFunctionalGroupsSequence)
    for one in list(twice.PerFrameFunctionalGroupsSequence):
        again = pydicom.Dataset.from_json(one.to_json_dict())
        again.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9
        twice.PerFrameFunctionalGroupsSequence.append(again)
    pixels = np.unpackbits(np.frombuffer(twice.PixelData, np.uint8), bitorder="little")
    pixels = pixels[: frames * twice.Rows * twice.Columns]
    twice.NumberOfFrames = 2 * frames
    twice.PixelData = np.packbits(np.concatenate([pixels, pixels]), bitorder="little").tobytes()
    served = [Served.of(one) for one in bundles]
    with pytest.raises(RefusedRequestError, match="its segments 'liver' and 'spleen' overlap"):
        label_of_segmentation(twice, archive.get_image_uri(SERIES), served)


def test_a_line_that_dies_leaves_no_half_series(archive, client, tmp_path):
    client.least = 6
    with pytest.raises(ConnectionError):
        archive.get_image_uri(SERIES)
    assert not list((tmp_path / "copies").rglob("*.dcm"))
    client.least = None
    assert nib.load(archive.get_image_uri(SERIES)).shape == SHAPE
    archive._compared.clear()
    half = sorted((tmp_path / "copies").rglob("*.dcm"))[3:]  # as an earlier version left it
    for file in half:
        file.unlink()
    assert nib.load(archive.get_image_uri(SERIES)).shape == SHAPE
    assert len(list((tmp_path / "copies").rglob("*.dcm"))) == SHAPE[2]
