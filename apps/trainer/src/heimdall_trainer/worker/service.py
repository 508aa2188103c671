"""The Celery application of `heimdall worker`: its settings and its two tasks.

The worker's own process stays light and always answers the broker: its pool is one thread, which
waits for a training process. It forks nothing and loads no torch, and survives a training that runs
out of memory. In Celery's pool of forked processes, a task cannot see that it was revoked.

Redis gives a delivered task that is not acknowledged within the visibility timeout to another
worker. With a timeout of an hour every night's training would run twice, and with one of a day a
crashed worker's task would wait for a day. So the timeout, the lease, is short, and a worker renews
it while it lives.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import time
from functools import partial
from signal import SIG_IGN, SIGHUP, SIGKILL, SIGTERM, getsignal
from typing import TYPE_CHECKING, Any

from celery import Celery, Task, bootsteps, states
from celery.apps.worker import Worker
from celery.concurrency.thread import TaskPool
from celery.exceptions import BackendStoreError, Ignore, Reject
from celery.platforms import signals
from celery.worker import state as worker_state
from heimdall_export.temporary import TemporaryFolder
from heimdall_export.tracking.claims import abandoned
from heimdall_models.training.device_locks import (
    claimed_devices,
    lock_file,
    locked,
    visible_gpus,
)
from kombu.exceptions import OperationalError

from heimdall_trainer.connections import OUTBOX
from heimdall_trainer.errors import TrainerError, UsageError, one_line
from heimdall_trainer.worker.payload import in_folder, refuse_outside, training_config
from heimdall_trainer.worker.training_process import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import IO

    from heimdall_trainer.config import TrainingConfig

LOG = logging.getLogger(__name__)
RENEWALS = 4
"""In the time of one lease."""
MAX_CRASHES = 3
"""Starts in a row that end in a crash of the training or its worker before the task fails."""
MAX_RETURN_S = 30.0
"""Longest time until a task that another process trains is delivered again."""
POLL_S = 0.5
SIGN_OF_LIFE_S = 15.0
"""Between reports without news."""
ALIVE_S = 60.0
"""After its last sign of life another machine counts as training the task for this long."""
RETRY_S = 5.0
"""Between attempts to store a result."""
TASK_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
PROGRESS: dict[str, Any] = {
    "stage": "starting",
    "run_id": None,
    "epoch": 0,
    "epochs": None,
    "seconds_left": None,
    "metrics": {},
}
"""Progress of a task that has none yet; see `docs/worker.md`."""


class JobRefused(UsageError):
    """A task that cannot be carried out by any worker."""


class JobFailed(TrainerError):
    """A training that failed; the message is the one of the command line."""


class TrainingService(Celery):  # type: ignore[misc] # Celery is untyped
    """A Celery application with the tasks `heimdall.train` and `heimdall.export`.

    Args:
        broker_url: Celery's address of the broker.
        result_backend: Celery's address; when empty the broker, if it is Redis, else `rpc://`.
        state_directory: Folder for the folders of tasks and for locks.
        command: Command of a training process; the task's folder is added to it.
        environment: Environment of a training process.
        queue: Name of the queue.
        lease_s: Seconds after which Redis gives the task of a silent worker to another one.
        allowed: Folders that tasks may read and write besides their own.
    """

    process: subprocess.Popen[bytes] | None = None
    """The training process, while one runs."""
    closing = False
    """True once the worker is about to end; no training is started any more."""

    def __init__(
        self,
        *,
        broker_url: str,
        result_backend: str | None,
        state_directory: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        queue: str = "heimdall",
        lease_s: float = 120.0,
        allowed: Sequence[Path] = (),
    ) -> None:
        super().__init__("heimdall", set_as_current=False)
        self.state_directory = state_directory
        self.command = tuple(command)
        self.environment = {**environment, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        self.lease_s = lease_s
        self.allowed = tuple(allowed)
        is_redis = broker_url.startswith(("redis", "valkey", "sentinel"))
        # A list is of brokers, of which one is enough for results, or of one broker's sentinels.
        is_list = not broker_url.startswith("sentinel")
        first = broker_url.partition(";")[0] if is_list else broker_url
        lease = {
            "visibility_timeout": lease_s,
            "unacked_restore_interval": max(1.0, lease_s / RENEWALS),
            "unacked_restore_throttle": 1,
        }
        self.conf.update(
            broker_url=broker_url,
            result_backend=result_backend or (first if is_redis else "rpc://"),
            broker_transport_options=lease if is_redis else {},
            # A worker outlives its broker: it tries again for as long as that takes.
            broker_connection_max_retries=None,
            broker_connection_retry_on_startup=True,
            worker_cancel_long_running_tasks_on_connection_loss=False,
            # A task that is not acknowledged comes again, and none is fetched before its turn.
            task_acks_late=True,
            worker_prefetch_multiplier=1,
            worker_concurrency=1,
            worker_pool="heimdall_trainer.worker.service:TrainingPool",
            accept_content=["json"],
            result_expires=30 * 86_400,
            task_default_queue=queue,
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
        )
        if is_redis:
            self.steps["consumer"].add(_RenewLease)
        for name in ("heimdall.train", "heimdall.export"):
            self.register_task(TrainingTask(name))

    def serve(self, name: str) -> None:
        """Run a worker until it is stopped.

        Raises:
            UsageError: A worker of this name runs on this machine already.
            SystemExit: The worker failed.
        """
        folder = self.state_directory / "workers"
        folder.mkdir(exist_ok=True, mode=0o700)
        if (lock := locked(folder / f"{name}.lock")) is None:
            text = f"a worker called {name!r} runs on this machine already"
            raise UsageError(f"{text}; give this one another --name")
        with lock:
            worker = self.subclass_with_self(_Worker)(
                hostname=f"{name}@{socket.gethostname()}",
                statedb=str(folder / f"{name}.revoked"),
                loglevel="INFO",
                task_events=True,
                no_color=True,
            )
            worker.start()
            if worker.exitcode:
                raise SystemExit(worker.exitcode)


class _Worker(Worker):  # type: ignore[misc] # Celery is untyped
    """Celery's worker, but SIGHUP is as SIGTERM: Celery would start anew, even under `nohup`."""

    def install_platform_tweaks(self, worker: Any) -> None:  # noqa: ANN401
        """Install Celery's handlers of signals, and ours."""
        before = getsignal(SIGHUP)
        super().install_platform_tweaks(worker)
        signals["SIGHUP"] = SIG_IGN if before is SIG_IGN else getsignal(SIGTERM)


