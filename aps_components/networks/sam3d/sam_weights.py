"""Official 2-D SAM weights in a 3-D SAM."""

import pickle
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from aps_components.unpacking import damaged_member

from . import inflation

if TYPE_CHECKING:
    from .sam3d import Sam3d

_MEND = "give the path of an official SAM checkpoint such as sam_vit_b_01ec64.pth"
_MARKS_OF_SAM = (
    "image_encoder.patch_embed.proj.weight",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "mask_decoder.iou_token.weight",
)
_HYPERNETWORK = "mask_decoder.output_hypernetworks_mlps"


class Rule(NamedTuple):
    """Which official tensors make one of ours, and how."""

    ours: str  # a regular expression over our names
    theirs: tuple[str, ...]  # their names, which may use the expression's groups
    inflate: inflation.Inflate
    join: bool = False  # several of theirs along their first axis, instead of along a new one


def _hypernetwork_names(kind: str) -> tuple[str, ...]:
    return tuple(rf"{_HYPERNETWORK}.{mask}.layers.\1.{kind}" for mask in range(4))


_SAME = (r"\g<0>",)
_RULES = (
    Rule(r"image_encoder\.patch_embed\.proj\.weight", _SAME, inflation.patch_embedding),
    Rule(r"image_encoder\.pos_embed", _SAME, inflation.position_embedding),
    Rule(r"image_encoder\.blocks\.\d+\.attn\.rel_pos_[hw]", _SAME, inflation.relative_table),
    Rule(r"image_encoder\.neck\.[02]\.weight", _SAME, inflation.centre_plane),
    Rule(r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix", _SAME, inflation.fourier_frequencies),
    Rule(
        r"prompt_encoder\.class_embeddings\.weight",
        ("prompt_encoder.point_embeddings.0.weight", "prompt_encoder.point_embeddings.1.weight"),
        inflation.class_points,
        join=True,
    ),
    Rule(
        r"prompt_encoder\.corner_embeddings\.weight",
        ("prompt_encoder.point_embeddings.2.weight", "prompt_encoder.point_embeddings.3.weight"),
        inflation.as_it_is,
        join=True,
    ),
    Rule(r"prompt_encoder\.mask_downscaling\.0\.weight", _SAME, inflation.foreground_mask_input),
    Rule(r"prompt_encoder\.mask_downscaling\.[36]\.weight", _SAME, inflation.depth_averaged),
    Rule(r"mask_decoder\.mask_tokens\.weight", _SAME, inflation.mean_over_masks),
    Rule(r"mask_decoder\.output_upscaling\.[03]\.weight", _SAME, inflation.depth_repeated),
    Rule(
        rf"{re.escape(_HYPERNETWORK)}\.weights\.(\d+)",
        _hypernetwork_names("weight"),
        inflation.mean_over_masks,
    ),
    Rule(rf"{re.escape(_HYPERNETWORK)}\.biases\.(\d+)", _hypernetwork_names("bias"), inflation.mean_over_masks),
    Rule(r"mask_decoder\.iou_prediction_head\.layers\.2\..*", _SAME, inflation.mean_over_masks),
    Rule(r".*", _SAME, inflation.as_it_is),
)


@dataclass
class InflationReport:
    """What became of a checkpoint.

    Attributes:
        path: the file.
        taken: our tensors that are the official ones as they are.
        inflated: our tensors made from official ones, with how.
        left: tensors without use, with the reason; ours keep their random start.
    """

    path: Path
    taken: list[str] = field(default_factory=list)
    inflated: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.taken)} tensors taken, {len(self.inflated)} inflated, {len(self.left)} left"]
        for title, names in (("inflated", self.inflated), ("left", self.left)):
            for (part, why), count in Counter(
                (_part(name), why) for name, why in names.items()
            ).items():  # one line for the same fate in twelve blocks
                lines.append(f"  {title}: {part} ({why})" + (f" x {count}" if count > 1 else ""))
        return "\n".join(lines)


def inflate_sam_checkpoint(sam3d: "Sam3d", path: str | Path) -> InflationReport:
    """Load an official SAM state dict into a 3-D SAM, in place.

    Made for ViT-B and the variant "vit_b"; whatever has another width is left. The classes start alike where
    SAM has no classes: as the mean of its four masks, and as a positive point.

    Args:
        sam3d: the model to fill.
        path: a `.pth` of Meta's segment_anything.

    Returns:
        which tensors were taken, inflated and left.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or is no SAM checkpoint.
    """
    official = _read(Path(path))
    report = InflationReport(Path(path))
    used: set[str] = set()
    with torch.no_grad():
        for name, ours in sam3d.state_dict().items():
            rule, theirs = _rule_for(name)
            used.update(theirs)
            if missing := [source for source in theirs if source not in official]:
                report.left[name] = f"2-D SAM has no {_part(missing[0])}"
                continue
            _fill(ours, rule=rule, sources=[official[source] for source in theirs], name=name, report=report)
    for name in sorted(official.keys() - used):
        report.left[name] = "official, has no place in this model"
    return report


def _rule_for(name: str) -> tuple[Rule, list[str]]:
    """The first rule for one of our names, and the official names it asks for."""
    for rule in _RULES:
        if match := re.fullmatch(rule.ours, name):
            return rule, [match.expand(theirs) for theirs in rule.theirs]
    raise AssertionError("the last rule fits every name")


def _fill(ours: Tensor, *, rule: Rule, sources: list[Tensor], name: str, report: InflationReport) -> None:
    """Copy official tensors into one of ours, if they fit, and write down what happened."""
    source = _gather(sources, join=rule.join)
    if source.dim() not in (ours.dim(), ours.dim() - 1):
        report.left[name] = _misfit(source, ours)
        return
    made = rule.inflate(source.float(), ours.shape)
    if made.shape != ours.shape:
        report.left[name] = _misfit(source, ours)
        return
    ours.copy_(made)
    if rule.inflate is inflation.as_it_is or (len(sources) == 1 and made.equal(source)):
        report.taken.append(name)
    else:
        report.inflated[name] = rule.inflate.__name__.replace("_", " ")


def _gather(sources: list[Tensor], *, join: bool) -> Tensor:
    """One tensor of the official ones that a rule asks for."""
    if len(sources) == 1:
        return sources[0]
    return torch.cat(sources) if join else torch.stack(sources)


def _misfit(source: Tensor, ours: Tensor) -> str:
    return f"official {tuple(source.shape)} does not become {tuple(ours.shape)}"


def _part(name: str) -> str:
    """A tensor's name without the index of its block."""
    return re.sub(r"blocks\.\d+", "blocks.*", name)


def _read(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file, checked to be SAM's."""
    if not path.is_file():
        raise FileNotFoundError(f"SAM checkpoint {path} is not there: {_MEND}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError):
        # Without torch's own words, which for a file of more than weights advise to run what is in it.
        raise ValueError(f"SAM checkpoint {path} cannot be read; it may be cut off: fetch it again") from None
    if (member := damaged_member(path)) is not None:
        raise ValueError(f"SAM checkpoint {path} was altered (checksum of {member}): fetch it again")
    if not isinstance(content, Mapping) or any(mark not in content for mark in _MARKS_OF_SAM):
        raise ValueError(f"{path} is not a SAM checkpoint (no {_MARKS_OF_SAM[0]}): {_MEND}")
    return content
