"""Model B for a viewer that takes clicks: an encoder and a decoder as two ONNX files, as Segment Anything's own export.

The encoder sees a window once. The decoder answers to points and to the earlier answer; it is what a click costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aps_components.bundle.export import (
    checked_tolerance,
    largest_of,
    seconds,
    trained_network,
    trial_images,
    write_onnx,
)
from aps_components.bundle.locate import locate_bundle, require_weights
from aps_components.files import ensure_writable, expanded
from aps_components.interactive.model import refusal, untaught
from aps_components.models import AutoPromptSeg, Seen, read_settings
from aps_components.models.interaction import own_prompts
from aps_components.networks.sam3d import ImageEmbedding
from aps_components.ownership import replacing_together
from aps_components.prompts import PAD_LABEL, PointPrompts

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
IMAGE, LOGITS_A = "image", "logits_a"
OWN = ("own_coords", "own_labels", "own_weights")
SAID = ("point_coords", "point_labels", "mask_inputs", "has_mask")
ANSWER = ("logits", "iou_predictions")
CLICKS = 3  # of the example; any number from 1 on is taken

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class InteractiveExport:
    """What was written, and how it compares with PyTorch."""

    encoder: Path
    decoder: Path
    settings: dict[str, Any]
    """What the files say about themselves."""
    largest_difference: float
    """Of a class probability, over the answers to clicks into all images tried."""
    tolerance: float
    """The largest difference allowed."""
    encoder_seconds: float
    decoder_seconds: float

    def __str__(self) -> str:
        size = " x ".join(str(extent) for extent in self.settings["roi_size"])
        bytes_of = [file.stat().st_size / 1e6 for file in (self.encoder, self.decoder)]
        return (
            f"{self.encoder}: {bytes_of[0]:.1f} MB, {self.encoder_seconds:.2f} s a window of {size}\n"
            f"{self.decoder}: {bytes_of[1]:.1f} MB, {self.decoder_seconds:.2f} s a click\n"
            f"  largest difference of a probability to PyTorch: {self.largest_difference:.2g} "
            f"(at most {self.tolerance:g} allowed)"
        )


class InteractiveEncoder(nn.Module):
    """Everything that the image alone decides.

    Args:
        network: Models A and B.
        parts: of the embedding that it has, the image itself left out.
    """

    def __init__(self, network: AutoPromptSeg, parts: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.parts = network, parts

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """[1, in_channels, D, H, W] -> the embedding's parts, Model A's logits, and its points."""
        seen = self.network.see(image)
        points = self.network.own_points(seen)
        parts = [getattr(seen.embedding, name) for name in self.parts]
        return (*parts, seen.logits_a, points.point_coords, points.point_labels, points.scores.float())


class InteractiveDecoder(nn.Module):
    """Model B's answer to points, for one window.

    Args:
        network: Models A and B.
        parts: of the embedding, as the encoder gives them.
        image_size: (D, H, W) of the window.
    """

    def __init__(self, network: AutoPromptSeg, parts: tuple[str, ...], image_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.network, self.parts, self.image_size = network, parts, image_size

    def forward(self, image: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The window, the embedding's parts, the model's own points, and what is said: see :func:`decoder_inputs`."""
        embedded, said = inputs[: len(self.parts)], inputs[len(self.parts) :]
        coords, labels, weights, point_coords, point_labels, mask_inputs, has_mask = said
        embedding = _embedding(dict(zip(self.parts, embedded, strict=True)), image)
        prompts = own_prompts(PointPrompts(coords, labels, weights))
        prompts = prompts._replace(point_coords=point_coords, point_labels=point_labels)
        seen = Seen(self.image_size, *(None,) * 3, embedding)  # type: ignore[arg-type]
        first = self.network.answer(seen, prompts)
        corrected = self.network.answer(seen, prompts, mask_inputs=mask_inputs)
        chosen = has_mask.view(1, 1, 1, 1, 1) > 0
        iou = torch.where(chosen[:, :, 0, 0, 0], corrected.iou_predictions, first.iou_predictions)
        return torch.where(chosen, corrected.logits, first.logits), iou


def _embedding(parts: Mapping[str, Tensor], image: Tensor) -> ImageEmbedding:
    fine = {"image": image} if len(parts) > 1 else {}
    return ImageEmbedding(**parts, **fine)


