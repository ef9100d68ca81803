"""The process that looks at one input after another, within bounds; the parent ends it where it hangs."""

import logging
import random
import resource
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import dicom_inputs
import json_inputs
import nifti_inputs
import SimpleITK as sitk
import zip_inputs
from claims import Violation

MEMORY = 2 << 30  # bytes, beside what the process has at its beginning
STATUS = Path("/proc/self/status")
KINDS = {"nifti": nifti_inputs, "dicom": dicom_inputs, "json": json_inputs, "zip": zip_inputs}


class Report(NamedTuple):
    """Of one input; ``fault`` is empty where every claim held."""

    accepted: bool
    fault: str
    seconds: float
    bytes: int  # that it took at its peak


def groups() -> dict[str, list[str]]:
    """The groups of each kind, such as the files of JSON that are read."""
    return {kind: list(getattr(module, "GROUPS", [""])) for kind, module in KINDS.items()}


def seeded(kind: str, group: str, seed: int, index: int) -> random.Random:
    """What draws one input, whichever others are looked at."""
    return random.Random(f"{kind} {group} {seed} {index}")


def one(kind: str, group: str, seed: int, index: int) -> Report:
    """Make one input and look at it."""
    draw, module = seeded(kind, group, seed, index), KINDS[kind]
    options = (group,) if group else ()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        made = module.make(Path(folder), draw, *options)
        before, started, accepted, fault = _peak(reset=True), time.monotonic(), False, ""
        try:
            accepted = module.check(made, draw)
        except Violation as error:
            fault = f"{error}"
        except BaseException as error:
            fault = f"{type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"
        return Report(accepted, fault, time.monotonic() - started, max(0, _peak() - before))


def serve(pipe: Connection) -> None:
    """Answer with the report of each input that the parent names."""
    logging.disable(logging.WARNING)  # notes on headers, thousands of them
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    size = int(next(line for line in STATUS.read_text().splitlines() if line.startswith("VmSize")).split()[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        pipe.send(one(*asked))


def _peak(*, reset: bool = False) -> int:
    """Bytes of memory, the most since it was reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) << 10
