"""Every way in which the uncertainty of a voxel is said here, with a title for a reader."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["epistemic", "aleatoric", "total"]


class Definition(NamedTuple):
    """One way to say how uncertain a voxel is."""

    title: str
    kind: Kind
    form: str
    """The first value of the network's ``uncertainty_form`` that uses it; empty where none does."""


DEFINITIONS = {
    "softmax_variance": Definition("variance of the softmax", "epistemic", "variance"),
    "mutual_information": Definition("mutual information", "epistemic", "entropy"),
    "noise_variance": Definition("predicted noise variance", "aleatoric", "variance"),
    "expected_entropy": Definition("expected entropy", "aleatoric", "entropy"),
    "propagated_variance": Definition("propagated noise variance", "aleatoric", "propagated"),
    "entropy_undropped": Definition("entropy, without dropout", "aleatoric", ""),
    "propagated_undropped": Definition("propagated noise variance, without dropout", "aleatoric", ""),
    "predictive_entropy": Definition("predictive entropy", "total", "predictive_entropy"),
    "least_confidence": Definition("1 - highest probability of the answer", "total", ""),
}
