"""Celery's pool of one thread, which waits for a training process.

The worker's own process stays light and always answers the broker: it forks nothing, loads no
torch, and a training that dies of lack of memory takes nothing else with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.concurrency.thread import TaskPool

if TYPE_CHECKING:
    from heimdall_trainer.worker.attendant import Attendant

__all__ = ["TrainingPool"]


class TrainingPool(TaskPool):  # type: ignore[misc] # Celery is untyped
    """A thread pool whose job can be terminated, and which stops it when the worker ends."""

    @property
    def _attendant(self) -> Attendant:
        attendant: Attendant = self.app.attendant
        return attendant

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Pass on the signal of `revoke(terminate=True)`; there is one job at most."""
        del pid
        self._attendant.signal(signal or 15)

    def on_stop(self) -> None:
        """Stop the training with a checkpoint, and wait for that."""
        self._attendant.close()
        super().on_stop()

    def on_terminate(self, **_: Any) -> None:  # noqa: ANN401 - whatever Celery says
        """As `on_stop`, without waiting."""
        self._attendant.close()