class _RenewLease(bootsteps.StartStopStep):  # type: ignore[misc] # Celery is untyped
    """Renewal of the lease of tasks that this worker has and has not acknowledged yet."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:  # noqa: ANN401
        # A lost connection clears the timer, and each new one starts this step again.
        consumer.timer.call_repeatedly(consumer.app.lease_s / RENEWALS, self._renew, (consumer,))

    def _renew(self, consumer: Any) -> None:  # noqa: ANN401
        channel = consumer.task_consumer.channel
        held = dict.fromkeys(tuple(channel.qos._delivered), time.time())
        try:
            with channel.conn_or_acquire() as client:
                if held:
                    client.zadd(channel.unacked_index_key, held, xx=True)
        except consumer.connection_errors as error:
            LOG.warning("cannot renew the lease of a task at the broker: %s", error)


class TrainingPool(TaskPool):  # type: ignore[misc] # Celery is untyped
    """A thread pool whose job can be terminated, and is stopped when the worker ends."""

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Pass on the signal of `revoke(terminate=True)`; there is at most one job.

        SIGTERM is left to the task, which sends it once to every revoked training: at a second one
        the training would not wait to write its checkpoint.
        """
        del pid
        if (process := self.app.process) is not None and signal not in (None, SIGTERM):
            process.send_signal(signal)

    def on_stop(self) -> None:
        """Stop the training with a checkpoint, and wait for that."""
        self.app.closing = True
        super().on_stop()

    on_terminate = on_stop


