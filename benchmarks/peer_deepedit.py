"""What is a click worth to DeepEdit? Trained on a bundle's labelled scans, and clicked as `aps clicks` clicks ours.

    pip install scikit-image   # which DeepEdit's transforms need
    aps clicks OUT/ours --bundle la --dataset_dir DIR --checkpoint OUT/models/model.pt
    python benchmarks/peer_deepedit.py OUT/deepedit --bundle bundles/la --dataset_dir DIR --like OUT/models/model.pt \\
      --minutes 60 --threads 2 --ours OUT/ours/clicks.json

DeepEdit is MONAI's (`monai.apps.deepedit`), with the network and the settings of MONAI Label's radiology app. The rest
is a recipe. ``--recipe bundle``, the default: patches, voxel size, intensity, augmentation and learning rate are the
bundle's, the learning rate falls to zero as the minutes pass, and a sliding window answers. ``--recipe monailabel``:
whole scans, resized to the size of a patch, MONAI Label's augmentation, and its learning rate of 0.0001 throughout.

OUT receives deepedit.pt, with which a training that was stopped goes on, and clicks.json, clicks.md, clicks.csv and
clicks.png, as `aps clicks` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fire
import torch
from deepedit import FILTERS, DeepEdit, DeepEditPredictor, Recipe, Training, label_names, whole_scans
from fire.decorators import SetParseFns
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from aps_components.bundle import locate_bundle
from aps_components.data import SeededCacheDataset, check_cases
from aps_components.evaluation.clicks import Annotator, report_clicks
from aps_components.evaluation.markdown import markdown_table
from aps_components.evaluation.metrics import foreground_regions
from aps_components.files import ensure_writable
from aps_components.models import read_settings, resolved_precision
from aps_components.options import pieces, refuse_unknown

SHARED = (  # with our model: what a training stores of its data
    "labeled_count",
    "validation_count",
    "spacing",
    "roi_size",
    "intensity",
    "augmentation",
    "flip_axes",
    "balanced_crops",
)
RECIPES = ("bundle", "monailabel")


def shared_with(checkpoint: str | Path) -> dict[str, Any]:
    """What the settings beside our checkpoint say of its data; of labels those that were drawn by hand."""
    stored = read_settings(checkpoint)
    shared = {key: stored[key] for key in SHARED if key in stored}
    by_hand = stored.get("labeled_by_hand")
    return shared if by_hand is None else {**shared, "labeled_count": by_hand}


class Task:
    """What a bundle says of its data.

    Args:
        bundle: its folder or name.
        dataset_dir: of the scans.
        options: keys of its ``train.json`` to other values.
    """

    def __init__(self, bundle: str | Path, dataset_dir: str | Path, options: Mapping[str, Any]) -> None:
        self.root = locate_bundle(bundle)
        self.parser = ConfigParser()
        self.parser.read_config(str(self.root / "configs" / "train.json"))
        refuse_unknown(options, set(self.parser.get()) - {"imports"})
        places = {"bundle_root": str(self.root), "dataset_dir": str(Path(dataset_dir).resolve())}
        for key, value in {**options, **places}.items():
            self.parser[key] = value
        self.labels = {int(value): name for value, name in self.value("labels").items()}
        if self.value("in_channels") != 1:
            # MONAI's Interaction blanks every channel but the first where an iteration is to have no clicks.
            raise ValueError(f"{self.root} has {self.value('in_channels')} channels; DeepEdit takes scans of one")

    def value(self, key: str) -> Any:
        """Of a key, as the bundle's training has it."""
        return self.parser.get_parsed_content(key)

    def items(self, part: str) -> list[dict[str, Any]]:
        """The scans of a part that have labels."""
        found = [item for item in self.value("datalist").part(part) if "label" in item]
        return check_cases(found, in_channels=1, label_values=self.value("label_values"))

    def recipe(self, name: str) -> Recipe:
        """One of the two."""
        if name not in RECIPES:
            raise ValueError(f"recipe {name!r} must be one of {RECIPES}")
        if name == "monailabel":
            return Recipe(view="whole", learning_rate=1e-4)
        rate, decay = self.value("learning_rate"), self.value("weight_decay")
        return Recipe(view="patch", learning_rate=rate, weight_decay=decay, decayed=True)

    def patches(self, recipe: Recipe) -> SeededCacheDataset:
        """The labelled scans, as they are trained on."""
        transform = self.value("train#preprocessing")
        if recipe.view == "whole":
            transform = whole_scans(self.value("validate#preprocessing").transforms, self.value("roi_size"))
        return SeededCacheDataset(self.items("training"), transform, cache_rate=self.value("cache_rate"))


