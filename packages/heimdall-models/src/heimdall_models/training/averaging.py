"""Moving average of the weights, which is validated, kept in checkpoints and exported.

Source: B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging",
1992; the warm-up of the decay is that of TensorFlow's `ExponentialMovingAverage`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import WeightAveraging

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import lightning.pytorch as pl
    from torch import Tensor
    from torch.optim.swa_utils import AveragedModel

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
        self._floating: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._counts: tuple[list[Tensor], list[Tensor]] = ([], [])
        super().__init__()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average on the weights' device, and pair its tensors with theirs once.

        Lightning makes the average before the network is on its device, and would look for all
        parameters anew at every step.
        """
        del trainer
        average = self._averaged().to(pl_module.device)
        pairs = list(zip(_tensors(average.module), _tensors(pl_module), strict=True))
        self._floating = _columns(pair for pair in pairs if pair[0].is_floating_point())
        # Such as those of a batch norm: the newest, not an average.
        self._counts = _columns(pair for pair in pairs if not pair[0].is_floating_point())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Take the weights of a step into the average."""
        del pl_module, outputs, batch, batch_idx
        if trainer.global_step == self._latest_update_step:
            return  # Gradients are still being accumulated.
        self._latest_update_step = trainer.global_step
        average = self._averaged()
        n = int(average.n_averaged)
        with torch.no_grad():
            torch._foreach_lerp_(*self._floating, 1 - self.kept(n))
            if self._counts[0]:
                torch._foreach_copy_(*self._counts)
            average.n_averaged += 1

    def kept(self, n_averaged: int) -> float:
        """Share of the average that stays when it takes in one more; 0 of an empty one."""
        warm = (1 + n_averaged) / (10 + n_averaged)
        return min(self.decay, warm) if n_averaged else 0.0

    def _averaged(self) -> AveragedModel:
        if self._average_model is None:
            raise ModelError("there is no average of the weights before training starts")
        return self._average_model


def _tensors(module: torch.nn.Module) -> itertools.chain[Tensor]:
    return itertools.chain(
        (parameter.detach() for parameter in module.parameters()), module.buffers()
    )


def _columns(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    averages, current = [], []
    for average, value in pairs:
        averages.append(average)
        current.append(value)
    return averages, current
