"""Monte-Carlo dropout and the measures of uncertainty that come of it."""

from aps_components.uncertainty.definitions import DEFINITIONS, Definition
from aps_components.uncertainty.mc_dropout import (
    DropoutMasks,
    MonteCarloSamples,
    StochasticDecoder,
    draw_masks,
    every,
    monte_carlo_samples,
)
from aps_components.uncertainty.measures import (
    ALL_MAP_NAMES,
    MAP_NAMES,
    DecoupledUncertainty,
    MapName,
    UncertaintyForm,
    decouple,
    entropy,
    expected_entropy,
    mutual_information,
    predictive_entropy,
    propagated_variance,
    softmax_variance,
)

__all__ = [
    "ALL_MAP_NAMES",
    "DEFINITIONS",
    "MAP_NAMES",
    "DecoupledUncertainty",
    "Definition",
    "DropoutMasks",
    "MapName",
    "MonteCarloSamples",
    "StochasticDecoder",
    "UncertaintyForm",
    "decouple",
    "draw_masks",
    "entropy",
    "every",
    "expected_entropy",
    "monte_carlo_samples",
    "mutual_information",
    "predictive_entropy",
    "propagated_variance",
    "softmax_variance",
]
