"""Devices that a training uses, and locks that keep other trainings off them.

A GPU is named by its UUID, so that `CUDA_VISIBLE_DEVICES=1` of one worker and `GPU-…` of another
are the same device. The operating system releases a lock when the last process that holds it ends,
even one that was killed.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import IO

    from heimdall_models.training.options import TrainingOptions


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """UUIDs of the machine's NVIDIA GPUs that a process with this environment sees, in order."""
    program = shutil.which("nvidia-smi")
    installed: tuple[str, ...] = ()
    if program is not None:
        query = (program, "--query-gpu=uuid", "--format=csv,noheader")
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
        installed = tuple(answer.stdout.split()) if answer.returncode == 0 else ()
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return installed
    found: list[str] = []
    for word in filter(None, map(str.strip, chosen.split(","))):
        if word.isdecimal():
            found += installed[int(word) : int(word) + 1]
        elif not word.startswith("-"):
            found.append(next((name for name in installed if name.startswith(word)), word))
    return tuple(found)


def claimed_devices(options: TrainingOptions, gpus: Sequence[str]) -> tuple[str, ...]:
    """Names of the devices that Lightning takes for `accelerator` and `devices`, sorted.

    All trainings lock devices in this order, so that no two wait for each other.

    Args:
        options: Options of the training.
        gpus: GPUs that the training process sees, in order.
    """
    if options.accelerator == "auto" and not gpus:
        return ("cpu",)
    if options.accelerator not in ("auto", "gpu", "cuda"):
        return (options.accelerator,)
    chosen = [int(number) for number in re.findall(r"-?\d+", options.devices)]
    if not chosen or chosen == [-1]:
        return tuple(sorted(gpus))
    if "," not in options.devices:
        return tuple(sorted(gpus[: chosen[0]]))
    return tuple(sorted({gpus[n] for n in chosen if 0 <= n < len(gpus)}))


def lock_file(state_directory: Path, device: str) -> Path:
    """File whose lock holds a device for the workers of a state directory."""
    folder = state_directory / "locks"
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder / f"device-{re.sub(r'[^A-Za-z0-9.-]', '_', device)}.lock"


def locked(path: Path) -> IO[str] | None:
    """Open and lock a file; None if another process holds it.

    The lock lasts until the file is closed here and in every process that inherited it.
    """
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
