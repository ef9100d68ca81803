"""What uvicorn imports: MONAI Label's app inside the guard."""

from __future__ import annotations

from typing import Any

from aps_components.label_server.guard import Guard

_asked: dict[str, str] = {}


def configure(*, token: str, host: str) -> None:
    """Say what the guard wants, before ``app`` is asked for."""
    _asked.update(token=token, host=host)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    from monailabel.app import app

    return Guard(app, **_asked)
