"""Which process a stack belongs to, and what ends it when that process is killed.

The owner is named in a file of the state directory, by process number and start time: a
number alone may belong to somebody else later.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Owner", "disown", "is_abandoned", "is_alive", "is_owned", "own", "read_token"]

_FILE = "owner"
# Two readings of one process' start time may differ by the clock's corrections.
_SAME_START_S = 2.0


@dataclass(slots=True)
class Owner:
    """This process as the owner of a stack, with the watchdog that outlives it."""

    state_dir: Path
    token: str
    watchdog: subprocess.Popen[bytes]

    def still_owns(self) -> bool:
        """Whether nobody took the stack over."""
        return read_token(self.state_dir) == self.token

    def end(self) -> None:
        """Stop owning; the watchdog has nothing left to watch."""
        if self.still_owns():
            disown(self.state_dir)
        self.watchdog.kill()
        self.watchdog.wait()


def own(state_dir: Path) -> Owner:
    """Make this process the owner, and start the watchdog."""
    me = psutil.Process()
    token = f"{me.pid} {me.create_time()}"
    (state_dir / _FILE).write_text(token, encoding="utf-8")
    command = [sys.executable, "-m", "heimdall_data.embedded.watchdog", str(state_dir), token]
    watchdog = subprocess.Popen(  # noqa: S603 - our own command line
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    return Owner(state_dir, token, watchdog)


def disown(state_dir: Path) -> None:
    """Let the stack belong to nobody: it stays until it is stopped."""
    (state_dir / _FILE).unlink(missing_ok=True)


def read_token(state_dir: Path) -> str | None:
    """The owner's token as it was written, or None."""
    try:
        return (state_dir / _FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def is_owned(state_dir: Path) -> bool:
    """Whether a living process owns the stack."""
    token = read_token(state_dir)
    return token is not None and is_alive(token)


def is_abandoned(state_dir: Path) -> bool:
    """Whether the stack's owner has ended and nobody has tidied up yet."""
    token = read_token(state_dir)
    return token is not None and not is_alive(token)


def is_alive(token: str) -> bool:
    """Whether the process of `token` still runs, and is not another under its number."""
    try:
        number, started_s = token.split()
        process = psutil.Process(int(number))
        same = abs(process.create_time() - float(started_s)) < _SAME_START_S
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, ValueError):
        # Ended, or a token that a killed process left half-written.
        return False
