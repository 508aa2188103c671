"""What fits into a device: a clear end where a step does not, and the largest batch that does."""

from __future__ import annotations

import contextlib
import gc
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from heimdall_models.errors import TrainingError
from heimdall_models.losses import gaussian_nll
from heimdall_models.optimizer import adamw
from heimdall_models.training.resume import batch_size_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import lightning.pytorch as pl

    from heimdall_models import LocalizationModule
    from heimdall_models.training.options import TrainingOptions

__all__ = ["fitting_batch_size", "sized", "told_of_memory"]

LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def told_of_memory(config: TrainingOptions) -> Iterator[None]:
    """Say what to change where a step has no room.

    Raises:
        TrainingError: The device is out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0].partition(". ")[0]
        raise TrainingError(
            f"a step of {config.batch_size} sessions with {config.backbone} does not fit into "
            f"memory ({first_line or 'no more memory'}): {'; '.join(_remedies(config))}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no more memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error)


def _remedies(config: TrainingOptions) -> Iterator[str]:
    yield f"give a smaller --batch_size than {config.batch_size}, or --auto_batch_size"
    if not config.gradient_checkpointing:
        yield "or --gradient_checkpointing, which takes longer"
    if config.precision == "32-true":
        yield "or --precision bf16-mixed, if the device has it"


def sized(
    config: TrainingOptions,
    module: LocalizationModule,
    trainer: pl.Trainer,
    n_sessions: int,
    resume_from: Path | None,
) -> TrainingOptions:
    """The configuration with the batch size to train with.

    With `auto_batch_size` that is the largest that fits the device, and of a run that goes on the
    one that it began with. A CPU is given what was asked for: it would rather be killed than say
    that it has no more memory.

    Raises:
        TrainingError: Not even the given size fits.
    """
    device = trainer.strategy.root_device
    if not config.auto_batch_size or device.type == "cpu":
        return config
    size = None if resume_from is None else batch_size_of(resume_from)
    if size is None:
        n = trainer.world_size
        share = replace(config, batch_size=max(config.batch_size // n, 1))
        size = n * fitting_batch_size(module, share, device, n_sessions // n)
    LOGGER.info("batches of %d sessions", size)
    return replace(config, batch_size=size)


def fitting_batch_size(
    module: LocalizationModule, config: TrainingOptions, device: torch.device, most: int
) -> int:
    """The largest of the batch size and its doubles of which a step fits into the device.

    The module's weights, and what torch draws, are as before.

    Args:
        module: On the CPU.
        config: Its batch size is the smallest that will do.
        device: Where to train.
        most: No batch is larger; there are no more sessions.

    Raises:
        TrainingError: Not even the smallest fits.
    """
    state = {name: value.clone() for name, value in module.state_dict().items()}
    size = config.batch_size
    with torch.random.fork_rng():
        try:
            with told_of_memory(config):
                _step(module, config, device, size)
            while 2 * size <= most and _fits(module, config, device, 2 * size):
                size *= 2
        finally:
            module.zero_grad(set_to_none=True)
            module.cpu()
            _give_back(device)
    module.load_state_dict(state)
    return size


def _fits(
    module: LocalizationModule, config: TrainingOptions, device: torch.device, size: int
) -> bool:
    try:
        _step(module, config, device, size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _step(
    module: LocalizationModule, config: TrainingOptions, device: torch.device, size: int
) -> None:
    """A whole step on noise, as training does it: what it takes is what a step takes."""
    _give_back(device)
    module.to(device).train()
    optimizer = adamw([(module.net, config.learning_rate)], config.weight_decay)
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.precision)
    features = torch.randn(size, module.config.n_receivers, 128, 32, device=device)
    target = torch.zeros(size, 2, device=device)
    with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
        answer, penalty = module.net.answer_in_training(module.standardize(features), target)
        loss = gaussian_nll(*answer.ellipse, target) + penalty
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _give_back(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
