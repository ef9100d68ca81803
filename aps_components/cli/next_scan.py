"""``aps next-scan``."""

from __future__ import annotations

import sys
from typing import Any


def next_scan(
    scans: str,
    bundle: str,
    out: str,
    checkpoint: str | None = None,
    strategy: str = "predicted_dice",
    round: int = 0,
    seed: int = 0,
    device: str | None = None,
    **settings: Any,
) -> None:
    """Say which scans to label next, from how sure a model is of each.

    Args:
        scans: a folder of scans without labels, or a JSON file that maps names to scans.
        bundle: a bundle's name, folder or zip.
        out: the file of scores, JSON; scans that these weights have scored are not scored again.
        checkpoint: model.pt of a training, instead of the bundle's own.
        strategy: predicted_dice (the lowest first), doubt (entropy, the classes in turns), foreground (by chance, among
            scans in which the model finds something) or random.
        round: how many times a model was trained on what was labelled: early rounds are spread, late ones doubtful.
        seed: of what is left to chance.
        device: cpu, cuda or cuda:1; a GPU, if there is one, by default.
        settings: any further key of the bundle's inference.json.
    """
    from aps_components.evaluation.doubt.next_scan import next_scans
    from aps_components.options import whole
    from aps_components.segmentation.next_scan import score_scans

    order = {"seed": whole(least=0)("seed", seed), "round": whole(least=0)("round", round)}
    next_scans(strategy, {}, **order)  # refuses an unknown one before scans are answered
    result = score_scans(scans, bundle=bundle, target=out, checkpoint=checkpoint, device=device, settings=settings)
    for name in next_scans(strategy, result.scores, **order):
        score = result.scores[name]
        predicted = "" if score.predicted_dice is None else f"  predicted Dice {score.predicted_dice:.2f}"
        unlike = "  unlike the scans of the training" if score.unlike_training else ""
        entropies = ", ".join(f"{label} {value:.3f}" for label, value in score.entropy.items())
        print(f"{name}  entropy: {entropies}{predicted}{unlike}")
    print(f"written: {out}")
    if result.failed:
        scans_in_all = len(result.failed) + len(result.scores)
        sys.exit(f"{len(result.failed)} of {scans_in_all} scan(s) failed: {', '.join(result.failed)}")
