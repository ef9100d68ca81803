"""What each part of a correction brings, and what a box does: one model, the same scans, one table.

    python benchmarks/what_prompts_bring.py OUT --bundle la --images SCANS --labels LABELS --cases 10

Clicks: the simulated annotator of ``aps clicks`` corrects the scans by everything, without Model B, and without the
border that moves. Boxes: around the largest errors of each scan, 13 voxels wide at most, beside one click into each;
around a whole class that the answer lacks, as a whole or in half; and around a class that it has.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aps_components import Predictor, load_model
from aps_components.data import LoadVolumed
from aps_components.evaluation.clicks import measure_clicks
from aps_components.evaluation.clicks.run import labelled_items
from aps_components.inference.interactive import InteractiveVolume

AROUND = 6  # voxels of a box to each side of the deepest one of an error
ERRORS = 2  # of a class, the largest ones
Mask = NDArray[np.bool_]


def without_model_b(volume: InteractiveVolume, new: Any, *, previous: Any) -> Any:
    """What is asked of Model B is answered by the earlier answer."""
    return volume.probabilities if previous is None else previous


def without_border(volume: InteractiveVolume, clicks: Any, **_: Any) -> Any:
    """No border moves."""
    return volume.probabilities


WAYS: dict[str, dict[str, Callable[..., Any]]] = {
    "everything": {},
    "without Model B": {"_ask": without_model_b},
    "without the border that moves": {"_moved": without_border},
}


@contextmanager
def changed(methods: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Some methods of the volume replaced."""
    with ExitStack() as stack:
        for name, method in methods.items():
            stack.enter_context(patch.object(InteractiveVolume, name, method))
        yield


def boxes_of(error: Mask) -> Iterator[tuple[tuple[int, int, int], Mask]]:
    """Of the largest pieces of an error the deepest voxel, and what of the piece is near it."""
    pieces, count = ndimage.label(error, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    for number in 1 + np.argsort(-sizes)[:ERRORS]:
        piece = pieces == number
        d, h, w = (int(i) for i in np.unravel_index(int(ndimage.distance_transform_edt(piece).argmax()), piece.shape))
        near = np.zeros_like(piece)
        near[tuple(slice(max(0, i - AROUND), i + AROUND + 1) for i in (d, h, w))] = True
        yield (d, h, w), piece & near


def corners(mask: Mask) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the box around a mask."""
    places = np.argwhere(mask)
    return tuple(places.min(axis=0).tolist()), tuple(places.max(axis=0).tolist())


def middle_of(mask: Mask) -> int:
    """Along the first axis."""
    return int(np.median(np.argwhere(mask)[:, 0]))


def dice(answer: NDArray[np.integer], truth: NDArray[np.integer], classes: list[int]) -> float:
    """Percent, the mean of classes."""
    shares = [
        2 * ((answer == c) & (truth == c)).sum() / max(1, (answer == c).sum() + (truth == c).sum()) for c in classes
    ]
    return 100 * float(np.mean(shares))


def of_boxes(predictor: Predictor, truth: NDArray[np.integer], classes: list[int]) -> Iterator[dict[str, Any]]:
    """A row for each box of a scan that the predictor has seen."""
    first = predictor.predict(reset=True).label_map.copy()
    before = dice(first, truth, classes)
    for label in (0, *classes):
        for deepest, piece in boxes_of((first != truth) & (truth == label)):
            row = {"what": "an error", "class": label, "voxels": int(piece.sum())}
            for name, prompt in {
                "box": {"boxes": [(corners(piece), label)]},
                "click": {"points": [(deepest, label)]},
            }.items():
                answer = predictor.predict(**prompt, reset=True).label_map  # type: ignore[arg-type]
                row[f"{name}_mends"] = int((answer[piece] == label).sum())
                row[f"{name}_dice"] = dice(answer, truth, classes) - before
            yield row
    for label in classes:
        if (truth == label).any():
            box = [(corners(truth == label), label)]
            answer = predictor.predict(boxes=box, mask=np.where(first == label, 0, first)).label_map
            yield {"what": "a class that is missing", "class": label, "box_dice": dice(answer, truth, [label])}
            half = np.where(
                (first == label) & (np.arange(len(first)) >= middle_of(truth == label))[:, None, None], 0, first
            )
            answer = predictor.predict(boxes=box, mask=half).label_map
            yield {"what": "half of a class", "class": label, "box_dice": dice(answer, truth, [label])}
            answer = predictor.predict(boxes=box, reset=True).label_map
            yield {"what": "a class that is there", "class": label, "box_dice": dice(answer, truth, classes) - before}


def main() -> None:
    """Write ``clicks.csv`` and ``boxes.csv``, and print their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundle", required=True, help="its name or folder, or model.pt")
    parser.add_argument("--images", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--clicks", type=int, default=10)
    given = parser.parse_args()
    model = load_model(given.bundle)
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "clicks.csv").open("w", newline="") as file:
        table = csv.writer(file)
        for name, methods in WAYS.items():
            with changed(methods):
                figures = measure_clicks(
                    checkpoint=model.checkpoint,
                    out=given.out / name.replace(" ", "_"),
                    images=given.images,
                    labels=given.labels,
                    cases=given.cases,
                    clicks=given.clicks,
                )
            table.writerow([name, *(f"{value:.2f}" for value in figures["dice"].values())])
            print(name, figures["dice"], flush=True)
    items = labelled_items(given.images, given.labels, modalities=model.modalities, in_channels=model.in_channels)[
        : given.cases
    ]
    load, predictor = LoadVolumed("label", num_classes=len(model.labels)), Predictor(model)
    rows = []
    for item in items:
        predictor.set_image(item["image"])
        truth = load({"label": item["label"]})["label"][0].numpy()
        rows += list(of_boxes(predictor, truth, sorted(model.labels)[1:]))
    with (given.out / "boxes.csv").open("w", newline="") as file:
        names = list(dict.fromkeys(key for row in rows for key in row))
        lines = csv.DictWriter(file, names)
        lines.writeheader()
        lines.writerows(rows)
    for what in dict.fromkeys(row["what"] for row in rows):
        of = [row for row in rows if row["what"] == what]
        keys = [key for key in of[0] if key not in ("what", "class")]
        print(what, len(of), {key: round(float(np.mean([row[key] for row in of])), 3) for key in keys})


if __name__ == "__main__":
    main()
