"""Without what libraries say that tells a user nothing, in any number of threads."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


class _Silence:
    """What is held back; threads may ask for it at the same time, and what was before comes back with the last one.

    Python keeps its warnings for all threads: two that each put back what they found leave the one's for ever.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.complete = threading.Lock(), 0, False
        self.before = ExitStack()

    def begin(self, *, complete: bool) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.before, self.complete = ExitStack(), False
                self.before.callback(logging.disable, logging.root.manager.disable)
                self.before.callback(setattr, sys, "excepthook", sys.excepthook)
                logging.disable(logging.ERROR)
                self.before.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"(monai|torch|ignite|nibabel)\b")
            if complete and not self.complete:
                self.complete = True
                warnings.simplefilter("ignore")

    def end(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.before.close()


_SILENCE = _Silence()


@contextmanager
def quiet(*, complete: bool = False) -> Iterator[None]:
    """Hold back the log lines and warnings of the libraries below, and their exit hook.

    Args:
        complete: every warning, whoever is blamed for it: those of DICOM libraries are laid to their callers.
    """
    _SILENCE.begin(complete=complete)
    try:
        yield
    finally:
        _SILENCE.end()
