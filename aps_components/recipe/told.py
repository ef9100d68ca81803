"""What a model is told of the trainings behind it: one of a whole training descends from several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aps_components.files import sha256_of
from aps_components.models import read_settings
from aps_components.recipe.stages import MODEL

ROUNDS = "rounds"  # key of model.json
# Folders of trainings in the order in which they run; see `rounds.Rounds`.
TRAININGS = ("fold_*", "seed_*", "second_*", "beside_*", "complete_*", "last", "beside")
SAID = (
    *("seed", "epochs", "epoch_length", "warmup_epochs", "labeled_batch", "unlabeled_batch", "learning_rate"),
    *("roi_size", "train_a", "labeled_by_hand", "pretrained_sha256"),
)


def told_rounds(work: Path) -> list[dict[str, Any]]:
    """Every training of a whole one, with what it was asked for and the SHA-256 of its weights.

    Args:
        work: folder of the whole training, in which each has one.

    Returns:
        Of each: ``name``, of its folder; some of its settings; ``scans``, how many of each kind it learned from;
        ``weights_sha256``, which the next one names as ``pretrained_sha256`` if it began with them.
    """
    return [_told(folder) for folder in _trainings(work)]


def _trainings(work: Path) -> Iterator[Path]:
    for pattern in TRAININGS:
        yield from sorted(folder for folder in work.glob(pattern) if (folder / "models" / MODEL).is_file())


def _told(folder: Path) -> dict[str, Any]:
    model = folder / "models" / MODEL
    settings = read_settings(model)
    cases = settings.get("cases")
    return {
        "name": folder.name,
        **{key: settings[key] for key in SAID if key in settings},
        "scans": {part: len(found) for part, found in cases.items()} if isinstance(cases, dict) else {},
        "weights_sha256": sha256_of(model),
    }
