"""What a new bundle says about the scans that it was made for, on the terminal and in its own documentation."""

from __future__ import annotations

import json
import math
import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from aps_components.bundle.plan import Plan
from aps_components.bundle.rules import by
from aps_components.data.case_folder import CaseFolder
from aps_components.data.fingerprint import PERCENTILES, Fingerprint

FAULTS_SHOWN = 10
TRAINING_SCANS_OF_A_BATCH = 2  # labelled, and again unlabelled ones, in train.json
PERFORMANCE, NOT_MEASURED = "## Performance", "Nothing has been measured yet."
CPU_SCHEDULE = "--epochs 16 --warmup_epochs 5 --val_interval 4"


def describe_scans(fingerprint: Fingerprint, plan: Plan) -> str:
    """Number of cases, sizes, intensities and classes, as tables that are Markdown, too."""
    labelled, unlabelled = len(fingerprint.labelled), len(fingerprint.unlabelled)
    read = len([facts for facts in fingerprint.unlabelled if facts.intensity is not None])
    lines = [f"{labelled + unlabelled} cases: {labelled} with a label, {unlabelled} without."]
    if partly := fingerprint.partly_labelled:
        share = sum(f.labeled_voxels for f in partly) / sum(math.prod(f.shape) for f in partly)
        lines.append(f"{len(partly)} of the labels are not whole: {100 * share:.1f} % of their voxels are labelled.")
    if read < unlabelled:
        lines.append(f"Of the unlabelled scans {read} were read in full, of the others the headers.")
    return "\n\n".join(["\n".join(lines), _grids(fingerprint), _intensities(fingerprint), _classes(fingerprint, plan)])


def describe_faults(folder: CaseFolder, fingerprint: Fingerprint, plan: Plan) -> str:
    """What was left out and what deserves a look; an empty text where there is nothing."""
    parts = []
    if fingerprint.faults:
        parts.append(_listing(f"Left out, {len(fingerprint.faults)} fault(s):", fingerprint.faults))
    if folder.labels_without_image:
        parts.append(_listing("Labels without an image, which are not used:", folder.labels_without_image))
    if plan.warnings:
        parts.append(_listing("Look at this:", plan.warnings))
    return "\n\n".join(parts)


def describe_plan(plan: Plan, *, width: int = 100) -> str:
    """Every setting with its reason, for a terminal."""
    blocks = []
    for key, choice in plan.choices.items():
        head = f"  {key:18} {_json(choice.value)}"
        reason = textwrap.wrap(choice.reason, width, initial_indent=" " * 21, subsequent_indent=" " * 21)
        blocks.append("\n".join([head, *reason]))
    return "\n".join(blocks)


def batch_options(labelled: int, unlabelled: int) -> str:
    """What a training needs said that has fewer cases than a batch of the template."""
    options = [
        f"--{name}_batch {count}"
        for name, count in (("labeled", labelled), ("unlabeled", unlabelled))
        if count < TRAINING_SCANS_OF_A_BATCH
    ]
    return " ".join(options)


def commands(
    plan: Plan, *, bundle: str | None, data: str, labelled: int, unlabelled: int, validation: int
) -> dict[str, str]:
    """What to do next: title to command.

    Args:
        plan: of the bundle.
        bundle: its folder; None for commands that are started in it.
        data: the dataset's folder.
        labelled, unlabelled: training cases.
        validation: validation cases.
    """
    configs = shlex.quote(bundle) + "/configs" if bundle else "configs"
    root = f" --bundle_root {shlex.quote(bundle)}" if bundle else ""
    folder, batch = shlex.quote(data), batch_options(labelled, unlabelled)
    training = f"--config_file {configs}/train.json{root} --dataset_dir {folder}" + (f" {batch}" if batch else "")
    several = f"{{}}{root} --dataset_dir {folder}"
    size = "".join(f" --{key} {_option(value)}" for key, value in plan.cpu.items())
    coarse = ", at a smaller size" if {"spacing", "roi_size"} & plan.cpu.keys() else ""
    judged = "Evaluate on the validation scans" if validation else "Evaluate, once the datalist has validation cases"
    run, here = "python -m monai.bundle run", shlex.quote(bundle or ".")
    steps = {
        "Train on a GPU; the same command goes on after an interruption": f"{run} training {training}",
        f"Train on a CPU{coarse}": f"{run} training {training}{size} {CPU_SCHEDULE}",
        judged: f"{run} evaluating --config_file {several.format(_config_list(bundle, 'train.json', 'evaluate.json'))}",
        "Segment scans, with volumes, previews and a report": f"aps segment SCANS RESULTS --bundle {here}",
        "The same by MONAI": f"{run} inference --config_file {configs}/inference.json{root} "
        "--image SCANS --save_maps true",
    }
    return {title: _broken(command) for title, command in steps.items()}


