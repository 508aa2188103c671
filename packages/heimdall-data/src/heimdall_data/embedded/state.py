"""Ports and credentials of a stack, in its state directory beside the servers' data.

`stack.json` (mode 0600) has the ports and the generated credentials. `stack.lock` is held while
the stack is started or stopped.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import filelock

from heimdall_data.atomic import write_whole
from heimdall_data.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

LOOPBACK = "127.0.0.1"
_SEAWEED_PORTS = tuple(
    f"{part}{kind}"
    for part in ("s3", "master", "volume", "filer", "admin")
    for kind in ("", ".grpc")
)


@contextlib.contextmanager
def exclusive(state_dir: Path, patience_s: float = 90.0) -> Iterator[None]:
    """Hold the state directory's lock, which the kernel frees if this process is killed.

    Raises:
        StackError: The directory cannot be written, or another process held the lock for
            `patience_s` seconds.
    """
    path = state_dir / "stack.lock"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(path).acquire(timeout=patience_s)
    except filelock.Timeout:
        raise StackError(
            f"another process is starting or stopping the stack and holds {path}; "
            "wait for it, or end it"
        ) from None
    except OSError as error:
        raise StackError(
            f"state directory {state_dir} is not writable ({error.strerror}); "
            "set HEIMDALL_STATE_DIR to one that is"
        ) from error
    with held:
        yield


def is_free(port: int) -> bool:
    """Return True if a server could bind `port` on loopback now."""
    with socket.socket() as probe:
        # As servers do: a connection that lingers in TIME_WAIT does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int, avoid: Iterable[int] = ()) -> list[int]:
    """Return `count` different ports that were free a moment ago, none of them in `avoid`.

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


def _secret() -> str:
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """Ports and credentials of one stack; its `repr` shows no secret."""

    postgres_port: int
    seaweed_ports: dict[str, int]
    postgres_password: str = field(default_factory=_secret, repr=False)
    s3_access_key: str = field(default_factory=_secret, repr=False)
    s3_secret_key: str = field(default_factory=_secret, repr=False)
    signing_key: str = field(default_factory=_secret, repr=False)
    """Signs the requests of SeaweedFS' parts to each other, so that nobody else can make them."""

    def port(self, key: str) -> int:
        """Return the port for clients of a server, `postgres` or `s3`."""
        return self.postgres_port if key == "postgres" else self.seaweed_ports["s3"]


def settings_with_free_ports(
    remembered: StackSettings | None, running: frozenset[str] = frozenset()
) -> StackSettings:
    """Settings whose ports are free now, or held by those servers (`postgres`, `s3`) that run.

    Free ports and credentials of the last start are `remembered`; None makes new ones.
    """
    old = {}
    if remembered is not None:
        old = {"postgres": remembered.postgres_port, **remembered.seaweed_ports}
    ports = {
        name: port
        for name, port in old.items()
        if ("postgres" if name == "postgres" else "s3") in running or is_free(port)
    }
    missing = [name for name in ("postgres", *_SEAWEED_PORTS) if name not in ports]
    ports |= zip(missing, free_ports(len(missing), ports.values()), strict=True)
    postgres_port = ports.pop("postgres")
    if remembered is None:
        return StackSettings(postgres_port=postgres_port, seaweed_ports=ports)
    return replace(remembered, postgres_port=postgres_port, seaweed_ports=ports)


def load_settings(state_dir: Path) -> StackSettings | None:
    """Return the settings in `state_dir`, or None if no stack was ever started.

    Raises:
        StackError: The file is there and cannot be used.
    """
    path = state_dir / "stack.json"
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
            "to start afresh: without it nobody can log in to the data beside it"
        ) from None


def save_settings(state_dir: Path, settings: StackSettings) -> None:
    """Write the settings so that a reader sees the old file or the new one, whole."""
    text = json.dumps(asdict(settings), indent=1)
    write_whole(state_dir / "stack.json", text.encode(), mode=0o600, durable=True)
