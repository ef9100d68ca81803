"""Whether the models of the folds of ``aps train`` agree on those scans that its last model answers well.

    python benchmarks/fold_agreement.py OUT --data OUT/work/all --table figures.csv

``OUT`` is a folder of ``aps train`` with its work. Each validation scan is answered by Model A of the last training and
of every fold. Rank correlations of each measure with the true Dice of the last model are printed (Spearman).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from aps_components.evaluation.doubt.measures import class_doubts
from aps_components.evaluation.doubt.second_view import agreement, model_a_alone, second_view
from aps_components.evaluation.trained import TrainedModel, load_trained
from aps_components.inference.own_grid import WholeMaps
from aps_components.label_map import likeliest_class

Measures = dict[str, list[float]]  # name to the values of the foreground classes


def measures_of(answer: Tensor, truth: Tensor, folds: Sequence[Tensor]) -> Measures:
    """Of one scan; all but ``dice`` need no truth.

    Args:
        answer: probabilities of the last model, [C, D, H, W].
        truth: label map, [D, H, W].
        folds: as ``answer``, of each fold's model.
    """
    true = torch.nn.functional.one_hot(truth.long(), len(answer)).movedim(-1, 0).float()
    pairs = [_dice(one, other) for one, other in combinations(folds, 2)]
    last = [_dice(answer, fold) for fold in folds]
    return {
        "dice": _dice(answer, true),
        "soft_dice": [doubt.soft_dice or 0.0 for doubt in class_doubts(answer)],
        "folds_with_each_other": np.mean(pairs, axis=0).tolist(),
        "last_with_folds": np.mean(last, axis=0).tolist(),
        "last_with_their_mean": _dice(answer, torch.stack(list(folds)).mean(dim=0)),
        "knowledge": _knowledge(answer, torch.stack(list(folds))),
    }


def _dice(one: Tensor, other: Tensor) -> list[float]:
    """Of the likeliest classes; 1 where neither has one."""
    return [1.0 if value is None else value for value in agreement(one, WholeMaps(other))]


def _knowledge(answer: Tensor, folds: Tensor) -> list[float]:
    """Mutual information of voxel and fold, summed over the scan, by voxel of a class; negative, near 0 is sure."""
    mean = folds.mean(dim=0)
    information = (torch.special.entr(mean).sum(dim=0) - torch.special.entr(folds).sum(dim=1).mean(dim=0)).sum()
    voxels = torch.bincount(likeliest_class(answer, dim=0).flatten(), minlength=len(answer))
    return [-float(information) / max(int(count), 1) for count in voxels[1:]]


@torch.inference_mode()
def answers(model: TrainedModel, image: Tensor, networks: Mapping[str, torch.nn.Module]) -> dict[str, Tensor]:
    """Probabilities of each network, [C, D, H, W]."""
    size = tuple(slice(0, side) for side in image.shape[2:])
    found = {name: model.inferer.predict_stored(image, network).probabilities for name, network in networks.items()}
    return {name: maps.region((size[0], size[1], size[2])).float() for name, maps in found.items()}


def correlations(scans: Sequence[Measures], classes: Sequence[str]) -> str:
    """A table in Markdown: a line for each measure, a column for each class and one for their mean."""
    lines = [f"| measure | {' | '.join(classes)} | scan |", f"|---|{'---:|' * (len(classes) + 1)}"]
    dice = np.array([scan["dice"] for scan in scans])
    for name in list(scans[0])[1:]:
        values = np.array([scan[name] for scan in scans])
        pairs = [*zip(values.T, dice.T, strict=True), (values.mean(axis=1), dice.mean(axis=1))]
        ranks = [float(stats.spearmanr(one, other).statistic) for one, other in pairs]
        lines.append(f"| {name} | {' | '.join(f'{rank:.2f}' for rank in ranks)} |")
    return "\n".join(lines)


def main() -> None:
    options = parse()
    last = load_trained(
        options.bundle or options.out / "bundle",
        dataset_dir=options.data,
        checkpoint=options.out / "work" / "last" / "models" / "model.pt",
    )
    folds = {
        file.parents[1].name: load_trained(
            options.bundle or options.out / "bundle", dataset_dir=options.data, checkpoint=file
        ).network
        for file in sorted(options.out.glob("work/fold_*/models/model.pt"))
    }
    networks = {name: model_a_alone(network) for name, network in {"last": last.network, **folds}.items()}
    scans: dict[str, Measures] = {}
    for item in last.items[: options.scans]:
        data = last.preprocessing(item)
        image = data["image"].as_tensor()[None].to(last.device)
        found = answers(last, image, networks)
        measures = measures_of(found["last"], data["label"][0].as_tensor(), [found[name] for name in folds])
        with torch.inference_mode():
            view = second_view(image, last.network, last.inferer)
        if view is not None:
            measures["mirrored"] = [value or 0.0 for value in agreement(found["last"], view)]
        scans[Path(str(item["image"])).name.split(".")[0]] = measures
    classes = [name for index, name in sorted(last.labels.items()) if index]
    if options.table:
        write_table(options.table, scans, classes)
    print(correlations(list(scans.values()), classes))


def write_table(file: Path, scans: Mapping[str, Measures], classes: Sequence[str]) -> None:
    """A row for each scan and class."""
    names = list(next(iter(scans.values())))
    with file.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["case", "class", *names])
        for case, scan in scans.items():
            for index, name in enumerate(classes):
                table.writerow([case, name, *(f"{scan[measure][index]:.4f}" for measure in names)])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="of aps train")
    parser.add_argument("--data", type=Path, required=True, help="folder with the datalist that names validation scans")
    parser.add_argument("--bundle", type=Path, help="another than OUT/bundle")
    parser.add_argument("--scans", type=int, help="the first so many alone")
    parser.add_argument("--table", type=Path, help="receives all values as CSV")
    return parser.parse_args()


if __name__ == "__main__":
    main()
