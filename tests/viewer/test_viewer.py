"""An afternoon in a real viewer over a real archive: the tests share one page, and run in this order.

Orthanc holds two series of phantoms; MONAI Label asks it over DICOMweb; the OHIF that MONAI Label serves runs in
Chromium without a screen.
"""

import base64
import io
import json

import numpy as np
import pydicom
import pytest
from served_labels import PATIENCE_MS, label_file, label_of

pytestmark = pytest.mark.viewer

FIRST, SECOND = "PHANTOM-1", "PHANTOM-2"
CLASS = "left atrium"
# The segments that are shown, as letters: voxels in the order of the volume, and names by number.
SHOWN = """() => {
  const volume = services.segmentationService.getLabelmapVolume('1');
  const voxels = Uint8Array.from(volume.voxelManager.getCompleteScalarDataArray());
  let text = '';
  for (let at = 0; at < voxels.length; at += 32768) text += String.fromCharCode(...voxels.subarray(at, at + 32768));
  const segments = services.segmentationService.getSegmentations()[0].config.segments;
  const names = Object.values(segments).filter(one => one).map(one => [one.segmentIndex, one.label]);
  return {voxels: btoa(text), names, size: volume.dimensions};
}"""


def shown(page):
    """The class in the viewer, [X, Y, Z]."""
    found = page.evaluate(SHOWN)
    number = next(number for number, name in found["names"] if name == CLASS)
    voxels = np.frombuffer(base64.b64decode(found["voxels"]), dtype=np.uint8)
    return voxels.reshape(found["size"], order="F") == number


def run(page, button):
    """Press one of the panel's buttons; what it asked, and the voxels that were clicked."""
    with page.expect_response(lambda response: "/infer/" in response.url) as answered:
        page.click(f"button[title='{button}'] >> nth=0")
    assert answered.value.status == 200
    page.wait_for_timeout(PATIENCE_MS / 60)  # until it is drawn
    return answered.value.request.post_data


def place(page, *, right, down):
    """A click into the first view, so far from its middle, in shares of its width."""
    box = page.locator("canvas").first.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(middle[0] + right * box["width"], middle[1] + down * box["width"])
    page.wait_for_timeout(500)


def test_the_study_is_opened_and_the_panel_finds_its_server(page, server, archive, picture):
    study, _ = archive.studies[FIRST]
    page.goto(f"{server.url}/ohif/monai-label?StudyInstanceUIDs={study}", wait_until="commit")
    page.click("text=Confirm and Hide")
    assert server.token not in page.url
    address, _, _ = server.url.rpartition("/")
    assert page.input_value("#monailabelServerURL") == f"{address}/"
    page.click(".settingsTable button")
    page.wait_for_selector("text=Auto-Segmentation")
    page.wait_for_selector("text=Submit label")
    page.wait_for_function("window.services.segmentationService.getLabelmapVolume('1') !== undefined")
    picture("viewer-opened")


def test_the_automatic_answer_is_shown(page, picture):
    assert not shown(page).any()
    run(page, "Run Segmentation")
    assert shown(page).sum() > 1000
    picture("viewer-automatic")


def test_clicks_change_the_answer_where_they_are(page, picture):
    before = shown(page)
    page.click("text=Point Prompts")
    page.click(f"tr.clickable-row:has-text('{CLASS}')")
    place(page, right=0, down=0.06)
    run(page, "Run PointPrompts")
    page.click("tr.clickable-row:has-text('background')")
    inside = shown(page)
    place(page, right=-0.22, down=-0.113)
    asked = run(page, "Run PointPrompts")
    after = shown(page)
    params = params_of(asked)
    (kept,), (taken,) = params[CLASS], params["background"]
    assert after[tuple(kept)]
    assert inside[tuple(taken)]
    assert not after[tuple(taken)]
    assert after.any()
    assert not np.array_equal(before, after)
    picture("viewer-clicked")


def test_the_label_is_stored_in_the_archive_and_is_what_was_shown(page, server, archive, client, picture):
    _, series = archive.studies[FIRST]
    expected = shown(page)
    with page.expect_response(lambda response: "/datastore/label" in response.url) as answered:
        page.click("text=Submit label")
    assert answered.value.status == 200, answered.value.text()
    page.wait_for_selector("text=Stored as final")
    page.wait_for_timeout(1000)
    picture("viewer-submitted")
    assert np.array_equal(label_of(server, series), expected.astype(np.uint8))
    (segmentation,) = archive.segmentations()
    dataset = pydicom.dcmread(io.BytesIO(segmentation))
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == series
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == [CLASS]
    assert dataset.pixel_array.sum() == expected.sum()
    assert client.info()["datastore"]["completed"] == 1


def test_the_model_is_trained_from_the_panel(page, server, archive, client, picture):
    """On the label as the archive has it: the copy is gone."""
    _, series = archive.studies[FIRST]
    label_file(server, series).unlink()
    page.click("text=Options / Configurations")
    page.select_option("select[name=selectSection]", "train")
    page.fill("#trainlamax_epochs", "1")
    page.click("text=Confirm")
    page.click("label:has-text('Active Learning')")
    with page.expect_response(lambda response: response.request.method == "POST" and "/train/" in response.url) as one:
        page.click("text=Update Model")
    assert one.value.status == 200
    picture("viewer-training")
    task = client.wait_for_training()
    details = "\n".join(task["details"])
    assert task["status"] == "DONE", details
    assert "training on 1 labelled and 1 unlabelled scans" in details
    assert np.array_equal(label_of(server, series), shown(page).astype(np.uint8))


def test_the_next_sample_is_the_scan_without_a_label(page, archive, picture):
    study, series = archive.studies[SECOND]
    page.click("text=Next Sample")
    page.wait_for_selector(f"text={series}")
    picture("viewer-next")
    page.click(".nextSampleForm button:has-text('OK')")
    page.wait_for_url(f"**StudyInstanceUIDs={study}")
    page.wait_for_selector("#monailabelServerURL")


def test_a_series_along_another_axis_is_clicked_where_it_is(page, archive, client):
    """Its slices run from left to right."""
    page.click(".settingsTable button")
    page.wait_for_selector("text=Auto-Segmentation")
    page.wait_for_function("window.services.segmentationService.getLabelmapVolume('1') !== undefined")
    page.click("text=Point Prompts")
    page.click(f"tr.clickable-row:has-text('{CLASS}')")
    place(page, right=0, down=0.06)
    (voxel,) = params_of(run(page, "Run PointPrompts"))[CLASS]
    assert shown(page)[tuple(voxel)]


def params_of(form):
    """The parameters of a form."""

    text = form.partition('name="params"')[2].strip()
    return json.loads(text[: text.rindex("}") + 1])
