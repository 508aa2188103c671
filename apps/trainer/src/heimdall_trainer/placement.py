"""On which devices of which machines a network is trained, in Lightning's words."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypedDict

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from heimdall_trainer.errors import UsageError

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

    from heimdall_trainer.training_config import TrainingConfig

__all__ = ["Placement", "environment_plugins", "placement"]


class Placement(TypedDict):
    """The arguments of `lightning.pytorch.Trainer` that say where it trains."""

    accelerator: str
    devices: str | int | list[int]
    num_nodes: int
    strategy: str | Strategy


def placement(config: TrainingConfig) -> Placement:
    """Where to train; under torchrun, on as many processes as it has started.

    Raises:
        UsageError: The strategy or the devices cannot train so; the message says what to change.
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


def _check_countable(config: TrainingConfig, devices: str | int | list[int]) -> None:
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = config.accelerator == "cpu" or (config.accelerator == "auto" and not gpu)
    if on_cpu and (isinstance(devices, list) or devices == -1):
        raise UsageError(
            f"--devices {config.devices} chooses among GPUs, and training is on the CPU; give the "
            "number of processes, such as --devices 1"
        )


def _strategy(config: TrainingConfig, *, alone: bool) -> str | Strategy:
    """Lightning's own choice, but where we were told, or know better."""
    if config.strategy == "fsdp":
        _check_sharded(config)
        return FSDPStrategy(state_dict_type="full")
    # A backbone that thaws has weights without gradients, which the usual strategy waits for.
    thaws = bool(config.unfreeze_epoch or config.unfreeze_every)
    if config.strategy == "ddp" or (thaws and not alone):
        return DDPStrategy(find_unused_parameters=thaws)
    return "auto"


def _check_sharded(config: TrainingConfig) -> None:
    for name, works in (
        ("ema_decay", config.ema_decay == 0),
        ("gradient_clip", config.gradient_clip == 0),
        ("unfreeze_epoch", config.unfreeze_epoch == 0),
        ("unfreeze_every", config.unfreeze_every == 0),
    ):
        if not works:
            raise UsageError(
                f"--strategy fsdp shards weights and gradients, and --{name} "
                f"{getattr(config, name):g} needs whole ones; give --{name} 0, or --strategy ddp"
            )
    if config.accelerator == "cpu" or not torch.cuda.is_available():
        raise UsageError("--strategy fsdp needs GPUs; give --strategy ddp on CPUs")
