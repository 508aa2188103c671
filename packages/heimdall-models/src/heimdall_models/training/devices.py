"""Devices: where a network is trained, by how many processes, and what fits into their memory.

Further processes are started by Lightning (`--devices`, `--num_nodes`), torchrun, Slurm or
Kubernetes. Each runs the same command; only the first writes to MLflow, S3 and the terminal.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from heimdall_models.errors import ModelError, OptionError, TrainingError
from heimdall_models.losses import gaussian_nll
from heimdall_models.optimizer import adamw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen
    from typing import Any

    import lightning.pytorch as pl
    from lightning.pytorch.strategies import Strategy

    from heimdall_models.module import LocalizationModule
    from heimdall_models.training.options import TrainingOptions

LOGGER = logging.getLogger(__name__)


def placement(options: TrainingOptions) -> dict[str, Any]:
    """Devices and strategy of Lightning's Trainer; under torchrun, its processes are used.

    Raises:
        OptionError: The strategy and the devices do not go together; the message says why.
    """
    devices: str | int | list[int] = options.devices
    with contextlib.suppress(ValueError):
        listed = [int(part) for part in options.devices.split(",") if part]
        devices = listed if "," in options.devices else listed[0]
    n_nodes = options.num_nodes
    if torch.distributed.is_torchelastic_launched():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        devices = here if devices == "auto" else devices
        n_nodes = int(os.environ["WORLD_SIZE"]) // here
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = options.accelerator == "cpu" or (options.accelerator == "auto" and not has_gpu)
    if on_cpu and (isinstance(devices, list) or devices == -1):
        raise OptionError(
            f"--devices {options.devices} chooses among GPUs, and training is on the CPU; give the "
            "number of processes, such as --devices 1"
        )
    strategy: str | Strategy = "auto"
    if options.strategy == "fsdp":
        strategy = _sharded(options)
    elif options.strategy == "ddp" or (
        # A frozen backbone has weights without gradients, which the usual strategy waits for.
        options.unfreezes and not (n_nodes == 1 and devices in ("auto", 1))
    ):
        strategy = DDPStrategy(find_unused_parameters=options.unfreezes)
    where = {"accelerator": options.accelerator, "devices": devices, "num_nodes": n_nodes}
    return {**where, "strategy": strategy}


def _sharded(options: TrainingOptions) -> Strategy:
    for name in ("ema_decay", "gradient_clip", "unfreeze_epoch", "unfreeze_every"):
        if (value := getattr(options, name)) != 0:
            raise OptionError(
                f"--strategy fsdp shards weights and gradients, and --{name} {value:g} needs "
                f"whole ones; give --{name} 0, or --strategy ddp"
            )
    if options.accelerator == "cpu" or not torch.cuda.is_available():
        raise OptionError("--strategy fsdp needs GPUs; give --strategy ddp on CPUs")
    return FSDPStrategy(state_dict_type="full")


# ---- several processes

LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe"),
    *("failed to recv, got 0 bytes", "ncclRemoteError", "communicator was aborted"),
)
"""Messages of torch's back ends about a process that no longer answers."""
LOOK_S = 0.2
GRACE_S = 2.0
"""For a process to notice by itself that another one is gone, and to end in order."""


def is_first() -> bool:
    """True in the process that writes; known before Lightning starts anything."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0" and os.environ.get("NODE_RANK", "0") == "0"
    return True


@contextlib.contextmanager
def end_together(trainer: pl.Trainer) -> Iterator[None]:
    """End all processes of a training when one fails or is lost, and report it in one line.

    Raises:
        TrainingError: Another process of the training is gone.
        SystemExit: In all but the first process, which reports the error.
    """
    lost = (
        f"one of the {trainer.world_size} processes that train together was lost, and training has "
        "ended; --resume_training goes on from the last checkpoint"
    )
    is_over = threading.Event()
    threading.Thread(target=_watch, args=(trainer, is_over, lost), daemon=True).start()
    try:
        yield
    except ModelError:  # All processes raise it, and end.
        if trainer.global_rank:
            sys.exit(1)
        raise
    except RuntimeError as error:
        if trainer.world_size == 1 or not any(text in str(error) for text in LOST):
            raise
        if trainer.global_rank:
            sys.exit(1)
        raise TrainingError(lost) from error
    finally:
        is_over.set()


def _watch(trainer: pl.Trainer, is_over: threading.Event, message: str) -> None:
    """End this process soon after one that Lightning started for it has died.

    It may be waiting inside a driver, which no exception reaches; and Lightning kills silently.
    """
    while not is_over.wait(LOOK_S):
        children: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        if any(child.poll() for child in children):
            if not is_over.wait(GRACE_S):
                LOGGER.error("%s", message)
                os._exit(1)
            return


# ---- memory


@contextlib.contextmanager
def clear_memory_errors(options: TrainingOptions) -> Iterator[None]:
    """Turn an out-of-memory error into a TrainingError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0].partition(". ")[0]
        remedies = f"give a smaller --batch_size than {options.batch_size}, or --auto_batch_size"
        if not options.gradient_checkpointing:
            remedies += "; or --gradient_checkpointing, which takes longer"
        if options.precision == "32-true":
            remedies += "; or --precision bf16-mixed, if the device has it"
        raise TrainingError(
            f"a step of {options.batch_size} sessions with {options.backbone} does not fit into "
            f"memory ({first_line or 'no more memory'}): {remedies}"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    said = "can't allocate memory" in str(error) or "out of memory" in str(error)
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))


# Lightning's BatchSizeFinder refuses several processes, and writes a checkpoint to disk.
def fitting_batch_size(
    module: LocalizationModule, options: TrainingOptions, device: torch.device, most: int
) -> int:
    """The options' batch size, doubled as long as a step fits into the device, up to `most`.

    The module's weights and the state of torch's generators stay as they are.

    Raises:
        TrainingError: Not even the options' batch size fits.
    """
    state = {name: value.clone() for name, value in module.state_dict().items()}
    size = options.batch_size
    with torch.random.fork_rng():
        try:
            with clear_memory_errors(options):
                _step_on_noise(module, options, device, size)
            while 2 * size <= most:
                _step_on_noise(module, options, device, 2 * size)
                size *= 2
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        finally:
            module.zero_grad(set_to_none=True)
            module.cpu()
            _free_memory(device)
    module.load_state_dict(state)
    return size


def _step_on_noise(
    module: LocalizationModule, options: TrainingOptions, device: torch.device, size: int
) -> None:
    """A whole step as in training, with the same need of memory."""
    _free_memory(device)
    module.to(device).train()
    optimizer = adamw([(module.net, options.learning_rate)], options.weight_decay)
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(options.precision)
    features = torch.randn(size, module.config.n_receivers, 128, 32, device=device)
    target = torch.zeros(size, 2, device=device)
    with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
        answer, penalty = module.net.answer_in_training(module.standardize(features), target)
        loss = gaussian_nll(*answer.ellipse, target) + penalty
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
