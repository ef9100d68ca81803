import json
import re
from pathlib import Path

import pytest

from aps_components.bundle import BundleMetadata, DatasetBlock, render_metadata
from aps_components.bundle.metadata import PACKAGES, VERSIONS

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
METADATA = BundleMetadata(
    name="Kidneys",
    task="Segmentation of kidneys",
    modality="CT",
    image_classes="single channel CT",
    data_source="a hospital",
)
LABELS = {"0": "background", "1": "left kidney", "2": "right kidney"}


def rendered(metadata=METADATA, **changes):
    return json.loads(render_metadata(metadata, DatasetBlock(**{"labels": LABELS} | changes)))


def test_channels_are_those_of_the_block():
    content = rendered(in_channels=2, modalities=["pre", "post"], intensity={"window": [-125, 275]})
    image, prediction = (
        content["network_data_format"]["inputs"]["image"],
        content["network_data_format"]["outputs"]["pred"],
    )
    assert image["num_channels"] == 2
    assert image["channel_def"] == {"0": "pre", "1": "post"}
    assert (image["modality"], image["format"], image["value_range"]) == ("CT", "hounsfield", [0, 1])
    assert prediction["num_channels"] == 3
    assert prediction["channel_def"] == LABELS
    assert content["label_classes"] == "single channel: 0 background, 1 left kidney, 2 right kidney"
    assert content["pred_classes"] == "3 channels: background, left kidney, right kidney"


def test_sizes_are_those_that_the_network_divides():
    content = rendered(strides=[[2, 2, 1]] * 3 + [[2, 2, 2]], roi_size=[144, 144, 8])["network_data_format"]
    for volume in (content["inputs"]["image"], content["outputs"]["pred"]):
        assert volume["spatial_shape"] == ["16*n", "16*n", "2*n"]
    assert rendered()["network_data_format"]["inputs"]["image"]["spatial_shape"] == ["16*n"] * 3


@pytest.mark.parametrize(
    ("changes", "channel_def", "value_range"),
    [
        ({"intensity": None}, {"0": "image"}, []),
        ({"in_channels": 2, "intensity": "zscore"}, {"0": "channel 0", "1": "channel 1"}, [-10, 30]),
    ],
)
def test_channels_without_modalities_are_numbered(changes, channel_def, value_range):
    image = rendered(**changes)["network_data_format"]["inputs"]["image"]
    assert image["channel_def"] == channel_def
    assert image["value_range"] == value_range


def test_it_can_be_read_back(tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps(rendered()))
    assert BundleMetadata.read(tmp_path / "metadata.json") == METADATA


def test_a_missing_key_is_named(tmp_path):
    content = rendered()
    del content["task"]
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"metadata.json: key 'task' is missing; add it"):
        BundleMetadata.read(tmp_path / "metadata.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": ""}, "task of the bundle's metadata is empty"),
        ({"version": "0.2.0"}, "version '0.2.0' is not in the changelog"),
    ],
)
def test_metadata_that_says_nothing_are_refused(changes, message):
    known = {key: getattr(METADATA, key) for key in ("name", "task", "modality", "image_classes", "data_source")}
    with pytest.raises(ValueError, match=message):
        BundleMetadata(**known | changes)


def test_versions_are_those_that_the_project_is_tested_with():
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)(?:; python_version >= .*)?$", CONSTRAINTS.read_text(), re.MULTILINE))
    assert {name: pinned[name] for name in PACKAGES} == PACKAGES
    assert [pinned[name] for name in ("monai", "torch", "numpy")] == list(VERSIONS.values())
