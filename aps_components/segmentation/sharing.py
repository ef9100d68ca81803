"""Several processes that share the scans of one call: those that torchrun starts, or a cluster's array of jobs.

Nobody hands out scans: every process works out the same shares from the scans' files. Each writes the results of its
own scans alone, and what one that was killed left is what the next call does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from aps_components.ranks import SEGMENT_AGAIN, together
from aps_components.segmentation.inputs import Case

FOREVER = timedelta(days=365)  # that a rank waits for the others at the end, as long as they live
JOINING = timedelta(minutes=10)  # and at the start
Result = TypeVar("Result")


class Share(NamedTuple):
    """One of several equal parts of the work."""

    number: int = 0
    """From 0."""
    of: int = 1

    @classmethod
    def parsed(cls, text: str) -> Share:
        """``3/16`` is the third of sixteen.

        Raises:
            ValueError: it is none.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"--shard {text} must be 1/16, 2/16, ... 16/16 for sixteen jobs")
        return cls(int(found[1]) - 1, int(found[2]))

    def take(self, cases: Sequence[Case]) -> list[Case]:
        """Its scans: the largest goes to whoever has least, so that all are done at about the same time."""
        sizes = [_size(case) for case in cases]
        given = [0] * self.of
        own = []
        for index in sorted(range(len(cases)), key=lambda index: (-sizes[index], cases[index].name)):
            least = given.index(min(given))
            given[least] += max(sizes[index], 1)
            if least == self.number:
                own.append(index)
        return [cases[index] for index in sorted(own)]


class Ranks:
    """The processes that torchrun started, or this one alone.

    Args:
        environ: the environment, where torchrun says who this is.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.share, self.local = Share(), 0
        if "RANK" in environ and "LOCAL_RANK" in environ:
            self.share = Share(int(environ["RANK"]), int(environ.get("WORLD_SIZE", "1")))
            self.local = int(environ["LOCAL_RANK"])
        self._group: Any = None

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.share.of > 1

    @property
    def first(self) -> bool:
        """Whether this one speaks for all."""
        return self.share.number == 0

    def device(self) -> str | None:
        """A GPU for each process of a machine that has some; None for the bundle's own choice."""
        import torch

        gpus = torch.cuda.device_count() if self.several and torch.cuda.is_available() else 0
        return f"cuda:{self.local % gpus}" if gpus else None

    def join(self) -> None:
        """Connect with the others, before the work: whoever waits at the end then sees when one is gone.

        Raises:
            RankLostError: not all of them came.
        """
        if not self.several:
            return
        import torch.distributed as dist

        with together(SEGMENT_AGAIN):
            dist.init_process_group("gloo", timeout=JOINING)
            self._group = dist.new_group(timeout=FOREVER)

    def gathered(self, result: Result) -> list[Result]:
        """Of every rank that joined, when all have come here; on the first one alone, an empty list on the others.

        Raises:
            RankLostError: one of them has ended before.
        """
        if not self.several:
            return [result]
        import torch.distributed as dist

        results: list[Any] | None = [None] * self.share.of if self.first else None
        with together(SEGMENT_AGAIN):
            dist.gather_object(result, results, group=self._group)
            dist.barrier(group=self._group)
        dist.destroy_process_group()
        return results or []


def _size(case: Case) -> int:
    """Bytes of a scan's files; 0 where there are none."""
    return sum(os.path.getsize(file) for file in case.sources if os.path.isfile(file))
