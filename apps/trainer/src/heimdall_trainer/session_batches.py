"""The batches of a fit, for Lightning: where training starts or goes on, and each process's share.

The batch size is that of a step, of all processes together: the same command trains the same on
one device and on several.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from heimdall_trainer.data_order import EpochOrder, Share
from heimdall_trainer.errors import UsageError

if TYPE_CHECKING:
    from typing import Any

    from heimdall_data import HeimdallDataset

    from heimdall_trainer.training_config import TrainingConfig
    from heimdall_trainer.training_data import TrainingData

__all__ = ["SessionBatches", "is_within_epoch", "make_loader"]


def make_loader(
    dataset: HeimdallDataset,
    config: TrainingConfig,
    order: EpochOrder | None = None,
    n_processes: int = 1,
) -> DataLoader[Any]:
    """Batches of a dataset, as dictionaries of tensors, in its own order unless given another.

    Args:
        dataset: The sessions.
        config: How many sessions a step has, and how many processes load them.
        order: In which order, and which of them.
        n_processes: How many processes share a step.
    """
    return DataLoader(
        dataset,  # type: ignore[arg-type] # map-style, without torch in its bases
        batch_size=config.batch_size // n_processes,
        sampler=order,
        num_workers=config.num_workers,
        persistent_workers=False,
        worker_init_fn=_ignore_signals,
        # Its own, so that making batches takes no random numbers from dropout.
        generator=torch.Generator(),
    )


def _ignore_signals(_worker: int) -> None:
    """Ctrl-C reaches a whole terminal, and a cluster's SIGTERM all processes.

    The training process finishes its step first, for which it needs us, and ends us then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class SessionBatches(pl.LightningDataModule):
    """Training and validation batches; training goes on behind the trainer's last step.

    Attributes:
        order: Of the training samples, once training has begun.
    """

    def __init__(self, data: TrainingData, config: TrainingConfig) -> None:
        super().__init__()
        self._data = data
        self._config = config
        self.order: EpochOrder | None = None
        self._start = (0, 0)

    def state_dict(self) -> dict[str, int]:
        """Epoch and batch that training goes on with.

        The trainer knows, too, but Lightning asks for batches before it has read that.
        """
        epoch, batch = _next_batch(self._trainer)
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin with that epoch and batch."""
        self._start = state_dict["epoch"], state_dict["batch"]

    def train_dataloader(self) -> DataLoader[Any]:
        """From where the trainer is on.

        Raises:
            UsageError: Processes cannot share a batch evenly.
        """
        self.order = self._order()
        self._data.train.set_epoch(self.order.epoch)
        return make_loader(self._data.train, self._config, self.order, self._n_processes)

    def val_dataloader(self) -> DataLoader[Any]:
        """In the dataset's order; Lightning shares them out."""
        return make_loader(self._data.validation, self._config, None, self._n_processes)

    @property
    def _n_processes(self) -> int:
        return self._trainer.world_size

    @property
    def _trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("a trainer asks for batches; give us to Trainer.fit as datamodule")
        return self.trainer

    def _order(self) -> EpochOrder:
        n_processes, size = self._n_processes, self._config.batch_size
        if size % n_processes:
            raise UsageError(
                f"--batch_size is {size}, and {n_processes} processes cannot share it evenly; give "
                f"a multiple of {n_processes}"
            )
        share = Share(self._trainer.global_rank, n_processes)
        return EpochOrder(len(self._data.train), self._config.seed, size, share, self._start)


def is_within_epoch(trainer: pl.Trainer) -> bool:
    """Whether an epoch has begun and not ended, its validation included."""
    epochs = trainer.fit_loop.epoch_progress.current.state_dict()
    return bool(epochs["ready"] > epochs["processed"])


def _next_batch(trainer: pl.Trainer) -> tuple[int, int]:
    """Epoch and batch that training goes on with."""
    loop = trainer.fit_loop
    epoch = loop.epoch_progress.current.state_dict()["processed"]
    batches = loop.epoch_loop.batch_progress.current.state_dict()["processed"]
    return epoch, batches if is_within_epoch(trainer) else 0
