"""Every command killed outright at some moment, or on a disk that is full, and called again: ``make killed``.

After a kill every file under a final name is whole, and no process is left; the next call of the same command ends as
if nothing had been. A full disk ends a command with a line that names the file and the reason; with more room the same
call goes on. The seed draws the moments; commands run in forks of this process, which has imported everything.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[up]) for up in (0, 1, 2)]
sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("segmentation", "data/preparation")]

import torch  # noqa: E402
from official_trees import write_la  # noqa: E402
from tiny_bundles import NETWORK, tiny_bundle  # noqa: E402
from workflows import LA, ROOT, TINY, training_options  # noqa: E402

from aps_components.data.nifti import read_scan  # noqa: E402
from aps_components.data.phantoms import write_phantoms  # noqa: E402
from aps_components.files import HIDDEN, sha256_of  # noqa: E402
from aps_components.plain_json import read_json, read_lines  # noqa: E402
from aps_components.segmentation.records import is_picture  # noqa: E402
from aps_components.segmentation.workspace import PREFIX  # noqa: E402

PAGE = 4096  # bytes, of which a disk in memory gives whole ones
LONGEST = 400.0  # seconds, of a command
ORPHANS = 60.0  # seconds, in which what it started must end; a server looks at it when Python has begun
MARK = "APS_KILLED_MARK"  # in the environment of all that a command starts
READY = "MONAI Label is ready"
SHARES = (0.02, 0.4, 0.8)  # of the room that a command needs, of the full disks


@dataclass
class Command:
    """One of those that are killed.

    Args:
        arguments: after ``python -m``, by the folder that it writes into.
        same: of the files that it writes, those that are the same whatever happened on the way, and what of each is.
        forever: it ends when it is told to, and is ready when it says so.
    """

    arguments: Callable[[Path], list[str]]
    same: Callable[[Path], dict[str, Any]]
    forever: bool = False
    kills: int = 9
    faults: list[str] = field(default_factory=list)


def by_content(*endings: str) -> Callable[[Path], dict[str, Any]]:
    """The files of these endings are the same byte for byte."""

    def same(folder: Path) -> dict[str, Any]:
        files = {str(file.relative_to(folder)): file for file in _final(folder)}
        return {name: sha256_of(file) for name, file in files.items() if name.endswith(endings)}

    return same


def weights(folder: Path) -> dict[str, Any]:
    """Of models, each tensor."""
    found = {}
    for file in sorted(folder.rglob("model*.pt")):
        state = torch.load(file, weights_only=True)
        found[str(file.relative_to(folder))] = {key: value.tolist() for key, value in state.items()}
    return found


def dice(folder: Path) -> dict[str, Any]:
    """Of a comparison's table, which also says how long it took."""
    rows = list(csv.DictReader((folder / "table.csv").open()))
    return {"table": [{key: value for key, value in row.items() if key != "minutes"} for row in rows]}


def exported(folder: Path) -> dict[str, Any]:
    """Of TorchScript files, all parts but those that say from which lines of Python it was made."""
    found = {}
    for file in sorted(folder.rglob("*.ts")):
        with zipfile.ZipFile(file) as archive:
            parts = {part.filename: part.CRC for part in archive.infolist()}
        found[file.name] = {name: crc for name, crc in parts.items() if not name.endswith((".debug_pkl", "_id"))}
    return found


def figures(folder: Path) -> dict[str, Any]:
    """Of a measurement with clicks, all that it says but how long it took."""
    rows = list(csv.DictReader((folder / "clicks.csv").open()))
    summary = json.loads((folder / "clicks.json").read_text())
    return {"rows": [_without_times(row) for row in rows], "summary": _without_times(summary)}


def _without_times(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if not key.endswith("_ms")}


