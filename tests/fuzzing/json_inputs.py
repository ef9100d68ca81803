"""Files of JSON of every kind that is read, each a sound one with odd values, keys, encodings and damage in it.

A door is what the project does with such a file, as far as it can go without a network. What Python's own reader makes
of the same bytes tells what they say.
"""

import copy
import json
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from claims import agree, cut, flipped, through
from workflows import LA

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.locate import bundle_metadata
from aps_components.bundle.metadata import BundleMetadata
from aps_components.bundle.packaging.faults import config_faults
from aps_components.bundle.writer import render_configs
from aps_components.data import load_datalist
from aps_components.data.case_folder import declared_labels
from aps_components.data.phantoms import write_phantoms
from aps_components.data.preparation.amos import Amos
from aps_components.data.preparation.journal import Journal
from aps_components.evaluation.overview import _points
from aps_components.evaluation.pseudo_labels import MADE_BY, labeled_by
from aps_components.evaluation.records import Records
from aps_components.interactive import holds_a_persons_words, read_prompts
from aps_components.interactive.model import class_value
from aps_components.label_server.handed_in import known_values
from aps_components.label_server.hooks import parsed_form
from aps_components.label_server.label_names import Served
from aps_components.label_server.parameters import check_inference, check_info, check_training
from aps_components.models import read_settings, trained_setting
from aps_components.segmentation.statistics import read_statistics, write_table
from aps_components.studies.comparison.compare import _keep_settings
from aps_components.studies.comparison.methods import load_methods
from aps_components.studies.comparison.runs import Run, _means, _minutes
from aps_components.studies.comparison.table import figures_of, markdown
from aps_components.training.history import read_history
from aps_components.training.progress import plot_progress

ODD = [
    *[
        None,
        True,
        False,
        0,
        -1,
        1,
        1.5,
        -0.0,
        10**40,
        1e308,
        "",
        " ",
        "a",
        "ü",
        "\x1b[2J",
        "a\nb",
        "\u0000",
        "x" * 3000,
    ],
    *["$__import__('os').abort()", "@labels", "%x", "1e3", "../../x", "/etc/passwd", "~root/x", "~nobody_here/x", "-1"],
    *[[], {}, [[]], [None], {"": None}, {"_target_": "os.abort"}, {"a": {"b": []}}, [1, "a"], [0, 0, 0], [1e999]],
]
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, '"\\ud800"', "[" * 5000, "{" * 90, "'a'", "01", "tru"]


@dataclass(frozen=True)
class Door:
    """One kind of file.

    Args:
        file: its name in the folder.
        content: a sound one; a list of objects stands for lines.
        call: what is done with a folder that holds it.
        names: what an error may call it; the file's path by default.
        same: whether what was accepted says what the content does.
    """

    file: str
    content: Any
    call: Callable[[Path], Any]
    names: tuple[str, ...] = ()
    same: Callable[[Any, Any], bool] = lambda value, content: True
    lines: bool = False


def make(folder: Path, draw: random.Random, group: str) -> tuple[Path, str]:
    """Write one file of a kind."""
    door = DOORS[group]
    file = folder / door.file
    file.parent.mkdir(parents=True, exist_ok=True)
    content = copy.deepcopy(door.content)
    for _ in range(draw.choice([0, 1, 1, 1, 1, 2, 3])):
        content = _altered(content, draw)
    text = "".join(json.dumps(line) + "\n" for line in content) if door.lines and isinstance(content, list) else ""
    text = text or json.dumps(content, indent=draw.choice([None, 1]), ensure_ascii=draw.random() < 0.5)
    if draw.random() < 0.15:
        text = _with_raw(text, draw)
    encoded = text.encode("utf-8", errors="surrogatepass")
    kind = draw.random()
    if kind < 0.1:
        encoded = flipped(encoded, draw)
    elif kind < 0.17:
        encoded = cut(encoded, draw)
    elif kind < 0.21:
        encoded = draw.choice([b"\xef\xbb\xbf" + encoded, text.encode("utf-16", "surrogatepass"), b"\0" + encoded])
    elif kind < 0.23:
        encoded = draw.randbytes(draw.randrange(200))
    file.write_bytes(encoded)
    return folder, group


