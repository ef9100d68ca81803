"""Whether MONAI can use what is about to be packaged, tried on the files themselves and on made-up scans."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from monai.bundle import verify_metadata, verify_net_in_out

from aps_components.bundle.block import DatasetBlock
from aps_components.bundle.metadata import SCHEMA_FILE
from aps_components.bundle.writer import template
from aps_components.configuration import BundleWorkflow
from aps_components.data.datalist import DATALIST
from aps_components.data.nifti import write_nifti
from aps_components.errors import root_cause
from aps_components.files import sha256_of
from aps_components.terminal import brief

SIDE = 32  # voxels; the least that every network of this project takes
WORKFLOWS = {"train": "train.json", "infer": "inference.json"}
PARTS = {"training": 2, "unlabeled": 2, "validation": 1, "test": 1}  # cases; a batch of training has two and two


def run_faults(bundle: Path, block: DatasetBlock) -> list[str]:
    """Faults that show when MONAI reads the bundle, builds its workflows and, if it has one, loads its checkpoint.

    Args:
        bundle: folder with the bundle's files as they will be packaged.
        block: of its ``train.json``.
    """
    with TemporaryDirectory() as folder:
        data = _write_scans(Path(folder) / "data", block)
        checks = {
            f"configs/{file}": partial(_workflow_faults, bundle, kind, data=data, out=Path(folder))
            for kind, file in WORKFLOWS.items()
        }
        checks["configs/metadata.json"] = partial(_shape_faults, bundle)
        with _quiet_logging():
            faults = [fault for where, check in checks.items() for fault in _tried(check, where)]
    return [fault.replace(f"{bundle}{os.sep}", "") for fault in faults]


def schema_faults(metadata: Mapping[str, Any]) -> Iterator[str]:
    """What MONAI's comparison of ``metadata.json`` with its schema finds first; nothing is fetched.

    Raises:
        RuntimeError: jsonschema, which MONAI needs for it, is not installed.
    """
    with TemporaryDirectory() as folder, _quiet_logging():
        file, schema = Path(folder) / "metadata.json", Path(folder) / SCHEMA_FILE
        file.write_text(json.dumps(metadata), encoding="utf-8")
        schema.write_text(template(SCHEMA_FILE), encoding="utf-8")
        known = {"filepath": str(schema), "hash_val": sha256_of(schema), "hash_type": "sha256"}
        try:
            verify_metadata(meta_file=str(file), **known)
        except ImportError as error:
            raise RuntimeError(f"{error}: metadata.json is checked by it; run: pip install jsonschema") from error
        except ValueError as error:
            where = "#".join(str(step) for step in getattr(error.__cause__, "absolute_path", ()))
            said = brief(getattr(error.__cause__, "message", str(error)), most=500)
            yield f"{where}: {said}" if where else said
        except (LookupError, TypeError) as error:  # "a#b" and "a::b" are paths to MONAI
            yield f"MONAI cannot read one of its keys ({error})"


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Without the account that MONAI gives of its arguments."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _workflow_faults(bundle: Path, kind: str, *, data: Path, out: Path) -> Iterator[str]:
    opened = _opened(bundle, kind, data=data, out=out)
    if missing := opened.workflow.check_properties():
        yield f"configs/{WORKFLOWS[kind]}: MONAI does not find {', '.join(missing)}; define them as in the template"
        return
    checkpoint = bundle / "models" / "model.pt"
    if checkpoint.is_file():
        opened.load_network(checkpoint)


def _opened(bundle: Path, kind: str, *, data: Path, out: Path) -> BundleWorkflow:
    """A workflow on the made-up scans that writes nothing into the bundle."""
    options: dict[str, Any] = {"bundle_root": str(bundle), "dataset_dir": str(data), "output_dir": str(out / kind)}
    options["device"] = "cpu"
    if kind == "train":
        options |= {"ckpt_dir": str(out / "models"), "labeled_count": None, "validation_count": 0, "cache_rate": 0.0}
    # What a run sets up in the whole process, such as a seed, is left as it is.
    opened = BundleWorkflow(bundle, WORKFLOWS[kind], kind=kind, init_id="nothing")
    opened.parser.update(options)
    opened.workflow.initialize()
    return opened


def _shape_faults(bundle: Path) -> Iterator[str]:
    """MONAI's own comparison of the network's answer with the metadata raises what it finds."""
    verify_net_in_out(
        net_id="network_def",
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        device="cpu",
        n=SIDE // 16,
        p=SIDE.bit_length() - 1,
        any=SIDE,
        bundle_root=str(bundle),
    )
    yield from ()


def _tried(check: Callable[[], Iterator[str]], where: str) -> Iterator[str]:
    """The faults that a check names, and the error that it ends with as another."""
    try:
        yield from check()
    except Exception as error:  # a configuration may run, and so raise, anything
        cause = root_cause(error)
        yield f"{where}: {type(cause).__name__}: {cause}"


def _write_scans(folder: Path, block: DatasetBlock) -> Path:
    """Cases of one file each, with the bundle's channels, in a dataset folder."""
    shape = (SIDE, SIDE, SIDE)
    datalist: dict[str, Any] = {"name": "made up", "labels": block.labels, **{part: [] for part in PARTS}}
    for part, count in PARTS.items():
        for _ in range(count):
            number = sum(len(datalist[name]) for name in PARTS)
            case = {key: f"{key}s/case_{number}.nii.gz" for key in ("image", "label")}
            _save(folder / case["image"], np.full((*shape, block.in_channels), number, dtype=np.int16))
            if part == "unlabeled":
                del case["label"]
            else:
                _save(folder / case["label"], np.zeros(shape, dtype=np.uint8))
            datalist[part].append(case)
    (folder / DATALIST).write_text(json.dumps(datalist), encoding="utf-8")
    return folder


def _save(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, voxels, np.eye(4))
