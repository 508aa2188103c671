"""A server process on its own folder: how it is started, found again, awaited and stopped.

A process is found by its command line, which names our folder, and never by a remembered number,
which may belong to another process after a reboot.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psutil

from heimdall_data.embedded.state import LOOPBACK
from heimdall_data.errors import StackError

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    from heimdall_data.embedded.state import StackSettings

_READY_S = 30.0
_AMBIENT = ("PG", "AWS_", "WEED_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# Two readings of one process' start time may differ by the clock's corrections.
_SAME_START_S = 2.0


def own_environment() -> dict[str, str]:
    """The environment without what is meant for other servers, for programs of the stack."""
    return {
        name: value for name, value in os.environ.items() if not name.upper().startswith(_AMBIENT)
    }


def is_alive(token: str) -> bool:
    """Return True if the process with this number and start time (seconds since 1970) runs."""
    try:
        number, started_s = token.split()
        process = psutil.Process(int(number))
        return abs(process.create_time() - float(started_s)) < _SAME_START_S and _runs(process)
    except (psutil.Error, ValueError):
        # Ended, or a token that a killed process left half-written.
        return False


def _runs(process: psutil.Process) -> bool:
    """Return True if a process runs. A zombie does not: its parent may be slow to notice."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def matches(command: Sequence[str], program: str, arguments: Sequence[str]) -> bool:
    """Return True if a command line is of the program, with these neighbouring arguments."""
    if not command or Path(command[0]).name != program:
        return False
    width = len(arguments)
    return any([*command[at : at + width]] == [*arguments] for at in range(1, len(command)))


def find(program: str, arguments: Sequence[str]) -> psutil.Process | None:
    """Return the running process of a program with these arguments, or None."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if matches(process.cmdline(), program, arguments) and _runs(process):
                return process
    return None


def stop(process: psutil.Process, number: int, patience_s: float) -> None:
    """Send a process the signal `number`; kill it when `patience_s` have passed."""
    for signal_number in (number, signal.SIGKILL):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal_number)
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s:
            if not _runs(process):
                return
            time.sleep(0.02)


class Server(ABC):
    """One server program on its own folder of the state directory."""

    name: ClassVar[str]
    key: ClassVar[str]
    """Name of its folder."""
    program: ClassVar[str]
    """File name of the executable."""
    fatal: ClassVar[re.Pattern[str]]
    """Found in the lines of the log that say why the server ended."""
    stop_signal: ClassVar[signal.Signals]
    """Asks the server to end in good order, which may take `stop_s`."""
    stop_s: ClassVar[float]

    def __init__(self, state_dir: Path, *arguments: str) -> None:
        """Describe a server, whose command line has these neighbouring arguments."""
        self.data = state_dir / self.key
        self.log = self.data.with_suffix(".log")
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def pid(self) -> int | None:
        """Return the number of the server's process, if it runs."""
        found = find(self.program, self._arguments)
        return found.pid if found else None

    def require(self) -> None:  # noqa: B027 - most need nothing
        """Raise `StackError` if it is clear before anything is started that it cannot run."""

    @abstractmethod
    def launch(self, settings: StackSettings) -> None:
        """Start the server process, on a folder that is made first if need be."""

    @abstractmethod
    def ready(self, settings: StackSettings) -> bool:
        """Return True if the server works with our credentials."""

    def wait_ready(self, settings: StackSettings) -> None:
        """Return when the server is ready; raise `StackError` if it ends or takes too long."""
        deadline_s = time.monotonic() + _READY_S
        while not self.ready(settings):
            if self._process is not None and self._process.poll() is not None:
                raise StackError(
                    f"{self.name} ended at once: {self._last_words()} (log: {self.log})"
                )
            if time.monotonic() > deadline_s:
                raise StackError(
                    f"{self.name} on {LOOPBACK}:{settings.port(self.key)} was not ready within "
                    f"{_READY_S:.0f} s; its log is {self.log}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server if it runs."""
        found = find(self.program, self._arguments)
        if found is not None:
            stop(found, self.stop_signal, self.stop_s)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start `command` in a session of its own, so that Ctrl-C does not reach it."""
        with open(self.log, "wb", opener=partial(os.open, mode=0o600)) as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**own_environment(), **(environment or {})},
                cwd=self.data,
                umask=0o077,  # files and sockets for the owner alone
                start_new_session=True,
            )

    def _last_words(self) -> str:
        """Last fatal line of the log, or its last line."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no output"]
        return ([line for line in lines if self.fatal.search(line)] or lines)[-1]
