import json
import re
import shutil
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from case_folders import box, label_map, save, write_cases
from workflows import run_workflow

from aps_components.bundle import DatasetBlock
from aps_components.bundle.new import make_datalist, new_bundle, parse_labels
from aps_components.data import check_cases, load_datalist
from aps_components.data.fingerprint import take_fingerprint
from aps_components.data.scans import find_scans

BLOB = {1: box((8, 28), (12, 30), (8, 20))}
LEFT_RIGHT = {1: box((2, 10), (20, 30), (10, 20)), 2: box((26, 34), (20, 30), (10, 20))}
# Boxes of 4 x 4 x 4 voxels on a grid, so that every axis orders some of them.
TWENTY = {
    1 + index: box(
        *((start, start + 4) for start in (4 + 8 * (index % 4), 4 + 8 * (index // 4 % 4), 4 + 8 * (index // 16)))
    )
    for index in range(20)
}
# Files whose first axis runs upwards, the second to the left and the third forwards; 5 mm between slices.
TURNED = np.array([[0, -0.8, 0, 0], [0, 0, 0.9, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])

# Name: arguments of write_cases, what the block must have.
DATASETS = {
    "thick_slices": (
        {"shape": (64, 64, 12), "spacing": (0.7, 0.7, 7.5), "boxes": {1: box((8, 28), (12, 30), (2, 9))}},
        {
            "spacing": [0.7, 0.7, 7.5],
            "roi_size": [64, 64, 12],
            "strides": [[2, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]],  # after three halvings 5.6 mm, beside 7.5
            "augmentation": "strong_in_plane",
            "in_channels": 1,
            "flip_axes": [0, 1, 2],
            "intensity": "zscore",
        },
    ),
    "small_crops": (
        {"shape": (36, 50, 35), "boxes": LEFT_RIGHT},
        {"roi_size": [32, 48, 32], "flip_axes": [1, 2], "balanced_crops": 0.0, "largest_component": True},
    ),
    "twenty_classes": (
        {"shape": (40, 40, 24), "boxes": TWENTY},
        {"roi_size": [48, 48, 32], "flip_axes": [], "class_weights": None, "label_values": None},
    ),
    "four_channels_in_a_file": (
        {"shape": (36, 36, 24), "boxes": BLOB, "channels": 4},
        {"in_channels": 4, "modalities": None, "roi_size": [32, 32, 32]},
    ),
    "four_channels_in_files": (
        {"shape": (36, 36, 24), "boxes": BLOB, "channels": 4, "layout": "nnunet"},
        {"in_channels": 4, "modalities": ["0000", "0001", "0002", "0003"], "roi_size": [32, 32, 32]},
    ),
    "turned_axes": (
        {"shape": (12, 40, 56), "boxes": {1: box((3, 8), (10, 30), (20, 40))}, "affine": TURNED},
        {"spacing": [0.8, 0.9, 5.0], "roi_size": [48, 64, 12]},
    ),
    "gaps": (
        {"shape": (36, 36, 24), "boxes": {2: box((2, 8), (4, 30), (4, 20)), 7: box((26, 34), (4, 30), (4, 20))}},
        {"label_values": {"2": 1, "7": 2}, "flip_axes": [1, 2]},
    ),
    "ct": (
        {"shape": (36, 36, 24), "boxes": BLOB, "offset": -300.0},
        {"intensity": {"window": [-350, -175]}},  # 99 % of -270 with deviation 20 is -321.5 to -218.5; a quarter more
    ),
}


@pytest.fixture
def make(tmp_path, capsys):
    """Write a dataset of `DATASETS` and its bundle; returns both folders and what was printed."""

    def run(name, *, labelled=5, unlabelled=2, **options):
        data = write_cases(tmp_path / "data", labelled=labelled, unlabelled=unlabelled, **DATASETS[name][0])
        return data, *bundle_of(data, capsys, tmp_path / "out" / "mine", **options)

    return run


def bundle_of(data, capsys, out, **options):
    bundle = new_bundle("mine", data=data, out=out, **options)
    return bundle, capsys.readouterr().out


@pytest.mark.parametrize("name", DATASETS)
def test_the_bundle_fits_the_data(make, tmp_path, name):
    data, bundle, printed = make(name)
    block = DatasetBlock.read(bundle / "configs" / "train.json")
    expected = DATASETS[name][1]
    assert {key: getattr(block, key) for key in expected} == expected
    datalist = load_datalist(data, default=bundle / "configs" / "datalist.json", modalities=block.modalities)
    assert list(datalist.labels.values()) == list(block.labels.values())
    assert (len(datalist.labeled), len(datalist.unlabeled), len(datalist.validation)) == (4, 2, 1)
    for part in ("training", "validation"):
        check_cases(
            datalist.part(part),
            in_channels=block.in_channels,
            num_classes=block.num_classes,
            label_values=block.label_values,
            progress=False,
        )
    assert "7 cases: 5 with a label, 2 without" in printed
    assert f"roi_size           {json.dumps(block.roi_size)}" in printed


def test_no_file_names_a_folder_of_this_machine(make, tmp_path):
    data, bundle, _ = make("small_crops")
    (data / "labels" / "c00.nii.gz").write_bytes(b"broken")
    bundle = new_bundle("again", data=data, out=tmp_path / "again")
    files = [file for folder in (bundle, tmp_path / "out" / "mine") for file in folder.rglob("*") if file.is_file()]
    assert len(files) >= 24
    for file in files:
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file


def test_documentation_repeats_what_was_found_and_chosen(make):
    _, bundle, printed = make("gaps", labels="2:left side, 7:right side")
    readme = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    tables = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(tables) >= 10
    assert not [line for line in tables if line not in readme]
    assert "- `flip_axes`: `[1, 2]`: not x (left-right): left side before right side" in readme
    assert readme.count("\n```bash\n") == 5
    assert "your own" in (bundle / "configs" / "metadata.json").read_text()
    assert json.loads((bundle / "configs" / "metadata.json").read_text())["to_fill_in"] == ["docs/data_license.txt"]
    fingerprint = json.loads((bundle / "configs" / "fingerprint.json").read_text())
    assert fingerprint["classes"]["7"]["cases"] == 5
    assert DatasetBlock.read(bundle / "configs" / "train.json").labels["2"] == "right side"


@pytest.mark.parametrize("where", ["printed", "README"])
def test_next_commands_name_files_and_options_that_exist(make, where):
    _, bundle, printed = make("thick_slices", unlabelled=1)
    text = printed.partition("Next:")[2] if where == "printed" else (bundle / "docs" / "README.md").read_text()
    commands = re.findall(r"^python -m monai\.bundle run (?:[^\\\n]|\\\n)*", text, re.MULTILINE)
    assert [command.split()[4] for command in commands] == ["training", "training", "evaluating", "inference"]
    for command in commands:
        files = re.findall(r"[\w./-]*configs/(\w+\.json)", command)
        known = {"config_file"}.union(*(json.loads((bundle / "configs" / file).read_text()) for file in files))
        assert set(re.findall(r"--(\w+)", command)) <= known
        if where == "printed":
            assert f"--bundle_root {bundle}" in command
    assert "--unlabeled_batch 1" in commands[0]
    assert "--labeled_batch" not in commands[0]


def test_faulty_cases_are_named_and_left_out(make, capsys, tmp_path):
    data, *_ = make("small_crops", labelled=6)
    nan = np.full((36, 50, 35), np.nan, dtype=np.float32)
    save(data / "images" / "c00.nii.gz", nan, np.eye(4))
    save(data / "labels" / "c01.nii.gz", label_map((36, 50, 34), LEFT_RIGHT), np.eye(4))
    (data / "images" / "c07.nii.gz").write_bytes(b"no scan")
    save(data / "labels" / "lost.nii.gz", label_map((36, 50, 35), LEFT_RIGHT), np.eye(4))
    bundle, printed = bundle_of(data, capsys, tmp_path / "again")
    assert "images/c00.nii.gz: 63000 voxels are NaN or infinite" in printed
    assert "labels/c01.nii.gz: shape (36, 50, 34) but images/c00.nii.gz" not in printed
    assert "labels/c01.nii.gz: shape (36, 50, 34) but images/c01.nii.gz has (36, 50, 35)" in printed
    assert "images/c07.nii.gz: cannot be read as NIfTI" in printed
    assert "Labels without an image, which are not used:\n  labels/lost.nii.gz" in printed
    listing = (bundle / "configs" / "datalist.json").read_text()
    assert sorted(re.findall(r"images/(\w+)", listing)) == ["c02", "c03", "c04", "c05", "c06"]


def test_no_usable_label_is_refused(make, tmp_path):
    data, *_ = make("small_crops", labelled=1)
    (data / "labels" / "c00.nii.gz").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"no labelled case can be used; mend .*\n  labels/c00.nii.gz: cannot be read"):
        new_bundle("mine", data=data, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_datalist_that_is_passed_over_is_pointed_at(make, tmp_path, capsys):
    data, *_ = make("small_crops", unlabelled=0)
    (data / "datalist.json").write_text("{}")
    new_bundle("mine", data=data, out=tmp_path / "again", images="images", labels_dir="labels")
    printed = capsys.readouterr().out
    assert f"Note: {data / 'datalist.json'} takes the place" in printed
    assert "every case is labelled" in printed
    assert "--unlabeled_batch 0" in printed


def listing(data: Path, **parts: list[str]) -> dict[str, object]:
    """A datalist of cases, those to learn from and to validate with labels."""
    return {
        "name": "mine",
        "labels": {"0": "background", "1": "front", "2": "back"},
        **{
            part: [
                {"image": f"images/{name}.nii.gz"} | ({} if part == "unlabeled" else {"label": f"labels/{name}.nii.gz"})
                for name in names
            ]
            for part, names in parts.items()
        },
    }


@pytest.mark.parametrize("file", ["datalist.json", "split.json"])
def test_a_datalist_keeps_its_parts_and_names(make, tmp_path, capsys, file):
    data, *_ = make("small_crops", labelled=5)
    content = listing(data, training=["c03", "c01"], unlabeled=["c02"], validation=["c04"], test=["c00"])
    (data / file).write_text(json.dumps(content))
    given = data if file == "datalist.json" else data / file
    bundle = new_bundle("mine", data=given, out=tmp_path / "listed")
    printed = capsys.readouterr().out
    written = json.loads((bundle / "configs" / "datalist.json").read_text())
    assert {part: written[part] for part in ("training", "unlabeled", "validation", "test")} == {
        part: content[part] for part in ("training", "unlabeled", "validation", "test")
    }
    assert DatasetBlock.read(bundle / "configs" / "train.json").labels == content["labels"]
    assert f"--dataset_dir {data} " in printed.replace("\\\n ", "")
    assert "Note:" not in printed
    with pytest.raises(ValueError, match=f"{file} names 1 validation scans; leave it out"):
        new_bundle("mine", data=given, out=tmp_path / "again", validation=2)


def test_validation_scans_are_drawn_for_a_datalist_that_training_does_not_read_itself(make, tmp_path):
    data, *_ = make("small_crops", labelled=5)
    content = listing(data, training=["c00", "c01", "c02", "c03", "c04"])
    for name, kept in (("split.json", 1), ("datalist.json", 0)):
        (data / name).write_text(json.dumps(content))
        bundle = new_bundle("mine", data=data / name, out=tmp_path / name)
        assert len(json.loads((bundle / "configs" / "datalist.json").read_text())["validation"]) == kept
    with pytest.raises(ValueError, match="names no validation scans; name some there, or give training"):
        new_bundle("mine", data=data, out=tmp_path / "again", validation=2)


def test_a_patient_is_not_both_learned_from_and_validated_on(make, tmp_path):
    data, *_ = make("small_crops", labelled=6)
    content = listing(data, training=["c05", "c04", "c03", "c02", "c01", "c00"])
    for index, entry in enumerate(content["training"]):
        entry["patient"] = str(index // 2)
    (data / "split.json").write_text(json.dumps(content))
    for seed in range(4):
        bundle = new_bundle("mine", data=data / "split.json", out=tmp_path / str(seed), validation=2, seed=seed)
        written = json.loads((bundle / "configs" / "datalist.json").read_text())
        apart = {item["image"] for item in written["validation"]}
        assert apart in [{e["image"] for e in content["training"] if e["patient"] == str(p)} for p in range(3)]
        listed = [entry["image"] for entry in content["training"] if entry["image"] not in apart]
        assert [item["image"] for item in written["training"]] == listed


def test_labels_by_models_are_counted_as_training_takes_them(make, tmp_path, capsys):
    data, *_ = make("small_crops", labelled=5)
    content = listing(data, training=["c00", "c01", "c02", "c03"], validation=["c04"])
    for entry in content["training"][2:]:
        entry["label_by"] = "models"
    for name in ("split.json", "datalist.json"):
        (data / name).write_text(json.dumps(content))
        capsys.readouterr()
        new_bundle("mine", data=data / name, out=tmp_path / name)
        printed = capsys.readouterr().out
        if name == "split.json":
            assert "2 labels that models made are left aside" in printed
            assert "Training has 2 labelled and 2 unlabelled" in printed
        else:
            assert "Training has 4 labelled and 0 unlabelled" in printed
            assert "--unlabeled_batch 0" in printed


def test_a_datalist_behind_a_link_names_the_scans_that_training_reads(make, tmp_path, monkeypatch):
    data, *_ = make("small_crops", labelled=5)
    lists = tmp_path / "elsewhere" / "lists"
    lists.mkdir(parents=True)
    (tmp_path / "link").symlink_to(lists)
    content = listing(data, training=["c00", "c01", "c02"], validation=["c03"])
    for part in ("training", "validation"):
        for entry in content[part]:
            entry.update({key: f"../{data.relative_to(tmp_path)}/{file}" for key, file in entry.items()})
    (lists / "split.json").write_text(json.dumps(content))
    bundle = new_bundle("mine", data=tmp_path / "link" / "split.json", out=tmp_path / "listed")
    assert json.loads((bundle / "configs" / "datalist.json").read_text())["training"] == content["training"]


def test_damaged_scans_that_a_datalist_keeps_apart_are_refused(make, tmp_path):
    data, *_ = make("small_crops", labelled=5)
    (data / "split.json").write_text(
        json.dumps(listing(data, training=["c00", "c01"], validation=["c02"], test=["c03"]))
    )
    (data / "images" / "c03.nii.gz").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"images/c03.nii.gz: cannot be read"):
        new_bundle("mine", data=data / "split.json", out=tmp_path / "listed")


def test_a_datalist_and_folders_exclude_each_other(make, tmp_path):
    data, *_ = make("small_crops")
    (data / "split.json").write_text(json.dumps(listing(data, training=["c00"])))
    with pytest.raises(ValueError, match="leave --images and --labels_dir out"):
        new_bundle("mine", data=data / "split.json", out=tmp_path / "listed", images="images")
    with pytest.raises(ValueError, match=r"splt.json: no such folder or file"):
        new_bundle("mine", data=data / "splt.json", out=tmp_path / "listed")


def test_channels_of_a_datalist_are_modalities_as_those_of_a_folder(tmp_path):
    write_cases(tmp_path, labelled=2, unlabelled=0, shape=(17, 24, 40), boxes={1: box((3, 9), (3, 9), (3, 9))})
    entries = []
    for name in ("c00", "c01"):
        scan = tmp_path / "images" / f"{name}.nii.gz"
        for channel in ("0000", "0001"):
            shutil.copy(scan, scan.with_name(f"{name}_{channel}.nii.gz"))
        files = [f"images/{name}_{channel}.nii.gz" for channel in ("0000", "0001")]
        entries.append({"image": files, "label": f"labels/{name}.nii.gz"})
    content = {"name": "x", "labels": {"0": "background", "1": "one"}, "training": entries}
    (tmp_path / "split.json").write_text(json.dumps(content))
    bundle = new_bundle("mine", data=tmp_path / "split.json", out=tmp_path / "listed")
    block = DatasetBlock.read(bundle / "configs" / "train.json")
    assert (block.in_channels, block.modalities) == (2, ["0000", "0001"])


def test_classes_that_are_renumbered_cannot_be_told_by_number(make, tmp_path):
    data, *_ = make("gaps", labelled=2)
    content = listing(data, training=["c00", "c01"])
    content["labels"] = {"0": "background", **{str(value): f"class {value}" for value in range(1, 8)}}
    content["training"][0]["labeled_classes"] = ["class 2"]
    (data / "split.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"labels/c00.nii.gz: its labeled_classes are classes of the datalist"):
        new_bundle("mine", data=data / "split.json", out=tmp_path / "listed", labels="2:two,7:seven")


def test_names_of_a_dataset_json_are_taken(make, tmp_path):
    data, *_ = make("gaps")
    (data / "dataset.json").write_text('{"labels": {"background": 0, "two": 2, "seven": 7}}')
    bundle = new_bundle("mine", data=data, out=tmp_path / "again")
    assert DatasetBlock.read(bundle / "configs" / "train.json").labels == {"0": "background", "1": "two", "2": "seven"}


def test_regions_of_a_dataset_json_are_reported_together(make, tmp_path):
    data, *_ = make("gaps")
    (data / "dataset.json").write_text('{"labels": {"background": 0, "whole": [2, 7], "core": [7]}}')
    block = DatasetBlock.read(new_bundle("mine", data=data, out=tmp_path / "again") / "configs" / "train.json")
    assert block.labels == {"0": "background", "1": "label 2", "2": "core"}
    assert block.regions == {"whole": [1, 2], "core": [2]}


WRONG = {
    "name": ({"name": "my bundle"}, "name 'my bundle' must be letters, digits"),
    "name_up": ({"name": ".."}, r"name '\.\.' must be letters"),
    "data": ({"data": "nowhere"}, "nowhere: no such folder"),
    "images": ({"images": "scans"}, "scans: no such folder"),
    "unknown value": ({"labels": "1:a"}, r"values 2 occur in labels/c00.nii.gz.* but only 1 are named"),
    "labels": ({"labels": "liver"}, r"labels has the entry 'liver:'; write VALUE:NAME"),
    "validation": ({"validation": 5}, "validation 5 of 5 labelled cases leaves none to train on"),
    "validation_text": ({"validation": "many"}, "validation 'many' must be a whole number from 0 on"),
    "budget": ({"budget": "tpu"}, "budget 'tpu' must be gpu or cpu"),
    "spacing": ({"spacing": [1, 1]}, r"spacing \[1, 1\] must be three sizes in mm from"),
    "roi_size": ({"roi_size": [30, 48, 32]}, r"roi_size \[30, 48, 32\] must be three sizes divisible by 16: try"),
    "roi_size_of_two": ({"roi_size": [32, 48]}, r"roi_size \[32, 48\] must be three sizes in voxels"),
}


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("data"), labelled=5, **DATASETS["small_crops"][0])


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused_by_name(two_classes, tmp_path, case):
    options, message = WRONG[case]
    name = options.get("name", "mine")
    rest = {"data": two_classes, "out": tmp_path / "out"} | {k: v for k, v in options.items() if k != "name"}
    with pytest.raises(ValueError, match=message):
        new_bundle(name, **rest)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_is_overwritten(two_classes, tmp_path, kind):
    out = tmp_path / "out"
    (out / "precious").mkdir(parents=True) if kind == "folder" else out.write_text("precious")
    with pytest.raises(FileExistsError, match=r"out is not an empty folder: name a new one by --out"):
        new_bundle("mine", data=two_classes, out=out)
    assert list(out.iterdir()) == [out / "precious"] if kind == "folder" else out.read_text() == "precious"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (None, None),
        ("1:left atrium, 3 : b", {1: "left atrium", 3: "b"}),
        ({1: "a", "2": "b"}, {1: "a", 2: "b"}),
        ("0:air,1:a:b", {0: "air", 1: "a:b"}),
    ],
)
def test_labels_are_read(labels, names):
    assert parse_labels(labels) == names


@pytest.mark.parametrize("labels", ["", "a:1", "1:", "1:a,1:b", "0:background", "-1:a", ("a", "b"), 3])
def test_other_labels_are_refused(labels):
    with pytest.raises(ValueError, match="write VALUE:NAME"):
        parse_labels(labels)


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory):
    data = tmp_path_factory.mktemp("many")
    write_cases(data, labelled=12, unlabelled=2, shape=(5, 7, 11), boxes={1: box((0, 2), (0, 2), (0, 2))})
    return take_fingerprint(find_scans(data).folder, progress=False)


@pytest.fixture(scope="module")
def parted(fingerprint, tmp_path_factory):
    """A function that makes the datalist of a folder without one."""
    folder = tmp_path_factory.mktemp("parted")
    write_cases(folder, labelled=1, unlabelled=0, shape=(5, 7, 11), boxes={1: box((0, 2), (0, 2), (0, 2))})
    return partial(make_datalist, "mine", labels={"0": "background", "1": "a"}, scans=find_scans(folder))


class TestDatalist:
    @pytest.mark.parametrize(("given", "kept"), [(None, 2), (0, 0), (11, 11)])
    def test_validation(self, fingerprint, parted, given, kept):
        datalist = parted(fingerprint, validation=given)
        parts = {key: len(datalist[key]) for key in ("training", "unlabeled", "validation", "test")}
        assert parts == {"training": 12 - kept, "unlabeled": 2, "validation": kept, "test": 0}
        labelled = [item["label"] for key in ("training", "validation") for item in datalist[key]]
        assert sorted(labelled) == [f"labels/c{index:02d}.nii.gz" for index in range(12)]

    def test_split_depends_on_names_and_seed_alone(self, fingerprint, parted):
        first = parted(fingerprint)
        turned = type(fingerprint)(cases=fingerprint.cases[::-1], channels=1, faults=[])
        assert parted(turned)["validation"] == first["validation"]
        assert parted(fingerprint, seed=1)["validation"] != first["validation"]

    @pytest.mark.parametrize(("labelled", "kept"), [(1, 0), (4, 0), (5, 1), (7, 1), (8, 2)])
    def test_few_cases(self, fingerprint, parted, labelled, kept):
        few = type(fingerprint)(cases=fingerprint.cases[:labelled], channels=1, faults=[])
        assert len(parted(few)["validation"]) == kept


def tiny_training(bundle, data, folder, **options):
    """Two iterations on tiny networks; returns the options and the lines of the history."""
    common = {"bundle_root": str(bundle), "network_def#filters": 4, "network_def#sam_variant": "tiny", "device": "cpu"}
    common |= {"precision": "fp32", "output_dir": str(folder / "eval")}
    schedule = {"epochs": 2, "epoch_length": 1, "warmup_epochs": 1, "val_interval": 2, "dataset_dir": str(data)}
    schedule |= {"ckpt_dir": str(folder / "models")} | options
    run_workflow("train.json", kind="train", options=common | schedule)
    lines = [json.loads(line) for line in (folder / "eval" / "history.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(np.isfinite(line["losses"]["loss"]) for line in lines)
    return common, lines


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_the_bundle_trains_and_segments(make, tmp_path, name):
    data, bundle, _ = make(name)
    options, lines = tiny_training(bundle, data, tmp_path)
    assert "dice_average" in lines[1]["validation"]

    scans = tmp_path / "scans"
    scans.mkdir()
    for file in data.glob("images*/c06*"):
        shutil.copy(file, scans)
    segmentation = {"image": str(scans), "checkpoint": str(tmp_path / "models" / "model.pt")}
    run_workflow("inference.json", kind="infer", options=options | segmentation)
    (written,) = (tmp_path / "eval").glob("*_seg.nii.gz")
    first = nib.load(next(scans.iterdir()))
    assert nib.load(written).shape == first.shape[:3]
    np.testing.assert_allclose(nib.load(written).affine, first.affine, atol=1e-5)


@pytest.mark.slow
def test_a_single_labelled_case_trains_with_the_options_that_are_printed(make, tmp_path):
    data, bundle, printed = make("small_crops", labelled=1, unlabelled=0)
    assert "--labeled_batch 1 --unlabeled_batch 0" in " ".join(printed.replace("\\\n", " ").split())
    assert "Evaluate, once the datalist has validation cases" in printed
    _, lines = tiny_training(bundle, data, tmp_path, labeled_batch=1, unlabeled_batch=0)
    assert "validation" not in lines[1]


def test_slices_are_not_said_of_a_datalist_that_training_reads_itself(make, tmp_path):
    data, *_ = make("small_crops", labelled=5)
    (data / "datalist.json").write_text(json.dumps(listing(data, training=["c00", "c01"])))
    with pytest.raises(ValueError, match=r'training reads .*write "labeled_slices": "drawn" beside each label there'):
        new_bundle("mine", data=data, out=tmp_path / "listed", labeled_slices="drawn")


def test_validation_scans_of_a_single_patient_are_refused(make, tmp_path):
    data, *_ = make("small_crops", labelled=4)
    content = listing(data, training=["c00", "c01", "c02", "c03"])
    for entry in content["training"]:
        entry["patient"] = "one"
    (data / "split.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="all labelled cases are of one patient, so none can be kept apart"):
        new_bundle("mine", data=data / "split.json", out=tmp_path / "listed", validation=2)
