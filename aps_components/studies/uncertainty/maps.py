"""The uncertainty maps that are compared, all from one pass over a scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aps_components.inference import PromptedSlidingWindowInferer, VolumePrediction
from aps_components.models import Seen, TwoModels
from aps_components.prompts import PointPrompts
from aps_components.uncertainty import DEFINITIONS, MonteCarloSamples, decouple, propagated_variance

SAMPLED = tuple(name for name in DEFINITIONS if name != "least_confidence")


def sampled_maps(samples: MonteCarloSamples, undropped: MonteCarloSamples) -> Tensor:
    """Every definition of :data:`SAMPLED`, in its order, as a channel: [B, len(SAMPLED), D, H, W].

    Args:
        samples: of T thinned networks.
        undropped: the whole network's, T = 1.
    """
    probabilities, variance = samples
    published = decouple(probabilities, variance, form="variance")
    entropies = decouple(probabilities, variance, form="entropy")
    maps = {
        "softmax_variance": published.epistemic,
        "mutual_information": entropies.epistemic,
        "noise_variance": published.aleatoric,
        "expected_entropy": entropies.aleatoric,
        "propagated_variance": propagated_variance(probabilities, variance),
        "entropy_undropped": decouple(*undropped, form="entropy").aleatoric,
        "propagated_undropped": propagated_variance(*undropped),
        "predictive_entropy": decouple(probabilities, variance, form="predictive_entropy").epistemic,
    }
    return torch.cat([maps[name] for name in SAMPLED], dim=1)


class WithEveryMap:
    """Stands before the network in the inferer: its epistemic map holds all of :data:`SAMPLED` as further channels.

    Args:
        network: gives everything else, and the thinned networks that all maps are drawn from.
    """

    def __init__(self, network: TwoModels) -> None:
        self.network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def see(self, image: Tensor) -> Seen:
        """As the network does, but for the epistemic map: [B, 1 + len(SAMPLED), D, H, W]."""
        seen = self.network.see(image)
        whole = self.network.model_a(image)
        undropped = MonteCarloSamples(whole.logits.float().softmax(dim=1)[None], whole.variance.float()[None])
        own = seen.uncertainty.epistemic
        maps = torch.cat([own, sampled_maps(seen.samples, undropped).to(own)], dim=1)
        return seen._replace(uncertainty=seen.uncertainty._replace(epistemic=maps))

    def prompt_generator(self, probabilities: Tensor, *, epistemic: Tensor, **maps: Any) -> PointPrompts:
        """The network's own points, from its own map."""
        return self.network.prompt_generator(probabilities, epistemic=epistemic[:, :1], **maps)


def every_map(
    image: Tensor, network: TwoModels, inferer: PromptedSlidingWindowInferer
) -> tuple[VolumePrediction, dict[str, NDArray[np.float32]]]:
    """Segment a volume [1, in_channels, D, H, W]; the prediction, and each of :data:`DEFINITIONS` as [D, H, W]."""
    prediction = inferer.predict(image, WithEveryMap(network))  # type: ignore[arg-type]
    maps = {name: _array(prediction.epistemic[0, index]) for index, name in enumerate(SAMPLED, start=1)}
    maps["least_confidence"] = _array(1 - prediction.probabilities[0].amax(dim=0))
    return prediction._replace(epistemic=prediction.epistemic[:, :1]), maps


def _array(volume: Tensor) -> NDArray[np.float32]:
    return volume.float().cpu().numpy()