def export_interactive(
    bundle: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    tolerance: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> InteractiveExport:
    """Write ``encoder.onnx`` and ``decoder.onnx`` of a bundle's network, and check them.

    Args:
        bundle: what :func:`locate_bundle` takes.
        out: the folder; nothing is written there before both files are checked.
        checkpoint: the weights; the bundle's ``models/model.pt`` by default.
        tolerance: largest difference of a class probability; that of ONNX by default.
        options: other keys of ``inference.json`` to change, such as ``roi_size``.

    Raises:
        ValueError: an option is wrong, the weights do not fit, or they were trained without prompts.
        FileNotFoundError: no such bundle, or it has no weights.
        RuntimeError: the network could not be exported, or the files' answers are not those of the network.
    """
    tolerance = checked_tolerance(tolerance, "onnx")
    root, folder = locate_bundle(bundle), expanded(out)
    if folder.is_file() or folder.suffix == ".onnx":
        raise ValueError(f"{folder}: --interactive writes two files; give a folder")
    weights = Path(checkpoint or require_weights(root))
    if (reason := untaught(read_settings(weights))) is not None:
        raise ValueError(refusal(weights, reason))
    network, settings = trained_network(root, {**(options or {}), "checkpoint": str(weights)})
    assert isinstance(network, AutoPromptSeg)
    image = next(trial_images((settings["in_channels"], *settings["roi_size"])))[:1]
    ensure_writable(folder)
    with replacing_together(folder / ENCODER, folder / DECODER) as (encoder_file, decoder_file):
        pair = OnnxPair.written(network, image, (encoder_file, decoder_file), settings=settings)
        windows = trial_images((settings["in_channels"], *settings["roi_size"]))
        difference = largest_of(pair.difference(window[:1]) for window in windows)
        if not difference <= tolerance:  # nor where it is no number
            raise RuntimeError(
                f"{folder / DECODER} was not written: a probability differs by {difference:.2g} from PyTorch's; allow "
                f"more than {tolerance:g} with --tolerance"
            )
        times = pair.times(image)
    return InteractiveExport(folder / ENCODER, folder / DECODER, settings, difference, tolerance, *times)


class OnnxPair:
    """Both files, loaded, beside the network that they were made of."""

    def __init__(self, network: AutoPromptSeg, parts: tuple[str, ...], encoder: Run, decoder: Run) -> None:
        self.network, self.parts, self.encoder, self.decoder = network, parts, encoder, decoder

    @classmethod
    def written(
        cls, network: AutoPromptSeg, image: Tensor, files: tuple[Path, Path], *, settings: Mapping[str, Any]
    ) -> OnnxPair:
        """Write both files, the encoder's first."""
        with torch.no_grad():
            seen = network.see(image)
        parts = tuple(name for name, part in seen.embedding._asdict().items() if part is not None and name != IMAGE)
        size = (image.shape[2], image.shape[3], image.shape[4])
        outputs = [*parts, LOGITS_A, *OWN]
        seeing = InteractiveEncoder(network, parts).eval()
        encoder = write_onnx(seeing, {IMAGE: image}, files[0], outputs=outputs, free={}, settings=settings)
        with torch.no_grad():
            found = dict(zip(outputs, seeing(image), strict=True))
        said = said_inputs(
            torch.zeros(1, CLICKS, 3), torch.tensor([[0, 1, PAD_LABEL]]), like=found[LOGITS_A], mask_inputs=None
        )
        example = {IMAGE: image, **{name: found[name] for name in (*parts, *OWN)}, **said}
        points = torch.export.Dim("points", min=1)
        decoder = write_onnx(
            InteractiveDecoder(network, parts, size).eval(),
            example,
            files[1],
            outputs=ANSWER,
            free={"point_coords": {1: points}, "point_labels": {1: points}},
            settings=settings,
        )
        return cls(network, parts, encoder, decoder)

    def answers(
        self, image: Tensor, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Probabilities without a click, and after one and then two: by PyTorch, and by the files.

        Both decoders get PyTorch's own points. Of places that are equally good each encoder may take another one first,
        and no answer is wrong for that; :meth:`difference` looks at how good they are.

        Args:
            image: a window.
            expected: what PyTorch's encoder gives of it.
            found: what the file's does.
        """
        decoder = InteractiveDecoder(self.network, self.parts, tuple(image.shape[2:]))  # type: ignore[arg-type]

        def by_torch(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return dict(zip(ANSWER, decoder(*inputs.values()), strict=True))

        same_points = {**found, **{name: expected[name] for name in OWN}}
        return self._clicked(image, expected, by_torch), self._clicked(image, same_points, self.decoder)

    def difference(self, image: Tensor) -> float:
        """The largest of a probability, over all answers, Model A's, and how sure the own points of each class are."""
        with torch.no_grad():
            seen, seen_by_file = self._encoded(image), self.encoder({IMAGE: image})
            expected, found = self.answers(image, seen, seen_by_file)
        pairs = [*zip(expected, found, strict=True), (_probabilities_a(seen), _probabilities_a(seen_by_file))]
        for label in range(seen[LOGITS_A].shape[1]):
            pairs.append((_sureness(seen, label), _sureness(seen_by_file, label)))
        return largest_of(_largest_difference(one, other) for one, other in pairs)

    def _encoded(self, image: Tensor) -> dict[str, Tensor]:
        """What the encoder's file gives, by PyTorch."""
        encoder = InteractiveEncoder(self.network, self.parts)
        return dict(zip([*self.parts, LOGITS_A, *OWN], encoder(image), strict=True))

    def times(self, image: Tensor) -> tuple[float, float]:
        """Seconds of the encoder and of the decoder, with one click."""
        found = self.encoder({IMAGE: image})
        inputs = self._inputs(image, found, 1, found[LOGITS_A])
        return (
            seconds(lambda _: self.encoder({IMAGE: image})[LOGITS_A], image),
            seconds(lambda _: self.decoder(inputs)[ANSWER[0]], image),
        )

    def _clicked(self, image: Tensor, found: Mapping[str, Tensor], decoder: Run) -> list[Tensor]:
        logits, probabilities = None, []
        for clicks in range(3):
            logits = decoder(self._inputs(image, found, clicks, logits))[ANSWER[0]]
            probabilities.append(logits.softmax(dim=1))
        return probabilities

    def _inputs(
        self, image: Tensor, found: Mapping[str, Tensor], clicks: int, mask_inputs: Tensor | None
    ) -> dict[str, Tensor]:
        """Some clicks into the window, here and there, and a pad."""
        size = torch.tensor(image.shape[2:])
        coords = torch.stack([*((size * (index + 1) // 4).float() for index in range(clicks)), torch.zeros(3)])[None]
        labels = torch.tensor([[*(index % found[LOGITS_A].shape[1] for index in range(clicks)), PAD_LABEL]])
        return {
            IMAGE: image,
            **{name: found[name] for name in (*self.parts, *OWN)},
            **said_inputs(coords, labels, like=found[LOGITS_A], mask_inputs=mask_inputs),
        }


def _probabilities_a(found: Mapping[str, Tensor]) -> Tensor:
    return found[LOGITS_A].softmax(dim=1)


def _sureness(found: Mapping[str, Tensor], label: int) -> Tensor:
    """Scores of the own points of a class, the best first, [N]."""
    _, labels, scores = (found[name] for name in OWN)
    return scores[labels == label].sort(descending=True).values


def _largest_difference(one: Tensor, other: Tensor) -> float:
    """1 where there are more of one than of the other."""
    if one.shape != other.shape:
        return 1.0
    return float((one - other).abs().max()) if one.numel() else 0.0


def said_inputs(coords: Tensor, labels: Tensor, *, like: Tensor, mask_inputs: Tensor | None) -> dict[str, Tensor]:
    """What the decoder is told besides the image.

    Args:
        coords: a person's points, [1, N, 3], voxels of the window.
        labels: their classes, [1, N]; -1 pads.
        like: logits, [1, C, D, H, W], whose shape ``mask_inputs`` has.
        mask_inputs: logits of the earlier answer; None where there is none.
    """
    given = torch.zeros_like(like) if mask_inputs is None else mask_inputs
    has_mask = torch.tensor([0.0 if mask_inputs is None else 1.0])
    return dict(zip(SAID, (coords, labels, given, has_mask), strict=True))
