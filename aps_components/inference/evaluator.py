"""Whole volumes through the model: both predictors, both uncertainties and the prompts, with or without a truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from monai.data import decollate_batch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.handlers import MeanDice
from monai.networks import one_hot
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from aps_components.data import DataError
from aps_components.data.datalist import FAULT
from aps_components.data.partial import NOT_LABELED, UNDRAWN
from aps_components.inference.inferer import PromptedSlidingWindowInferer
from aps_components.inference.points import in_their_class
from aps_components.inference.temperature import calibrated, calibrated_tiles
from aps_components.models import TwoModels
from aps_components.uncertainty import MAP_NAMES

OUTPUT_MAPS = {
    "pred": "probabilities",
    "pred_a": "probabilities_a",
    "pred_b": "probabilities_b",
    "epistemic": "epistemic",
    "aleatoric": "aleatoric",
}


class PromptedEvaluator(SupervisedEvaluator):
    """MONAI's evaluator that keeps all of a :class:`~aps_components.inference.VolumePrediction`.

    Volumes go through one at a time. ``engine.state.output`` is a list of one dictionary: ``pred``, ``pred_a`` and
    ``pred_b`` (probabilities, [C, D, H, W]), ``epistemic`` and ``aleatoric`` ([1, D, H, W]), ``prompts``, and ``label``
    if there is one, with ``undrawn`` where some classes were not drawn; ``probabilities`` are those of ``pred`` at the
    network's temperature, there with everything. A batch that is a "fault", of
    ``aps_components.data.ScansToSegment``, is passed over.

    Args:
        device: to run on.
        val_data_loader: one volume a batch.
        network: the model.
        inferer: of this project, so that maps and prompts survive the windows.
        everything: False gives ``pred`` alone.
        in_tiles: the outputs are ``aps_components.inference.tiles.TiledMaps`` instead of tensors, without ``pred_a``
            and ``pred_b``, and the uncertainties are called after what they measure (``MAP_NAMES``): for volumes of any
            size.
        kwargs: of MONAI's ``SupervisedEvaluator``.
    """

    def __init__(
        self,
        *,
        device: torch.device | str,
        val_data_loader: Any,
        network: TwoModels,
        inferer: PromptedSlidingWindowInferer,
        everything: bool = True,
        in_tiles: bool = False,
        **kwargs: Any,
    ) -> None:
        self.everything, self.in_tiles = everything, in_tiles
        super().__init__(
            device=torch.device(device),
            val_data_loader=val_data_loader,
            network=network,
            inferer=inferer,
            decollate=False,
            **kwargs,
        )

    def run(self, global_epoch: int = 1) -> None:
        """Run on every volume.

        Raises:
            DataError: some could not be used, and all others are done; a line for each.
        """
        self.faults: list[str] = []
        super().run(global_epoch)
        if self.faults:
            scans = len(self.state.dataloader) if self.state.dataloader is not None else len(self.faults)
            heads = [f"{len(self.faults)} of {scans} scans were not segmented, all others were:"] if scans > 1 else []
            raise DataError("\n".join([*heads, *self.faults]))

    @torch.inference_mode()
    def _iteration(self, engine: Any, batchdata: Mapping[str, Any]) -> list[dict[str, Any]]:
        if FAULT in batchdata:
            self.faults += batchdata[FAULT]
            return []
        image = convert_to_tensor(batchdata["image"], track_meta=False).to(self.state.device)
        self.network.eval()
        if self.in_tiles:
            output = self._in_tiles(image)
        elif self.everything:
            prediction = self.inferer.predict(image, self.network)
            output = {key: getattr(prediction, name)[0] for key, name in OUTPUT_MAPS.items()}
            output["probabilities"] = calibrated(output["pred"], self._temperature, dim=0)
            output["prompts"] = prediction.prompts
        else:
            output = {"pred": self.inferer(image, self.network)[0]}
        output |= {key: batchdata[key][0] for key in ("label", UNDRAWN) if key in batchdata}
        engine.state.batch, engine.state.output = decollate_batch(batchdata), [output]
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _in_tiles(self, image: Tensor) -> dict[str, Any]:
        stored = self.inferer.predict_stored(image, self.network, maps=self.everything)
        output: dict[str, Any] = {"pred": stored.probabilities}
        if self.everything:
            names = [name.file for name in MAP_NAMES[self.network.uncertainty_form]]
            output |= dict(zip(names, (stored.epistemic, stored.aleatoric), strict=False))
            output["prompts"] = stored.prompts
            output["probabilities"] = calibrated_tiles(stored.probabilities, self._temperature)
        return output

    @property
    def _temperature(self) -> float:
        return float(getattr(self.network, "temperature", 1.0))


def dice_metric(key: str, *, num_classes: int) -> MeanDice:
    """Mean foreground Dice of one of :class:`PromptedEvaluator`'s outputs, on the network's grid, as an ignite metric.

    Voxels without a label do not count, and neither does a class that a label does not hold.

    Args:
        key: ``pred``, ``pred_a`` or ``pred_b``, as label maps [1, D, H, W].
        num_classes: C, background included.
    """

    def one_hot_pair(outputs: Sequence[Mapping[str, Any]]) -> tuple[list[Tensor], list[Tensor]]:
        predicted = [torch.as_tensor(output[key]) for output in outputs]
        labels = [torch.as_tensor(output["label"]).to(guess) for output, guess in zip(outputs, predicted, strict=True)]
        labeled = [label != NOT_LABELED for label in labels]
        predicted = [guess * known for guess, known in zip(predicted, labeled, strict=True)]
        labels = [label * known for label, known in zip(labels, labeled, strict=True)]
        return (
            [one_hot(guess, num_classes, dim=0) for guess in predicted],
            [one_hot(label, num_classes, dim=0) for label in labels],
        )

    return MeanDice(include_background=False, output_transform=one_hot_pair, save_details=False)


class PromptPrecisionMetric(Metric):
    """Share of the point prompts, background's included, that lie in their own class; NaN without points.

    Points where the label leaves the class open do not count.
    """

    @reinit__is_reduced
    def reset(self) -> None:
        """Start a new count."""
        self._correct = torch.tensor(0.0)
        self._total = torch.tensor(0.0)

    @reinit__is_reduced
    def update(self, outputs: Sequence[Mapping[str, Any]]) -> None:
        """Count the points of some volumes: ``prompts`` and ``label`` [1, D, H, W] of each."""
        for output in outputs:
            hits = in_their_class(output["prompts"], output["label"][0], undrawn=output.get(UNDRAWN))
            self._total += len(hits)
            self._correct += sum(hits)

    @sync_all_reduce("_correct", "_total")
    def compute(self) -> float:
        """The share in [0, 1]."""
        return float(self._correct / self._total)
