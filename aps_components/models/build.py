"""All sizes of AutoPromptSeg in one place."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from aps_components.models.auto_prompt_seg import AutoPromptSeg, Predictor
from aps_components.models.checkpoint import FREE, NETWORK, CheckpointError, trained_network
from aps_components.models.vnet_pair import VNetPair
from aps_components.networks.feature_fusion import FusionKind, build_fusion
from aps_components.networks.sam3d import build_sam3d
from aps_components.networks.vnet import Norm, VNet
from aps_components.options import meant
from aps_components.prompts import PromptGenerator
from aps_components.uncertainty import UncertaintyForm


def build_auto_prompt_seg(
    *,
    num_classes: int,
    roi_size: Sequence[int],
    in_channels: int = 1,
    filters: int = 16,
    norm: Norm = "instance",
    dropout: float = 0.5,
    recompute: bool = True,
    model_b: Literal["sam", "vnet"] = "sam",
    sam_variant: str = "compact",
    sam_checkpoint: str | Path | None = None,
    fusion: FusionKind = "none",
    high_res_skips: bool = True,
    prompts: Mapping[str, Any] | None = None,
    uncertainty_form: UncertaintyForm = "variance",
    mc_samples: int = 2,
    predictor: Predictor = "average",
) -> AutoPromptSeg:
    """Build Models A and B and what joins them, in ``channels_last_3d``.

    Args:
        num_classes: C, background included.
        roi_size: the patch (D, H, W) that it will be trained on; each divisible by 16. Others work in inference.
        in_channels: image channels.
        filters: channels of the V-Net's finest level; 16 in the field's tables.
        norm: of the V-Net.
        dropout: of the V-Net, and so of the Monte-Carlo samples.
        recompute: the V-Net's finest level in the backward pass; False takes memory for time, with the same result.
        model_b: ``sam``, or ``vnet``: a second V-Net in its place, for comparisons. What follows is then without
            meaning, but for ``uncertainty_form``, ``mc_samples`` and ``predictor``.
        sam_variant: ``small``, ``compact``, ``tiny`` or ``vit_b``; see ``networks.sam3d.build``.
        sam_checkpoint: an official SAM ViT-B file to inflate.
        fusion: of A's features at 1/8 with B's: ``none``, ``concatenation`` or ``cafa``.
        high_res_skips: hand A's features at 1/4 and 1/2 to B's mask decoder, as SAM 2 does with its own.
        prompts: arguments of ``PromptGenerator`` that differ from its defaults.
        uncertainty_form: ``variance``, ``propagated``, ``entropy`` or ``predictive_entropy``.
        mc_samples: T.
        predictor: ``a``, ``b`` or ``average``.

    Raises:
        ValueError: a value that does not fit, by name.
    """

    def vnet() -> VNet:
        return VNet(
            in_channels=in_channels,
            num_classes=num_classes,
            filters=filters,
            norm=norm,
            dropout=dropout,
            recompute=recompute,
        )

    if model_b not in ("sam", "vnet"):
        raise ValueError(f"model_b {model_b!r} must be 'sam' or 'vnet'")
    _refuse_unknown_prompts(prompts)
    model_a = vnet()
    if len(roi_size) != 3 or any(size < 1 or size % model_a.stride for size in roi_size):
        raise ValueError(
            f"roi_size {list(roi_size)} must be three sizes divisible by {model_a.stride}: "
            f"try {[max(model_a.stride, round(size / model_a.stride) * model_a.stride) for size in roi_size]}"
        )
    if all(size == model_a.stride for size in roi_size):
        raise ValueError(
            f"roi_size {list(roi_size)} leaves one voxel at the bottom of the V-Net, which normalisation makes 0: "
            f"take at least {2 * model_a.stride} along one axis"
        )
    common: dict[str, Any] = {
        "uncertainty_form": uncertainty_form,
        "mc_samples": mc_samples,
        "predictor": predictor,
    }
    if model_b == "vnet":
        return _channels_last(VNetPair(model_a, vnet(), **common))
    sam3d = build_sam3d(
        num_classes=num_classes,
        in_channels=in_channels,
        variant=sam_variant,
        reference_size=(roi_size[0], roi_size[1], roi_size[2]),
        high_res_channels=(4 * filters, 2 * filters) if high_res_skips else None,
        checkpoint=sam_checkpoint,
    )
    model = AutoPromptSeg(
        model_a,
        sam3d,
        fusion=build_fusion(fusion, a_channels=8 * filters, b_channels=sam3d.prompt_encoder.embed_dim),
        prompt_generator=PromptGenerator(**(prompts or {})),
        **common,
    )
    return _channels_last(model)


def _refuse_unknown_prompts(prompts: Any) -> None:
    if prompts is not None and not isinstance(prompts, Mapping):
        raise ValueError(f"prompts {prompts!r} must be an object of arguments of the prompt generator, or null")
    known = inspect.signature(PromptGenerator).parameters
    for name in prompts or ():
        if name not in known:
            raise ValueError(f"prompts has no {name!r}; {meant(name, known, inside=f'{NETWORK}#prompts')}")


def build_trained(*, checkpoint: str | Path, otherwise: Mapping[str, Any] | None = None, **given: Any) -> AutoPromptSeg:
    """Build the network that a checkpoint holds, as the settings kept with it say; its weights are loaded elsewhere.

    Args:
        checkpoint: of a training; it need not be there.
        otherwise: arguments of :func:`build_auto_prompt_seg` where the settings do not say them.
        given: arguments that are to be these. Those of ``models.checkpoint.FREE`` may be others than in training.

    Raises:
        CheckpointError: the settings say something else than ``given``, or are of another version of this package.
    """
    trained = trained_network(checkpoint)
    different = [key for key in given if key in trained and key not in FREE and _listed(given[key]) != trained[key]]
    if different:
        key = different[0]
        raise CheckpointError(
            f"{checkpoint} was trained with other settings: {NETWORK}#{key} {trained[key]!r} there, {given[key]!r} "
            f"now. Leave out --{NETWORK}#{key}: the network is built as it was trained"
        )
    if unknown := sorted(set(trained) - set(inspect.signature(build_auto_prompt_seg).parameters)):
        raise CheckpointError(
            f"{checkpoint} is of another version of this package, whose networks have {unknown[0]!r}: install that one"
        )
    return build_auto_prompt_seg(**{**(otherwise or {}), **trained, **given})


build_trained.hands_on_to = build_auto_prompt_seg  # type: ignore[attr-defined]  # for whoever checks arguments


def _listed(value: Any) -> Any:
    """As it comes back from JSON."""
    return list(value) if isinstance(value, tuple) else value


def _channels_last(model: AutoPromptSeg) -> AutoPromptSeg:
    return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
