"""Moving average of the weights, which is validated, kept in checkpoints and exported.

Source: B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging",
1992; the warm-up of the decay is that of TensorFlow's `ExponentialMovingAverage`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import WeightAveraging

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import Tensor


class AveragedWeights(WeightAveraging):
    """Keeps an exponential moving average of weights and buffers, one update a step.

    After n steps the decay is (1 + n) / (10 + n), and at most `decay`: a fixed 0.999 would still
    hold the random start after a few hundred steps. With the warm-up, a run averages over about
    its last tenth. Training goes on with the weights themselves; a checkpoint has both, the
    average as its `state_dict`.

    Args:
        decay: Share of the average that a step leaves, from 0 to below 1.

    Raises:
        ModelError: If the decay is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ModelError(f"the decay of averaged weights is {decay}; it must be from 0 to 1")
        self.decay = decay
        super().__init__(multi_avg_fn=self._update)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average, which Lightning makes on the CPU, to the device of the weights."""
        del trainer
        if self._average_model is not None:
            self._average_model.to(pl_module.device)

    def kept(self, n_averaged: int) -> float:
        """Share of an average of `n_averaged` weights that stays when one more is added."""
        return min(self.decay, (1 + n_averaged) / (10 + n_averaged))

    def _update(self, averages: list[Tensor], weights: list[Tensor], n_averaged: Tensor) -> None:
        with torch.no_grad():
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, weights, 1 - self.kept(int(n_averaged)))
            else:  # Counts, such as those of a batch norm: the newest, not an average.
                torch._foreach_copy_(averages, weights)
