"""What the embedded servers have in common: a process that is started, awaited and stopped."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from heimdall_data.embedded import processes
from heimdall_data.embedded.ports import LOOPBACK
from heimdall_data.errors import StackError

if TYPE_CHECKING:
    import signal
    import subprocess
    from pathlib import Path

    from heimdall_data.embedded.state import StackSettings

__all__ = ["Server"]

_READY_S = 30.0


class Server(ABC):
    """One server program on its own folder of the state directory."""

    name: ClassVar[str]
    key: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    """Asks it to end in good order."""
    stop_s: ClassVar[float]
    """How long that may take."""

    def __init__(self, data: Path, log: Path, program: processes.Program) -> None:
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
        found = processes.find(self._program)
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
        found = processes.find(self._program)
        if found is not None:
            processes.stop(found, self.stop_signal, self.stop_s)
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
