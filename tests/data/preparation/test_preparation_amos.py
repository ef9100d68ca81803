"""AMOS: CT and MR by number, splits, and nothing copied."""

import json

import pytest
from official_trees import spoil, truncate, write_amos

from aps_components.data import DataError, check_cases, load_datalist

CT = [f"amos_{number:04d}" for number in (1, 4, 5, 7, 500)]
MR = ["amos_0507", "amos_0600"]


@pytest.fixture
def raw(tmp_path):
    raw = write_amos(tmp_path / "amos22", [*CT, *MR])
    return write_amos(raw, ["amos_0008", "amos_0510"], part="Va")


def test_ct_by_default_and_paths_into_the_download(tmp_path, raw, run, names):
    datalist, summary = run("amos", raw)
    assert summary["counts"] == {"training": 4, "unlabeled": 0, "validation": 1, "test": 1}
    assert sorted(names(datalist, "training") + names(datalist, "validation")) == CT
    assert datalist["test"] == [
        {"image": "../amos22/imagesVa/amos_0008.nii.gz", "label": "../amos22/labelsVa/amos_0008.nii.gz"}
    ]
    assert len(datalist["labels"]) == 16
    assert datalist["labels"]["15"] == "prostate/uterus"
    loaded = load_datalist(tmp_path / "out")
    check_cases([*loaded.labeled, *loaded.validation, *loaded.test], num_classes=16)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"datalist.json", "preparation.json", "preparation_state.jsonl"}
    assert (
        "5 case(s) with a label where the split of ct scans (180/20 training, validation) has 200"
        in summary["notes"][0]
    )


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"modality": "mr"}, (1, 1, 1)),
        ({"modality": "all"}, (6, 1, 2)),
        ({"protocol": 216}, (6, 1, 2)),
        ({"protocol": "180"}, (4, 1, 1)),
        ({"protocol": 180, "modality": "ct"}, (4, 1, 1)),
        ({"validation": 2}, (3, 2, 1)),
    ],
)
def test_modalities_and_protocols(raw, run, options, counts):
    _, summary = run("amos", raw, **options)
    assert tuple(summary["counts"][part] for part in ("training", "validation", "test")) == counts


def test_full_size_splits_are_the_published_ones():
    from aps_components.data.preparation.amos import Amos
    from aps_components.data.preparation.cases import RawCase

    def cases(count, held_back):
        return [RawCase(f"{held_back}{i}", (f"{i}",), f"{i}", held_back) for i in range(count)]

    for layout, training, test, expected in (
        (Amos(), 200, 100, {"training": 180, "validation": 20, "test": 100, "unlabeled": 0}),
        (Amos(protocol=216), 240, 120, {"training": 216, "validation": 24, "test": 120, "unlabeled": 0}),
    ):
        split = layout.split([*cases(training, False), *cases(test, True)], seed=0, validation=None, labeled=None)
        assert {part: len(found) for part, found in split.parts.items()} == expected
        assert split.notes == []


def test_labels_of_unlabeled_cases_are_never_read(tmp_path, raw, run, names):
    datalist, summary = run("amos", raw, "first", labeled=2)
    hidden = names(datalist, "unlabeled")
    assert len(hidden) == 2
    assert all("label" not in item for item in datalist["unlabeled"])
    for name in hidden:
        spoil(raw / "labelsTr" / f"{name}.nii.gz")
    again, other = run("amos", raw, "second", labeled=2)
    assert again == datalist
    assert other["left_out"] == {}
    assert other["split"] == summary["split"]
    _, other = run("amos", raw, "third")
    assert sorted(other["left_out"]) == sorted(f"{name} (training)" for name in hidden)


def test_cases_without_a_label(raw, run, names):
    (raw / "labelsTr" / "amos_0004.nii.gz").unlink()
    (raw / "labelsVa" / "amos_0008.nii.gz").unlink()
    datalist, summary = run("amos", raw)
    assert names(datalist, "unlabeled") == ["amos_0004"]
    assert datalist["test"] == []
    assert summary["left_out"] == {"amos_0008": "imagesVa without a label in labelsVa cannot be measured"}


def test_a_broken_case_is_named(raw, run):
    truncate(raw / "imagesTr" / "amos_0001.nii.gz")
    _, summary = run("amos", raw)
    ((name, reason),) = summary["left_out"].items()
    assert name.startswith("amos_0001 (")
    assert "imagesTr/amos_0001.nii.gz: cannot be read as NIfTI" in reason


def test_dataset_json_adds_files_and_stays_inside(tmp_path, raw, run, names):
    (raw / "more").mkdir()
    (raw / "imagesTr" / "amos_0005.nii.gz").rename(raw / "more" / "amos_0005.nii.gz")
    (raw / "labelsTr" / "amos_0005.nii.gz").rename(raw / "more" / "l5.nii.gz")
    write_amos(tmp_path / "elsewhere", ["amos_0002"])
    entries = [
        {"image": "./imagesTr/amos_0001.nii.gz", "label": "./labelsTr/amos_0001.nii.gz"},
        {"image": "./more/amos_0005.nii.gz", "label": "./more/l5.nii.gz"},
        {"image": "./imagesTr/amos_0400.nii.gz", "label": "./labelsTr/amos_0400.nii.gz"},
        {"image": "../elsewhere/imagesTr/amos_0002.nii.gz"},
    ]
    (raw / "dataset.json").write_text(json.dumps({"training": entries, "test": ["./imagesTs/amos_0003.nii.gz"]}))
    datalist, summary = run("amos", raw)
    assert sorted(names(datalist, "training") + names(datalist, "validation")) == CT
    assert "1 scans that dataset.json names are not there" in summary["notes"]
    assert list(summary["left_out"]) == ["../elsewhere/imagesTr/amos_0002.nii.gz"]


def test_a_folder_around_the_download_is_opened(tmp_path, raw, run):
    _, summary = run("amos", tmp_path)
    assert summary["counts"]["training"] == 4


def test_a_name_without_number_is_left_out(raw, run):
    write_amos(raw, ["scan"])
    _, summary = run("amos", raw)
    assert "no case number in its name" in summary["left_out"]["scan"]


def test_imagests_is_said_not_to_be_used(raw, run):
    write_amos(raw, ["amos_0003"], part="Ts", labels=False)
    _, summary = run("amos", raw)
    assert any(note.startswith("imagesTs: 1 scans") for note in summary["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "pet"}, "modality 'pet' is none of ct, mr, all"),
        ({"protocol": 90}, "protocol 90 is none of 180, 216"),
        ({"protocol": 216, "modality": "ct"}, "protocol 216 is of modality all, not ct"),
    ],
)
def test_unknown_choices_are_refused(raw, run, options, message):
    with pytest.raises(DataError, match=message):
        run("amos", raw, **options)
