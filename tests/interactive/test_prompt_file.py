import json

import numpy as np
import pytest
from tiny_model import AFFINE, SHAPE

from aps_components.data import DataError
from aps_components.inference import PromptPoint
from aps_components.inference.prompt_file import mark_of, prompt_file_text, prompts_in_world
from aps_components.interactive import holds_a_persons_words, read_prompts
from aps_components.interactive.model import class_value
from aps_components.prompts import Box, Click, Scribble

LABELS = {0: "background", 1: "kidney", 2: "liver"}
OWN = [PromptPoint(1, (3, 4, 5), 0.9), PromptPoint(2, (7, 8, 2), 0.7)]
NETWORK = AFFINE @ np.diag([1.5, 1.25, 0.8, 1])


def written(path, **changes):
    """As inference writes it, with changes."""
    points = prompts_in_world(OWN, affine=NETWORK, original_affine=AFFINE, labels=LABELS)
    text = prompt_file_text("a", shape=SHAPE, affine=AFFINE, points=points)
    path.write_text(json.dumps({**json.loads(text), **changes}))
    return path


def read(path, **changes):
    given = {"scan": "a", "shape": SHAPE, "affine": AFFINE, "class_value": lambda label: class_value(label, LABELS)}
    return read_prompts(path, **given | changes)


def points_of(path):
    return json.loads(path.read_text())["points"]


def test_the_models_own_points_are_nobodys_words(tmp_path):
    path = written(tmp_path / "a_prompts.json")
    said = read(path)
    assert not said
    (note,) = said.notes
    assert "no prompt in it is yours, so the answer is the automatic one" in note
    assert not holds_a_persons_words(path)
    assert points_of(path)[0]["voxel"] == [4.5, 5.0, 4.0]


def test_whoever_writes_the_file_anew_does_not_make_the_points_his_own(tmp_path):
    """Viewers write 204.0 as 204, and add the digits of float32."""
    path = written(tmp_path / "a_prompts.json")
    points = [
        {key: anew(value) for key, value in point.items()} | {"label": float(point["label"])}
        for point in points_of(path)
    ]
    assert points[0]["voxel"] != points_of(path)[0]["voxel"] or str(points) != str(points_of(path))
    said = read(written(path, points=points))
    assert not said
    assert len(said.notes) == 1


def anew(value):
    if not isinstance(value, list):
        return value
    return [int(each) if float(each).is_integer() else float(np.float32(each)) for each in value]


def test_a_point_of_the_models_without_a_mark_is_its_own_and_that_is_said(tmp_path):
    path = written(tmp_path / "a_prompts.json")
    points = [{key: value for key, value in point.items() if key != "mark"} for point in points_of(path)]
    mine = {"label": 1, "voxel": [6, 6, 6]}
    said = read(written(path, points=[*points, mine]))
    assert said.clicks == [Click(1, (6, 6, 6))]
    assert said.notes == [
        "points[0] and 1 more: source 'model' without a mark, taken as the model's own; delete \"source\" where the "
        "point is yours"
    ]


def test_minus_nought_is_nought():
    assert mark_of({"world_mm": [-0.0, 1.0, 2.0]}) == mark_of({"world_mm": [0, 1, 2]})


@pytest.mark.parametrize("source", ["model", "banana", 7])
def test_boxes_and_scribbles_are_a_persons(tmp_path, source):
    box = {"label": 1, "voxel": [[1, 1, 1], [3, 3, 3]], "source": source}
    path = written(tmp_path / "a_prompts.json", boxes=[box])
    assert holds_a_persons_words(path)
    with pytest.raises(DataError, match=r"boxes\[0\]: source .* of what only a person draws"):
        read(path)


def test_a_line_for_each_prompt(tmp_path):
    points = prompts_in_world(OWN, affine=NETWORK, original_affine=AFFINE, labels=LABELS)
    lines = prompt_file_text("a", shape=SHAPE, affine=AFFINE, points=points).splitlines()
    assert [json.loads(line.rstrip(","))["label"] for line in lines if '"label"' in line] == [1, 2]


@pytest.mark.parametrize(
    "edit",
    [
        {"label": 2, "name": "liver"},
        {"label": None, "name": "background"},
        {"voxel": [6, 6, 6], "world_mm": None},
        {"voxel": None, "world_mm": (AFFINE @ [6, 6, 6, 1])[:3].tolist()},
    ],
)
def test_an_edited_point_of_the_model_is_a_persons(tmp_path, edit):
    path = written(tmp_path / "p.json")
    points = points_of(path)
    points[0] |= edit
    written(path, points=points)
    said = read(path)
    (click,) = said.clicks
    assert click.label == {2: 2, None: 0}.get(edit.get("label", 1), 1)
    assert click.voxel == ((6, 6, 6) if "voxel" in edit else (4, 5, 4))
    assert said.notes == ["points[0]: the model's own point, edited: it counts as yours"]
    assert holds_a_persons_words(path)


