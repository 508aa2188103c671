"""The Celery application of `heimdall worker`: its settings and its two tasks.

The worker's own process stays light and always answers the broker: its pool is one thread, which
waits for a training process. It forks nothing and loads no torch, and a training that dies of lack
of memory takes nothing else with it.

Redis knows no consumers: a delivered task that is not acknowledged within the visibility timeout
goes to another worker. With a timeout of an hour every night's training would run twice, and with
one of a day a crashed worker's task would wait for a day. So the timeout, the lease, is short, and
a worker renews it while it lives.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import Celery, Task, bootsteps
from celery.concurrency.thread import TaskPool
from celery.exceptions import Ignore, Reject
from celery.worker import state as worker_state

from heimdall_trainer.errors import TrainerError, UsageError
from heimdall_trainer.worker.attendant import Attendant, Ending
from heimdall_trainer.worker.job_folder import Job, JobFolder, Outcome
from heimdall_trainer.worker.payload import training_config
from heimdall_trainer.worker.reports import Reports

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["JobFailed", "JobRefused", "ServiceConfig", "TrainingPool", "TrainingService"]

LOG = logging.getLogger(__name__)
RENEWALS = 4
"""In the time of one lease."""
MAX_CRASHES = 3
"""Starts of a training that all ended in a crash, of it or of its worker, before it has failed."""
LONGEST_WAIT_S = 30.0


class JobRefused(UsageError):
    """A task that cannot be carried out by any worker."""


class JobFailed(TrainerError):
    """A training that failed; the message is the one of the command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Addresses of the broker and the result backend, and the worker's settings."""

    broker_url: str
    result_backend: str
    """Celery's address of one."""
    state_directory: Path
    queue: str = "heimdall"
    lease_s: float = 120.0
    """Seconds after which Redis gives the task of a silent worker to another one."""


class TrainingService(Celery):  # type: ignore[misc] # Celery is untyped
    """A Celery application with the tasks `heimdall.train` and `heimdall.export`.

    Attributes:
        attendant: Runs the training processes.
        service: The configuration.
    """

    def __init__(self, service: ServiceConfig, attendant: Attendant) -> None:
        super().__init__("heimdall", set_as_current=False)
        self.service = service
        self.attendant = attendant
        lease = {
            "visibility_timeout": service.lease_s,
            "unacked_restore_interval": max(1.0, service.lease_s / RENEWALS),
            "unacked_restore_throttle": 1,
        }
        is_redis = service.broker_url.startswith(("redis", "valkey", "sentinel"))
        self.conf.update(
            broker_url=service.broker_url,
            result_backend=service.result_backend,
            broker_transport_options=lease if is_redis else {},
            # A worker outlives its broker: it tries again for as long as that takes.
            broker_connection_max_retries=None,
            broker_connection_retry_on_startup=True,
            worker_cancel_long_running_tasks_on_connection_loss=False,
            # A task that is not acknowledged comes again, and none is fetched before its turn.
            task_acks_late=True,
            task_reject_on_worker_lost=True,
            worker_prefetch_multiplier=1,
            worker_concurrency=1,
            worker_pool="heimdall_trainer.worker.service:TrainingPool",
            accept_content=["json"],
            result_accept_content=["json"],
            task_serializer="json",
            result_serializer="json",
            result_expires=30 * 86_400,
            task_default_queue=service.queue,
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
        )
        self.steps["consumer"].add(_RenewLease)
        for name, export in (("heimdall.train", False), ("heimdall.export", True)):
            self.register_task(TrainingTask(name, export=export))


