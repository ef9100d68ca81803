import json
import re
from dataclasses import asdict, fields

import pytest

from aps_components.bundle import DatasetBlock
from aps_components.bundle.block import EVALUATION_KEYS, INFERENCE_KEYS, LINE_LENGTH
from aps_components.networks.vnet import VNet

LABELS = {"0": "background", "1": "tumour", "2": "Rückenmark"}
THICK = [[2, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]


def block(**changes):
    return DatasetBlock(**{"labels": LABELS} | changes)


def parsed(text):
    """The lines of a block as what a config that holds them says."""
    return json.loads("{" + text.rstrip().removesuffix(",") + "}")


@pytest.mark.parametrize(
    "given",
    [
        block(),
        block(label_values={"4": 2, "7": 0}, regions={"all of it": [1, 2], "core": [2]}),
        block(in_channels=2, modalities=["t1", "t2"], spacing=[0.5, 1.0, 2.5], roi_size=[160, 16, 80]),
        block(intensity={"window": [-125, 275]}, flip_axes=[1, 2], balanced_crops=1.0, class_weights=[0.5, 1, 3]),
        block(flip_axes=[[0, 1], 2]),
        block(intensity=None, flip_axes=[], largest_component=False, labeled_count=8, validation_count=3),
        block(fusion="cafa"),
        block(strides=THICK, kernel_sizes=[[3, 3, 1]] * 5, roi_size=[144, 144, 8], augmentation="strong_in_plane"),
        block(backbone="residual_encoder", strides=[[2, 2, 1]] * 5, roi_size=[64, 96, 5]),
        block(labels={str(value): f"class number {value}" for value in range(255)}),
    ],
)
def test_text_holds_every_value_in_order(given):
    text = given.text()
    assert parsed(text) == asdict(given)
    assert list(parsed(text)) == [entry.name for entry in fields(DatasetBlock)]
    assert DatasetBlock(**parsed(text)) == given


def test_inference_text_asks_the_checkpoint_first():
    given = block(spacing=[0.5, 0.5, 5.0], roi_size=[160, 16, 6], strides=THICK, intensity={"window": [-125, 275]})
    lines = parsed(given.inference_text())
    assert tuple(lines) == INFERENCE_KEYS
    for key, line in lines.items():
        value = asdict(given)[key]
        assert line == f"$trained_setting(@checkpoint, {key!r}, {value!r})"


def test_evaluation_text_guesses_at_nothing_that_every_model_says():
    lines = parsed(block(labeled_count=8).evaluation_text())
    assert tuple(lines) == EVALUATION_KEYS
    assert lines["spacing"] == "$trained_setting(@checkpoint, 'spacing')"
    assert lines["validation_count"] == "$trained_setting(@checkpoint, 'validation_count', 0)"
    assert lines["labeled_count"] == "$trained_count(@checkpoint, None)"


def test_text_is_written_for_people():
    assert block(spacing=[1.5, 1.5, 2.0], balanced_crops=0.0).text(("labels", "spacing", "balanced_crops")) == (
        '    "labels": {"0": "background", "1": "tumour", "2": "Rückenmark"},\n'
        '    "spacing": [1.5, 1.5, 2.0],\n'
        '    "balanced_crops": 0.0,\n'
    )
    many = block(labels={str(value): f"class number {value}" for value in range(16)}).text(("labels",))
    assert many.startswith('    "labels": {\n        "0": "class number 0",\n        "1": "class number 1",\n')
    assert many.endswith('        "15": "class number 15"\n    },\n')
    assert max(len(line) for line in many.splitlines()) <= LINE_LENGTH


def test_reads_what_stands_in_a_config(tmp_path):
    given = block(label_values={"4": 2}, class_weights=[1, 2, 2])
    file = tmp_path / "train.json"
    file.write_text("{" + given.text() + '"epochs": 3}', encoding="utf-8")
    assert DatasetBlock.read(file) == given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "train.json: .*Expecting property name"),
        ('{"labels": {"0": "a", "1": "b"}}', "train.json: the dataset block has no 'label_values'; add it"),
    ],
)
def test_a_config_without_a_block_is_refused(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        DatasetBlock.read(tmp_path / "train.json")


def test_a_faulty_block_names_its_file(tmp_path):
    text = block(balanced_crops=0.25).text().replace('"balanced_crops": 0.25', '"balanced_crops": 25')
    (tmp_path / "train.json").write_text("{" + text.rstrip().removesuffix(",") + "}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train.json: balanced_crops 25 must be a share in \[0, 1\]"):
        DatasetBlock.read(tmp_path / "train.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"0": "a", "2": "b"}}, "labels {'0': 'a', '2': 'b'} must map \"0\", \"1\", ... in order"),
        ({"labels": {"1": "b", "0": "a"}}, 'must map "0", "1", ... in order and without a gap'),
        ({"labels": ["a", "b"]}, "labels ['a', 'b'] must map"),
        ({"labels": {"0": "a"}}, "has 1 classes: give the background and 1 to 254 others"),
        ({"labels": {"0": "a", "1": "a"}}, "gives the name 'a' twice"),
        ({"labels": {"0": "a", "1": "$print(1)"}}, "labels has the name '$print(1)': take a text without"),
        ({"labels": {"0": "a", "1": " "}}, "labels has the name ' '"),
        ({"labels": {"0": "a", "1": "liver@ct"}}, "labels has the name 'liver@ct'"),
        ({"label_values": {"4": 3}}, "label_values maps '4' to class 3: take one of 0 to 2, or add it to labels"),
        ({"label_values": {"four": 1}}, "label_values names the value 'four': a whole number as text"),
        ({"label_values": [4]}, "label_values [4] must be an object, or null"),
        ({"regions": {"whole": [1, 3]}}, "regions 'whole' is [1, 3]: list foreground classes, 1 to 2"),
        ({"regions": {"whole": [0, 1]}}, "regions 'whole' is [0, 1]: list foreground classes, 1 to 2"),
        ({"regions": {"whole": [1, 1]}}, "regions 'whole' is [1, 1]: list foreground classes"),
        ({"regions": {"whole": []}}, "regions 'whole' is []"),
        ({"regions": {}}, "regions {} is empty"),
        ({"regions": {"a#b": [1]}}, "regions has the name 'a#b'"),
        ({"in_channels": 0}, "in_channels 0 must be a whole number from 1 on"),
        ({"modalities": ["t1", "t2"]}, "modalities ['t1', 't2'] names 2 but in_channels is 1: name one per channel"),
        ({"spacing": [1.0, 0.0, 1.0]}, "spacing [1.0, 0.0, 1.0] must be three sizes in mm from"),
        ({"roi_size": [96, 100, 90]}, "roi_size [96, 100, 90] must be three sizes divisible by 16: try [96, 96, 96]"),
        ({"roi_size": [96, 96]}, "roi_size [96, 96] must be three sizes"),
        ({"roi_size": [16, 16, 16]}, "roi_size [16, 16, 16] leaves one voxel at the bottom"),
        ({"roi_size": [96, 96, 9], "strides": THICK}, "divisible by 16 x 16 x 2: try [96, 96, 8]"),
        ({"strides": [[2, 2, 2]] * 3}, "must be 4 triples of whole numbers from 1 on, or null"),
        ({"strides": [[2, 2, 2]] * 2, "backbone": "residual_encoder"}, "must be 3 or more triples"),
        ({"strides": 2}, "strides 2 must be 4 triples"),
        ({"kernel_sizes": [[3, 3, 3]] * 4}, "must be 5 triples of odd numbers, or null"),
        ({"kernel_sizes": [3, 3, 3, 3, 3]}, "must be 5 triples of odd numbers, or null"),
        ({"backbone": "unet"}, "backbone 'unet' must be 'vnet' or 'residual_encoder'"),
        ({"augmentation": "more"}, "augmentation 'more' must be 'strong', "),
        ({"intensity": "ct"}, "intensity 'ct' must be None"),
        ({"intensity": {"window": [3, 1]}}, "intensity {'window': [3, 1]} must be None"),
        ({"flip_axes": [1, 3]}, "flip_axes [1, 3] must be some of 0 (left-right)"),
        ({"flip_axes": [[0, 1], 1]}, "flip_axes [[0, 1], 1] must be some of 0 (left-right)"),
        ({"flip_axes": [1, 1]}, "flip_axes [1, 1] must be some of 0 (left-right)"),
        ({"balanced_crops": 1.5}, "balanced_crops 1.5 must be a share in [0, 1]"),
        ({"balanced_crops": True}, "balanced_crops True must be a share"),
        ({"class_weights": [1.0, 2.0]}, "class_weights [1.0, 2.0] has 2 numbers for 3 classes: give one per class"),
        ({"class_weights": [1.0, -2.0, 1.0]}, "class_weights [1.0, -2.0, 1.0] must be numbers from 0 on"),
        ({"class_weights": [0, 0, 0]}, "class_weights [0, 0, 0] must be numbers from 0 on, not all of them 0"),
        ({"fusion": "sum"}, "fusion 'sum' must be 'none', 'concatenation' or 'cafa'"),
        ({"largest_component": "true"}, "largest_component 'true' is a text: write true"),
        ({"largest_component": "yes"}, "largest_component 'yes' must be true, false, joined or foreground"),
        ({"labeled_count": 0}, "labeled_count 0 must be a whole number from 1 on, or null"),
        ({"validation_count": -1}, "validation_count -1 must be a whole number from 0 on"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        block(**changes)


def test_all_faults_are_named_at_once():
    with pytest.raises(ValueError, match="in_channels 0") as error:
        block(in_channels=0, balanced_crops=-1, validation_count=-3)
    assert [line.split()[0] for line in str(error.value).splitlines()] == [
        "in_channels",
        "balanced_crops",
        "validation_count",
    ]


@pytest.mark.parametrize(("strides", "stride"), [(None, (16, 16, 16)), (THICK, (16, 16, 2))])
def test_the_stride_is_that_of_the_network(strides, stride):
    assert VNet(strides=strides).stride == block(strides=strides, roi_size=[32, 48, 16]).stride == stride
