"""What the result backend is told of a task while it runs, and asked before it does."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import BackendStoreError
from kombu.exceptions import OperationalError

from heimdall_trainer.worker.job_folder import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Task

    from heimdall_trainer.worker.job_folder import JobFolder

__all__ = ["PROGRESS", "Reports"]

LOG = logging.getLogger(__name__)
PROGRESS = "PROGRESS"
SECONDS_BETWEEN = 15.0
"""Between signs of life, where nothing else is to be said."""
ALIVE_S = 60.0
"""After a sign of life, a task is taken to be trained where it came from."""
SECONDS_TO_TRY_AGAIN = 5.0


class Reports:
    """The result backend, as one task sees it.

    Args:
        task: Celery's task, in its request.
        folder: The task's folder.
    """

    def __init__(self, task: Task, folder: JobFolder) -> None:
        self._task = task
        self._folder = folder
        self._said: Progress | None = None
        self._said_s = 0.0
        self._host = socket.gethostname()
        self._unreachable: tuple[type[Exception], ...] = (
            OSError,
            OperationalError,
            BackendStoreError,
            *getattr(task.backend, "connection_errors", ()),
        )

    def tell(self) -> None:
        """Say how far the task is, where that is news, or for a sign of life."""
        progress = self._folder.progress() or Progress(stage="starting")
        now = time.monotonic()
        if progress == self._said and now - self._said_s < SECONDS_BETWEEN:
            return
        self._said, self._said_s = progress, now
        meta = asdict(progress) | {"host": self._host, "alive_at": time.time()}
        try:
            self._task.update_state(state=PROGRESS, meta=meta)
        except self._unreachable as error:
            LOG.warning("the result backend cannot be told of progress: %s", error)

    def mark_revoked(self) -> None:
        """The task was revoked, and has stopped by now."""
        try:
            self._task.backend.mark_as_revoked(
                self._task.request.id, "revoked", request=self._task.request
            )
        except self._unreachable as error:
            LOG.warning("the result backend cannot be told of a revocation: %s", error)

    def refuse_if_trained_elsewhere(self, come_back: Callable[[], None]) -> None:
        """Call `come_back` where another machine trains for the task, and lives.

        A broker that lost the connection to a worker gives its task to another, while the first
        one still trains; on one machine a lock tells, and between machines this does.
        """
        try:
            meta = self._task.backend.get_task_meta(self._task.request.id)
        except self._unreachable as error:
            LOG.warning("the result backend cannot be asked about a task: %s", error)
            return
        said: Any = meta.get("result")
        if meta.get("status") != PROGRESS or not isinstance(said, dict):
            return
        is_fresh = time.time() - float(said.get("alive_at", 0.0)) < ALIVE_S
        if is_fresh and said.get("host") != self._host:
            come_back()

    def wait_for_backend(self, summary: Mapping[str, Any]) -> bool:
        """Store a result as soon as that can be done, however long that takes.

        Celery gives up after some seconds, and a night's result would not be told.

        Returns:
            Whether it is stored; it is not where the worker is told to end before.
        """
        while not self._task.app.attendant.closing:
            try:
                self._task.backend.store_result(
                    self._task.request.id, summary, states.SUCCESS, request=self._task.request
                )
            except self._unreachable as error:
                LOG.warning(
                    "the result cannot be stored yet, and is in %s: %s", self._folder.path, error
                )
                time.sleep(SECONDS_TO_TRY_AGAIN)
            else:
                return True
        return False
