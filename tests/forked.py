"""Processes that need not import everything anew: a server of their own has done so, and forks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

IMPORTED = ["workflows"]  # once, by the server


def own_process(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """A function that runs in a process of its own; where there is no fork, in a new interpreter."""
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if has_server else "spawn")
    if has_server:
        context.set_forkserver_preload(IMPORTED)
    process: BaseProcess = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process
