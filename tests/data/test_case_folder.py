import json
import re

import pytest

from aps_components.data.case_folder import declared_labels, declared_regions, find_cases, without_ignored
from aps_components.data.errors import DataError


def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def found(folder):
    return {case.name: (case.images, case.label) for case in folder.cases}


def test_images_and_labels_by_name(tmp_path):
    touch(tmp_path, "images/b.nii.gz", "images/a.nii", "images/._a.nii.gz", "images/note.txt", "labels/a.nii.gz")
    folder = find_cases(tmp_path)
    assert found(folder) == {"a": (("images/a.nii",), "labels/a.nii.gz"), "b": (("images/b.nii.gz",), None)}
    assert [case.item for case in folder.cases] == [
        {"image": "images/a.nii", "label": "labels/a.nii.gz"},
        {"image": "images/b.nii.gz"},
    ]
    assert (folder.channel_tokens, folder.labels_without_image, folder.faults) == ((), [], [])


def test_channel_numbers_of_nnu_net(tmp_path):
    touch(tmp_path, *(f"imagesTr/{case}_{channel:04d}.nii.gz" for case in ("p_1", "q") for channel in (1, 0)))
    touch(tmp_path, "labelsTr/p_1.nii.gz")
    folder = find_cases(tmp_path)
    assert found(folder) == {
        "p_1": (("imagesTr/p_1_0000.nii.gz", "imagesTr/p_1_0001.nii.gz"), "labelsTr/p_1.nii.gz"),
        "q": (("imagesTr/q_0000.nii.gz", "imagesTr/q_0001.nii.gz"), None),
    }
    assert folder.channel_tokens == ("0000", "0001")


def test_four_digits_that_the_label_has_too_are_part_of_the_name(tmp_path):
    touch(tmp_path, "imagesTr/ct_0001.nii.gz", "imagesTr/ct_0002.nii.gz", "labelsTr/ct_0002.nii.gz")
    assert found(find_cases(tmp_path)) == {
        "ct_0001": (("imagesTr/ct_0001.nii.gz",), None),
        "ct_0002": (("imagesTr/ct_0002.nii.gz",), "labelsTr/ct_0002.nii.gz"),
    }


def test_cases_with_other_channels_are_left_out_by_name(tmp_path):
    touch(tmp_path, *(f"images/{case}_000{channel}.nii.gz" for case in "abc" for channel in range(3)))
    touch(tmp_path, "images/d_0000.nii.gz", "images/e.nii.gz", "labels/a.nii.gz", "labels/d.nii.gz")
    folder = find_cases(tmp_path)
    assert set(found(folder)) == {"a", "b", "c"}
    first, second = sorted(folder.faults)
    assert first.startswith("d: channels 0000 in images/ where other cases have 0000, 0001, 0002")
    assert second.startswith("e: images/e.nii.gz ends in no channel number")
    assert folder.labels_without_image == []


def test_labels_without_an_image(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "labels/z.nii.gz", "labels/y.nii.gz")
    assert find_cases(tmp_path).labels_without_image == ["labels/y.nii.gz", "labels/z.nii.gz"]


def test_named_folders(tmp_path):
    touch(tmp_path, "mr/t1/a.nii.gz", "mr/masks/a.nii.gz")
    folder = find_cases(tmp_path, images="mr/t1", labels=str(tmp_path / "mr" / "masks"))
    assert found(folder) == {"a": (("mr/t1/a.nii.gz",), "mr/masks/a.nii.gz")}


