"""Reports of a task to the result backend while it runs, and the check before it does."""

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
    from collections.abc import Mapping

    from celery import Task

    from heimdall_trainer.worker.job_folder import JobFolder

__all__ = ["PROGRESS", "Reports"]

LOG = logging.getLogger(__name__)
PROGRESS = "PROGRESS"
SECONDS_BETWEEN = 15.0
"""Between signs of life without news."""
ALIVE_S = 60.0
"""A task counts as trained by the sender of a sign of life for this long."""
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
        self._reported: Progress | None = None
        self._reported_s = 0.0
        self._host = socket.gethostname()
        self._unreachable: tuple[type[Exception], ...] = (
            OSError,
            OperationalError,
            BackendStoreError,
            *getattr(task.backend, "connection_errors", ()),
        )

    def tell(self) -> None:
        """Report the progress of the task if it is new, or as a sign of life."""
        progress = self._folder.progress() or Progress(stage="starting")
        now = time.monotonic()
        if progress == self._reported and now - self._reported_s < SECONDS_BETWEEN:
            return
        self._reported, self._reported_s = progress, now
        meta = asdict(progress) | {"host": self._host, "alive_at": time.time()}
        try:
            self._task.update_state(state=PROGRESS, meta=meta)
        except self._unreachable as error:
            LOG.warning("cannot report progress to the result backend: %s", error)

    def mark_revoked(self) -> None:
        """Report that the task was revoked, once it has stopped."""
        try:
            self._task.backend.mark_as_revoked(
                self._task.request.id, "revoked", request=self._task.request
            )
        except self._unreachable as error:
            LOG.warning("cannot report a revocation to the result backend: %s", error)

    def is_trained_elsewhere(self) -> bool:
        """Whether a process on another machine trains for the task, and lives.

        A broker that lost the connection to a worker gives its task to another, while the first
        one still trains; on one machine a lock prevents that, and between machines this does.
        """
        try:
            meta = self._task.backend.get_task_meta(self._task.request.id)
        except self._unreachable as error:
            LOG.warning("cannot ask the result backend about a task: %s", error)
            return False
        info: Any = meta.get("result")
        if meta.get("status") != PROGRESS or not isinstance(info, dict):
            return False
        is_fresh = time.time() - float(info.get("alive_at", 0.0)) < ALIVE_S
        return is_fresh and info.get("host") != self._host

    def wait_for_backend(self, summary: Mapping[str, Any]) -> bool:
        """Store a result as soon as possible, however long that takes; Celery soon gives up.

        Returns:
            Whether it is stored; False if the worker is to end before.
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
