"""An order that names and a seed alone decide: the same on every machine, however files are listed."""

from __future__ import annotations

import hashlib


def drawn(name: str, *, seed: int) -> str:
    """The key by which names are sorted into the seed's order: the SHA-256 of ``seed:name``, in hexadecimal."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
