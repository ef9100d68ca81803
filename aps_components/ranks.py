"""Several processes of one call, which torchrun starts: where one is gone, the others end with a line that says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

SEGMENT_AGAIN = "Call the same command again: finished scans are kept"
TRAIN_ON = "The same command goes on after the last epoch that was finished"
TRANSPORTS = ("/gloo/", "NCCL")  # whose errors say nothing that helps: which socket, in which line of their source


class RankLostError(RuntimeError):
    """Another process of the call has ended, or cannot be reached."""


@contextmanager
def together(mend: str) -> Iterator[None]:
    """A block in which this process waits for the others.

    Args:
        mend: what to do when one of them is lost.

    Raises:
        RankLostError: one of them is.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_of_the_others(error):
            raise
        raise RankLostError(
            f"another process of this call has ended, or cannot be reached: its own last line says why. {mend}"
        ) from error


def _is_of_the_others(error: RuntimeError) -> bool:
    """Whether the connection to another process broke, or none came about."""
    import torch.distributed as dist

    if not dist.is_available() or isinstance(error, RankLostError):
        return False
    return isinstance(error, dist.DistError) or any(name in str(error) for name in TRANSPORTS)
