"""Several processes that train one network: which of them we are, and what becomes of a lost one.

Lightning starts them (`--devices`, `--num_nodes`), or torchrun, Slurm or Kubernetes do. Each runs
the same command. The first of all writes: to MLflow, S3 and the terminal; the others train.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from heimdall_models import ModelError

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen

    import lightning.pytorch as pl

__all__ = ["ends_together", "is_first", "watched"]

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
        TrainerError: Another process of the training is gone.
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
        raise TrainerError(lost_message(trainer.world_size)) from error


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
    print(f"heimdall: {lost_message(trainer.world_size)}", file=sys.stderr, flush=True)
    os._exit(1)
