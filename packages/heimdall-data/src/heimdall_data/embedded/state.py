"""What a stack remembers between starts: its ports and its generated credentials.

One JSON file of mode 0600 in the state directory, replaced atomically.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from heimdall_data.embedded.ports import free_ports, is_free
from heimdall_data.errors import StackError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["StackSettings", "load_settings", "save_settings", "settings_with_free_ports"]

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
