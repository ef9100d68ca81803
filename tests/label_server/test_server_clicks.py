"""Clicks and scribbles, asked of the real server as Slicer's module and OHIF's panel ask."""

import gzip
import io
import json
import threading
import time
import urllib.request

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from aps_components.label_server import LabelRequestError

CLASS, BACKGROUND = "left atrium", "background"
MODEL = "la_clicks"


def voxels_of(content):
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return np.asanyarray(nib.Nifti1Image.from_bytes(content).dataobj)


def drawn(rng, shape, count):
    return [[int(index) for index in rng.integers(0, shape)] for _ in range(count)]


@pytest.fixture(scope="module")
def ras(studies):
    return nib.load(studies / "RAS.nii.gz")


def test_the_interactive_model_is_listed_as_the_viewers_want_it(client):
    info = client.info()
    assert info["models"][MODEL]["type"] == "deepedit"
    assert info["models"][MODEL]["labels"] == {CLASS: 1, BACKGROUND: 0}
    assert info["models"]["la_scribbles"]["type"] == "scribbles"
    assert info["models"]["la"]["labels"] == {CLASS: 1}
    # Slicer numbers its segments in this order, and leaves the background out.
    assert next(name for name in info["labels"] if name != BACKGROUND) == CLASS
    assert MODEL not in info["trainers"]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIL", "oblique"])
def test_clicked_voxels_have_their_class_and_keep_it(client, studies, axes):
    """As Slicer sends them: every class, empty ones too, all points again with each request."""
    scan = nib.load(studies / f"{axes}.nii.gz")
    rng = np.random.default_rng(3)
    said = {CLASS: [], BACKGROUND: []}
    right = total = 0
    for round_ in range(4):
        for name in said:
            said[name] += drawn(rng, scan.shape, 1 + round_ % 2)
        answer = voxels_of(client.infer(MODEL, axes, **said, label=CLASS))
        assert answer.shape == scan.shape
        assert answer.dtype == np.uint8
        right += sum(answer[tuple(voxel)] == 1 for voxel in said[CLASS])
        right += sum(answer[tuple(voxel)] == 0 for voxel in said[BACKGROUND])
        total += len(said[CLASS]) + len(said[BACKGROUND])
    assert right / total >= 0.98


def test_a_place_is_the_same_in_every_orientation(client, studies, ras):
    """The answer to one click at one place in mm, in three orientations of one scan."""
    place = nib.affines.apply_affine(ras.affine, [12, 20, 9])
    answers = []
    for axes in ("RAS", "LPS", "PIL"):
        scan = nib.load(studies / f"{axes}.nii.gz")
        voxel = np.rint(nib.affines.apply_affine(np.linalg.inv(scan.affine), place)).astype(int).tolist()
        answer = voxels_of(client.infer(MODEL, axes, **{CLASS: [voxel], BACKGROUND: []}))
        assert answer[tuple(voxel)] == 1
        answers.append(np.asanyarray(nib.as_closest_canonical(nib.Nifti1Image(answer, scan.affine)).dataobj))
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])


def test_the_nrrd_of_the_viewers_lies_where_the_scan_does(client, studies, tmp_path):
    """As OHIF asks: the clicked classes alone, and raw NRRD."""
    scan = SimpleITK.ReadImage(str(studies / "PIL.nii.gz"))
    options = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    content = client.infer(MODEL, "PIL", **{BACKGROUND: [], CLASS: [[5, 6, 7]]}, restore_label_idx=False, **options)
    file = tmp_path / "answer.nrrd"
    file.write_bytes(content)
    answer = SimpleITK.ReadImage(str(file))
    assert b"encoding: raw" in content[:1000]
    assert answer.GetSize() == scan.GetSize()
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(answer, name)(), getattr(scan, name)(), atol=1e-4)
    assert answer[5, 6, 7] == 1


def test_others_are_answered_while_a_scan_is_opened(client, studies):
    """Opening takes seconds: no viewer is to stand still for another one's."""
    begun = threading.Event()
    ended = []

    def open_scan():
        begun.set()
        client.infer(MODEL, "oblique", **{CLASS: [[1, 2, 3]]}, reset_state=True)
        client.infer("la", "oblique")
        ended.append(time.monotonic())

    opening = threading.Thread(target=open_scan)
    opening.start()
    begun.wait()
    answered = []
    while opening.is_alive():
        client.info()
        answered.append(time.monotonic())
    opening.join()
    assert sum(when < ended[0] for when in answered) > 3


def test_what_was_said_wrong_is_said(client, server):
    for params, said in (
        ({CLASS: [[500, 0, 0]]}, "outside the scan"),
        ({CLASS: [[1, 2]]}, "list of [i, j, k]"),
        ({CLASS: "$print(1)"}, "must be points"),
        ({"liver and so on": [[1, 2, 3]]}, "no parameter"),
    ):
        with pytest.raises(LabelRequestError, match="422") as error:
            client.infer(MODEL, "RAS", **params)
        assert said in str(error.value)
    with pytest.raises(LabelRequestError, match="was trained without prompts") as error:
        client.infer("amos_clicks", "RAS")  # random weights
    assert error.value.status == 422
    for model in (MODEL, "la"):
        with pytest.raises(LabelRequestError, match=r"no weights 'none.pt'; there are: model.pt") as error:
            client.infer(model, "RAS", model_filename="none.pt")
        assert error.value.status == 404


def test_scribbles_as_slicer_sends_them(server, ras):
    """A label map of all segments, the scribbles among them, and the chosen class alone comes back."""
    names = [CLASS, BACKGROUND, "background_scribbles", "foreground_scribbles"]
    shown = np.zeros(ras.shape, dtype=np.uint8)
    shown[10:20, 10:20, 8:16] = 1
    shown[12:17, 14, 11] = 3  # not the class
    shown[30, 20:28, 20] = 4
    stream = io.BytesIO()
    nib.Nifti1Image(shown, ras.affine).to_stream(stream)
    info = [{"name": name, "id": number} for number, name in enumerate(names, start=1)]
    params = {"roi": [], "label_info": info, "selected_label_name": CLASS, "result_extension": ".nii"}
    boundary = "s1c2r3"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{json.dumps(params)}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="label"; filename="s.nii"\r\n\r\n'
    ).encode()
    body += stream.getvalue() + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        f"{server.url}/infer/la_scribbles?image=RAS&output=image",
        data=body,
        headers={"content-type": f"multipart/form-data; boundary={boundary}"},
    )
    with urllib.request.urlopen(request, timeout=300) as answered:
        answer = voxels_of(answered.read())
    assert set(np.unique(answer)) <= {0, 1}
    assert (answer[shown == 4] == 1).all()
    assert (answer[shown == 3] == 0).all()
