"""Which devices a training takes, and that no other training has them.

A GPU goes by its serial name, so that `CUDA_VISIBLE_DEVICES=1` of one worker and `GPU-…` of
another are the same device. Locks are the operating system's, which frees them however their
holder ends, `kill -9` included.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from heimdall_trainer.training_config import TrainingConfig

__all__ = ["claimed_devices", "device_locks", "visible_gpus"]

CPU = ("cpu",)


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Serial names of the machine's NVIDIA GPUs that a process with this environment sees."""
    every = _installed_gpus()
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return every
    found = (_gpu(word.strip(), every) for word in chosen.split(",") if word.strip())
    return tuple(name for name in found if name)


def _installed_gpus() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = (program, "--query-gpu=uuid", "--format=csv,noheader")
    answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    return tuple(answer.stdout.split()) if answer.returncode == 0 else ()


def _gpu(word: str, every: Sequence[str]) -> str | None:
    if re.fullmatch(r"\d+", word):
        return every[int(word)] if int(word) < len(every) else None
    if word.startswith("-"):
        return None
    return next((name for name in every if name.startswith(word)), word)


def claimed_devices(config: TrainingConfig, gpus: Sequence[str]) -> tuple[str, ...]:
    """Names of all devices that Lightning would take for a configuration, sorted.

    Args:
        config: Its `accelerator` and `devices`.
        gpus: Those that the training process sees, in order.
    """
    if config.accelerator == "cpu" or (config.accelerator == "auto" and not gpus):
        return CPU
    if config.accelerator not in ("auto", "gpu", "cuda"):
        return (config.accelerator,)
    chosen = re.findall(r"-?\d+", config.devices)
    if not chosen or chosen == ["-1"]:
        return tuple(sorted(gpus))
    if "," not in config.devices:
        return tuple(sorted(gpus[: int(chosen[0])]))
    return tuple(sorted({gpus[int(n)] for n in chosen if 0 <= int(n) < len(gpus)}))


@contextlib.contextmanager
def device_locks(
    state_directory: Path, devices: Sequence[str], waiting: Callable[[str], None]
) -> Iterator[None]:
    """Hold devices, each once on this machine and state directory.

    Args:
        state_directory: Where the locks are, in `locks`.
        devices: Their names, in one order everywhere, so that nobody waits in a circle.
        waiting: Told the name of a device that another training has, before waiting for it.

    Raises:
        OSError: A lock cannot be made.
    """
    folder = state_directory / "locks"
    folder.mkdir(exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as held:
        for device in devices:
            lock = FileLock(folder / f"device-{re.sub(r'[^A-Za-z0-9.-]', '_', device)}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waiting(device)
                lock.acquire()
            held.callback(lock.release)
        yield