def _config_list(bundle: str | None, *files: str) -> str:
    """As a shell hands it to MONAI, whatever the folder is named."""
    folder = f"{bundle}/configs" if bundle else "configs"
    if re.fullmatch(r"[\w./-]+", folder, re.ASCII):
        return '"[' + ",".join(f"'{folder}/{file}'" for file in files) + ']"'
    return shlex.quote("[" + ",".join(repr(f"{folder}/{file}") for file in files) + "]")


def readme(
    name: str,
    folder: CaseFolder,
    fingerprint: Fingerprint,
    plan: Plan,
    *,
    training: int,
    validation: int,
    schedule: str | None = None,
) -> str:
    """The new bundle's docs/README.md, with the headings of the model zoo.

    Args:
        name: of the bundle.
        folder, fingerprint, plan: of its dataset.
        training, validation: labelled cases of each.
        schedule: how it is trained, a Markdown list; by default as the bundle's train.json does it.
    """
    block, unlabelled = plan.block, len(fingerprint.unlabelled)
    steps = commands(plan, bundle=None, data="DIR", labelled=training, unlabelled=unlabelled, validation=validation)
    choices = [f"- `{key}`: `{_json(choice.value)}`: {choice.reason}" for key, choice in plan.choices.items()]
    faults = describe_faults(folder, fingerprint, plan)
    spacing = "each scan's own" if block.spacing is None else f"{by(block.spacing)} mm"
    return f"""# {name}

## Model Overview

Segments {_enumerated(list(block.labels.values())[1:])}.
It learns from scans with and without a label. A V-Net (Model A) prompts a volume-native Segment Anything model (Model
B) at the places where it is certain. Which of them answers, or the mean of both, is a setting of the weights
(`predictor`).

For research only; not for diagnosis or treatment. Weights: see [models](../models/README.md).

## Data

Your own, in the folder `DIR`: images in `{folder.images}/`, labels in `{folder.labels}/`. Terms:
[data_license.txt](data_license.txt). `configs/datalist.json` names {training} labelled and {unlabelled} unlabelled
cases for training and {validation} for validation. A `DIR/datalist.json` is used instead if there is one.
[fingerprint.json](../configs/fingerprint.json) holds the figures of these tables.

{describe_scans(fingerprint, plan)}
{_code(faults)}
## Training configuration

Rules chose these values of `configs/train.json` and `configs/inference.json`. You may change them; change both files
alike.

{chr(10).join(choices)}

{schedule or _schedule(training, unlabelled)}

## Input

{block.in_channels} channel(s). Scans may have any size. Each is turned to RAS, resampled to the voxel size of the
training ({spacing}) and normalised. Windows of {by(block.roi_size)} voxels then run over it.

## Output

The network gives {block.num_classes} channels of logits, one for each class. The file holds a label map, 0 to
{block.num_classes - 1}, on the scan's own grid. `--save_maps true` also writes probabilities, epistemic and aleatoric
uncertainty, and the prompt points.

{PERFORMANCE}

{NOT_MEASURED}

## MONAI Bundle Commands

Run these commands in the bundle's folder. `DIR` is the dataset. A downloaded package contains `aps_components`: write
`python -m aps_components` there instead of `aps`. In a clone of the repository, install it first.

{_steps(steps)}

## References

- AutoPromptSeg: Auto Decouple Uncertainty Prompt with SAM by Semi-supervised Learning in 3D Medical Image Segmentation
- Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Nature
  Methods 2021, [doi:10.1038/s41592-020-01008-z](https://doi.org/10.1038/s41592-020-01008-z): the model of the rules

## License

[Apache-2.0](../LICENSE) for code and configuration. The data have [terms of their own](data_license.txt).
"""


