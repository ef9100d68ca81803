"""``aps segment``."""

from __future__ import annotations

import functools
import operator
import os
import sys
from typing import TYPE_CHECKING, Any

from aps_components.cli.arguments import several

if TYPE_CHECKING:
    from aps_components.segmentation import Segmentation


def segment(
    input: str,
    output: str,
    bundle: str,
    checkpoint: str | None = None,
    device: str | None = None,
    maps: bool = False,
    preview: bool = True,
    report: bool | None = None,
    overwrite: bool = False,
    predictor: str | None = None,
    overlap: float | None = None,
    config: str | None = None,
    series: str | None = None,
    prompts: str | None = None,
    dicom_seg: bool = False,
    cache_dir: str | None = None,
    shard: str | None = None,
    **settings: Any,
) -> None:
    """Segment scans: label maps on the scans' own grids, volumes and intensities, a picture of each.

    Args:
        input: a NIfTI file, a folder of them, or a folder with DICOM series.
        output: a folder, or for one scan the label map's file, ending in .nii.gz.
        bundle: a bundle's name, such as la, its folder or its zip. A bundle runs code: use those you trust.
        checkpoint: model.pt of a training, instead of the bundle's own, with its model.json beside it.
        device: cpu, cuda or cuda:1; a GPU, if there is one, by default.
        maps: also write probabilities, uncertainty maps and prompt points.
        preview: draw a picture of each scan; --nopreview for none.
        report: write report.html, a page over all scans; by default for a folder of results, not for a single file.
        overwrite: segment again what is segmented already.
        predictor: average, a or b: the model that answers; by default the one that training chose. a is fastest.
        overlap: share by which neighbouring windows overlap, in [0, 1), 0.5 by default; 0.25 is faster.
        config: override files of the bundle, names or paths, with commas between them.
        series: only the DICOM series of this number, name or description.
        prompts: clicks, boxes and scribbles for the one scan: NAME_prompts.json, as --maps writes it, edited.
        dicom_seg: also write each label map as a DICOM SEG of its DICOM series, for the archive that this came from.
        cache_dir: folder in which a zip is unpacked; ~/.cache/aps/bundles by default.
        shard: 3/16 for the third of sixteen jobs that share the scans by size; torchrun's processes do so anyway.
        settings: any further key of the bundle's inference.json.
    """
    from aps_components.memory import keep_freed_memory
    from aps_components.options import optional, truth
    from aps_components.segmentation import segment as segment_scans
    from aps_components.segmentation import summary
    from aps_components.segmentation.sharing import Ranks, Share

    keep_freed_memory()
    ranks, wanted = Ranks(os.environ), optional(truth)("report", report)
    if shard is not None and ranks.several:
        raise ValueError("--shard and torchrun both share the scans: take one of them")
    ranks.join()
    given = {"predictor": predictor, "overlap": overlap}
    result = segment_scans(
        _path("INPUT", input),
        _path("OUTPUT", output),
        bundle=_path("--bundle", bundle),
        checkpoint=None if checkpoint is None else _path("--checkpoint", checkpoint),
        device=ranks.device() if device is None else str(device),
        maps=truth("maps", maps),
        preview=truth("preview", preview),
        overwrite=truth("overwrite", overwrite),
        configs=[] if config is None else several(config),
        series=None if series is None else str(series),
        prompts=None if prompts is None else _path("--prompts", prompts),
        dicom_seg=truth("dicom_seg", dicom_seg),
        settings={**settings, **{key: value for key, value in given.items() if value is not None}},
        cache_dir=cache_dir or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "aps", "bundles"),
        share=ranks.share if shard is None else Share.parsed(str(shard)),
    )
    parts = ranks.gathered(result)
    if not parts:
        return  # the first rank speaks for all
    result = functools.reduce(operator.add, parts)
    result.statistics.sort(key=lambda scan: str(scan["scan"]))
    in_folder = result.outputs.stem is None
    said = _reported(result) if result.statistics and (in_folder if wanted is None else wanted) else None
    print(f"\n{summary(result, report=said)}")
    if result.failed:
        sys.exit(f"{len(result.failed)} of {result.scans} scan(s) failed: {', '.join(result.failed)}")


def _reported(result: Segmentation) -> str:
    """Where the report is, or why there is none: the segmentations are there all the same."""
    from aps_components.report import write_segmentation_report
    from aps_components.segmentation.workspace import one_at_a_time

    try:
        with one_at_a_time(result.outputs.folder):
            return str(write_segmentation_report(result))
    except (OSError, ValueError) as error:
        return f"none: {error}"


def _path(name: str, value: object) -> str:
    """Fire reads ``[a]`` as a list."""
    if isinstance(value, str) or os.path.exists(str(value)):
        return str(value)
    raise ValueError(f"{name} was read as {value!r}: write ./ in front of it")
