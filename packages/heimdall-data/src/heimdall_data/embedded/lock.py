"""One start or stop at a time in a state directory."""

from __future__ import annotations

import contextlib
import fcntl
import time
from typing import TYPE_CHECKING

from heimdall_data.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["exclusive"]


@contextlib.contextmanager
def exclusive(state_dir: Path, patience_s: float = 90.0) -> Iterator[None]:
    """Hold the state directory's lock; the kernel frees it whatever happens to us.

    Raises:
        StackError: the directory cannot be written, or another process held the lock for
            `patience_s` seconds.
    """
    path = state_dir / "stack.lock"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise StackError(
            f"state directory {state_dir} is not writable ({error.strerror}); "
            "set HEIMDALL_STATE_DIR to one that is"
        ) from error
    with file:
        _wait_for(file.fileno(), path, time.monotonic() + patience_s)
        yield


def _wait_for(descriptor: int, path: Path, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise StackError(
                    f"another process is starting or stopping the stack and holds {path}; "
                    "wait for it, or end it"
                ) from None
            time.sleep(0.05)
        else:
            return