def with_performance(page: str, figures: str) -> str:
    """A page of :func:`readme` with measured figures in the place of those that it had.

    Args:
        page: the whole of it.
        figures: Markdown, below the heading.
    """
    before, heading, after = page.partition(f"\n{PERFORMANCE}\n")
    _, following, rest = after.partition("\n## ")
    return f"{before}{heading}\n{figures.strip()}\n{following}{rest}"


def _schedule(training: int, unlabelled: int) -> str:
    return f"""Those of every bundle:

- Iterations: 12,000 (120 epochs of 100), the first 4,000 on labelled patches alone
- Batch: 2 labelled and 2 unlabelled patches{_batch_note(training, unlabelled)}
- AdamW, 1e-3 falling to 0, weight decay 0.01; bf16 mixed precision where the device computes it"""


def data_license(name: str) -> str:
    """The new bundle's docs/data_license.txt."""
    return f"""Data of the bundle "{name}"

TO FILL IN:
Where the scans and labels come from, who may use them and for what, whom to cite, and that the patients' consent or the
ethics vote covers it.

The bundle ships no scans and no labels. configs/datalist.json and configs/fingerprint.json hold file names: look
whether these tell anything about a patient. Weights that are trained on the scans may fall under the scans' terms.
"""


def _grids(fingerprint: Fingerprint) -> str:
    functions = (np.min, np.median, np.max)
    rows = [
        (name, *(by(function(values, axis=0)) for function in functions))
        for name, values in (("size, voxels", fingerprint.shapes), ("spacing, mm", fingerprint.spacings))
    ]
    return _table(("along x, y, z (RAS)", "min", "median", "max"), rows)


def _intensities(fingerprint: Fingerprint) -> str:
    rows = []
    for part, text in (("overall", "all voxels"), ("foreground", "labelled voxels")):
        for index, values in enumerate(fingerprint.percentiles(part)):
            channel = f", channel {index}" if fingerprint.channels > 1 else ""
            rows.append((text + channel, *(_number(value) for value in values)))
    return _table(("intensity", *(f"{percent:g} %" for percent in PERCENTILES)), rows)


def _classes(fingerprint: Fingerprint, plan: Plan) -> str:
    """One line per class; `ml` is the median over the cases that have it."""
    rows = []
    for index, value in enumerate(plan.values, start=1):
        found = fingerprint.of_class(value)
        cases = f"{len(found)} of {len(fingerprint.labelled)}"
        voxels = sum(facts.voxels for facts in found)
        size = np.median([facts.millilitres for facts in found]) if found else 0
        rows.append((index, plan.block.labels[str(index)], value, cases, f"{voxels:,}", _number(size)))
    return _table(("class", "name", "value in the files", "cases", "voxels in all", "ml, median"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [[str(cell).replace("|", "/") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _broken(command: str, width: int = 110) -> str:
    """A command on lines of a bearable length."""
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("  " + part)
        else:
            lines[-1] = f"{lines[-1]} {part}" if lines[-1] else part
    return " \\\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _listing(title: str, lines: Sequence[str]) -> str:
    more = len(lines) - FAULTS_SHOWN
    shown = [*lines[:FAULTS_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
    return "\n".join([title, *(f"  {line}" for line in shown)])


def _steps(steps: dict[str, str]) -> str:
    return "\n\n".join(f"{title}:\n\n```bash\n{command}\n```" for title, command in steps.items())


def _code(text: str) -> str:
    return f"\n```\n{text}\n```\n" if text else ""


def _batch_note(labelled: int, unlabelled: int) -> str:
    options = batch_options(labelled, unlabelled)
    return f", but for `{options}`: there are no more" if options else ""


def _enumerated(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _option(value: Any) -> str:
    """A value as the command line takes it; MONAI passes over ``null`` there."""
    return "'$None'" if value is None else f'"{_json(value)}"'.replace(", ", ",")
