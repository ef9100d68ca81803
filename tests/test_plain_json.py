"""JSON from files: read within bounds, refused with the file's name, and never run as code."""

import json
import os

import pytest

from aps_components.data import DataError, load_datalist
from aps_components.models import CheckpointError, copy_settings, read_settings, trained_setting
from aps_components.plain_json import MOST_LEVELS, parse_json, read_json, read_lines, read_object, refuse_config_syntax


def nested(levels, opening="[", closing="]"):
    return opening * levels + closing * levels


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'{"a": [1, 2,]}', "not valid JSON"),
        (b'{"a": 1}\n{"a": 2}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b"[1, -Infinity]", "Infinity"),
        (b'{"a": 1e999}', "beyond"),
        (b"[1" + b"0" * 400 + b"]", "beyond"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice"),
        (b'["\\ud83d"]', "half a character"),
        (nested(MOST_LEVELS + 1).encode(), "nested deeper"),
        (nested(100_000).encode(), "nested"),
        (nested(100_000, '{"a":', "}").replace("}", "1}", 1).encode(), "nested"),
        (b"[" + b"9" * 5000 + b"]", "not valid JSON"),
    ],
)
def test_what_is_wrong_is_said_with_the_files_name(tmp_path, content, said):
    file = tmp_path / "settings of a scan.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_json(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_sound_file_is_read_as_python_reads_it(tmp_path):
    content = {"a": [1, 2.5, None, True, "ü"], "b": {"c": {}}, "deep": json.loads(nested(MOST_LEVELS - 1))}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_object(tmp_path / "a.json", keys=("a", "b")) == content
    with pytest.raises(ValueError, match=r"a\.json: key 'd' is missing"):
        read_object(tmp_path / "a.json", keys=("a", "d"))


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "true"])
def test_another_type_than_an_object_is_named(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json: holds .+ where a JSON object is wanted"):
        read_object(tmp_path / "a.json")


def test_a_pipe_or_folder_is_no_file_to_wait_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    for place in (tmp_path / "a.json", tmp_path):
        with pytest.raises(ValueError, match="no regular file"):
            read_json(place)


def test_size_has_an_end(tmp_path):
    with open(tmp_path / "a.json", "wb") as stream:
        stream.write(b'{"a": "')
        stream.truncate(1 << 32)  # a sparse file, 4 GB
    with pytest.raises(ValueError, match="larger than"):
        read_json(tmp_path / "a.json")


def test_a_line_that_a_kill_cut_short_is_left_out_where_that_is_wanted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert read_lines(tmp_path / "a.jsonl", keys=("epoch",), skip_broken=True) == [{"epoch": 1}, {"epoch": 2}]
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3"):
        read_lines(tmp_path / "a.jsonl", keys=("epoch",))
    assert read_lines(tmp_path / "none.jsonl") == []


CODE = [
    "$__import__('os').system('id')",
    " $1",
    "\t$1",
    "@network",
    "%/etc/passwd.json::a",
    "a @::b",
    {"_target_": "subprocess.call"},
    {"_disabled_": False},
    {"a": [{"b": {"_requires_": "$1"}}]},
    {"a#b": 1},
    {"a::b": 1},
    {"+a": 1},
    {"~a": 1},
    {"$a": 1},
    [[["@a"]]],
]


@pytest.mark.parametrize("value", CODE)
def test_what_a_configuration_would_run_is_refused_anywhere_in_a_value(value):
    for place in (value, [value], {"inner": [1, value]}):
        with pytest.raises(ValueError, match=r"file\.json: .*means something else to MONAI's configuration"):
            refuse_config_syntax(place, where="file.json")


@pytest.mark.parametrize(
    "value", ["left atrium", "a$b", "1 @ 2", "100 %", "", None, 1, [1.5, "x"], {"0": "background"}]
)
def test_plain_values_pass(value):
    refuse_config_syntax(value, where="file.json")


@pytest.mark.parametrize("key", ["validation_count", "spacing", "anything", "inference_predictor", "labels"])
@pytest.mark.parametrize("value", CODE)
def test_settings_beside_a_checkpoint_are_never_code(tmp_path, key, value):
    """From here they go on into evaluation, calibration, inference, further training and MONAI Label."""
    (tmp_path / "model.json").write_text(json.dumps({"roi_size": [32, 32, 32], key: value}))
    for use in (
        lambda: trained_setting(tmp_path / "model.pt", "roi_size"),
        lambda: read_settings(tmp_path / "model.pt"),
        lambda: copy_settings(tmp_path / "model.pt", tmp_path / "copy.pt"),
    ):
        with pytest.raises(CheckpointError, match=r"model\.json: "):
            use()
    assert not (tmp_path / "copy.json").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("validation_count", "10"),
        ("validation_count", -1),
        ("validation_count", True),
        ("validation_count", 2.0),
        ("labeled_count", [1]),
        ("spacing", [0, 1, 1]),
        ("spacing", [1, 1]),
        ("spacing", "1,1,1"),
        ("spacing", [1, 1, -2.5]),
        ("roi_size", [96.0, 96, 96]),
        ("roi_size", [96, 96, 10**9]),
        ("roi_size", None),
        ("inference_mirror_axes", [3]),
        ("inference_mirror_axes", "all"),
        ("inference_predictor", "eval"),
        ("labels", ["background", "a"]),
        ("labels", {"a": "b"}),
        ("intensity", 3),
        ("untrained", "yes"),
        ("seed", "$1"),
    ],
)
def test_settings_of_another_type_are_refused_by_name(tmp_path, key, value):
    (tmp_path / "model.json").write_text(json.dumps({key: value}))
    with pytest.raises(CheckpointError, match=rf"model\.json: .*{key}"):
        read_settings(tmp_path / "model.pt")


@pytest.mark.parametrize("change", [{"name": "$1+1"}, {"labels": {"0": "background", "1": "@a"}}, {"name": "%a"}])
def test_names_of_a_datalist_are_never_code(tmp_path, change):
    content = {"name": "x", "labels": {"0": "background", "1": "a"}, "training": []} | change
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"datalist\.json: (name|labels)"):
        load_datalist(tmp_path)


def test_parsing_bytes_that_were_read_already():
    assert parse_json(b'{"a": 1}', name="a.json") == {"a": 1}
    with pytest.raises(DataError, match=r"b\.json: not valid JSON"):
        parse_json("{", name="b.json", error=DataError)
