"""All sizes of AutoPromptSeg in one place."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from aps_components.models.auto_prompt_seg import AutoPromptSeg
from aps_components.models.model_file import FREE, NETWORK, trained_network
from aps_components.models.settings import CheckpointError, read_settings
from aps_components.models.two_models import Predictor, TwoModels
from aps_components.models.vnet_pair import VNetPair
from aps_components.networks.backbone import Backbone
from aps_components.networks.feature_fusion import FusionKind, build_fusion
from aps_components.networks.residual_encoder import ResidualEncoderUNet
from aps_components.networks.sam3d import build_sam3d
from aps_components.networks.vnet import Norm, VNet
from aps_components.networks.voxel_shape import checked_kernels, roi_faults
from aps_components.options import VARYING_CONTRAST, axis_groups, meant
from aps_components.prompts import PromptGenerator
from aps_components.uncertainty import UncertaintyForm

BackboneKind = Literal["vnet", "residual_encoder"]


def build_auto_prompt_seg(
    *,
    num_classes: int,
    roi_size: Sequence[int],
    in_channels: int = 1,
    backbone: BackboneKind = "vnet",
    strides: Sequence[Sequence[int]] | None = None,
    kernel_sizes: Sequence[Sequence[int]] | None = None,
    filters: int = 16,
    norm: Norm = "instance",
    dropout: float = 0.5,
    recompute: bool = True,
    model_b: Literal["sam", "vnet"] = "sam",
    sam_variant: str = "compact",
    sam_checkpoint: str | Path | None = None,
    fusion: FusionKind = "cafa",
    fusion_detached: bool = True,
    fusion_dropped: float = 0.5,
    fine_features: bool = True,
    prompts: Mapping[str, Any] | None = None,
    uncertainty_form: UncertaintyForm = "entropy",
    mc_samples: int = 2,
    predictor: Predictor = "average",
) -> TwoModels:
    """Build Models A and B and what joins them, in ``channels_last_3d``.

    Args:
        num_classes: C, background included.
        roi_size: the patch (D, H, W) that it will be trained on; each size divisible by the product of the strides
            along it. Others work in inference.
        in_channels: image channels.
        backbone: Model A: ``vnet``, or ``residual_encoder``, nnU-Net's.
        strides: of Model A's levels, finest first; None halves every axis four times.
        kernel_sizes: of Model A's levels, finest first; None for 3 everywhere.
        filters: channels of Model A's finest level; 16 in the field's tables.
        norm: of the V-Net; the residual encoder has instance normalisation.
        dropout: of Model A, and so of the Monte-Carlo samples.
        recompute: the V-Net's finest level in the backward pass; False takes memory for time, with the same result.
        model_b: ``sam``, or ``vnet``: a second V-Net in its place, for comparisons. What follows is then without
            meaning, but for ``uncertainty_form``, ``mc_samples`` and ``predictor``.
        sam_variant: ``small``, ``compact``, ``tiny`` or ``vit_b``; see ``networks.sam3d.build``.
        sam_checkpoint: an official SAM ViT-B file to inflate.
        fusion: of A's features at 1/8 with B's: ``none``, ``concatenation`` or ``cafa``.
        fusion_detached: B's loss does not reach A through the fusion.
        fusion_dropped: share of the patches in training for which B gets nothing of A.
        fine_features: give B fine features of its own, and prompts as maps beside tokens; without, B is as published.
        prompts: arguments of ``PromptGenerator`` that differ from its defaults.
        uncertainty_form: ``variance``, ``propagated``, ``entropy`` or ``predictive_entropy``.
        mc_samples: T.
        predictor: ``a``, ``b`` or ``average``.

    Raises:
        ValueError: a value that does not fit, by name.
    """

    def model_a() -> Backbone:
        return build_backbone(
            backbone,
            in_channels=in_channels,
            num_classes=num_classes,
            strides=strides,
            kernel_sizes=kernel_sizes,
            filters=filters,
            norm=norm,
            dropout=dropout,
            recompute=recompute,
        )

    if model_b not in ("sam", "vnet"):
        raise ValueError(f"model_b {model_b!r} must be 'sam' or 'vnet'")
    _refuse_unknown_prompts(prompts)
    first = model_a()
    if faults := roi_faults(roi_size, first.strides):
        raise ValueError("\n".join(faults))
    common: dict[str, Any] = {
        "uncertainty_form": uncertainty_form,
        "mc_samples": mc_samples,
        "predictor": predictor,
    }
    if model_b == "vnet":
        return _channels_last(VNetPair(first, model_a(), **common))
    sam3d = build_sam3d(
        num_classes=num_classes,
        in_channels=in_channels,
        variant=sam_variant,
        reference_size=(roi_size[0], roi_size[1], roi_size[2]),
        fine_features=fine_features,
        strides=first.strides,
        kernel_sizes=checked_kernels(kernel_sizes, strides=first.strides),
        checkpoint=sam_checkpoint,
    )
    model = AutoPromptSeg(
        first,
        sam3d,
        fusion=build_fusion(fusion, a_channels=first.feature_channels[3], b_channels=sam3d.prompt_encoder.embed_dim),
        fusion_detached=fusion_detached,
        fusion_dropped=fusion_dropped,
        prompt_generator=PromptGenerator(**(prompts or {})),
        **common,
    )
    return _channels_last(model)


def build_backbone(kind: BackboneKind, *, norm: Norm = "instance", recompute: bool = True, **settings: Any) -> Backbone:
    """A Model A by name.

    Args:
        kind: ``vnet`` or ``residual_encoder``.
        norm: of the V-Net; the other has instance normalisation alone.
        recompute: of the V-Net.
        settings: arguments of both.

    Raises:
        ValueError: there is no such network, or none with this norm.
    """
    if kind == "vnet":
        return VNet(norm=norm, recompute=recompute, **settings)
    if kind != "residual_encoder":
        raise ValueError(f"backbone {kind!r} must be one of {list(get_args(BackboneKind))}")
    if norm != "instance":
        raise ValueError(f"norm {norm!r} is for the backbone 'vnet': 'residual_encoder' has 'instance' alone")
    return ResidualEncoderUNet(**settings)


def _refuse_unknown_prompts(prompts: Any) -> None:
    if prompts is not None and not isinstance(prompts, Mapping):
        raise ValueError(f"prompts {prompts!r} must be an object of arguments of the prompt generator, or null")
    known = inspect.signature(PromptGenerator).parameters
    for name in prompts or ():
        if name not in known:
            raise ValueError(f"prompts has no {name!r}; {meant(name, known, inside=f'{NETWORK}#prompts')}")


def build_trained(*, checkpoint: str | Path, otherwise: Mapping[str, Any] | None = None, **given: Any) -> TwoModels:
    """Build the network that a checkpoint holds, as the settings kept with it say; its weights are loaded elsewhere.

    Args:
        checkpoint: of a training; it need not be there.
        otherwise: arguments of :func:`build_auto_prompt_seg` where the settings do not say them.
        given: arguments that are to be these. Those of ``models.model_file.FREE`` may be others than in training.

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
    network = build_auto_prompt_seg(**{**(otherwise or {}), **trained, **given})
    settings = read_settings(checkpoint)
    network.temperature = float(settings.get("temperature", 1.0))
    network.second_view_axes = next(iter(axis_groups("flip_axes", settings.get("flip_axes") or [])), ())
    network.contrast_varied = settings.get("augmentation") in VARYING_CONTRAST
    return network


build_trained.hands_on_to = build_auto_prompt_seg  # type: ignore[attr-defined]  # for whoever checks arguments


def _listed(value: Any) -> Any:
    """As it comes back from JSON."""
    return list(value) if isinstance(value, tuple) else value


def _channels_last(model: TwoModels) -> TwoModels:
    return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
