"""A bundle's workflows as commands of MONAI, and the package's own commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aps_components.options import literal


def workflow_command(
    bundle: str | Path, run_id: str, files: Sequence[str], options: Mapping[str, Any] | None = None
) -> list[str]:
    """``python -m monai.bundle run``, for the Python that runs this, as a user would type it.

    Args:
        bundle: its folder.
        run_id: ``training``, ``evaluating`` or ``inference``.
        files: of its ``configs`` folder, each laid over those before it.
        options: keys of the files to other values.
    """
    configs = [str(Path(bundle) / "configs" / file) for file in files]
    command = [sys.executable, "-m", "monai.bundle", "run", run_id]
    command += ["--config_file", configs[0] if len(configs) == 1 else str(configs)]
    return command + _arguments({"bundle_root": bundle, **(options or {})})


def aps_command(name: str, options: Mapping[str, Any]) -> list[str]:
    """``aps NAME`` with its options, for the Python that runs this."""
    return [sys.executable, "-m", "aps_components", name, *_arguments(options)]


def _arguments(options: Mapping[str, Any]) -> list[str]:
    return [part for key, value in options.items() for part in (f"--{key}", _typed(value))]


def _typed(value: Any) -> str:
    """As the command line of MONAI reads it: Python's literals. It passes over None, so that is an expression."""
    if value is None:
        return "$None"
    if not isinstance(value, str | Path):
        return repr(value)
    return literal(str(value))
