"""What makes a run repeatable: order, variation and dropout as functions of seed and epoch.

Not of how many random numbers were drawn before: a run with workers, one without, and one that was
stopped after an epoch and resumed see the same batches and drop the same features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import lightning.pytorch as pl
    from heimdall_data import HeimdallDataset

__all__ = ["EpochOrder", "EpochSeeds", "epoch_to_resume"]


class EpochOrder(Sampler[int]):
    """Every sample once, in an order drawn from the seed and the epoch.

    Lightning calls `set_epoch`, and puts its distributed sampler in our place where several
    processes train.
    """

    def __init__(self, n_samples: int, seed: int, epoch: int = 0) -> None:
        self._n_samples = n_samples
        self._seed = seed
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Take this epoch's order from the next iteration on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._n_samples

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self._seed, self._epoch))
        return iter(rng.permutation(self._n_samples).tolist())


class EpochSeeds(Callback):
    """Tells the training samples which epoch's variation to take, and seeds dropout anew."""

    def __init__(self, dataset: HeimdallDataset, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the epoch before its batches are made."""
        del pl_module
        self._dataset.set_epoch(trainer.current_epoch)
        names = (self._seed, trainer.current_epoch, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(names).generate_state(1)[0]))


def epoch_to_resume(checkpoint: Path | None) -> int:
    """The epoch that training goes on with after a checkpoint, 0 without one.

    Lightning asks for the first batches before it has read this.
    """
    if checkpoint is None:
        return 0
    # As the trainer will: tensors and text alone.
    contents: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    progress = contents["loops"]["fit_loop"]["epoch_progress"]["current"]
    return int(progress["processed"])
