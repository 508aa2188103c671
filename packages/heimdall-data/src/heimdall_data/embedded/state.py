"""What a stack remembers between starts: its ports and its generated credentials.

One JSON file of mode 0600 in the state directory, replaced atomically.

One start or stop at a time in a state directory.

Free TCP ports on loopback.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from heimdall_data.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = [
    "LOOPBACK",
    "StackSettings",
    "exclusive",
    "free_ports",
    "is_free",
    "load_settings",
    "save_settings",
    "settings_with_free_ports",
]


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


LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could bind `port` on loopback now."""
    with socket.socket() as probe:
        # As servers do: a connection that lingers in TIME_WAIT does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int, avoid: Iterable[int] = ()) -> list[int]:
    """`count` different ports that were free a moment ago, none of them in `avoid`.

    Another process may take one before it is used: the caller must be ready to ask again.
    """
    taken = set(avoid)
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
            if port not in taken:
                ports.append(port)
    return ports


_FILE = "stack.json"
_SEAWEED_PORTS = (
    "s3",
    "s3.grpc",
    "master",
    "master.grpc",
    "volume",
    "volume.grpc",
    "filer",
    "filer.grpc",
    "admin",
    "admin.grpc",
)


def _secret() -> str:
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """Ports and credentials of one stack; no secret shows in its `repr`."""

    postgres_port: int
    seaweed_ports: dict[str, int]
    postgres_password: str = field(default_factory=_secret, repr=False)
    s3_access_key: str = field(default_factory=_secret, repr=False)
    s3_secret_key: str = field(default_factory=_secret, repr=False)
    signing_key: str = field(default_factory=_secret, repr=False)
    """Signs what SeaweedFS' parts ask of each other, so that nobody else can ask it."""


def settings_with_free_ports(
    remembered: StackSettings | None, running: frozenset[str] = frozenset()
) -> StackSettings:
    """Settings whose ports are free now; remembered ports are kept where they are free.

    Args:
        remembered: the settings of the last start; None makes new credentials.
        running: servers (`postgres`, `s3`) that run now and hold their ports themselves.
    """
    postgres = {} if remembered is None else {"postgres": remembered.postgres_port}
    seaweed = {} if remembered is None else remembered.seaweed_ports
    kept = {
        **{name: port for name, port in postgres.items() if "postgres" in running or is_free(port)},
        **{name: port for name, port in seaweed.items() if "s3" in running or is_free(port)},
    }
    missing = [name for name in ("postgres", *_SEAWEED_PORTS) if name not in kept]
    ports = kept | dict(zip(missing, free_ports(len(missing), kept.values()), strict=True))
    postgres_port = ports.pop("postgres")
    if remembered is None:
        return StackSettings(postgres_port=postgres_port, seaweed_ports=ports)
    return replace(remembered, postgres_port=postgres_port, seaweed_ports=ports)


def load_settings(state_dir: Path) -> StackSettings | None:
    """The settings in `state_dir`, or None where no stack was ever started.

    Raises:
        StackError: the file is there and cannot be used.
    """
    path = state_dir / _FILE
    try:
        return StackSettings(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StackError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        # The chain is cut: what json quotes of the file could be a secret.
        raise StackError(
            f"{path} is damaged ({type(error).__name__}); restore it, or delete {state_dir} "
            "to begin afresh: without it nobody can log in to the data beside it"
        ) from None


def save_settings(state_dir: Path, settings: StackSettings) -> None:
    """Write the settings so that a reader sees the old file or the new one, whole."""
    temporary = state_dir / f"{_FILE}.new"
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
        json.dump(asdict(settings), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(state_dir / _FILE)
