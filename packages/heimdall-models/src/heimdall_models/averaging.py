"""A moving average of the weights: what is validated, kept in checkpoints and exported.

Source: B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging",
1992; the warm-up of the decay is that of TensorFlow's `ExponentialMovingAverage`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import WeightAveraging

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

DECAY = 0.999
"""After some 9,000 steps; a shorter run averages over about its last tenth."""


class AveragedWeights(WeightAveraging):
    """Keeps an exponential moving average of weights and buffers, one update a step.

    Lightning's callback with a decay that warms up: after n steps it is (1 + n) / (10 + n), and at
    most `decay`. A fixed decay of 0.999 would still hold the random start after a run of a few
    hundred steps. Training goes on with the weights themselves; a checkpoint has both, the
    average as its `state_dict`.

    Args:
        decay: How much of the average one step leaves, from 0 to below 1.

    Raises:
        ModelError: If the decay is out of range.
    """

    def __init__(self, decay: float = DECAY) -> None:
        if not 0 <= decay < 1:
            raise ModelError(f"the decay of averaged weights is {decay}; it must be from 0 to 1")
        self.decay = decay
        super().__init__(multi_avg_fn=self._average)

    def _average(self, averages: list[Tensor], current: list[Tensor], n_averaged: Tensor) -> None:
        n = n_averaged.item()
        weight = 1 - min(self.decay, (1 + n) / (10 + n))
        with torch.no_grad():
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, current, weight)
            else:  # Counts, such as a batch norm's: the newest.
                torch._foreach_copy_(averages, current)
