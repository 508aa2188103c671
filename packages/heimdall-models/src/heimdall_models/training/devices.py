"""On which devices of which machines a network is trained, in Lightning's words.

Several processes that train one network: which of them we are, and what becomes of a lost one.

Lightning starts them (`--devices`, `--num_nodes`), or torchrun, Slurm or Kubernetes do. Each runs
the same command. The first of all writes: to MLflow, S3 and the terminal; the others train.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, TypedDict

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from heimdall_models.errors import ModelError, OptionError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen

    import lightning.pytorch as pl
    from lightning.pytorch.strategies import Strategy

    from heimdall_models.training.options import TrainingOptions

__all__ = ["Placement", "ends_together", "environment_plugins", "is_first", "placement", "watched"]


LOGGER = logging.getLogger(__name__)


class Placement(TypedDict):
    """The arguments of `lightning.pytorch.Trainer` that say where it trains."""

    accelerator: str
    devices: str | int | list[int]
    num_nodes: int
    strategy: str | Strategy


def placement(config: TrainingOptions) -> Placement:
    """Where to train; under torchrun, on as many processes as it has started.

    Raises:
        OptionError: The strategy or the devices cannot train so; the message says what to change.
    """
    devices, n_nodes = _devices(config.devices), config.num_nodes
    if torch.distributed.is_torchelastic_launched():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        devices = here if devices == "auto" else devices
        n_nodes = int(os.environ["WORLD_SIZE"]) // here
    _check_countable(config, devices)
    alone = n_nodes == 1 and devices in ("auto", 1)
    return Placement(
        accelerator=config.accelerator,
        devices=devices,
        num_nodes=n_nodes,
        strategy=_strategy(config, alone=alone),
    )


def environment_plugins() -> list[SLURMEnvironment]:
    """None but for Slurm, whose jobs Lightning would put back into the queue by itself.

    It would go on from checkpoints of its own then; ours are those of `--resume_training`.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _devices(given: str) -> str | int | list[int]:
    try:
        parts = [int(part) for part in given.split(",") if part]
    except ValueError:
        return given
    return parts if "," in given else parts[0]


def _check_countable(config: TrainingOptions, devices: str | int | list[int]) -> None:
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = config.accelerator == "cpu" or (config.accelerator == "auto" and not gpu)
    if on_cpu and (isinstance(devices, list) or devices == -1):
        raise OptionError(
            f"--devices {config.devices} chooses among GPUs, and training is on the CPU; give the "
            "number of processes, such as --devices 1"
        )


def _strategy(config: TrainingOptions, *, alone: bool) -> str | Strategy:
    """Lightning's own choice, but where we were told, or know better."""
    if config.strategy == "fsdp":
        _check_sharded(config)
        return FSDPStrategy(state_dict_type="full")
    # A backbone that thaws has weights without gradients, which the usual strategy waits for.
    thaws = bool(config.unfreeze_epoch or config.unfreeze_every)
    if config.strategy == "ddp" or (thaws and not alone):
        return DDPStrategy(find_unused_parameters=thaws)
    return "auto"


def _check_sharded(config: TrainingOptions) -> None:
    for name, works in (
        ("ema_decay", config.ema_decay == 0),
        ("gradient_clip", config.gradient_clip == 0),
        ("unfreeze_epoch", config.unfreeze_epoch == 0),
        ("unfreeze_every", config.unfreeze_every == 0),
    ):
        if not works:
            raise OptionError(
                f"--strategy fsdp shards weights and gradients, and --{name} "
                f"{getattr(config, name):g} needs whole ones; give --{name} 0, or --strategy ddp"
            )
    if config.accelerator == "cpu" or not torch.cuda.is_available():
        raise OptionError("--strategy fsdp needs GPUs; give --strategy ddp on CPUs")


LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "failed to recv, got 0 bytes",
    "ncclRemoteError",
    "communicator was aborted",
)
"""What torch's back ends say of a process that does not answer any more."""
LOOK_S = 0.2
GRACE_S = 2.0
"""For a process to notice by itself that another one is gone, and to end in order."""


def is_first() -> bool:
    """Whether this is the process that writes; known before Lightning starts anything."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0" and os.environ.get("NODE_RANK", "0") == "0"
    return True


@contextlib.contextmanager
def ends_together(trainer: pl.Trainer) -> Iterator[None]:
    """Say in one line that a process was lost, and what ended all processes only once.

    Raises:
        TrainingError: Another process of the training is gone.
        SystemExit: In all but the first process, where the first one tells of the error.
    """
    try:
        yield
    except ModelError:
        # All of them know, and all have ended.
        if trainer.global_rank:
            sys.exit(1)
        raise
    except RuntimeError as error:
        if trainer.world_size == 1 or not any(said in str(error) for said in LOST):
            raise
        if trainer.global_rank:
            sys.exit(1)
        raise TrainingError(lost_message(trainer.world_size)) from error


def lost_message(n_processes: int) -> str:
    """What happened, and what to do."""
    return (
        f"one of the {n_processes} processes that train together was lost, and training has "
        "ended; --resume_training goes on from the last checkpoint"
    )


@contextlib.contextmanager
def watched(trainer: pl.Trainer) -> Iterator[None]:
    """End this process soon after one that Lightning started for it has died.

    It may wait for the dead one where no exception reaches, in a driver; and Lightning, which looks
    every five seconds, would kill it without a word.
    """
    is_over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(trainer, is_over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()


def _watch(trainer: pl.Trainer, is_over: threading.Event) -> None:
    while not is_over.wait(LOOK_S):
        children: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        if any(child.poll() for child in children):
            _end(trainer, is_over)
            return


def _end(trainer: pl.Trainer, is_over: threading.Event) -> None:
    if is_over.wait(GRACE_S):
        return
    LOGGER.error("%s", lost_message(trainer.world_size))
    os._exit(1)