def test_points_boxes_and_scribbles_of_a_person(tmp_path):
    world = (AFFINE @ [30, 2, 17, 1])[:3]
    path = written(
        tmp_path / "p.json",
        points=[{"name": "kidney", "voxel": [1, 2, 3]}, {"label": 0, "world_mm": world.tolist(), "source": "user"}],
        boxes=[{"name": "liver", "voxel": [[9, 9, 9], [2, 3, 4]]}],
        scribbles=[{"label": 1, "voxel": [[5, 5, 5], [5, 6, 5], [5, 6.2, 5]]}],
    )
    said = read(path)
    assert said.clicks == [Click(1, (1, 2, 3)), Click(0, (30, 2, 17))]
    assert said.boxes == [Box(2, (2, 3, 4), (9, 9, 9))]
    assert said.scribbles == [Scribble(1, [(5, 5, 5), (5, 6, 5)])]


def test_mm_that_count_to_the_left_and_back(tmp_path):
    world = (AFFINE @ [30, 2, 17, 1])[:3] * [-1, -1, 1]
    path = written(tmp_path / "p.json", world="LPS", points=[{"label": 1, "world_mm": world.tolist()}])
    assert read(path).clicks == [Click(1, (30, 2, 17))]
    with pytest.raises(DataError, match="lies outside"):
        read(written(path, world="RAS", points=[{"label": 1, "world_mm": world.tolist()}]))


def test_the_later_of_two_words_counts_and_it_is_said(tmp_path):
    points = [{"label": 1, "voxel": [1, 2, 3]}, {"label": 2, "voxel": [1, 2, 3]}]
    said = read(written(tmp_path / "p.json", points=points))
    assert said.clicks == [Click(2, (1, 2, 3))]
    assert len(said.notes) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scan": "b"}, "of scan 'b', not of 'a'; give the file of this scan"),
        ({"shape": [31, 43, 20]}, r"of a scan of \[31, 43, 20\] voxels, 'a' has \[31, 43, 19\]"),
        ({"affine": np.eye(4).tolist()}, r"lies elsewhere in space \(affine\)"),
        ({"affine": "none"}, "lies elsewhere"),
        ({"world": "LAS"}, "world 'LAS' must be one of RAS, LPS"),
        ({"world": ["RAS"]}, r"world \['RAS'\] must be one of RAS, LPS"),
        ({"point": []}, "there is no key 'point'; there are: scan"),
        ({"points": {}}, "points must be a list"),
        ({"points": [[1, 2, 3]]}, r"points\[0\] must be as in"),
        ({"points": [{"label": 1, "voxel": [31, 0, 0]}]}, r"points\[0\]: voxel .* outside the scan"),
        ({"points": [{"label": 1, "world_mm": [500, 0, 0]}]}, r"points\[0\]: .* mm lies outside the scan"),
        ({"points": [{"label": 1, "voxel": [1, 2]}]}, r"voxel \[1, 2\] is no place; give three numbers"),
        ({"points": [{"label": 1, "voxel": ["1", "2", "3"]}]}, "is no place"),
        ({"points": [{"label": 1, "voxel": [1, 2, float("nan")]}]}, "NaN is no number"),
        ({"points": [{"label": 1}]}, r'points\[0\]: has no place; add "voxel" or "world_mm"'),
        ({"points": [{"voxel": [1, 2, 3]}]}, r'points\[0\]: has no class; add "name" or "label"'),
        ({"points": [{"label": 3, "voxel": [1, 2, 3]}]}, r"points\[0\]: there is no class 3; there are: 0 'backgr"),
        (
            {"points": [{"label": [1], "voxel": [1, 2, 3]}]},
            r"points\[0\]: there is no class \[1\]; there are: 0 'backgr",
        ),
        ({"points": [{"name": "lung", "voxel": [1, 2, 3]}]}, "no class 'lung'"),
        ({"points": [{"label": 1, "name": "liver", "voxel": [1, 2, 3]}]}, "label 1 is not 'liver'; mend one"),
        (
            {"points": [{"label": 1, "voxel": [1, 2, 3], "world_mm": [18, 34, -4]}]},
            "are different places; delete the one",
        ),
        ({"points": [{"label": 1, "voxel": [1, 2, 3], "source": "me"}]}, "source 'me' must be 'user' or 'model'"),
        ({"points": [{"label": 1, "voxel": [1, 2, 3], "radius": 2}]}, r"points\[0\]: there is no key 'radius'"),
        ({"boxes": [{"label": 1, "voxel": [[1, 2, 3]]}]}, r"boxes\[0\]: a box has two opposite corners, not 1"),
        ({"scribbles": [{"label": 1, "voxel": []}]}, r"scribbles\[0\]: voxel \[\] must be a list of places"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line_with_the_file(tmp_path, changes, message):
    path = written(tmp_path / "p.json", **changes)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_no_file_no_json_no_scan(tmp_path):
    path = tmp_path / "p.json"
    with pytest.raises(DataError, match="no such file; check --prompts"):
        read(path)
    path.write_text('{"scan": "a",\n "points": [}')
    with pytest.raises(DataError, match=r"not valid JSON .* line 2 column 13"):
        read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        read(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="where a JSON object is wanted"):
        read(path)
    path.write_text('{"points": []}')
    with pytest.raises(DataError, match='it names no scan; add "scan": "a"'):
        read(path)
    assert holds_a_persons_words(path) is False
    path.write_text("broken by hand")
    assert holds_a_persons_words(path)
