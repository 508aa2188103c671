"""Server processes: found by what they were started with, never by a remembered number.

A process number from a file may belong to somebody else after a reboot. The command line
names our directory, so looking for that finds our server or nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Program", "find", "spawn", "stop"]


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