FAULTS = {
    "no folder": ((), {"data": "nowhere"}, r"nowhere: no such folder; give the folder that holds images/"),
    "a file": (["f"], {"data": "f"}, r"f: a file; give the folder"),
    "no images folder": (
        ["scans/a.nii", "x"],
        {},
        r"no folder of images in it .*; it holds scans/; put the scans into images/",
    ),
    "no folder at all": (["x"], {}, r"it holds no folder at all"),
    "no labels folder": (["images/a.nii.gz"], {}, r"labels: no such folder; put the scans there, or name another"),
    "a file as folder": (["images/a.nii", "labels"], {}, r"labels: a file where a folder is wanted"),
    "another format": (
        ["images/a.mha", "labels/a.mha"],
        {},
        r"images: no .nii or .nii.gz file in this folder; put some there, or convert",
    ),
    "no match": (
        ["images/a.nii", "labels/a_seg.nii"],
        {},
        r"no label belongs to an image: labels/ holds a_seg.nii, images/ holds a.nii; give a label the name",
    ),
    "twice": (
        ["images/a.nii", "images/a.nii.gz", "labels/a.nii"],
        {},
        r"images/a.nii and images/a.nii.gz have the same name; remove one",
    ),
    "outside": (["images/a.nii"], {"labels": "../labels"}, r"\.\./labels: lies outside"),
    "the same": (["images/a.nii"], {"labels": "images"}, r"both the images' and the labels' folder"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_without_usable_cases_is_refused(tmp_path, name):
    files, options, message = FAULTS[name]
    touch(tmp_path, *files)
    with pytest.raises(DataError) as error:
        find_cases(tmp_path / options.pop("data", ""), **options)
    assert re.search(message, str(error.value)), error.value


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"background": 0, "liver": 1, "tumour": 2}, {0: "background", 1: "liver", 2: "tumour"}),
        ({"0": "background", "1": "liver"}, {0: "background", 1: "liver"}),
        ({"background": 0, "whole": [1, 2], "core": 2}, {0: "background", 1: "label 1", 2: "core"}),
    ],
)
def test_names_of_a_dataset_json(tmp_path, labels, names):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert declared_labels(tmp_path) == names


def test_regions_of_nnu_net(tmp_path):
    labels = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3], "cyst": 5, "ignore": 6}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert declared_regions(tmp_path) == {"whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    names = {0: "background", 1: "label 1", 2: "label 2", 3: "enhancing", 5: "cyst", 6: "ignore"}
    assert declared_labels(tmp_path) == names


@pytest.mark.parametrize("region", [[], ["one"], [[1, 2]], [1.5]])
def test_a_region_that_is_none_is_refused(tmp_path, region):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "whole tumour": region}}))
    with pytest.raises(DataError, match=r"dataset.json: the region 'whole tumour' is .* must be a list of whole"):
        declared_labels(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_dataset_json_of_windows_is_read(tmp_path, encoding):
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "Milz"}}', encoding=encoding)
    assert declared_labels(tmp_path) == {0: "background", 1: "Milz"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": {"background": 0, "liver": 1,}}', "not valid JSON"),
        ('{"labels": {"background": 0, "liver": 1}', "not valid JSON"),
        ("", "not valid JSON"),
        ('{"labels": ["background"]}', "must map names to values"),
        ('{"labels": {"background": 0, "liver": 1.5}}', "'liver' has the value 1.5"),
        ('{"labels": {"background": 0, "liver": 1, "tumour": 1}}', "a value two names"),
        ('{"labels": {"0": "background", "1": null}}', "the class 1 has the name None; it must be a text"),
    ],
)
def test_a_faulty_dataset_json_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json: .*" + re.escape(message)):
        declared_labels(tmp_path)


@pytest.mark.parametrize(
    ("labels", "ignore"),
    [
        ({"background": 0, "liver": 1, "ignore": 2}, 2),
        ({"0": "background", "1": "liver", "255": "Ignore"}, 255),
        ({"background": 0, "liver": 1}, None),
    ],
)
def test_what_nobody_labelled_is_no_class(tmp_path, labels, ignore):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert without_ignored(declared_labels(tmp_path)) == ({0: "background", 1: "liver"}, ignore)


@pytest.mark.parametrize("names", [{0: "ignore", 1: "liver"}, {1: "liver", 2: "ignore", 3: "Ignore"}])
def test_one_value_other_than_the_background_is_ignored(names):
    with pytest.raises(DataError, match="name one value"):
        without_ignored(names)


def test_no_dataset_json(tmp_path):
    assert declared_labels(tmp_path) == {}
