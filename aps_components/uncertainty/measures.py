"""Measures of two kinds of uncertainty from Monte-Carlo samples of a segmentation.

Epistemic uncertainty (the model's) falls as the model sees more labels; aleatoric uncertainty (the data's) is the noise
of the image and does not. All of the decompositions below are per voxel.

References:
    Kendall & Gal 2017, What Uncertainties Do We Need in Bayesian Deep Learning? (arXiv:1703.04977).
    Houlsby et al. 2011, Bayesian Active Learning (arXiv:1112.5745): predictive entropy = expected entropy + mutual
        information.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

UncertaintyForm = Literal["variance", "propagated", "entropy", "predictive_entropy"]


class MapName(NamedTuple):
    """What a map is called, in a file's name and in a picture."""

    file: str
    title: str
    unit: str


# What each form's two maps are. The published form's are named after what they measure: the variance that a noise head
# predicts is no measure of where the data are uncertain, as it counts where the answer cannot change, too, and may be
# lowest where the errors are. Uncertainty that is not split is one map.
MAP_NAMES: Mapping[UncertaintyForm, tuple[MapName, ...]] = {
    "entropy": (
        MapName("epistemic", "epistemic uncertainty", "nats"),
        MapName("aleatoric", "aleatoric uncertainty", "nats"),
    ),
    "variance": (
        MapName("softmax_variance", "variance of the probabilities", "variance"),
        MapName("noise_variance", "predicted noise variance", "variance"),
    ),
    "propagated": (
        MapName("softmax_variance", "variance of the probabilities", "variance"),
        MapName("propagated_variance", "propagated noise variance", "variance"),
    ),
    "predictive_entropy": (MapName("predictive_entropy", "predictive entropy", "nats"),),
}
ALL_MAP_NAMES = tuple(dict.fromkeys(name.file for names in MAP_NAMES.values() for name in names))


class DecoupledUncertainty(NamedTuple):
    """Both kinds of uncertainty, each [B, 1, D, H, W] and never negative."""

    epistemic: Tensor
    aleatoric: Tensor


def entropy(probabilities: Tensor, *, dim: int) -> Tensor:
    """Shannon entropy in nats over ``dim``, which is kept with size 1; 0 log 0 counts as 0."""
    return torch.special.entr(probabilities).sum(dim=dim, keepdim=True)


def predictive_entropy(probabilities: Tensor) -> Tensor:
    """Entropy of the mean prediction: all the uncertainty there is.

    Args:
        probabilities: Monte-Carlo samples, [T, B, C, D, H, W], summing to 1 over C.
    Returns:
        [B, 1, D, H, W], in nats, between 0 and log C.
    """
    return entropy(probabilities.mean(dim=0), dim=1)


def expected_entropy(probabilities: Tensor) -> Tensor:
    """Mean of the samples' entropies: the aleatoric part.

    Args:
        probabilities: [T, B, C, D, H, W].
    Returns:
        [B, 1, D, H, W], in nats, between 0 and log C.
    """
    return entropy(probabilities, dim=2).mean(dim=0)


def mutual_information(probabilities: Tensor) -> Tensor:
    """Epistemic part: how much one sample's prediction tells about which sample it was (Houlsby et al. 2011, eq. 2).

    Args:
        probabilities: [T, B, C, D, H, W].
    Returns:
        [B, 1, D, H, W], in nats, never negative.
    """
    return (predictive_entropy(probabilities) - expected_entropy(probabilities)).clamp_min(0)


def softmax_variance(probabilities: Tensor) -> Tensor:
    """Variance of the softmax over the samples, summed over the classes: the published epistemic form.

    Args:
        probabilities: [T, B, C, D, H, W].
    Returns:
        [B, 1, D, H, W], population variance; 0 where all the samples agree, and for T = 1.
    """
    # Twice as fast on a CPU as Tensor.var over the first axis.
    return (probabilities - probabilities.mean(dim=0)).square_().mean(dim=0).sum(dim=1, keepdim=True)


def propagated_variance(probabilities: Tensor, variance: Tensor) -> Tensor:
    """What noise of the logits does to the softmax, to first order (the delta method), summed over the classes.

    With independent noise of variance s2 on every logit, ``Var[p_c] = s2 * sum_k (dp_c / dz_k)^2
    = s2 * p_c^2 * ((1 - p_c)^2 + sum_{k != c} p_k^2)``: noise counts where it could change the answer.

    Args:
        probabilities: Monte-Carlo samples, [T, B, C, D, H, W].
        variance: of the noise of every logit, [T, B, 1, D, H, W].
    Returns:
        [B, 1, D, H, W], mean over the samples.
    """
    squares = probabilities.square()
    derivatives = squares * (_sum_of_others(probabilities).square() + _sum_of_others(squares))
    return (variance * derivatives.sum(dim=2, keepdim=True)).mean(dim=0)


def _sum_of_others(values: Tensor) -> Tensor:
    """Of each class the sum over the others, [T, B, C, ...]; not as a difference, whose rounding would drown it."""
    zero = torch.zeros_like(values[:, :, :1])
    before = torch.cat([zero, values[:, :, :-1].cumsum(dim=2)], dim=2)
    after = torch.cat([values[:, :, 1:].flip(2).cumsum(dim=2).flip(2), zero], dim=2)
    return before + after


def decouple(probabilities: Tensor, variance: Tensor, *, form: UncertaintyForm) -> DecoupledUncertainty:
    """Split the uncertainty of Monte-Carlo samples into epistemic and aleatoric.

    Args:
        probabilities: [T, B, C, D, H, W].
        variance: the noise head's, [T, B, 1, D, H, W].
        form: ``variance``: the variance of the softmax, and the mean predicted data variance (as published).
            ``propagated``: the same, with what that data variance does to the softmax in its place: much noise where it
            could not change the answer counts as little.
            ``entropy``: mutual information and expected entropy, which need no noise head.
            ``predictive_entropy``: not split at all, to see what splitting is worth: all of it counts as epistemic.
    """
    if form == "variance":
        return DecoupledUncertainty(softmax_variance(probabilities), variance.mean(dim=0))
    if form == "propagated":
        return DecoupledUncertainty(softmax_variance(probabilities), propagated_variance(probabilities, variance))
    if form == "entropy":
        return DecoupledUncertainty(mutual_information(probabilities), expected_entropy(probabilities))
    if form == "predictive_entropy":
        total = predictive_entropy(probabilities)
        return DecoupledUncertainty(total, torch.zeros_like(total))
    raise ValueError(f"uncertainty form {form!r} must be one of {get_args(UncertaintyForm)}")
