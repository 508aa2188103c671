"""A small process that stops a stack whose owner was killed.

Run as `python -m heimdall_data.embedded.watchdog STATE_DIR TOKEN`. It stands in a session
of its own, so that neither Ctrl-C nor a closing terminal ends it before its work is done.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from heimdall_data.embedded.postgres import PostgresServer
from heimdall_data.embedded.seaweed import SeaweedServer
from heimdall_data.embedded.state import disown, exclusive, is_alive, read_owner

__all__ = ["watch"]

_INTERVAL_S = 0.3


def watch(state_dir: Path, token: str) -> None:
    """Wait for the owner to end; then stop its stack, unless another process took it over."""
    while is_alive(token):
        time.sleep(_INTERVAL_S)
    if not state_dir.exists():
        # Deleted under the servers: there is no lock to take, and nobody to start them.
        _stop(state_dir)
        return
    with exclusive(state_dir):
        if read_owner(state_dir) == token:
            _stop(state_dir)
            disown(state_dir)


def _stop(state_dir: Path) -> None:
    SeaweedServer(state_dir).stop()
    PostgresServer(state_dir).stop()


if __name__ == "__main__":
    watch(Path(sys.argv[1]), sys.argv[2])
