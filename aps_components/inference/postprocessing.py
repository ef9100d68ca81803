"""From what the network says back to the scan's own grid, and to files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, Invertd, InvertibleTransform, MapTransform, Transform
from torch import Tensor

from aps_components.files import replace_text
from aps_components.inference.own_grid import Maps, OwnGrid, WholeMaps
from aps_components.inference.prompt_file import prompt_file_text, prompts_in_world
from aps_components.label_map import kept_pieces, likeliest_class
from aps_components.options import Pieces, pieces

PRED = "pred"


class LabelMapd(MapTransform):
    """Probabilities [C, D, H, W] to a label map [1, D, H, W], uint8.

    Args:
        keys: to turn; missing ones are skipped.
        largest_component: which pieces stay, see :func:`aps_components.label_map.kept_pieces`.
    """

    def __init__(self, keys: Any, *, largest_component: Pieces | str = False) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.largest_component = pieces("largest_component", largest_component)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the probabilities under the keys."""
        d = dict(data)
        for key in self.key_iterator(d):
            label_map = likeliest_class(d[key], dim=0).to(torch.uint8)
            d[key] = _cleaned(label_map, self.largest_component, num_classes=len(d[key]))
        return d


class InvertToLabelMapd(MapTransform):
    """Probabilities [C, D, H, W] on the network's grid to a label map [1, D, H, W], uint8, on the scan's own grid.

    What `inverted` and then `LabelMapd` give, in the memory of the label map: probabilities, which may be tiles, go
    back a block and a class at a time.

    Args:
        keys: to turn; missing ones are skipped.
        preprocessing: what ``image`` went through; it is inverted.
        largest_component: which pieces stay, see :func:`aps_components.label_map.kept_pieces`.
        confidence: key to write the probability [1, D, H, W] of the likeliest class under; of no use with several keys.
    """

    def __init__(
        self,
        keys: Any,
        preprocessing: InvertibleTransform,
        *,
        largest_component: Pieces | str = False,
        confidence: str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.preprocessing = preprocessing
        self.largest_component, self.confidence = pieces("largest_component", largest_component), confidence

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the probabilities under the keys."""
        d = dict(data)
        for key in self.key_iterator(d):
            maps: Maps = WholeMaps(d[key]) if isinstance(d[key], Tensor) else d[key]
            own_grid = OwnGrid(self.preprocessing, d["image"])
            if self.confidence is None:
                label_map = own_grid.label_map(maps)
            else:
                label_map, d[self.confidence] = own_grid.label_map_and_confidence(maps)
            d[key] = _cleaned(label_map, self.largest_component, num_classes=maps.channels)
        return d


class KeepProbabilitiesd(Transform):
    """``pred`` as ``probabilities``, too, before it becomes a label map; calibrated ones stay."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the key."""
        return {"probabilities": data[PRED], **data}


class SavePromptsd(Transform):
    """Write the prompt points as ``NAME_prompts.json``; an item without prompts is left alone.

    Each point has its class, its voxel on the scan's own grid, its place in mm (RAS+, as NIfTI counts) and its score;
    the file names its scan.

    Args:
        output_dir: made if missing.
        labels: class value, also as text, to name.
    """

    def __init__(self, output_dir: str | Path, *, labels: Mapping[int | str, str]) -> None:
        self.output_dir, self.labels = Path(output_dir), {int(value): name for value, name in labels.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file; the data go through unchanged."""
        d = dict(data)
        if "prompts" in d:
            image: MetaTensor = d["image"]
            self.output_dir.mkdir(parents=True, exist_ok=True)
            name = Path(image.meta["filename_or_obj"]).name.removesuffix(".gz").removesuffix(".nii")
            own_affine = np.asarray(image.meta["original_affine"])
            points = prompts_in_world(
                d["prompts"], affine=np.asarray(image.affine), original_affine=own_affine, labels=self.labels
            )
            text = prompt_file_text(name, shape=image.meta["spatial_shape"], affine=own_affine, points=points)
            replace_text(self.output_dir / f"{name}_prompts.json", text)
        return d


def inverted(preprocessing: InvertibleTransform, keys: tuple[str, ...]) -> Compose:
    """Take maps back to the grid that ``image`` had before ``preprocessing``, by linear interpolation."""
    return Compose(
        [
            EnsureTyped(keys, track_meta=True, allow_missing_keys=True),  # Invertd passes over plain tensors
            Invertd(
                keys, preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True, allow_missing_keys=True
            ),
        ]
    )


def _cleaned(label_map: Tensor, kept: Pieces, *, num_classes: int) -> Tensor:
    """In place, so that a MetaTensor keeps what it knows."""
    if kept:
        found = kept_pieces(np.asarray(label_map[0].cpu()), kept, num_classes=num_classes)
        label_map[0] = torch.from_numpy(found).to(label_map.device)
    return label_map
