"""``aps next-scan``: every scan answered by a model, and what that says of which to label next, kept in a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from aps_components.bundle import locate_bundle
from aps_components.data import DataError
from aps_components.data.marks import scan_hash
from aps_components.errors import in_a_line
from aps_components.evaluation.doubt.measures import class_doubts
from aps_components.evaluation.doubt.next_scan import ScanScore
from aps_components.files import ensure_writable, expanded, refuse_special, replace_text, sha256_of
from aps_components.plain_json import read_object
from aps_components.segmentation.bundle_inference import BundleInference
from aps_components.segmentation.inputs import Case, find_cases

SCORES_FILE = "scores.json"
FORMAT = 1
SCORES_ENDING = ".json"


@dataclass
class Scored:
    """What became of the scans.

    Args:
        scores: by the name of each scan that could be answered.
        failed: name to reason of those that could not be.
    """

    scores: dict[str, ScanScore] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def fail(self, name: str, error: Exception) -> None:
        """One bad scan stops nothing."""
        self.failed[name] = in_a_line(error)
        print(f"{name}: not scored: {self.failed[name]}", flush=True)


def score_scans(
    source: str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str],
    target: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Scored:
    """Answer every scan, and write after each of them what was found; those scored by these weights stay.

    Args:
        source: a folder of scans, or a JSON file that maps names to scans.
        bundle: a bundle's name, folder or zip.
        target: the JSON file of scores.
        checkpoint: weights other than the bundle's.
        device: as of :func:`aps_components.segmentation.segment`.
        settings: further keys of the bundle's inference to other values.

    Returns:
        The scores, and which scans have none.

    Raises:
        ValueError, OSError: nothing could be started, or no scan was scored.
    """
    changes = dict(settings or {}) | ({} if checkpoint is None else {"checkpoint": os.path.abspath(checkpoint)})
    inference = BundleInference(locate_bundle(bundle), settings={**changes, "save_maps": False})
    result = Scored()
    cases = _cases(source, inference, result)
    weights, target = sha256_of(inference.require_checkpoint()), expanded(target)
    refuse_special(target, ending=SCORES_ENDING)
    ensure_writable(target.parent)
    known = read_scores(target, weights=weights)
    found: dict[str, Any] = {}
    with TemporaryDirectory() as work:
        loaded = False
        for name, case in cases.items():
            try:
                if case.fault:
                    raise DataError(case.fault)
                scan = scan_hash(case.sources)
                if name in known and known[name]["scan"] == scan:
                    found[name] = known[name]
                    continue
                if not loaded:
                    inference.load(work, device=device)
                    loaded = True
                with TemporaryDirectory(dir=work) as converted:  # of DICOM, some hundred MB, gone at once
                    score = _score(inference, case.nifti(Path(converted)))
            except Exception as error:
                result.fail(name, error)
                continue
            found[name] = {"scan": scan, **score.as_json()}
            _write(target, weights, {**known, **found})
    if not found:
        raise DataError(f"{source}: no scan of it could be scored; mend what is named above")
    _write(target, weights, found)
    result.scores = {name: ScanScore.from_json(entry) for name, entry in found.items()}
    return result


def read_scores(file: str | os.PathLike[str], *, weights: str | None = None) -> dict[str, dict[str, Any]]:
    """The scores of a file by scan; none where there is no such file, or, with ``weights``, it is of others.

    Args:
        file: of :func:`score_scans`.
        weights: SHA-256 of the weights that it must be of.
    """
    path = Path(file)
    if not path.is_file():
        return {}
    try:
        content = read_object(path, keys=("format", "weights_sha256", "scans"))
        scans = content["scans"]
        if content["format"] != FORMAT or (weights is not None and content["weights_sha256"] != weights):
            return {}
        for entry in scans.values():
            ScanScore.from_json(entry)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return dict(scans)


def _cases(source: str | os.PathLike[str], inference: BundleInference, result: Scored) -> dict[str, Case]:
    """The scans by name; what lies beside them and is none is printed."""
    path = expanded(source)
    if path.suffix != SCORES_ENDING or path.is_dir():
        inputs = find_cases(path, modalities=inference.modalities)
        for line in inputs.left_out:
            print(f"Left out {line}")
        return {case.name: case for case in inputs.cases}
    listed = {}
    for name, place in read_object(path).items():
        try:
            cases = find_cases(str(place), modalities=inference.modalities).cases
            if len(cases) != 1:
                raise DataError(f"{place}: {len(cases)} scans, where one is wanted")
            listed[name] = cases[0]
        except (DataError, OSError) as error:
            result.fail(name, error)
    return listed


def _score(inference: BundleInference, files: list[str]) -> ScanScore:
    answer = inference.answer(inference.prepare(files))
    with torch.inference_mode():
        temperature = 1.0 if inference.expected is None else inference.expected.temperature
        doubts = class_doubts(answer["pred"], temperature=temperature)
        expectation = inference.expect(answer)
    names = [name for value, name in sorted(inference.labels.items()) if value > 0]
    soft = [doubt.soft_dice for doubt in doubts if doubt.soft_dice is not None]
    return ScanScore(
        entropy={name: round(doubt.entropy, 6) for name, doubt in zip(names, doubts, strict=True)},
        answered=[name for name, doubt in zip(names, doubts, strict=True) if doubt.soft_dice is not None],
        soft_dice=round(math.fsum(soft) / len(soft), 5) if soft else None,
        predicted_dice=None if expectation is None or expectation.mean is None else round(expectation.mean, 4),
        unlike_training=False if expectation is None else expectation.unlike_training,
    )


def _write(target: Path, weights: str, scans: Mapping[str, Any]) -> None:
    content = {"format": FORMAT, "weights_sha256": weights, "scans": dict(scans)}
    replace_text(target, json.dumps(content, indent=1) + "\n")