class TrainingTask(Task):  # type: ignore[misc] # Celery is untyped
    """A training or an export, with flags as keyword arguments; see `docs/worker.md`."""

    typing = False
    throws = (JobRefused, JobFailed)
    """Errors that the log has as one line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._export = name == "heimdall.export"
        self._reported: tuple[object, float] = (None, 0.0)

    def run(self, *arguments: Any, **settings: Any) -> Mapping[str, Any]:  # noqa: ANN401
        """Return the content of `heimdall train --summary`.

        Raises:
            JobRefused: The task cannot be carried out by any worker.
            JobFailed: The training failed.
            Ignore: The task was revoked, or is delivered again later.
            Reject: The task goes to another worker.
        """
        config = self._checked(arguments, settings)
        folder = self._folder
        for made in (folder.parent, folder):
            made.mkdir(exist_ok=True, mode=0o700)
        self._reported = (None, 0.0)
        with contextlib.ExitStack() as held:
            lock = None if self._is_trained_elsewhere() else locked(folder / "running.lock")
            if lock is None:
                wait_s = min(MAX_RETURN_S, self.app.lease_s)
                self.signature_from_request(self.request, countdown=wait_s).apply_async()
                raise Ignore
            locks = [held.enter_context(lock)]
            write_json(folder / "job.json", {"settings": settings, "export": self._export})
            end = folder / "outcome.json"
            was_delivered = self.request.delivery_info["redelivered"]
            if (read_json(end) or {}).get("error") and not was_delivered:
                end.unlink()  # The same task was sent again after it had failed.
            if not end.exists():
                devices = claimed_devices(config, visible_gpus(self.app.environment))
                locks += [held.enter_context(self._device(device, folder)) for device in devices]
            while not end.exists():
                self._train(folder, [each.fileno() for each in locks])
        outcome: Mapping[str, Any] = read_json(end)
        if outcome.get("error"):
            raise JobFailed(f"{outcome['error']} (checkpoints: {folder / 'checkpoints'})")
        self._store(outcome["summary"])
        return outcome["summary"]  # type: ignore[no-any-return]

    @property
    def _folder(self) -> Path:
        return self.app.state_directory / "jobs" / self.request.id  # type: ignore[no-any-return]

    def _checked(self, arguments: tuple[Any, ...], settings: Mapping[str, Any]) -> TrainingConfig:
        try:
            if arguments:
                raise UsageError("a task takes keyword arguments only, named as the flags")
            if not TASK_ID.fullmatch(self.request.id):
                raise UsageError(
                    f"task id {self.request.id!r} cannot name a folder; use at most 128 letters, "
                    "digits, dots, hyphens and underscores, without a dot at the start"
                )
            config = in_folder(training_config(settings, export=self._export), self._folder)
            refuse_outside(config, self._folder, self.app.allowed)
        except ValueError as error:
            raise JobRefused(one_line(error)) from None
        return config

    def _device(self, device: str, folder: Path) -> IO[str]:
        """Lock a device, once no other training uses it."""
        while (lock := locked(lock_file(self.app.state_directory, device))) is None:
            self._report({"stage": f"waiting for device {device}"})
            self._end_if_told(folder)
            time.sleep(POLL_S)
        return lock

    def _train(self, folder: Path, locks: Sequence[int]) -> None:
        """Run the training process until it ends; the locks stay locked while it lives."""
        crashes, end = folder / "starts.json", folder / "outcome.json"
        found = read_json(crashes)
        n_started = found if isinstance(found, int) else 0
        if n_started >= MAX_CRASHES:
            error = (
                f"the training or its worker was killed {MAX_CRASHES} times, most often for lack "
                "of memory; lower batch_size or free memory"
            )
            self._mark_killed_run(folder)
            write_json(end, {"error": error})
            crashes.unlink()
            return
        self._end_if_told(folder)
        # Counted before it is known how it ends: the worker may be killed, too.
        write_json(crashes, n_started + 1)
        # Not in the task's folder: loaders put sockets there, whose paths must be short.
        temporary = TemporaryFolder("job")
        with temporary as scratch:
            self.app.process = process = subprocess.Popen(  # noqa: S603 - our own command
                (*self.app.command, str(folder)),
                stdin=subprocess.PIPE,
                env=self.app.environment | {"TMPDIR": str(scratch)},
                start_new_session=True,
                pass_fds=(*locks, temporary.fileno()),
            )
            told = False
            try:
                while process.poll() is None:
                    self._report(read_json(folder / "progress.json") or {})
                    if not told and (self.app.closing or self._is_revoked()):
                        told = True
                        process.terminate()
                    time.sleep(POLL_S)
            finally:
                self.app.process = None
                process.terminate()  # It runs only if watching it failed.
                process.communicate()
                # What it left running: loaders, or processes of a killed training.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, SIGKILL)
        if told or process.returncode == 128 + SIGTERM or end.exists():
            crashes.unlink()
        if not end.exists():
            self._end_if_told(folder)
            status = process.returncode
            LOG.warning("task %s: the training ended with status %s", self.request.id, status)

    def _is_revoked(self) -> bool:
        return self.request.id in worker_state.revoked

    def _end_if_told(self, folder: Path) -> None:
        """End the task if it was revoked, and hand it back if the worker ends."""
        if self._is_revoked():
            self._mark_killed_run(folder)
            mark = partial(self.backend.mark_as_revoked, request=self.request)
            self._reached(lambda: mark(self.request.id, "revoked"))
            raise Ignore
        if self.app.closing:
            raise Reject("the worker ends", requeue=True)

    def _mark_killed_run(self, folder: Path) -> None:
        """Have the run of a training that was killed marked in MLflow, by a process that has it."""
        with abandoned(self.app.state_directory / OUTBOX) as runs:
            if not runs:
                return
        write_json(folder / "job.json", {"is_over": True})
        command = (*self.app.command, str(folder))
        ended = subprocess.run(command, env=self.app.environment, check=False)  # noqa: S603
        if ended.returncode:
            text = "task %s: MLflow may show its run as running; `heimdall doctor --fix` mends that"
            LOG.warning(text, self.request.id)

    def _reached(self, call: Callable[[], object]) -> bool:
        """Call the result backend; False, with a warning in the log, if it does not answer."""
        lost = getattr(self.backend, "connection_errors", ())
        try:
            call()
        except (OSError, OperationalError, BackendStoreError, *lost) as error:
            LOG.warning("task %s: no answer of the result backend: %s", self.request.id, error)
            return False
        return True

    def _report(self, progress: Mapping[str, Any]) -> None:
        """Report the progress if it is new, or as a sign of life."""
        before, reported_s = self._reported
        now = time.monotonic()
        if progress == before and now - reported_s < SIGN_OF_LIFE_S:
            return
        self._reported = (progress, now)
        meta = PROGRESS | {**progress, "host": socket.gethostname(), "alive_at": time.time()}
        self._reached(lambda: self.update_state(state="PROGRESS", meta=meta))

    def _is_trained_elsewhere(self) -> bool:
        """Return True if another machine that lost the broker still trains for the task.

        On one machine a lock prevents two trainings of a task, and between machines this does.
        """
        meta: dict[str, Any] = {}
        self._reached(lambda: meta.update(self.backend.get_task_meta(self.request.id)))
        told = meta.get("result")
        if meta.get("status") != "PROGRESS" or not isinstance(told, dict):
            return False
        alive_s = time.time() - float(told.get("alive_at") or 0.0)
        return told.get("host") != socket.gethostname() and alive_s < ALIVE_S

    def _store(self, summary: Mapping[str, Any]) -> None:
        """Store a result as soon as possible, however long that takes; Celery soon gives up."""
        store = partial(self.backend.store_result, request=self.request)
        while not self.app.closing:
            if self._reached(lambda: store(self.request.id, summary, states.SUCCESS)):
                return
            time.sleep(RETRY_S)
        raise Reject("the worker ends before it could store the result", requeue=True)