def check(made: tuple[Path, str], draw: random.Random) -> bool:
    """Go through the door; whether the file was accepted."""
    folder, group = made
    door = DOORS[group]
    file = folder / door.file
    content = file.read_bytes()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        outcome = through(lambda: door.call(folder), names=door.names or (file, file.parent))
    if outcome.refused or outcome.value is None:
        return False
    if not door.lines:
        try:
            said = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_only_once)
        except (ValueError, RecursionError) as error:
            agree(False, f"accepted, and it is no JSON: {error}")
        agree(door.same(outcome.value, said), "accepted as something else than it says")
    return True


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key that is there twice")
    return dict(pairs)


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Every container with a key or an index in it."""
    found, waiting = [], [content]
    while waiting:
        part = waiting.pop()
        keys = list(part) if isinstance(part, dict) else list(range(len(part))) if isinstance(part, list) else []
        found += [(part, key) for key in keys]
        waiting += [part[key] for key in keys]
    return found


def _altered(content: Any, draw: random.Random) -> Any:
    places = _places(content)
    if not places or draw.random() < 0.03:
        return copy.deepcopy(draw.choice(ODD))
    part, key = draw.choice(places)
    kind = draw.random()
    if kind < 0.6:
        other, at = draw.choice(places)
        part[key] = copy.deepcopy(other[at] if draw.random() < 0.2 else draw.choice(ODD))
    elif kind < 0.75:
        del part[key]
    elif isinstance(part, list):
        part.insert(key, copy.deepcopy(part[key]))
    else:
        part[draw.choice(["x", "0", "-1", "1e3", "", "$x", "_target_", "a#b", "\x1b[2J", f"{key} "])] = part.pop(key)
    return content


def _with_raw(text: str, draw: random.Random) -> str:
    """Something in the place of a value that no value is, or a key twice."""
    found = list(re.finditer(r': ("[^"]*"|[-\d.]+|\[[^\[\]]*\])', text))
    if not found:
        return draw.choice(RAW)
    match = draw.choice(found)
    if draw.random() < 0.3:
        return text[: match.end()] + ', "name": 1, "name": 2' + text[match.end() :]
    return text[: match.start(1)] + draw.choice(RAW) + text[match.end(1) :]


def _scans(folder: Path) -> None:
    for name in ("images", "labels", "imagesTr", "labelsTr", "imagesVa"):
        (folder / name).mkdir(exist_ok=True)
        for scan in ("amos_0001.nii.gz", "amos_0507.nii.gz", "b.nii.gz"):
            (folder / name / scan).touch()


def _datalist(folder: Path) -> Any:
    _scans(folder)
    for count in (0, 1):
        found = load_datalist(folder, validation_count=count)
    load_datalist(folder, counts_at_most=True, labeled_count=50, modalities=["T1", "T2"])
    return found


def _same_datalist(value: Any, said: Any) -> bool:
    labels = {int(key): str(name) for key, name in said["labels"].items()}
    return bool(value.name == said["name"] and value.labels == labels)


def _block(folder: Path) -> Any:
    block = DatasetBlock.read(folder / "configs/train.json")
    for text in render_configs(block).values():
        json.loads(text) if text.lstrip().startswith("{") else None
    return block


def _settings(folder: Path) -> Any:
    found = read_settings(folder / "model.pt")
    for key in found:
        trained_setting(folder / "model.pt", key, None)
    return found


def _run(folder: Path) -> Run:
    return Run(
        method=load_methods()["ours"],
        seed=0,
        out=folder,
        results=folder,
        bundle=LA,
        options={},
        epochs=3,
        split="validation",
    )


def _table(folder: Path) -> str:
    run = _run(folder)
    return markdown(figures_of([run.method], {("ours", 0): run}, variant="raw"))


def _history(folder: Path) -> Any:
    found = read_history(_run(folder).folder / "training/history.jsonl")
    if found:
        plot_progress(found, folder / "progress.png")
        _minutes(_run(folder)._history())
    return found


def _statistics(folder: Path) -> Any:
    found = read_statistics(folder / "a_statistics.json")
    if found is not None:
        write_table(folder / "volumes.csv", [found, {"scan": "b", "classes": found["classes"]}])
    return found


def _prompts(folder: Path) -> Any:
    labels = {0: "background", 1: "kidney", 2: "liver"}
    holds_a_persons_words(folder / "a_prompts.json")
    return read_prompts(
        folder / "a_prompts.json",
        scan="a",
        shape=(17, 24, 40),
        affine=np.diag([1.0, 2.0, 3.0, 1.0]),
        class_value=lambda label: class_value(label, labels),
    )


def _journal(folder: Path) -> Any:
    layout = Amos(modality="all") if "modality" in Amos.__dataclass_fields__ else Amos()
    (folder / "raw").mkdir(exist_ok=True)
    journal = Journal(folder, raw=folder / "raw", layout=layout)
    journal.find(SimpleNamespace(images=(), label=None, name="a"))  # type: ignore[arg-type]
    for outcome in journal._done.values():
        journal.find(SimpleNamespace(images=(), label=None, name=outcome.item.get("image")))  # type: ignore[arg-type]
    return journal


def _amos(folder: Path) -> Any:
    _scans(folder)
    found = Amos().find(folder, skip=folder / "out")
    passed_over = any("is passed over: not a dataset.json" in note for note in found.notes)
    return None if passed_over else found.cases  # documented so: the folders count


def _records(folder: Path) -> Any:
    records = Records(folder / "scans.jsonl", settings={"a": 1})
    records.add({"dice": 1.0}, scan="z")
    return records


def _request(check: Callable[[Any], None]) -> Callable[[Path], Any]:
    def call(folder: Path) -> Any:
        try:
            text = (folder / "request.json").read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            return None  # a form comes as text
        if not text:
            return None  # and may be left empty
        content = parsed_form(text)
        check(content)
        return True

    return call


def _phantoms(folder: Path) -> Any:
    write_phantoms(folder, labeled=1, unlabeled=0, validation=0, test=0, shape=(8, 8, 8), progress=False)
    return json.loads((folder / "datalist.json").read_text())


def _comparison(folder: Path) -> Any:
    _keep_settings(folder / "comparison.json", SETTINGS)
    return True


def _served(folder: Path) -> Any:
    bundle = folder / "model" / "la"
    (bundle / "configs" / "metadata.json").write_text(json.dumps(SHIPPED["metadata"]))
    return known_values([Served.of(bundle)], partly=True)


def _faults(folder: Path) -> Any:
    content = (folder / "configs/metadata.json").read_bytes()
    found = [fault for fault in config_faults({"configs/metadata.json": content}) if "metadata.json" in fault]
    if any("\n" in fault or len(fault) > 3000 for fault in found):
        raise AssertionError(f"no line: {found}")
    return None if found else content


SETTINGS = {"bundle": "la", "dataset": "mine", "epochs": 3, "split": "test", "spacing": [1, 1, 1]}
CASES = [
    {"image": "images/amos_0001.nii.gz", "label": "labels/amos_0001.nii.gz"},
    {"image": ["images/x_T1.nii.gz", "images/x_T2.nii.gz"]},
    {"image": "images/b.nii.gz", "label": "labels/b.nii.gz", "label_by": "hand"},
]
POINT = {"label": 1, "name": "kidney", "voxel": [3, 4, 5], "score": 0.5, "source": "model", "mark": "00"}
MEANS = {"predictor": "average", "variant": "raw", "class": "all", "n": 2, "dice": 0.9, "jaccard": 0.8, "hd95_mm": None}
STATISTIC = {"mean": 1.0, "std": 0.5, "min": 0, "max": 2.5}
SHIPPED = {
    name: json.loads((LA / "configs" / f"{name}.json").read_text()) for name in ("train", "inference", "metadata")
}
MODEL = json.loads((LA / "models" / "model.json").read_text()) if (LA / "models" / "model.json").is_file() else {}
EPOCHS = [
    {
        "epoch": number,
        "iteration": 50 * number,
        "seconds_per_iteration": 0.5,
        "learning_rate": 0.01,
        "losses": {"loss": 1.0 / number, "dice": 0.5},
        "validation": {"dice": 0.5 + number / 10, "dice_a": None},
    }
    for number in (1, 2, 3)
]
DOORS = {
    "datalist": Door(
        "datalist.json",
        {
            "name": "mine",
            "labels": {"0": "background", "1": "one", "2": "two"},
            "training": CASES,
            "unlabeled": [{"image": "images/c.nii.gz"}],
            "validation": [],
            "test": "remaining",
        },
        _datalist,
        same=_same_datalist,
    ),
    "bundle block": Door("configs/train.json", SHIPPED["train"], _block),
    "metadata": Door(
        "configs/metadata.json",
        SHIPPED["metadata"],
        lambda folder: BundleMetadata.read(folder / "configs/metadata.json"),
    ),
    "metadata of a zip": Door(
        "configs/metadata.json", SHIPPED["metadata"], lambda folder: bundle_metadata(folder) or None
    ),
    "metadata to package": Door("configs/metadata.json", SHIPPED["metadata"], _faults),
    "prompts": Door(
        "a_prompts.json",
        {
            "scan": "a",
            "shape": [17, 24, 40],
            "affine": np.diag([1.0, 2.0, 3.0, 1.0]).tolist(),
            "world": "RAS",
            "points": [POINT, {"name": "liver", "voxel": [1, 2, 3]}, {"label": 2, "world_mm": [3.0, 4.0, 6.0]}],
            "boxes": [{"name": "liver", "voxel": [[1, 2, 3], [4, 5, 6]]}],
            "scribbles": [{"label": 0, "voxel": [[1, 1, 1], [2, 1, 1]]}],
        },
        _prompts,
    ),
    "model settings": Door(
        "model.json", MODEL, _settings, same=lambda value, said: all(value[key] == said[key] for key in said)
    ),
    "nnU-Net's dataset": Door(
        "dataset.json",
        {"labels": {"background": 0, "liver": 1, "tumour": 2}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"},
        declared_labels,
    ),
    "the Decathlon's dataset": Door(
        "dataset.json",
        {"labels": {"0": "background", "1": "liver"}, "training": [{"image": "./imagesTr/b.nii.gz"}], "name": "Liver"},
        declared_labels,
    ),
    "AMOS's dataset": Door(
        "dataset.json",
        {
            "labels": {"0": "background", "1": "liver"},
            "training": [{"image": "./imagesTr/amos_0001.nii.gz", "label": "./labelsTr/amos_0001.nii.gz"}],
            "validation": [{"image": "./imagesVa/b.nii.gz", "label": "./labelsVa/b.nii.gz"}],
            "test": ["./imagesTs/c.nii.gz"],
        },
        _amos,
    ),
    "statistics": Door(
        "a_statistics.json",
        {
            "scan": "a",
            "scan_sha256": "00",
            "shape": [3, 4, 5],
            "voxel_ml": 0.001,
            "classes": [
                {"label": 1, "name": "one", "voxels": 3, "volume_ml": 0.003, "intensity": {"image": STATISTIC}},
                {
                    "label": 2,
                    "name": "two",
                    "voxels": 0,
                    "volume_ml": 0.0,
                    "intensity": {"image": dict.fromkeys(STATISTIC)},
                },
            ],
            "made_by": {"bundle": "la", "settings": {}},
        },
        _statistics,
    ),
    "history": Door("ours/seed_0/training/history.jsonl", EPOCHS, _history, lines=True),
    "comparison": Door(
        "comparison.json",
        SETTINGS,
        _comparison,
    ),
    "result of a run": Door(
        "ours/seed_0.json",
        {
            "method": "ours",
            "seed": 0,
            "iterations": 150,
            "minutes": 3.5,
            "machine": {"cpu": "x"},
            "metrics": {"ema": [{**MEANS, "dice_by_scan": {"s": 0.8, "t": 0.9}}], "plain": [MEANS]},
        },
        _table,
    ),
    "metrics": Door(
        "metrics.json",
        {
            "summary": [
                {**MEANS, "dice": {"mean": 0.9, "std": 0.1}, "hd95_mm": {"mean": None}, "jaccard": {"mean": 0.8}}
            ],
            "cases": [{"case": "s", "predictor": "average", "variant": "raw", "class": "all", "dice": 0.9}],
            "context": {"cases": 1},
        },
        lambda folder: _means(folder / "metrics.json"),
    ),
    "who labelled": Door(
        MADE_BY,
        [{"checkpoint_sha256": "00" * 32, "name": "model.pt"}, {"checkpoint_sha256": "01" * 32}],
        labeled_by,
        same=lambda value, said: value == [model["checkpoint_sha256"] for model in said],
    ),
    "journal": Door(
        "preparation_state.jsonl",
        [
            {
                "key": f"{number}",
                "outcome": {
                    "item": {"image": f"images/{number}.nii.gz"},
                    "fault": "",
                    "facts": {"voxels": 3},
                    "notes": ["a"],
                    "written": {f"images/{number}.nii.gz": 100},
                },
            }
            for number in range(3)
        ],
        _journal,
        lines=True,
    ),
    "records": Door(
        "scans.jsonl",
        [{"settings": {"a": 1}}, {"key": {"scan": "a"}, "record": {"dice": 0.5}}, {"key": {"scan": "b"}, "record": {}}],
        _records,
        lines=True,
    ),
    "points": Door(
        "a_prompts.json",
        {"points": [{"label": 1, "voxel": [1, 2.5, 3]}]},
        lambda folder: _points(folder / "a_prompts.json"),
    ),
    "app's configs": Door("model/la/configs/train.json", SHIPPED["train"], _served),
    "request to train": Door(
        "request.json",
        {"device": "cpu", "multi_gpu": False, "max_epochs": 3, "val_split": 0.2, "pretrained": True},
        _request(check_training),
        names=("params", "parameter", "must be", "'", "object"),
    ),
    "request to segment": Door(
        "request.json",
        {"device": "cpu", "result_extension": ".nii.gz", "restore_label_idx": False},
        _request(check_inference),
        names=("params", "parameter", "must be", "'", "object"),
    ),
    "request to store": Door(
        "request.json",
        {"label_info": [{"name": "left atrium", "idx": 1}], "client": "Slicer"},
        _request(check_info),
        names=("params", "info", "object"),
    ),
    "phantoms": Door("datalist.json", {"name": "phantoms", "labels": {"0": "background"}, "training": []}, _phantoms),
}
GROUPS = list(DOORS)