def table(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    """Both curves, and what a click does.

    Args:
        ours: of ``aps clicks``, as in its ``clicks.json``.
        peer: of DeepEdit.

    Raises:
        ValueError: they were measured differently.
    """
    for key, one, other in [
        ("scans", ours["scans"], peer["scans"]),
        *((key, ours["settings"][key], peer["settings"][key]) for key in ("clicks", "tolerance_mm")),
    ]:
        if one != other:
            raise ValueError(f"--ours has {key} {one}, DeepEdit {other}: measure both on the same scans, with the same")
    models, parts = {"ours": ours, "DeepEdit": peer}, []
    for title, key, area in (("Dice %", "dice", "auc"), ("NSD %", "nsd", "auc_nsd")):
        rows = [[f"{title} after clicks", *peer[key], "area"]]
        for name, figures in models.items():
            rows.append([name, *(f"{value:.2f}" for value in (*figures[key].values(), figures[area]))])
        parts.append(markdown_table(rows))
    kinds = {"obeyed": "obeyed %", "kept": "kept %", "harmful": "harmful %"}
    rows = [["of a click", *kinds.values(), "ms to the first answer", "ms a click"]]
    for name, figures in models.items():
        shares = [None if figures[key] is None else 100 * figures[key] for key in kinds]
        cells = (*shares, figures["first_ms"], figures["click_ms"])
        rows.append([name, *("-" if value is None else f"{value:.1f}" for value in cells)])
    return "\n".join([*parts, markdown_table(rows)])


@SetParseFns(out=str, bundle=str, dataset_dir=str, like=str, ours=str, recipe=str)
def main(
    out: str,
    bundle: str,
    dataset_dir: str,
    minutes: float = 60,
    threads: int | None = None,
    recipe: str = "bundle",
    filters: int = FILTERS,
    like: str | None = None,
    ours: str | None = None,
    clicks: int = 10,
    tolerance_mm: float = 2.0,
    cases: int | None = None,
    **options: Any,
) -> None:
    """Train DeepEdit, have its answers corrected, and compare.

    Args:
        out: folder of the results; run again to go on after an interruption.
        bundle: whose data and preprocessing are taken; its folder or name.
        dataset_dir: of the scans.
        minutes: of training, reading the scans aside.
        threads: of torch; as many as it takes by default.
        recipe: bundle or monailabel, see above.
        filters: of the network at full resolution; MONAI Label's 32 are slow on a CPU.
        like: model.pt of our training: the same scans, patch, voxel size, intensity and augmentation.
        ours: clicks.json of our model, to compare with.
        clicks: the most for each scan.
        tolerance_mm: of the surface Dice.
        cases: only the first so many validation scans.
        options: other keys of the bundle's train.json: labeled_count, validation_count, spacing, roi_size, device.
    """
    if minutes <= 0 or clicks < 1 or filters < 1:
        raise ValueError(f"minutes {minutes}, clicks {clicks} and filters {filters} must be positive")
    if threads is not None:
        torch.set_num_threads(threads)
    given = {**({} if like is None else shared_with(like)), **options}
    task = Task(bundle, dataset_dir, given)
    folder = ensure_writable(Path(out))
    network, settings = _trained(task, folder, recipe, filters=filters, minutes=minutes, given=given)
    predictor = DeepEditPredictor(
        network,
        task.value("validate#preprocessing"),
        label_names(task.labels),
        roi_size=task.value("roi_size"),
        view=task.recipe(recipe).view,
        overlap=task.value("overlap"),
        largest_component=pieces("largest_component", task.value("largest_component")),
    )
    annotator = Annotator(
        predictor=predictor,
        num_classes=len(task.labels),
        regions=foreground_regions(task.labels, task.value("regions")),
        clicks=clicks,
        tolerance_mm=tolerance_mm,
        label_values=task.value("label_values"),
    )
    items: Sequence[dict[str, Any]] = task.items("validation")[:cases]
    if not items:
        raise ValueError(f"there are no validation scans in {dataset_dir}: have some kept back, --validation_count N")
    figures = report_clicks(annotator, items, folder, settings=settings, title="DeepEdit")
    print((folder / "clicks.md").read_text(encoding="utf-8"))
    if ours is not None:
        print(table(json.loads(Path(ours).read_text(encoding="utf-8")), figures))


def _trained(
    task: Task, folder: Path, recipe: str, *, filters: int, minutes: float, given: Mapping[str, Any]
) -> tuple[DeepEdit, dict[str, Any]]:
    """The network, and what its figures depend on."""
    how, device, names = task.recipe(recipe), torch.device(task.value("device")), label_names(task.labels)
    precision, seed = resolved_precision(device, task.value("precision")), task.value("seed")
    settings = {
        "model": "DeepEdit",
        "recipe": recipe,
        **asdict(how),
        "filters": filters,
        "minutes": minutes,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "device": str(device),
        "seed": seed,
        "bundle": task.root.name,
        "labels": names,
        "options": {key: str(value) if key == "device" else value for key, value in given.items()},
    }
    set_determinism(seed)
    roi_size = task.value("roi_size")
    network = DeepEdit(num_classes=len(names), roi_size=roi_size, filters=filters, precision=precision).to(device)
    training = Training(
        network,
        task.patches(how),
        names,
        recipe=how,
        minutes=minutes,
        seed=seed,
        file=folder / "deepedit.pt",
        settings=settings,
    )
    training.run()
    return network, {**settings, "iterations": training.iterations}


if __name__ == "__main__":
    fire.Fire(main)