def commands(place: Path) -> dict[str, Command]:
    """All of them, on phantoms and tiny networks in a folder."""
    data = place / "data"
    write_phantoms(data, labeled=3, unlabeled=2, validation=1, test=1, shape=(32, 32, 32), progress=False)
    bundle, trained = tiny_bundle(place / "tiny", "la"), place / "trained"
    for name in ("train.json", "evaluate.json"):
        file = bundle / "configs" / name
        content = json.loads(file.read_text())
        if "network_def" in content:
            content["network_def"] |= NETWORK
            content |= {"roi_size": [32, 32, 32], "precision": "fp32"}
        file.write_text(json.dumps(content))
    few = place / "few"
    few.mkdir()
    for file in sorted((data / "images").iterdir())[:2]:
        shutil.copy(file, few)
    write_la(place / "raw", [f"{letter * 8}{number}" for number, letter in enumerate("ABCDEF")])
    options = training_options(data, trained, epochs=3, val_interval=1, num_workers=0)

    def train(folder: Path) -> list[str]:
        paths = {"ckpt_dir": folder / "models", "output_dir": folder / "eval"}
        given = [part for key, value in (options | paths).items() for part in (f"--{key}", str(value))]
        return ["monai.bundle", "run", "training", "--config_file", str(LA / "configs" / "train.json"), *given]

    run(train(trained), log=place / "trained.log")
    model = trained / "models" / "model.pt"
    small = [
        f"--{key}={value}".replace(" ", "") for key, value in TINY.items() if key not in ("bundle_root", "roi_size")
    ]
    found = {
        "train": Command(train, weights),
        "segment": Command(
            lambda folder: ["aps_components", "segment", str(few), str(folder), f"--bundle={bundle}", "--maps"],
            by_content(".nii.gz", ".csv", "_prompts.json"),
        ),
        "prepare": Command(
            lambda folder: [
                *("aps_components", "prepare", "la", f"--raw={place / 'raw'}", f"--out={folder}", "--workers=1"),
                *("--labeled=2", "--validation=1"),
            ],
            by_content(".nii.gz", "datalist.json"),
        ),
        "pseudo-label": Command(
            lambda folder: [
                *(
                    "aps_components",
                    "pseudo-label",
                    f"--bundle={LA}",
                    f"--dataset_dir={data}",
                    f"--checkpoints={model}",
                ),
                *(f"--target={folder}", *small),
            ],
            by_content(".nii.gz", "datalist.json"),
        ),
        "compare": Command(
            lambda folder: [
                *(
                    "aps_components",
                    "compare",
                    str(data),
                    f"--bundle={bundle}",
                    f"--out={folder}",
                    "--methods=supervised",
                ),
                *(
                    "--seeds=0",
                    "--epochs=2",
                    "--epoch_length=2",
                    "--labeled=3",
                    "--num_workers=0",
                    "--validation_count=1",
                ),
                *("--warmup_epochs=1", "--device=cpu", "--labeled_batch=1", "--unlabeled_batch=1"),
            ],
            dice,
            kills=5,
        ),
        "package": Command(
            lambda folder: ["aps_components", "package", str(bundle), f"--out={folder}", f"--checkpoint={model}"],
            by_content(".zip"),
        ),
    }
    of_model = [f"--bundle={LA}", f"--dataset_dir={data}", f"--checkpoint={model}", *small]
    found |= {
        "calibrate": Command(
            lambda folder: ["aps_components", "calibrate", *of_model, f"--target={folder / 'model.pt'}"],
            weights,
            kills=4,
        ),
        "halve": Command(
            lambda folder: ["aps_components", "halve", str(model), str(folder / "model.pt")], weights, kills=4
        ),
        "clicks": Command(
            lambda folder: [
                *(
                    "aps_components",
                    "clicks",
                    f"--checkpoint={model}",
                    f"--images={few}",
                    f"--labels={data / 'labels'}",
                ),
                *(f"--out={folder}", "--clicks=2", "--device=cpu"),
            ],
            figures,
            kills=4,
        ),
        "uncertainty": Command(
            lambda folder: ["aps_components", "uncertainty", *of_model, f"--out={folder}", "--noise=0"],
            by_content("report.md"),
            kills=4,
        ),
        "export": Command(
            lambda folder: [
                *("aps_components", "export", str(bundle), f"--out={folder / 'm.ts'}", "--format=torchscript"),
                *(f"--checkpoint={model}", "--predictor=a"),
            ],
            exported,
            kills=4,
        ),
    }
    if environment := os.environ.get("LABEL_ENVIRONMENT"):
        studies = place / "studies"
        shutil.copytree(few, studies)
        found["label"] = Command(
            lambda folder: [
                *("aps_components", "label", f"--bundles={bundle}", f"--studies={studies}", f"--app={folder}"),
                *("--port=0", f"--environment={environment}"),
            ],
            by_content("model.pt"),
            forever=True,
            kills=4,
        )
    return found


