"""Seconds to the first answer and to further clicks, through HTTP, from a real MONAI Label server.

    python benchmarks/label_server_clicks.py --bundle bundles/la --scan SCAN.nii.gz --clicks 12

The clicks are on voxels beside the answer's border, alternately of the class and of the background, and each request
holds all of them again, as OHIF's panel sends them. Beside the seconds on the clock stand those that the server
computed, which say more where other programs run.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aps_components.label_server import LabelClient, LabelServer, ensure_environment, prepare_app

VIEWER = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/la"))
    parser.add_argument("--scan", type=Path, required=True, help="a NIfTI file")
    parser.add_argument("--clicks", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--environment", type=Path, default=Path(".venv-label"))
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    figures = measured(asked)
    print(json.dumps(figures, indent=1))
    if asked.out is not None:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    """All figures; each pair is seconds on the clock and seconds computed."""
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        ending = ".nii.gz" if asked.scan.name.endswith(".gz") else ".nii"
        (studies / f"scan{ending}").symlink_to(asked.scan.resolve())
        prepare_app(Path(folder) / "app", bundles=[asked.bundle])
        server = LabelServer(
            environment=ensure_environment(asked.environment),
            app=Path(folder) / "app",
            studies=studies,
            models=[asked.bundle.name],
            port=0,
            log=Path(folder) / "log",
            environ={**os.environ, "OMP_NUM_THREADS": str(asked.threads)},
        )
        with server:
            assert server.process is not None
            return clicked(LabelClient(server.url), asked, process=server.process.pid)


def clicked(client: LabelClient, asked: argparse.Namespace, *, process: int) -> dict[str, Any]:
    """What a viewer waits for."""

    def ask(model: str, **points: Any) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        start, computed = time.monotonic(), seconds_computed(process)
        content = client.infer(model, "scan", **points, **VIEWER)
        seconds = round(time.monotonic() - start, 3), round(seconds_computed(process) - computed, 3)
        return answer_of(content, shape), seconds

    shape, model = nib.load(asked.scan).shape[:3], asked.bundle.name
    _, automatic = ask(model)
    name = next(name for name, value in client.info()["models"][model]["labels"].items() if value == 1)
    said: dict[str, list[list[int]]] = {name: [], "background": []}
    answer, first = ask(f"{model}_clicks", **said)
    times, right, total = [], 0, 0
    rng = np.random.default_rng(0)
    for number in range(asked.clicks):
        side = name if number % 2 == 0 else "background"
        said[side].append(beside_the_border(answer == 1, rng, outside=side == name))
        answer, seconds = ask(f"{model}_clicks", **said)
        times.append(seconds)
        right += sum(int(answer[tuple(voxel)] == 1) for voxel in said[name])
        right += sum(int(answer[tuple(voxel)] == 0) for voxel in said["background"])
        total += number + 1
    clock, computed = zip(*times, strict=True)
    return {
        "scan": list(shape),
        "threads": asked.threads,
        "automatic": automatic,
        "first_answer_to_clicks": first,
        "further_click_median": (statistics.median(clock), statistics.median(computed)),
        "further_click_worst": (max(clock), max(computed)),
        "said_voxels_of_their_class": right / total,
    }


def answer_of(content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The voxels of a raw NRRD, [X, Y, Z]."""
    _, _, voxels = content.partition(b"\n\n")
    return np.frombuffer(voxels, dtype=np.uint8).reshape(shape, order="F")


def beside_the_border(mask: NDArray[np.bool_], rng: np.random.Generator, *, outside: bool) -> list[int]:
    """A voxel within two voxels of the border, outside of the mask or in it."""
    band = ndimage.binary_dilation(mask, iterations=2) & ~mask if outside else mask & ~ndimage.binary_erosion(mask)
    places = np.argwhere(band if band.any() else np.ones_like(mask))
    return [int(index) for index in places[rng.integers(len(places))]]


def seconds_computed(process: int) -> float:
    """Of all threads of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main()
