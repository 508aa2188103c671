"""The worker's side of a training process: start it, watch it, stop it, and judge its end."""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_trainer.worker.job_folder import BUSY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from heimdall_trainer.worker.job_folder import JobFolder

__all__ = ["Attendant", "Ending"]

POLL_S = 0.5
TERMINATED = 128 + signal.SIGTERM


class Ending(enum.Enum):
    """End of a training process."""

    OUTCOME = "it left an outcome"
    STOPPED = "it was stopped"
    BUSY = "another process trains for the task"
    KILLED = "it was killed, or left nothing behind"


class Attendant:
    """Runs training processes, one after another.

    Args:
        command: The process; the task's folder is added to it.
        environment: Its environment.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = tuple(command)
        self._environment = dict(environment) | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._sent: set[int] = set()
        self.closing = False
        """Whether the worker is about to end; no process is started any more."""

    def run(
        self, folder: JobFolder, watch: Callable[[], None], is_revoked: Callable[[], bool]
    ) -> Ending:
        """Train for a task until the process ends.

        Args:
            folder: The task's folder.
            watch: Called twice a second.
            is_revoked: Whether the task is to stop; called twice a second.
        """
        stopped = False
        with _scratch(folder) as scratch:
            with self._lock:
                if self.closing:
                    return Ending.STOPPED
                folder.count_start()
                self._sent = set()
                self._process = process = subprocess.Popen(  # noqa: S603 - our own command
                    (*self._command, str(folder.path)),
                    stdin=subprocess.PIPE,
                    env=self._environment | {"TMPDIR": str(scratch)},
                    start_new_session=True,
                )
            try:
                while _runs(process):
                    watch()
                    if not stopped and is_revoked():
                        stopped = True
                        self.signal(signal.SIGTERM)
            finally:
                with self._lock:
                    self._process = None
                _end_all(process)
        if folder.outcome() is not None:
            ending = Ending.OUTCOME
        else:
            endings = {BUSY: Ending.BUSY, TERMINATED: Ending.STOPPED}
            ending = endings.get(process.returncode, Ending.KILLED)
        if ending is not Ending.KILLED or stopped or self.closing:
            folder.forget_starts()
        return ending

    def signal(self, number: int) -> None:
        """Send a signal to the training process, if one runs.

        SIGTERM is sent once: at a second one, training would not wait to write its checkpoint.
        """
        with self._lock:
            if self._process is None or number in self._sent:
                return
            self._sent.add(number)
            if self._process.poll() is None:
                self._process.send_signal(number)

    def close(self) -> None:
        """Stop the training process with SIGTERM, and start no other."""
        self.closing = True
        self.signal(signal.SIGTERM)


def _runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """End the process, and what it left running: loaders, or processes of a killed training."""
    if process.poll() is None:  # Only where the attendant itself failed.
        process.terminate()
    if process.stdin:
        process.stdin.close()
    process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _scratch(folder: JobFolder) -> Iterator[Path]:
    """A folder for temporary files; it is removed, and so is that of a worker that was killed.

    It is not in the task's folder: loaders put sockets there, whose paths must be short.
    """
    note = folder.path / "scratch.txt"
    if note.exists():
        shutil.rmtree(note.read_text(encoding="utf-8"), ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix="heimdall-job-"))
    note.write_text(str(path), encoding="utf-8")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        note.unlink(missing_ok=True)
