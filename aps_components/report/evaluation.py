"""The report of one evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aps_components.evaluation.seen import TRAINING
from aps_components.files import real
from aps_components.models import read_settings
from aps_components.report.blocks import Block, Commands, Facts, Page, Section
from aps_components.report.evaluated import METRICS_FILE, Evaluated
from aps_components.report.page import REPORT_FILE, write_page
from aps_components.report.reading import NOT_SET, facts

NOT_SHOWN = ("cases",)  # of a model's settings: the fingerprint of every scan
LEARNED_FROM = {"labeled": "labelled scans learned from", "unlabeled": "unlabelled scans learned from"}


def write_evaluation_report(
    folder: str | os.PathLike[str],
    *,
    name: str = "",
    commands: Sequence[str] = (),
    told: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``report.html`` from the ``metrics.json`` and the pictures of an evaluation, beside them.

    Args:
        folder: of the evaluation.
        name: of what was evaluated, for the title.
        commands: that repeat it.
        told: more to write down, such as the folder of the scans.

    Returns:
        The report.

    Raises:
        FileNotFoundError, ValueError: there are no figures.
        FileExistsError: a file of the report's name is there that is none.
    """
    place = Path(folder)
    evaluated = Evaluated.read(place / METRICS_FILE)
    if evaluated is None:
        raise ValueError(f"{place / METRICS_FILE}: holds no case; evaluate again")
    what = {**(told or {}), **evaluated.context, "answer": evaluated.answer}
    data: list[Block] = [Facts(facts(what))]
    sections = [
        Section("What was evaluated", data),
        *evaluated.sections(),
        Section("The model", _model(evaluated)),
        Section("The command that repeats it", [Commands(list(commands))] if commands else []),
    ]
    page = Page(
        title=f"Evaluation: {name or real(place).name}",
        about=about(evaluated),
        headline=evaluated.headline(),
        sections=[section for section in sections if section.blocks],
    )
    return write_page(place / REPORT_FILE, page)


def about(evaluated: Evaluated) -> str:
    """What the figures say of new scans; nothing is promised that nobody has looked at."""
    if evaluated.context.get("split") == TRAINING:
        return "How well a model does on scans that it learned from: this says nothing of new ones."
    if not _settings(evaluated).get("cases"):
        return (
            "How well a model does on labelled scans. Its model.json does not say which scans it learned from: whether "
            "these are new to it is unknown."
        )
    return "How well a model does on scans that it did not learn from, measured on each scan's own grid."


def _settings(evaluated: Evaluated) -> Mapping[str, Any]:
    """What lies beside the model still."""
    checkpoint = evaluated.context.get("checkpoint")
    try:
        return read_settings(checkpoint) if isinstance(checkpoint, str) else {}
    except (OSError, ValueError):
        return {}


def _model(evaluated: Evaluated) -> list[Block]:
    settings = _settings(evaluated)
    parts = settings.get("cases") or {}
    counts = [(title, str(len(parts[part]))) for part, title in LEARNED_FROM.items() if part in parts]
    said = facts({key: value for key, value in settings.items() if key not in NOT_SHOWN})
    shown = [(name, value) for name, value in said if value != NOT_SET]
    return [Facts([*counts, *shown])] if shown else []
