"""Runs that are going on, told from those whose process was killed.

A run holds a lock on a file in a folder of its machine, its claim; see `heimdall_export.temporary`.
A run whose claim can be locked has ended, and a run without a claim may be alive on another
machine: it is left alone.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_export.errors import ExportError
from heimdall_export.temporary import lock

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from typing import IO

_ENDING = ".claim"
_NO_LOCKS = (OSError, ModuleNotFoundError)
"""A file system, or a system, without locks."""


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes, tests or removes claims meanwhile; nothing here waits for a server."""
    import fcntl

    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim(folder: str | os.PathLike[str], run_id: str) -> IO[str] | None:
    """Claim a run for this process, until the file is closed or the process ends.

    Returns:
        The claim; None, and the run counts as one of another machine, if no file can be locked.

    Raises:
        ExportError: Another process has claimed the run.
    """
    path = Path(folder, f"{run_id}{_ENDING}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            file = path.open("a")
            if lock(file.fileno()):
                return file
            file.close()
    except _NO_LOCKS:
        return None
    raise ExportError(f"run {run_id} is going on in another process; wait for its end, or stop it")


def release(folder: str | os.PathLike[str], run_id: str, claimed: IO[str] | None) -> None:
    """End a claim of this process."""
    if claimed is not None:
        with contextlib.suppress(OSError), _alone(Path(folder)):
            Path(folder, f"{run_id}{_ENDING}").unlink(missing_ok=True)
            claimed.close()


def is_claimed(folder: str | os.PathLike[str], run_id: str) -> bool:
    """Return True if a process that lives has claimed the run."""
    path = Path(folder, f"{run_id}{_ENDING}")
    if not path.exists():
        return False
    with contextlib.suppress(*_NO_LOCKS), _alone(path.parent), path.open("r+") as file:
        return not lock(file.fileno())
    return True


@contextlib.contextmanager
def abandoned(folder: str | os.PathLike[str]) -> Iterator[dict[str, IO[str]]]:
    """Claim all runs of the folder whose process ended; they are given back with the context.

    The body may `release` a run, which is then forgotten.
    """
    found: dict[str, IO[str]] = {}
    with contextlib.ExitStack() as opened:
        if Path(folder).is_dir():
            with contextlib.suppress(*_NO_LOCKS), _alone(Path(folder)):
                for path in sorted(Path(folder).glob(f"*{_ENDING}")):
                    file = opened.enter_context(path.open("r+"))
                    if lock(file.fileno()):
                        found[path.name.removesuffix(_ENDING)] = file
        yield found
