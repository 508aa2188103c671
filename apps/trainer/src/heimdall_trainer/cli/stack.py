"""`heimdall stack`: embedded Postgres and S3 servers."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from heimdall_export.atomic import write_whole

from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import TrainerError
from heimdall_trainer.flags import Json, command_group

if TYPE_CHECKING:
    from heimdall_data.embedded import EmbeddedStack

app = command_group("stack")
WHERE = Parameter(
    env_var="HEIMDALL_STATE_DIR", help="Where their data, ports and credentials are kept."
)
StateDir = Annotated[Path | None, WHERE]


def _stack(state_dir: Path | None) -> EmbeddedStack:
    from heimdall_data.embedded import EmbeddedStack

    return EmbeddedStack(Connections(state_dir=state_dir).state_directory())


@app.command
def up(*, state_dir: StateDir = None) -> None:
    """Start Postgres and S3, and leave them running."""
    from heimdall_data import Catalogue

    stack = _stack(state_dir)
    stack.start(detached=True)
    with Catalogue(stack.database_url) as catalogue:
        catalogue.create_schema()
    variables = Connections.to_stack(stack).environment(defaults=False)
    lines = (f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    path = stack.state_dir / "stack.env"
    write_whole(path, "".join(lines), mode=0o600)
    print(f"running; their addresses and credentials are in {path}")
    print(f"use them with:  set -a; . {shlex.quote(str(path))}; set +a")


@app.command
def down(*, state_dir: StateDir = None) -> None:
    """Stop Postgres and S3; their data stays."""
    print("stopped" if _stack(state_dir).stop() else "nothing was running")


@app.command
def status(*, json: Json = False, state_dir: StateDir = None) -> None:
    """Say which servers run; exit status 1 where one does not.

    Raises:
        TrainerError: A server does not answer.
    """
    found = _stack(state_dir).status()
    if json:
        print(dumps([asdict(server) for server in found.servers], indent=2))
    for server in () if json else found.servers:
        state = "ready" if server.ready else "not running"
        port = f"port {server.port}" if server.port else "no port"
        print(f"{server.name:10s} {state:12s} {port}  pid {server.pid or '-'}")
    if not found.running:
        raise TrainerError("the stack is not running; start it with `heimdall stack up`")
