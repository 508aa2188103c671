"""What makes a run repeatable: order, variation and dropout as functions of seed, epoch and step.

Not of how many random numbers were drawn before: a run with workers, one without, and one that was
stopped after any step and resumed see the same batches and drop the same features; and several
processes share the batches of one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from heimdall_models import LocalizationModule
from lightning.pytorch.callbacks import Callback
from torch.utils.data.distributed import DistributedSampler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import lightning.pytorch as pl
    from heimdall_data import HeimdallDataset

__all__ = ["EpochOrder", "EpochSeeds", "Share"]


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of every batch a process takes."""

    rank: int = 0
    n_processes: int = 1


# A distributed sampler to Lightning, which puts its own in the place of any other.
class EpochOrder(DistributedSampler[int]):
    """Every sample once, in an order drawn from the seed and the epoch, batch by batch.

    A batch is of all processes together, and each takes every n-th of its samples. Where the last
    batch has fewer samples than there are processes, some take one that another has, too, and
    `weight` is zero for them.

    Args:
        n_samples: Of the dataset.
        seed: Of the order.
        batch_size: Samples in a batch of all processes; their number divides it.
        share: Which of them are ours.
        start: Epoch and batch to go on with; other epochs start with their first batch.
    """

    def __init__(
        self,
        n_samples: int,
        seed: int,
        batch_size: int,
        share: Share = Share(),
        start: tuple[int, int] = (0, 0),
    ) -> None:
        samples: Any = range(n_samples)
        super().__init__(samples, share.n_processes, share.rank, seed=seed)
        self._n_samples = n_samples
        self._batch_size = batch_size
        self._start = start
        self.epoch = start[0]

    def __len__(self) -> int:
        """How many samples are ours in an epoch from its first batch on."""
        n_whole, rest = divmod(self._n_samples, self._batch_size)
        return n_whole * self._batch_size // self.num_replicas + len(self._ours(list(range(rest))))

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self._n_samples)
        first = self._start[1] if self.epoch == self._start[0] else 0
        starts = range(first * self._batch_size, self._n_samples, self._batch_size)
        batches = (order[at : at + self._batch_size].tolist() for at in starts)
        return itertools.chain.from_iterable(map(self._ours, batches))

    def weight(self, batch: int) -> float:
        """What the mean of our samples counts in the mean over processes of such means."""
        left = self._n_samples - batch * self._batch_size
        n_samples = min(left, self._batch_size)
        n_ours = len(range(self.rank, n_samples, self.num_replicas))
        return n_ours * self.num_replicas / n_samples

    def _ours(self, batch: list[int]) -> list[int]:
        return batch[self.rank :: self.num_replicas] or batch[-1:]


class EpochSeeds(Callback):
    """Tells the training samples which epoch's variation to take, and seeds dropout at each step.

    Args:
        dataset: Of the training samples.
        seed: Of the run.
    """

    def __init__(self, dataset: HeimdallDataset, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the epoch before its batches are made."""
        del pl_module
        self._dataset.set_epoch(trainer.current_epoch)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's
        batch_idx: int,
    ) -> None:
        """Seed what the step draws, and weigh our share of it."""
        del batch
        names = (self._seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(names).generate_state(1)[0]))
        if isinstance(pl_module, LocalizationModule):
            pl_module.loss_weight = self._order(trainer).weight(batch_idx)

    @staticmethod
    def _order(trainer: pl.Trainer) -> EpochOrder:
        loader: Any = trainer.train_dataloader
        order: EpochOrder = loader.sampler
        return order