def run(arguments: list[str], *, log: Path, seconds: float = LONGEST, until: str = "") -> tuple[int | None, float]:
    """Run ``python -m`` in a fork.

    Args:
        arguments: from the module on.
        log: what it prints is added there.
        seconds: after which it is killed.
        until: a text in its log at which it is told to end.

    Returns:
        Its exit status, None if it was killed; and how long it took.
    """
    log.touch()
    started, beginning = time.monotonic(), log.stat().st_size
    process = os.fork()
    if not process:
        _become(arguments, log)
    while time.monotonic() - started < seconds:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), time.monotonic() - started
        if until and until in log.read_text(errors="replace")[beginning:]:
            os.kill(process, signal.SIGTERM)
            until = ""
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None, time.monotonic() - started


def _become(arguments: list[str], log: Path) -> None:
    """This process, a fork, is a command from here on."""
    os.setsid()
    with open(log, "ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, errors="backslashreplace") for number in (1, 2))
    os.environ |= {MARK: str(log.parent), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    sys.argv = list(arguments)
    status: Any = 1
    try:
        module = arguments[0]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def left_running(mark: Path, *, seconds: float = ORPHANS) -> list[str]:
    """Command lines of processes that a command started and that did not end with it."""
    ending = time.monotonic() + seconds
    while (found := _marked(mark)) and time.monotonic() < ending:
        time.sleep(0.1)
    return found


def _marked(mark: Path) -> list[str]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}\0".encode() in (place / "environ").read_bytes():
                    found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def _final(folder: Path) -> list[Path]:
    """Files under the names that they keep; what is hidden is not finished."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def half_written(folder: Path) -> list[str]:
    """Files under a final name that cannot be read whole."""
    return [f"{file.relative_to(folder)}: {why}" for file in _final(folder) if (why := _why_half(file))]


def _why_half(file: Path) -> str:
    readers: dict[str, Callable[[Path], Any]] = {
        ".nii.gz": read_scan,
        ".json": read_json,
        ".jsonl": lambda path: read_lines(path, skip_broken=True),
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".zip": lambda path: zipfile.ZipFile(path).testzip(),
        ".png": lambda path: 1 / is_picture(path),
        ".csv": lambda path: 1 / path.read_text().endswith("\n"),
        ".md": lambda path: 1 / path.read_text().endswith("\n"),
    }
    reader = next((reader for ending, reader in readers.items() if file.name.endswith(ending)), None)
    try:
        return "" if reader is None or (file.name == "large_files.json") else str((reader(file) and "") or "")
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def left_over(folder: Path) -> list[str]:
    """What is hidden and would stay for ever."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.startswith((HIDDEN, PREFIX))]


def kill(name: str, command: Command, place: Path, draw: random.Random, *, kills: int) -> dict[str, Any]:
    """Kill a command so many times, calling it to its end after every few; all that is not as claimed."""
    place.mkdir(parents=True)
    until, faults = READY if command.forever else "", command.faults
    whole = place / "whole"
    status, takes = run(command.arguments(whole), log=place / "whole.log", until=until)
    if status != 0:
        return {"kills": 0, "faults": [f"undisturbed: exit status {status} ({place / 'whole.log'})"]}
    wanted, done, chain = command.same(whole), 0, 0
    while done < kills:
        folder, log = place / f"chain{chain}", place / f"chain{chain}.log"
        for _ in range(min(draw.randint(1, 4), kills - done)):
            ended, _ = run(command.arguments(folder), log=log, seconds=draw.uniform(0.0, 1.05 * takes))
            done += 1
            if ended not in (None, 0):
                faults.append(f"{log}: a call after a kill ended with {ended}")
            faults += [f"{log}: left running: {line}" for line in left_running(place)]
            faults += [f"{log}: {line}" for line in (half_written(folder) if folder.exists() else [])]
        status, _ = run(command.arguments(folder), log=log, until=until)
        if status != 0:
            faults.append(f"{log}: the call after the kills ended with {status}")
        elif command.same(folder) != wanted:
            faults.append(f"{log}: other results than without kills: {_different(command.same(folder), wanted)}")
        else:
            faults += [f"{log}: stays for ever: {file}" for file in left_over(folder)]
        chain += 1
    return {"kills": done, "faults": list(faults)}


def fill(name: str, command: Command, place: Path) -> dict[str, Any]:
    """Run a command on disks that are too small, then with more room."""
    until, faults, refused = READY if command.forever else "", [], 0
    wanted = command.same(place / "whole")
    needed = sum(-(-file.stat().st_size // PAGE) * PAGE for file in _final(place / "whole"))
    for share in SHARES:
        with _disk(place / f"disk{share}", max(8, int(share * needed / 1024))) as disk:
            folder, log = disk, place / f"disk{share}.log"  # as deep as without: some results name places beside them
            status, _ = run(command.arguments(folder), log=log, until=until)
            faults += [f"{log}: left running: {line}" for line in left_running(place)]
            faults += [f"{log}: {line}" for line in (half_written(folder) if folder.exists() else [])]
            if status != 0:
                refused += 1
                said = log.read_text(errors="replace")
                named = [line for line in said.splitlines() if "No space left" in line and str(disk) in line]
                if status is None or status < 0 or not named:
                    faults.append(f"{log}: exit status {status}, and it said: {said[-400:]}")
            subprocess.run(["mount", "-o", f"remount,size={2 * needed // 1024 + 65536}k", str(disk)], check=True)
            status, _ = run(command.arguments(folder), log=log, until=until)
            if status != 0:
                faults.append(f"{log}: with more room it ended with {status}")
            elif command.same(folder) != wanted:
                faults.append(
                    f"{log}: other results than on a disk with room: {_different(command.same(folder), wanted)}"
                )
            else:
                faults += [f"{log}: stays for ever: {file}" for file in left_over(folder)]
    return {"full disks": len(SHARES), "refused": refused, "faults": faults}


def _different(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)][:5]


@contextlib.contextmanager
def _disk(place: Path, kilobytes: int) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", action="append", help="of these alone, such as segment")
    parser.add_argument("--kills", type=int, help="so many of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no_disks", action="store_true", help="without full disks, which only root can make")
    parser.add_argument("--keep", help="a folder for logs and results")
    asked = parser.parse_args()
    place = Path(asked.keep or tempfile.mkdtemp(prefix="killed-"))
    place.mkdir(parents=True, exist_ok=True)
    every, failed = commands(place), False
    print("| command | kills | full disks | of them refused | violations |\n|---|---:|---:|---:|---:|", flush=True)
    for name, command in every.items():
        if asked.command and name not in asked.command:
            continue
        draw = random.Random(f"{asked.seed} {name}")
        kills = kill(name, command, place / name, draw, kills=asked.kills if asked.kills is not None else command.kills)
        can_mount = not asked.no_disks and kills["kills"] and os.geteuid() == 0
        disks = fill(name, command, place / name) if can_mount else {"full disks": 0, "refused": 0, "faults": []}
        faults = [*kills["faults"], *disks["faults"]]
        print(f"| {name} | {kills['kills']} | {disks['full disks']} | {disks['refused']} | {len(faults)} |", flush=True)
        for fault in faults:
            print(f"VIOLATION {name}: {fault}", file=sys.stderr, flush=True)
        failed |= bool(faults)
    if not asked.keep and not failed:
        shutil.rmtree(place)
    sys.exit(failed)


if __name__ == "__main__":
    main()
