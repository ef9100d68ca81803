"""A scan segmented with a person's prompts, and the prompts written beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aps_components.data import DataError
from aps_components.data.marks import MADE_HERE
from aps_components.data.nifti import read_header, write_like
from aps_components.files import replace_text
from aps_components.inference.prompt_file import USER, prompt_file_text, prompts_in_world
from aps_components.interactive import Predictor, Words, read_prompts
from aps_components.interactive.model import class_value, refusal, untaught
from aps_components.models import read_settings
from aps_components.segmentation.inputs import Case


def words_for(
    prompts: str | os.PathLike[str], cases: Sequence[Case], *, labels: Mapping[int, str], checkpoint: Path
) -> Words:
    """What a person says about the one scan, before anything is written.

    Args:
        prompts: the file.
        cases: the scans.
        labels: class value to name.
        checkpoint: of the model that is to obey.

    Raises:
        DataError: there are several scans, the file does not fit, or the model was not taught what prompts mean.
    """
    if len(cases) != 1:
        raise DataError(f"--prompts {prompts} is about one scan, but there are {len(cases)}; give that scan as INPUT")
    if (reason := untaught(read_settings(checkpoint))) is not None:
        raise DataError(f"{prompts} cannot be used: {refusal(checkpoint, reason)}")
    shape, affine = cases[0].grid()
    return read_prompts(
        prompts,
        scan=cases[0].name,
        shape=shape,
        affine=affine,
        class_value=lambda label: class_value(label, labels),
    )


def corrected(name: str, files: Sequence[str], said: Words, *, predictor: Predictor, folder: Path) -> list[str]:
    """Write ``NAME_seg.nii.gz`` after the prompts, and ``NAME_prompts.json`` with all that was said and the model's own
    points; ``NAME_probabilities.nii.gz`` anew if it is there.

    Args:
        name: of the scan.
        files: of the scan, in channel order.
        said: by a person.
        predictor: of the model.
        folder: receives the files.

    Returns:
        What the answer tells of the prompts, a sentence each, beside the notes of ``said``.
    """
    known = len(said.notes)
    predictor.set_image(list(files) if len(files) > 1 else files[0])
    answer = predictor.say(said)
    header = read_header(files[0])
    write_like(folder / f"{name}_seg.nii.gz", answer.label_map, header, description=MADE_HERE)
    probabilities = folder / f"{name}_probabilities.nii.gz"
    if probabilities.is_file():
        write_like(probabilities, np.moveaxis(answer.probabilities, 0, -1), header, description=MADE_HERE)
    replace_text(folder / f"{name}_prompts.json", _text(name, said, predictor))
    return answer.notes[known:]


def _text(name: str, said: Words, predictor: Predictor) -> str:
    labels, grid = predictor.model.labels, predictor.session.grid

    def entry(label: int, voxel: Sequence[Any]) -> dict[str, Any]:
        return {"label": label, "name": labels[label], "voxel": voxel, "source": USER}

    own = prompts_in_world(
        predictor.session.volume.volume.points,
        affine=grid.affine @ np.linalg.inv(grid.to_network),
        original_affine=grid.affine,
        labels=labels,
    )
    return prompt_file_text(
        name,
        shape=grid.shape,
        affine=grid.affine,
        points=[*(entry(click.label, list(click.voxel)) for click in said.clicks), *own],
        boxes=[entry(box.label, [list(box.least), list(box.greatest)]) for box in said.boxes],
        scribbles=[entry(line.label, [list(voxel) for voxel in line.voxels]) for line in said.scribbles],
    )