class _RenewLease(bootsteps.StartStopStep):  # type: ignore[misc] # Celery is untyped
    """Renewal of the lease of tasks that this worker has and has not acknowledged yet."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(consumer, **kwargs)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:  # noqa: ANN401
        if consumer.connection.transport.driver_type == "redis":
            options = consumer.app.conf.broker_transport_options
            interval_s = options["visibility_timeout"] / RENEWALS
            self._timer = consumer.timer.call_repeatedly(interval_s, _renew, (consumer,))

    def stop(self, _consumer: Any) -> None:  # noqa: ANN401
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _renew(consumer: Any) -> None:  # noqa: ANN401
    channel = consumer.task_consumer.channel
    held = dict.fromkeys(tuple(channel.qos._delivered), time.time())
    if not held:
        return
    try:
        with channel.conn_or_acquire() as client:
            client.zadd(channel.unacked_index_key, held, xx=True)
    except consumer.connection_errors as error:
        LOG.warning("cannot renew the lease of a task at the broker: %s", error)


class TrainingPool(TaskPool):  # type: ignore[misc] # Celery is untyped
    """A thread pool whose job can be terminated, and is stopped when the worker ends."""

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Pass on the signal of `revoke(terminate=True)`; there is at most one job."""
        del pid
        self.app.attendant.signal(signal or 15)

    def on_stop(self) -> None:
        """Stop the training with a checkpoint, and wait for that."""
        self.app.attendant.close()
        super().on_stop()

    def on_terminate(self, **_: Any) -> None:  # noqa: ANN401 - Celery's
        """Stop the training without waiting."""
        self.app.attendant.close()


class TrainingTask(Task):  # type: ignore[misc] # Celery is untyped
    """A training or an export, with flags as keyword arguments; see `docs/worker.md`."""

    typing = False
    throws = (JobRefused, JobFailed)
    """Errors that the log has as one line."""

    def __init__(self, name: str, *, export: bool) -> None:
        self.name = name
        self._export = export

    def run(self, *arguments: Any, **settings: Any) -> Mapping[str, Any]:  # noqa: ANN401
        """Return the contents of `heimdall train --summary`.

        Raises:
            JobRefused: The task cannot be carried out by any worker.
            JobFailed: The training failed.
            Ignore, Reject: For Celery: the task was revoked, comes again later, or goes to another
                worker.
        """
        folder = self._folder(arguments, settings)
        reports = Reports(self, folder)
        if reports.is_trained_elsewhere():
            self._come_back()
        known = folder.outcome()
        if known and known.error and not self.request.delivery_info["redelivered"]:
            folder.reopen()  # The same task was sent again after it had failed.
        attendant: Attendant = self.app.attendant
        while True:
            if folder.starts() >= MAX_CRASHES:
                folder.end(
                    Outcome(
                        error=f"the training or its worker was killed {MAX_CRASHES} times, most "
                        "often for lack of memory; lower batch_size or free memory"
                    )
                )
                folder.forget_starts()
            if (outcome := folder.outcome()) is not None:
                if outcome.summary is None:
                    raise JobFailed(f"{outcome.error} (checkpoints: {folder.checkpoints})")
                if not reports.wait_for_backend(outcome.summary):
                    raise Reject("the worker ends before it could store the result", requeue=True)
                return outcome.summary
            ending = attendant.run(folder, reports.tell, self._is_revoked)
            if ending is Ending.OUTCOME:
                continue
            if self._is_revoked():
                reports.mark_revoked()
                raise Ignore
            if attendant.closing:
                raise Reject("the worker ends", requeue=True)
            if ending is Ending.BUSY:
                self._come_back()
            LOG.warning("task %s: the training process ended: %s", self.request.id, ending.value)

    def _folder(self, arguments: tuple[Any, ...], settings: Mapping[str, Any]) -> JobFolder:
        """The task's folder, with its order in it."""
        try:
            if arguments:
                raise UsageError("a task takes keyword arguments only, named as the flags")
            training_config(settings, export=self._export)
            folder = JobFolder.of(self.app.service.state_directory, self.request.id)
        except ValueError as error:
            raise JobRefused(str(error)) from None
        folder.save(Job(settings=settings, export=self._export))
        return folder

    def _is_revoked(self) -> bool:
        return self.request.id in worker_state.revoked

    def _come_back(self) -> None:
        """Have the task delivered again in a while, when no other process trains for it."""
        wait_s = min(LONGEST_WAIT_S, self.app.service.lease_s)
        self.signature_from_request(self.request, countdown=wait_s).apply_async()
        raise Ignore
