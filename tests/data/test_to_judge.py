"""A dataset in any of its forms becomes a folder that a bundle evaluates on."""

import json

import pytest
from scans import random_image, write

from aps_components.data import case_identities, load_datalist
from aps_components.data.errors import DataError
from aps_components.data.partial import Partial
from aps_components.data.to_judge import dataset_to_judge

LABELS = {"0": "background", "1": "wall"}

MORE = "If its labels hold more, declare that there, too."


def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def judged(data, tmp_path, **options):
    given = {"known": tmp_path / "known.json", "labels": LABELS, "work": tmp_path / "work"} | options
    folder = dataset_to_judge(data, **given)
    return folder, load_datalist(folder, default=tmp_path / "known.json", counts_at_most=True, validation_count=2)


def names(items):
    return [item["image"] if isinstance(item["image"], list) else item["image"].rpartition("/")[2] for item in items]


def test_of_images_and_labels_every_labelled_scan_is_judged(tmp_path):
    data = touch(
        tmp_path / "data", "images/a.nii.gz", "images/b.nii.gz", "images/c.nii", "labels/a.nii", "labels/c.nii.gz"
    )
    folder, datalist = judged(data, tmp_path)
    assert folder == tmp_path / "work"
    assert names(datalist.test) == ["a.nii.gz", "c.nii"]
    assert [item["label"] for item in datalist.test] == [str(data / "labels" / name) for name in ("a.nii", "c.nii.gz")]
    assert datalist.training_items == datalist.validation == []
    assert (datalist.name, datalist.labels) == ("data", {0: "background", 1: "wall"})


def test_the_part_that_was_asked_for_has_them(tmp_path):
    data = touch(tmp_path / "data", "images/a.nii.gz", "labels/a.nii.gz")
    _, datalist = judged(data, tmp_path, split="validation")
    assert (names(datalist.validation), datalist.test) == (["a.nii.gz"], [])
    with pytest.raises(DataError, match="no datalist says which of these scans are for training"):
        judged(data, tmp_path, split="training")


