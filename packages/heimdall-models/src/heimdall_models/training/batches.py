"""Batches of a training: their order, their seeds, and each process's share of them.

Order, variation and dropout are functions of seed, epoch and step, not of how many random numbers
were drawn before: runs with workers, without them, or resumed after any step see the same batches
and drop the same features. A batch is that of a step, of all processes together, so that one
command trains the same on one device and on several.
"""

from __future__ import annotations

import itertools
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from heimdall_models.errors import OptionError
from heimdall_models.training.stopping import heeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_models.training.options import TrainingOptions
    from heimdall_models.training.parts import SessionDataset, TrainingParts


@dataclass(frozen=True, slots=True)
class Share:
    """The part of every batch that one process takes."""

    rank: int = 0
    n_processes: int = 1


# A distributed sampler to Lightning, which would replace any other.
class EpochOrder(DistributedSampler[int]):
    """Every sample once, in an order drawn from the seed and the epoch, batch by batch.

    Each process takes every n-th sample of a batch. If the last batch has fewer samples than there
    are processes, some repeat a sample of another, and `weight` is zero for them.

    The number of processes divides the batch size. `start` is the epoch and the batch to go on
    with; other epochs start with their first batch.
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
        self._n_samples, self._batch_size, self._start = n_samples, batch_size, start
        self.epoch = start[0]

    def __len__(self) -> int:
        """Samples of this process in a whole epoch."""
        n_whole, rest = divmod(self._n_samples, self._batch_size)
        return n_whole * self._batch_size // self.num_replicas + len(self._own(list(range(rest))))

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self._n_samples)
        first = self._start[1] if self.epoch == self._start[0] else 0
        starts = range(first * self._batch_size, self._n_samples, self._batch_size)
        batches = (order[at : at + self._batch_size].tolist() for at in starts)
        return itertools.chain.from_iterable(map(self._own, batches))

    def weight(self, batch: int) -> float:
        """Weight of this process's mean over a batch in the mean over processes."""
        n_samples = min(self._n_samples - batch * self._batch_size, self._batch_size)
        n_own = len(range(self.rank, n_samples, self.num_replicas))
        return n_own * self.num_replicas / n_samples

    def _own(self, batch: list[int]) -> list[int]:
        return batch[self.rank :: self.num_replicas] or batch[-1:]


class EpochSeeds(Callback):
    """Sets the epoch of the training samples' variation, and seeds dropout at each step."""

    def __init__(self, dataset: SessionDataset, seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the epoch before its batches are made."""
        del pl_module
        self._dataset.set_epoch(trainer.current_epoch)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: Any,  # noqa: ANN401 - a LocalizationModule
        batch: Any,  # noqa: ANN401 - Lightning's
        batch_idx: int,
    ) -> None:
        """Seed the random numbers of the step, and weigh this process's share of it."""
        del batch
        names = (self._seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(names).generate_state(1)[0]))
        loader: Any = trainer.train_dataloader
        pl_module.loss_weight = loader.sampler.weight(batch_idx)


def make_loader(
    dataset: SessionDataset,
    options: TrainingOptions,
    order: EpochOrder | None = None,
    n_processes: int = 1,
) -> DataLoader[Any]:
    """Batches of a dataset, as dictionaries of tensors; in its own order unless one is given.

    `n_processes` share the batch size of the options.
    """
    return DataLoader(
        dataset,  # type: ignore[arg-type] # map-style, without torch in its bases
        batch_size=options.batch_size // n_processes,
        sampler=order,
        num_workers=options.num_workers,
        persistent_workers=False,
        worker_init_fn=_ignore_signals,
        # Its own, so that making batches takes no random numbers from dropout.
        generator=torch.Generator(),
    )


def _ignore_signals(_worker: int) -> None:
    """Leave signals to the training process, which needs its workers for its step."""
    for number in heeded():
        signal.signal(number, signal.SIG_IGN)


class SessionBatches(pl.LightningDataModule):
    """Training and validation batches; training goes on after the trainer's last step."""

    trainer: pl.Trainer

    def __init__(self, data: TrainingParts, options: TrainingOptions) -> None:
        super().__init__()
        self._data, self._options, self._start = data, options, (0, 0)

    def state_dict(self) -> dict[str, int]:
        """Epoch and batch that training goes on with.

        Lightning keeps them too, but asks for batches before it has restored them.
        """
        loop = self.trainer.fit_loop
        epoch = loop.epoch_progress.current.state_dict()["processed"]
        batch = loop.epoch_loop.batch_progress.current.state_dict()["processed"]
        return {"epoch": epoch, "batch": batch if is_within_epoch(self.trainer) else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin with that epoch and batch."""
        self._start = state_dict["epoch"], state_dict["batch"]

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches from where training goes on.

        Raises:
            OptionError: Processes cannot share a batch evenly.
        """
        n_processes, size = self.trainer.world_size, self._options.batch_size
        if size % n_processes:
            raise OptionError(
                f"--batch_size is {size}, and {n_processes} processes cannot share it evenly; give "
                f"a multiple of {n_processes}"
            )
        share, train = Share(self.trainer.global_rank, n_processes), self._data.train
        order = EpochOrder(len(train), self._options.seed, size, share, self._start)
        train.set_epoch(order.epoch)
        return make_loader(train, self._options, order, n_processes)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches in the dataset's order; Lightning shares them out."""
        validation, n_processes = self._data.validation, self.trainer.world_size
        return make_loader(validation, self._options, n_processes=n_processes)


def is_within_epoch(trainer: pl.Trainer) -> bool:
    """True within an epoch, its validation included."""
    epochs = trainer.fit_loop.epoch_progress.current.state_dict()
    return bool(epochs["ready"] > epochs["processed"])
