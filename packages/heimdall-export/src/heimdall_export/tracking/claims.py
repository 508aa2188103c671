"""Runs that are going on, told from those whose process was killed.

A run holds a lock on a file in a folder of its machine, its claim; see `heimdall_export.temporary`.
A lock says nothing about a copy of the file, and on some file systems nothing about other machines.
So the file tells where it was locked, and a claim counts as abandoned only if it can be locked, is
the file that was locked, and was made since this machine started, or before by a machine of this
name. A run may have been resumed elsewhere meanwhile: MLflow keeps the id of its newest claim, and
only that one says that the run was killed. Everything else may be alive and is left alone.

A clone of a machine needs a host name of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_features.outside_json import parsed_json

from heimdall_export.errors import ExportError
from heimdall_export.temporary import lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any

_ENDING = ".claim"
_NO_LOCKS = (OSError, ModuleNotFoundError)
"""A file system, or a system, without locks."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim whose process ended; nobody else can claim the run while the file is open."""

    id: str
    file: IO[str]


def _place(file: IO[str]) -> dict[str, Any]:
    """The place where a file is locked, as JSON values."""
    host, status = socket.gethostname(), os.fstat(file.fileno())
    boot = _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else host
    return {"host": host, "boot": boot, "device": status.st_dev, "inode": status.st_ino}


def _id_of_ended(file: IO[str]) -> str | None:
    """Id of the claim in a file that could be locked; None if its process may live all the same."""
    try:
        made = parsed_json(file.read())
        claim_id, *made_at = (made[name] for name in ("id", "host", "boot", "device", "inode"))
    except (ValueError, TypeError, KeyError):
        return None
    host, boot, device, inode = _place(file).values()
    # Within a boot, the inode of a file that a process holds open is of no other file. Devices may
    # be numbered anew with the next boot, which no process outlives.
    is_here = made_at[1:] == [boot, device, inode]
    was_here = made_at[1] != boot and made_at[::3] == [host, inode]
    return str(claim_id) if is_here or was_here else None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes, tests or removes claims meanwhile; nothing here waits for a server."""
    import fcntl

    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim(folder: str | os.PathLike[str], run_id: str, claim_id: str) -> IO[str] | None:
    """Claim a run for this process, until the file is closed or the process ends.

    `claim_id` is new with each claim, and to be kept in MLflow as the run's newest.

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
                file.truncate(0)
                json.dump({"id": claim_id, **_place(file)}, file)
                file.flush()
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
def abandoned(folder: str | os.PathLike[str]) -> Iterator[dict[str, Claim]]:
    """Hold all claims of the folder whose process ended; they are given back with the context.

    The body may `release` a run, which is then forgotten.
    """
    found: dict[str, Claim] = {}
    with contextlib.ExitStack() as opened:
        if Path(folder).is_dir():
            with contextlib.suppress(*_NO_LOCKS), _alone(Path(folder)):
                for path in sorted(Path(folder).glob(f"*{_ENDING}")):
                    file = opened.enter_context(path.open("r+"))
                    if lock(file.fileno()) and (claim_id := _id_of_ended(file)) is not None:
                        run_id = path.name.removesuffix(_ENDING)
                        found[run_id] = Claim(id=claim_id, file=file)
        yield found
