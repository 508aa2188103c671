"""Options of a training run: the network and its optimiser, the loop, devices and checkpoints."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from heimdall_models.config import MOST_EPOCHS, LocalizationConfig, require, require_within

N_SEEDS = 2**32
"""NumPy's generator takes as many."""
PROCESSES_PER_CORE = 8
"""Most processes that one machine starts to train or to load; more only wait for each other."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(LocalizationConfig):
    """Training of a network, and the devices for it.

    Raises:
        OptionError: A value is out of its range.
    """

    epochs: int = 100
    """Most passes over the training split."""
    batch_size: int = 32
    """Sessions in a step, of all processes together, whose number divides it."""
    auto_batch_size: bool = False
    """Double the batch size as long as a step fits into the device's memory. A larger batch is
    another training, with fewer steps: --learning_rate may have to rise with it."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient, longer ones are scaled down; 0 clips nothing."""
    ema_decay: float = 0.999
    """Moving average of the weights, which is validated and exported: share that a step leaves,
    reached after a warm-up; 0 trains without an average."""
    patience: int = 10
    """Epochs without a better validation loss before training stops."""
    seed: int = 42
    """Seed of the split, the weights, the order of the data and the augmentation."""
    num_workers: int = 0
    """Processes that load batches; 0 loads them in the training process."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    """Lightning's accelerator."""
    devices: str = "auto"
    """Lightning's devices: auto, a count, or a list such as 0,1."""
    num_nodes: int = 1
    """Machines that train together."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """Training on several devices: each has a whole network (ddp), or a part of it (fsdp, for
    backbones that do not fit on one GPU); auto takes ddp where there are several."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Precision of the backbone in training: float32, bfloat16 or float16; heads and weights are
    float32."""
    checkpoint_every_minutes: float = 10.0
    """Minutes of training between checkpoints within an epoch, from which a killed run goes on; 0
    writes none by time."""
    checkpoint_every_steps: int = 0
    """The same in steps; 0 writes none by steps."""
    ensemble: int = 1
    """Networks to train on the one split, from different starts, and to merge into one model."""
    timing_epochs: int = 15
    """Passes over the training split in which the network of arrival times learns, if any."""

    def __post_init__(self) -> None:
        LocalizationConfig.__post_init__(self)
        require_within(self, 1, MOST_EPOCHS, "epochs", "patience", "timing_epochs")
        require_within(self, 1, 65_536, "batch_size")
        require_within(self, 1, 1000, "num_nodes", "ensemble")
        require_within(self, 0, N_SEEDS - 1, "seed")
        require_within(self, 0, 10**9, "checkpoint_every_steps")
        require_within(self, 0, 10**6, "checkpoint_every_minutes", "gradient_clip")
        require(self, "ema_decay", 0 <= self.ema_decay < 1, "from 0 to below 1")
        counted = re.fullmatch(r"auto|-1|[1-9]\d{0,3}|\d{1,3}(,\d{0,3})+", self.devices)
        require(self, "devices", counted is not None, "auto, a count, or a list such as 0,1")
        listed = self.devices.rstrip(",").split(",")
        require(self, "devices", len(set(listed)) == len(listed), "a list without repetition")
        most = PROCESSES_PER_CORE * (os.cpu_count() or 1)
        each = f"{PROCESSES_PER_CORE} processes for each core of this machine"
        n_devices = int(self.devices) if self.devices.isdecimal() else len(listed)
        require(self, "devices", n_devices <= most, f"at most {most}, {each}")
        of_each = most // n_devices
        within = 0 <= self.num_workers <= of_each
        require(self, "num_workers", within, f"from 0 to {of_each}, {each}")
