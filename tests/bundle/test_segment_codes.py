import json
from dataclasses import replace

import pytest

from aps_components.bundle import BundleMetadata, DatasetBlock, render_metadata
from aps_components.bundle.segment_codes import ANATOMICAL_STRUCTURE, Code, SegmentCodes, read_segment_codes

KIDNEY = {"type": "64033007 SCT Kidney", "modifier": "7771000 SCT Left"}
METADATA = BundleMetadata(name="a", task="b", modality="CT", image_classes="c", data_source="d")


def test_a_class_is_an_anatomical_structure_unless_it_says_otherwise():
    found = read_segment_codes({"2": KIDNEY, "3": {"type": "6574001 SCT Necrosis", "category": "1 SCT Some thing"}})
    kidney = SegmentCodes(Code("64033007", "SCT", "Kidney"), ANATOMICAL_STRUCTURE, Code("7771000", "SCT", "Left"))
    assert found[2] == kidney
    assert found[3].category == Code("1", "SCT", "Some thing")
    assert found[3].modifier is None


def test_a_bundle_that_names_none_has_none():
    assert read_segment_codes(None) == {}
    assert "segment_codes" not in json.loads(render_metadata(METADATA, DatasetBlock(labels={"0": "b", "1": "k"})))


def test_metadata_keep_them(tmp_path):
    metadata, file = replace(METADATA, segment_codes={"1": KIDNEY}), tmp_path / "metadata.json"
    file.write_text(render_metadata(metadata, DatasetBlock(labels={"0": "b", "1": "k"})))
    assert BundleMetadata.read(file) == metadata


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([], "write the codes of each class"),
        ({"0": KIDNEY}, "whole numbers from 1 on"),
        ({"kidney": KIDNEY}, "whole numbers from 1 on"),
        ({"1": {"modifier": "7771000 SCT Left"}}, "must say type"),
        ({"1": KIDNEY | {"colour": "red"}}, "must say type"),
        ({"1": {"type": "Kidney"}}, "is no code: write value, scheme and meaning"),
        ({"1": {"type": 64033007}}, "is no code"),
        ({"1": {"type": "64033007 SCT " + "k" * 65}}, "is no code"),
    ],
)
def test_what_is_no_code_is_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        read_segment_codes(codes)
    with pytest.raises(ValueError, match=message):
        replace(METADATA, segment_codes=codes)
