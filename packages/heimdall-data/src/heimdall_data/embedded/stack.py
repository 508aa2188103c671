"""The two servers as one: starting, stopping and status.

A stack is either detached (`start(detached=True)`, until `stop`) or owned by the process that
started it and ended with it: by the context manager, or by the watchdog if that process was
killed. A stack that already runs is used and left running.

The file `owner` in the state directory names the owner by process number and start time, since a
number alone may belong to another process later.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from heimdall_data.embedded import state
from heimdall_data.embedded.postgres import PostgresServer
from heimdall_data.embedded.seaweed import SeaweedServer
from heimdall_data.embedded.server import is_alive
from heimdall_data.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heimdall_data.embedded.server import Server
    from heimdall_data.object_store.settings import S3Settings

_ATTEMPTS = 3
_WATCH_EVERY_S = 0.3
_WATCHDOG = "import sys; from heimdall_data.embedded.stack import watch; watch(*sys.argv[1:])"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """One server: its process, its port, and whether it answers."""

    name: str
    pid: int | None
    port: int | None
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StackStatus:
    """Both servers of the stack in one state directory."""

    state_dir: Path
    servers: tuple[ServerStatus, ...]
    detached: bool
    """True if it outlives the process that started it."""

    @property
    def running(self) -> bool:
        """Return True if both servers run and answer."""
        return all(server.ready for server in self.servers)


class EmbeddedStack:
    """Postgres and S3 under one state directory.

    As a context manager it starts what does not run and stops, at the end, what it started.
    """

    def __init__(self, state_dir: Path | str) -> None:
        self.state_dir = Path(state_dir).expanduser().resolve()
        self._owner_file = self.state_dir / "owner"
        self._postgres = PostgresServer(self.state_dir)
        self._seaweed = SeaweedServer(self.state_dir)
        self._servers: tuple[Server, ...] = (self._seaweed, self._postgres)
        self._token: str | None = None
        """Content of the owner's file while this object owns the stack."""
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop what this object started, unless it was made detached meanwhile."""
        if self._token is None:
            return
        with state.exclusive(self.state_dir):
            if _read(self._owner_file) == self._token:
                _stop(self._servers)
            self._end_ownership()

    @property
    def database_url(self) -> str:
        """Connection string of the catalogue's database, with the password."""
        return self._postgres.url(self._settings())

    @property
    def s3(self) -> S3Settings:
        """Address of the object store and our credentials for it."""
        return self._seaweed.s3_settings(self._settings())

    @property
    def is_anothers(self) -> bool:
        """True if another process started the servers, and ends them with itself."""
        owner = _read(self._owner_file)
        return self._token is None and owner is not None and is_alive(owner)

    def start(self, *, detached: bool = False) -> None:
        """Start what does not run yet; return when both servers are ready.

        Args:
            detached: Keep it running after this process, until `stop`. A running stack that
                belongs to another process is taken over.

        Raises:
            StackError: It cannot be done; servers started meanwhile are stopped again.
        """
        with state.exclusive(self.state_dir):
            if detached:
                self._owner_file.unlink(missing_ok=True)
            idle = [server for server in self._servers if server.pid() is None]
            owner = _read(self._owner_file)
            abandoned = owner is not None and not is_alive(owner)
            if (len(idle) == len(self._servers) or abandoned) and not detached:
                self._own()
            try:
                self._start(idle)
            except BaseException as error:
                _stop(idle)
                self._end_ownership()
                if isinstance(error, OSError):
                    raise StackError(f"cannot start in {self.state_dir}: {error}") from error
                raise

    def stop(self) -> bool:
        """Stop both servers, whoever started them; return whether any was running."""
        with state.exclusive(self.state_dir):
            running = any(server.pid() is not None for server in self._servers)
            _stop(self._servers)
            self._owner_file.unlink(missing_ok=True)
            self._end_ownership()
        return running

    def status(self) -> StackStatus:
        """Return the servers' processes and ports, and whether they answer."""
        settings = state.load_settings(self.state_dir)
        pids = {server: server.pid() for server in self._servers}
        owner = _read(self._owner_file)
        return StackStatus(
            state_dir=self.state_dir,
            servers=tuple(
                ServerStatus(
                    name=server.name,
                    pid=pid,
                    port=None if settings is None else settings.port(server.key),
                    ready=pid is not None and settings is not None and server.ready(settings),
                )
                for server, pid in pids.items()
            ),
            detached=any(pids.values()) and not (owner is not None and is_alive(owner)),
        )

    def _settings(self) -> state.StackSettings:
        settings = state.load_settings(self.state_dir)
        if settings is None:
            raise StackError(
                f"no stack was ever started in {self.state_dir}; run `heimdall stack up`"
            )
        return settings

    def _start(self, idle: list[Server]) -> None:
        """Launch the idle servers; try again on other ports if another process took one."""
        remembered = state.load_settings(self.state_dir)
        if remembered is None and any(server.data.exists() for server in self._servers):
            raise StackError(
                f"{self.state_dir} holds a stack's data but not its stack.json, without which "
                "nobody can log in; restore the file, or delete the directory to start afresh"
            )
        for server in idle:
            server.require()
        running = frozenset(server.key for server in self._servers if server not in idle)
        settings = state.settings_with_free_ports(remembered, running)
        for attempt in range(_ATTEMPTS):
            # Saved first, so that the servers can be used even if we are killed now.
            state.save_settings(self.state_dir, settings)
            try:
                for server in idle:
                    server.launch(settings)
                for server in self._servers:
                    server.wait_ready(settings)
            except StackError:
                _stop(idle)
                other = state.settings_with_free_ports(settings, running)
                if other == settings or attempt == _ATTEMPTS - 1:
                    raise
                settings = other
            else:
                return

    def _own(self) -> None:
        """Make this process the owner, and start the watchdog."""
        me = psutil.Process()
        self._token = f"{me.pid} {me.create_time()}"
        self._owner_file.write_text(self._token, encoding="utf-8")
        self._watchdog = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-c", _WATCHDOG, str(self.state_dir), self._token],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # neither Ctrl-C nor a closing terminal ends it
        )

    def _end_ownership(self) -> None:
        if self._token is not None and _read(self._owner_file) == self._token:
            self._owner_file.unlink(missing_ok=True)
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()
        self._token = self._watchdog = None


def watch(directory: str, token: str) -> None:
    """Wait for the owner to end; then stop its stack, unless another process took it over."""
    while is_alive(token):
        time.sleep(_WATCH_EVERY_S)
    state_dir, servers = Path(directory), EmbeddedStack(directory)._servers
    if not state_dir.exists():
        _stop(servers)  # deleted under the servers, with the lock
        return
    with state.exclusive(state_dir):
        if _read(state_dir / "owner") == token:
            _stop(servers)
            (state_dir / "owner").unlink(missing_ok=True)


def _read(owner_file: Path) -> str | None:
    """Owner's process number and start time, or None for a stack without an owner."""
    try:
        return owner_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _stop(servers: Iterable[Server]) -> None:
    for server in servers:
        server.stop()
