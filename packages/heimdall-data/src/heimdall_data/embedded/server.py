"""What the embedded servers have in common: a process that is started, awaited and stopped.

Server processes: found by what they were started with, never by a remembered number.

A process number from a file may belong to somebody else after a reboot. The command line
names our directory, so looking for that finds our server or nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psutil

from heimdall_data.embedded.state import LOOPBACK
from heimdall_data.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heimdall_data.embedded.state import StackSettings

__all__ = ["Program", "Server", "find", "spawn", "stop"]


@dataclass(frozen=True, slots=True)
class Program:
    """How a server is recognised: its file name and the arguments that are ours alone."""

    name: str
    arguments: tuple[str, ...]

    def matches(self, command: Sequence[str]) -> bool:
        """Whether `command` is this program on our directory."""
        if not command or Path(command[0]).name != self.name:
            return False
        width = len(self.arguments)
        return any(
            tuple(command[at : at + width]) == self.arguments for at in range(1, len(command))
        )


def find(program: Program) -> psutil.Process | None:
    """The running process of `program`, or None. A zombie does not run."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if program.matches(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                return process
    return None


def spawn(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, so that Ctrl-C does not reach it.

    Its output replaces the file `log` (mode 0600).
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - our own command line
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            # Never a directory that somebody may want to remove or unmount.
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def stop(process: psutil.Process, number: int, patience_s: float) -> None:
    """Ask `process` to end with signal `number`; kill it when `patience_s` have passed."""
    for signal_number in (number, signal.SIGKILL):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal_number)
        if _ends_within(process, patience_s):
            return


def _ends_within(process: psutil.Process, patience_s: float) -> bool:
    """Whether `process` ends in time. A zombie has ended: its parent need not be us."""
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


_READY_S = 30.0


class Server(ABC):
    """One server program on its own folder of the state directory."""

    name: ClassVar[str]
    key: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    """Asks it to end in good order."""
    stop_s: ClassVar[float]
    """How long that may take."""

    def __init__(self, data: Path, log: Path, program: Program) -> None:
        """Describe a server; nothing is started.

        Args:
            data: its folder.
            log: what it says.
            program: how its process is recognised.
        """
        self._data = data
        self.log = log
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def has_data(self) -> bool:
        """Whether the server was ever started here."""
        return self._data.exists()

    def pid(self) -> int | None:
        """The server's process, if it runs."""
        found = find(self._program)
        return found.pid if found else None

    @abstractmethod
    def port(self, settings: StackSettings) -> int:
        """The port that clients use."""

    @abstractmethod
    def launch(self, settings: StackSettings) -> None:
        """Start the server process, on a folder that is made first if need be."""

    @abstractmethod
    def ready(self, settings: StackSettings) -> bool:
        """Whether the server does what it is for, with our credentials."""

    def wait_ready(self, settings: StackSettings) -> None:
        """Return when the server is ready.

        Raises:
            StackError: it ended, or did not become ready in time.
        """
        deadline_s = time.monotonic() + _READY_S
        while not self.ready(settings):
            if self._process is not None and self._process.poll() is not None:
                raise StackError(
                    f"{self.name} ended at once: {self._last_words()} (log: {self.log})"
                )
            if time.monotonic() > deadline_s:
                raise StackError(
                    f"{self.name} on {LOOPBACK}:{self.port(settings)} was not ready within "
                    f"{_READY_S:.0f} s; its log is {self.log}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server if it runs."""
        found = find(self._program)
        if found is not None:
            stop(found, self.stop_signal, self.stop_s)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _last_words(self) -> str:
        """The line of the log that tells most, which is one about a fatal error."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no output"]
        telling = [line for line in lines if self._is_fatal(line)] or lines
        return telling[-1]

    @staticmethod
    @abstractmethod
    def _is_fatal(line: str) -> bool:
        """Whether a line of the log says why the server ended."""
