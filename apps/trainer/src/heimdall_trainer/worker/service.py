"""The Celery application of `heimdall worker`: its settings and its two tasks.

Redis holds a delivered task for a while: this worker asks for more while it lives.

Redis knows no consumers. A task that is not acknowledged within the visibility timeout goes to
somebody else, so with a timeout of an hour every night's training would run twice, and with one
of a day a crashed worker's task would wait for a day. Renewed by the living, it can be short.

Celery's pool of one thread, which waits for a training process.

The worker's own process stays light and always answers the broker: it forks nothing, loads no
torch, and a training that dies of lack of memory takes nothing else with it.
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
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = [
    "JobFailed",
    "JobRefused",
    "RenewLease",
    "ServiceConfig",
    "TrainingPool",
    "TrainingService",
    "redis_options",
]


LOG_lease = logging.getLogger(__name__)
RENEWALS = 4
"""In the time of one lease."""


def redis_options(lease_s: float) -> dict[str, Any]:
    """Transport options that give a silent worker's task to another one after the lease."""
    return {
        "visibility_timeout": lease_s,
        "unacked_restore_interval": max(1.0, lease_s / RENEWALS),
        "unacked_restore_throttle": 1,
    }


class RenewLease(bootsteps.StartStopStep):  # type: ignore[misc] # Celery is untyped
    """Renews what is delivered to this worker and not acknowledged yet."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(consumer, **kwargs)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:  # noqa: ANN401
        """Begin to renew, if the broker is Redis."""
        if consumer.connection.transport.driver_type == "redis":
            options = consumer.app.conf.broker_transport_options
            interval_s = options["visibility_timeout"] / RENEWALS
            self._timer = consumer.timer.call_repeatedly(interval_s, _renew, (consumer,))

    def stop(self, consumer: Any) -> None:  # noqa: ANN401
        """Renew nothing more."""
        del consumer
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _renew(consumer: Any) -> None:  # noqa: ANN401
    channel = consumer.task_consumer.channel
    held: Iterable[str] = tuple(channel.qos._delivered)
    if not held:
        return
    try:
        with channel.conn_or_acquire() as client:
            client.zadd(channel.unacked_index_key, dict.fromkeys(held, time.time()), xx=True)
    except consumer.connection_errors as error:
        LOG_lease.warning("the broker cannot be told that a task is still worked on: %s", error)


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


LOG = logging.getLogger(__name__)
MOST_CRASHES = 3
"""Starts of a training that all ended in a crash, of it or of its worker, before it has failed."""
LONGEST_WAIT_S = 30.0


class JobRefused(UsageError):
    """A task that asks for what cannot be."""


class JobFailed(TrainerError):
    """A training that came to no good end; the message is the one of the command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Where tasks come from and where their results go."""

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
        self.conf.update(_settings(service))
        self.steps["consumer"].add(RenewLease)
        for name, export in (("heimdall.train", False), ("heimdall.export", True)):
            self.register_task(TrainingTask(name, export=export))


def _settings(service: ServiceConfig) -> dict[str, Any]:
    is_redis = service.broker_url.startswith(("redis", "valkey", "sentinel"))
    return {
        "broker_url": service.broker_url,
        "result_backend": service.result_backend,
        "broker_transport_options": redis_options(service.lease_s) if is_redis else {},
        # A worker outlives its broker: it tries again for as long as that takes.
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # What is not acknowledged comes again, and nothing is fetched before its turn.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_concurrency": 1,
        "worker_pool": "heimdall_trainer.worker.service:TrainingPool",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "result_expires": 30 * 86_400,
        "task_default_queue": service.queue,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


class TrainingTask(Task):  # type: ignore[misc] # Celery is untyped
    """Trains or exports as its keyword arguments say; see `docs/worker.md`."""

    typing = False
    throws = (JobRefused, JobFailed)
    """Said in the log as one line."""

    def __init__(self, name: str, *, export: bool) -> None:
        self.name = name
        self._export = export

    def run(self, *arguments: Any, **settings: Any) -> Mapping[str, Any]:  # noqa: ANN401
        """What `heimdall train --summary` would write.

        Raises:
            JobRefused: The task cannot be done by anybody.
            JobFailed: It was tried.
            Ignore, Reject: To Celery: it was revoked, comes again later, or goes to another worker.
        """
        service: TrainingService = self.app
        folder = self._folder(arguments, settings)
        reports = Reports(self, folder)
        reports.refuse_if_trained_elsewhere(self._come_back)
        known = folder.outcome()
        if known and known.error and not self.request.delivery_info["redelivered"]:
            folder.reopen()  # Somebody asks again for what failed.
        while True:
            _give_up_after_crashes(folder)
            if (found := folder.outcome()) is not None:
                return self._result(found, folder, reports)
            ending = service.attendant.run(folder, reports.tell, self._is_revoked)
            if ending is Ending.OUTCOME:
                continue
            if self._is_revoked():
                reports.mark_revoked()
                raise Ignore
            if service.attendant.closing:
                raise Reject("the worker ends", requeue=True)
            if ending is Ending.BUSY:
                self._come_back()
            LOG.warning("task %s: the training process ended: %s", self.request.id, ending.value)

    def _folder(self, arguments: tuple[Any, ...], settings: Mapping[str, Any]) -> JobFolder:
        """The task's folder, with its order in it."""
        try:
            if arguments:
                raise UsageError("a task takes keyword arguments, named as the flags, alone")
            training_config(settings, export=self._export)
            folder = JobFolder.of(self.app.service.state_directory, self.request.id)
        except ValueError as error:
            raise JobRefused(str(error)) from None
        folder.save(Job(settings=settings, export=self._export))
        return folder

    def _result(self, outcome: Outcome, folder: JobFolder, reports: Reports) -> Mapping[str, Any]:
        if outcome.summary is None:
            raise JobFailed(f"{outcome.error} (checkpoints: {folder.checkpoints})")
        if not reports.wait_for_backend(outcome.summary):
            raise Reject("the worker ends, and its result is not told yet", requeue=True)
        return outcome.summary

    def _is_revoked(self) -> bool:
        return self.request.id in worker_state.revoked

    def _come_back(self) -> None:
        """Have the task delivered again in a while, when nobody else may be at it."""
        wait_s = min(LONGEST_WAIT_S, self.app.service.lease_s)
        self.signature_from_request(self.request, countdown=wait_s).apply_async()
        raise Ignore


def _give_up_after_crashes(folder: JobFolder) -> None:
    if folder.starts() < MOST_CRASHES:
        return
    error = (
        f"the training was killed {MOST_CRASHES} times, or its worker was, most often for lack of "
        "memory; lower batch_size or free memory"
    )
    folder.end(Outcome(error=error))
    folder.forget_starts()