def test_what_others_keep_apart_comes_before_what_they_train_on(tmp_path):
    data = touch(tmp_path / "data", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert names(judged(data, tmp_path)[1].test) == ["a_0000.nii.gz"]
    touch(data, "imagesTs/b_0000.nii.gz")
    assert names(judged(data, tmp_path)[1].test) == ["a_0000.nii.gz"]  # scans of a challenge, without labels
    touch(data, "imagesTs/b_0001.nii.gz", "labelsTs/b.nii.gz")
    (files,) = names(judged(data, tmp_path)[1].test)
    assert [file.rpartition("/")[2] for file in files] == ["b_0000.nii.gz", "b_0001.nii.gz"]


def test_a_folder_with_a_datalist_stays_as_it_is(tmp_path):
    data = touch(tmp_path / "data", "images/a.nii.gz", "labels/a.nii.gz")
    content = {"name": "own", "labels": LABELS, "training": [], "validation": []}
    (data / "datalist.json").write_text(json.dumps(content))
    for given in (data, data / "datalist.json"):
        assert judged(given, tmp_path)[0] == data
    assert not (tmp_path / "work").exists()


def test_the_folder_of_the_training_is_known_by_its_files(tmp_path):
    data = touch(tmp_path / "data", "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz")
    items = [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "ab"]
    content = {"name": "own", "labels": LABELS, "training": items[:1], "validation": items[1:]}
    (tmp_path / "known.json").write_text(json.dumps(content))
    folder, datalist = judged(data, tmp_path)
    assert folder == data
    assert names(datalist.validation) == ["b.nii.gz"]
    (data / "images" / "a.nii.gz").unlink()
    (data / "labels" / "a.nii.gz").unlink()
    folder, datalist = judged(data, tmp_path)
    assert folder == tmp_path / "work"
    assert names(datalist.test) == ["b.nii.gz"]


def test_other_scans_under_the_names_of_the_training_are_not_its_own(tmp_path):
    data = touch(tmp_path / "data", "labels/a.nii.gz", "labels/b.nii.gz")
    items = [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "ab"]
    content = {"name": "own", "labels": LABELS, "training": items[:1], "validation": items[1:]}
    (tmp_path / "known.json").write_text(json.dumps(content))
    for seed, name in enumerate("ab"):
        write(data / "images" / f"{name}.nii.gz", random_image(seed))
    own = [{"image": str(data / item["image"])} for item in items]
    cases = case_identities(own[:1], own[1:])
    assert judged(data, tmp_path, cases=cases)[0] == data
    write(data / "images" / "a.nii.gz", random_image(2))  # one scan that validated is enough
    assert judged(data, tmp_path, cases=cases)[0] == data
    write(data / "images" / "b.nii.gz", random_image(3))
    folder, datalist = judged(data, tmp_path, cases=cases)
    assert folder == tmp_path / "work"
    assert names(datalist.test) == ["a.nii.gz", "b.nii.gz"]


THREE = {"0": "background", "1": "wall", "2": "Cavity"}


@pytest.mark.parametrize(
    ("declared", "label_values", "fits"),
    [
        ({"background": 0, "wall": 1, "cavity ": 2}, None, True),
        ({"background": 0, "cavity": 1, "wall": 2}, None, False),
        ({"0": "background", "1": "Cavity"}, None, False),
        ({"background": 0, "muscle": 1, "fat": 2, "bone": 3}, None, True),
        ({"background": 0, "wall": 4, "cavity": 2}, {"4": 1}, True),
        ({"background": 0, "wall": 3, "cavity": 2}, {"4": 1}, False),
        ({"wall": 2, "cavity": 3}, {"2": 1, "3": 2}, True),
        ({"wall": 1, "cavity": 2}, {"2": 1, "3": 2}, False),
    ],
)
def test_classes_of_a_folder_that_have_other_values_than_the_models_are_refused(tmp_path, declared, label_values, fits):
    data = touch(tmp_path / "data", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (data / "dataset.json").write_text(json.dumps({"labels": declared}))
    given = {"labels": THREE, "label_values": label_values}
    if fits:
        assert len(judged(data, tmp_path, **given)[1].test) == 1
    else:
        with pytest.raises(DataError, match=r"dataset\.json: \d is '\w+'.*, but the model reads 0 'background', 1 "):
            judged(data, tmp_path, **given)
        assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("file", ["datalist.json", "mine.json"])
def test_classes_of_a_datalist_go_by_value_or_by_number(tmp_path, file):
    data = touch(tmp_path / "data", "images/a.nii.gz", "labels/a.nii.gz")
    items = [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]
    given = {"labels": THREE, "label_values": {"2": 1, "3": 2}}
    for listed in (["background", "wall", "cavity"], ["background", "x", "wall", "cavity"]):
        content = {"name": "own", "labels": dict(enumerate(listed)), "training": [], "test": items}
        (data / file).write_text(json.dumps(content))
        assert len(judged(data / file, tmp_path, **given)[1].test) == 1
    content["labels"] = {0: "background", 1: "cavity", 2: "wall"}
    (data / file).write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"{file}: 1 is 'cavity', .* reads .*2 'wall', 3 'Cavity'"):
        judged(data / file, tmp_path, **given)


def test_what_remains_is_found_beside_a_datalist_of_another_name(tmp_path):
    data = touch(tmp_path / "data", *(f"{part}/{name}.nii.gz" for part in ("images", "labels") for name in "abc"))
    items = [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]
    content = {"name": "own", "labels": LABELS, "ignore": 9, "training": items, "test": "remaining"}
    (data / "split.json").write_text(json.dumps(content))
    _, datalist = judged(data / "split.json", tmp_path)
    assert names(datalist.test) == ["b.nii.gz", "c.nii.gz"]
    assert {item["ignore"] for item in datalist.test} == {9}


def test_a_label_that_belongs_to_no_image_is_refused(tmp_path):
    data = touch(tmp_path / "data", "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz", "labels/b_label.nii.gz")
    with pytest.raises(DataError, match=r"labels/b_label\.nii\.gz: no image of this name in images/"):
        judged(data, tmp_path)


def test_a_label_of_an_image_that_lacks_a_channel_is_refused(tmp_path):
    files = [f"imagesTs/{name}_000{channel}.nii.gz" for name in "abc" for channel in "01"]
    data = touch(tmp_path / "data", *files, "imagesTs/d_0000.nii.gz", "labelsTs/a.nii.gz", "labelsTs/b.nii.gz")
    assert len(judged(data, tmp_path)[1].test) == 2  # what nobody labelled is judged by nobody
    (data / "imagesTs" / "b_0001.nii.gz").unlink()
    with pytest.raises(DataError, match="b: channels 0000 in imagesTs/ where other cases have 0000, 0001"):
        judged(data, tmp_path)
    assert not list(tmp_path.glob("work/b*"))


def test_a_file_that_is_no_datalist_is_named_before_anything_is_written(tmp_path):
    data = touch(tmp_path / "data", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(DataError, match=r"a\.nii\.gz: no datalist, which is a \.json file"):
        judged(data / "imagesTr" / "a.nii.gz", tmp_path)
    items = [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]
    decathlon = {"name": "T", "labels": LABELS, "training": items, "test": ["./imagesTs/x.nii.gz"]}
    for content in (decathlon, {"labels": {"background": 0}, "file_ending": ".nii.gz"}):
        (data / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=rf"{data}/dataset\.json: .* give its folder, {data}$"):
            judged(data / "dataset.json", tmp_path)
    assert not (tmp_path / "work").exists()


def test_a_datalist_of_another_name_keeps_its_paths(tmp_path):
    data = touch(tmp_path / "data", "images/a.nii.gz", "labels/a.nii.gz", "images/b.nii.gz", "images/c.nii.gz")
    items = [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]
    content = {"name": "own", "labels": LABELS, "training": [], "test": items}
    content["unlabeled"] = [{"image": ["images/b.nii.gz", str(data / "images" / "c.nii.gz")]}]
    (data / "split_2.json").write_text(json.dumps(content))
    folder, datalist = judged(data / "split_2.json", tmp_path)
    assert folder == tmp_path / "work"
    assert datalist.test == [{key: str(data / file) for key, file in items[0].items()}]
    assert datalist.unlabeled == [{"image": [str(data / "images" / f"{name}.nii.gz") for name in "bc"]}]


@pytest.mark.parametrize("content", ["[]", "{", '{"name": "a", "labels": {}, "training": {}, "test": "remaining"}'])
def test_a_datalist_that_is_none_is_named(tmp_path, content):
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(DataError, match=r"mine\.json|datalist\.json"):
        judged(tmp_path / "mine.json", tmp_path)


def test_nothing_there_is_named(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        judged(tmp_path / "nowhere", tmp_path)
    data = touch(tmp_path / "data", "images/a.nii.gz", "labels/b.nii.gz")
    with pytest.raises(DataError, match="no label belongs to an image"):
        judged(data, tmp_path)


def test_where_the_training_kept_none_apart_scans_that_came_since_are_judged(tmp_path):
    data = touch(tmp_path / "data", "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz")
    content = {
        "name": "own",
        "labels": LABELS,
        "training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}],
        "unlabeled": [{"image": "images/b.nii.gz"}],
    }
    (tmp_path / "known.json").write_text(json.dumps(content))
    touch(data, "labels/b.nii.gz")
    with pytest.raises(DataError, match=r"data: all 2 labelled scans are ones that the model learned from"):
        judged(data, tmp_path)
    touch(data, "images/c.nii.gz", "labels/c.nii.gz")
    assert names(judged(data, tmp_path)[1].test) == ["c.nii.gz"]


FOUR = {"0": "background", "1": "Wall", "2": "cavity", "3": "scar"}


class TestClassesThatADatasetDoesNotDeclare:
    """They would be measured as absent, which lowers the mean."""

    @pytest.fixture
    def data(self, tmp_path):
        return touch(tmp_path / "data", "images/a.nii.gz", "labels/a.nii.gz", "images/b.nii.gz", "labels/b.nii.gz")

    @pytest.mark.parametrize(
        ("declared", "label_values", "drawn", "said"),
        [
            ({"background": 0, "wall ": 1, "cavity": 2}, None, [1, 2], "declares no scar: it is not measured."),
            ({"0": "background", "2": "cavity"}, None, [2], "declares no Wall, no scar: they are not measured."),
            ({"background": 0, "wall": 1, "Narbe": 3}, None, [1, 3], "declares no cavity: it is not measured."),
            ({"wall": 2}, {"2": 1, "3": 2, "4": 3}, [1], "declares no cavity, no scar: they are not measured."),
            ({"wall": 1, "cavity": 2, "ignore": 3}, None, [1, 2], "declares no scar: it is not measured."),
            ({"background": 0, "wall": 1, "cavity": 2, "scar": 3}, None, None, ""),
            ({"background": 0, "muscle": 1, "fat": 2}, None, None, ""),  # it knows none of the model's names
            ({"background": 0, "wall": 1, "Höhle": 2, "Narbe": 3}, None, None, ""),  # other names of these values
            ({"background": 0}, None, None, ""),
        ],
    )
    def test_of_a_folder(self, data, tmp_path, capsys, declared, label_values, drawn, said):
        (data / "dataset.json").write_text(json.dumps({"labels": declared}))
        _, datalist = judged(data, tmp_path, labels=FOUR, label_values=label_values)
        assert [item.get("labeled_classes") for item in datalist.test] == [drawn, drawn]
        assert capsys.readouterr().out == (f"Note: {data}/dataset.json {said} {MORE}\n" if said else "")
        if drawn:
            assert Partial.of(datalist.test[0]).undrawn(4) == tuple({1, 2, 3} - set(drawn))

    @pytest.mark.parametrize("file", ["datalist.json", "mine.json"])
    def test_of_a_datalist(self, data, tmp_path, capsys, file):
        a, b = ({"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "ab")
        content = {"name": "own", "labels": {"0": "background", "1": "wall", "2": "cavity"}, "ignore": 9}
        content |= {"training": [a | {"labeled_classes": ["wall"]}], "unlabeled": [], "test": [b]}
        (data / file).write_text(json.dumps(content))
        folder, datalist = judged(data / file, tmp_path, labels=FOUR)
        assert folder == tmp_path / "work"
        assert capsys.readouterr().out == f"Note: {data}/{file} declares no scar: it is not measured. {MORE}\n"
        (learned,), (kept,) = datalist.labeled, datalist.test
        assert (learned["labeled_classes"], kept["labeled_classes"]) == ([1], [1, 2])
        assert (kept["image"], kept["label"], kept["ignore"]) == (str(data / b["image"]), str(data / b["label"]), 9)
        assert json.loads((data / file).read_text()) == content

    def test_of_what_remains_beside_a_datalist(self, data, tmp_path):
        items = [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]
        content = {"name": "own", "labels": LABELS, "training": items, "test": "remaining"}
        (data / "datalist.json").write_text(json.dumps(content))
        (item,) = judged(data, tmp_path, labels=FOUR)[1].test
        assert (names([item]), item["labeled_classes"]) == (["b.nii.gz"], [1])
