"""Labels that are refused before anything is stored, without MONAI Label."""

import nibabel as nib
import numpy as np
import pytest

from aps_components.label_server.handed_in import handed_in
from aps_components.label_server.label_names import Served
from aps_components.label_server.parameters import RefusedRequestError, check_tag

SHAPE = (7, 11, 13)
LA = Served(name="la", classes={"left atrium": 1}, label_values={})


def hand_in(folder, *, value=1, info=None, tag="final", finished=None):
    for name, voxels in (("scan", np.zeros(SHAPE, np.float32)), ("label", np.full(SHAPE, value, np.uint8))):
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{name}.nii.gz")
    given = {"tag": tag, "scan": str(folder / "scan.nii.gz"), "former": {}, "finished": finished}
    with handed_in(folder / "label.nii.gz", info, [LA], **given) as (file, kept, _):
        return file, kept


@pytest.mark.parametrize(
    ("tag", "finished"), [("final", {"bundle": ["la"]}), ("partial", None), ("partial", {"bundle": ["kidneys"]})]
)
def test_a_label_takes_the_place_of_its_own_kind_alone(tmp_path, tag, finished):
    hand_in(tmp_path, tag=tag, finished=finished, info={"bundle": "la"})


# Of nobody knows whom, of this bundle, and of one by another name with the same meanings, which count as its own.
@pytest.mark.parametrize("finished", [{}, {"bundle": ["la"]}, {"bundle": ["old"], "values": LA.meaning}])
def test_an_unfinished_label_beside_a_finished_one_would_count_for_nothing(tmp_path, finished):
    with pytest.raises(RefusedRequestError, match="has a finished label, which counts: remove that one") as error:
        hand_in(tmp_path, tag="partial", finished=finished, info={"bundle": "la"})
    assert error.value.status == 409


@pytest.mark.parametrize(("tag", "info"), [("final", None), ("partial", None), ("partial", {"empty": True})])
def test_an_empty_label_is_a_slip(tmp_path, tag, info):
    with pytest.raises(RefusedRequestError, match="the label is empty: draw something first"):
        hand_in(tmp_path, value=0, tag=tag, info=info)


def test_a_scan_without_the_object_says_so(tmp_path):
    hand_in(tmp_path, value=0, info={"empty": True})


def test_an_empty_answer_of_a_model_is_kept(tmp_path):
    hand_in(tmp_path, value=0, tag="original")


def test_a_tag_that_nothing_reads_is_refused_where_another_was_meant():
    assert check_tag("final") == "final"
    assert check_tag("someone_else") == "someone_else"
    with pytest.raises(RefusedRequestError, match="tag 'Final': labels by hand are read under 'final' alone"):
        check_tag("Final")
