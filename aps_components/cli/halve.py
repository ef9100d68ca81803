"""``aps halve``."""

from __future__ import annotations


def halve(source: str, target: str) -> None:
    """Write a model's weights in half precision, with the settings beside them: half the size, for publishing.

    Args:
        source: the model.pt of a training; its model.json must lie beside it.
        target: file to write, such as bundles/la/models/model.pt.
    """
    from aps_components.models import halve as write

    written = write(str(source), str(target))
    print(f"{written}: {written.stat().st_size / 1e6:.1f} MB")
