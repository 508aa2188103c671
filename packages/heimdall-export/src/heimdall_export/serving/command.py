"""`heimdall-serve`: positions over HTTP."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn

from heimdall_export.errors import ExportError
from heimdall_export.temporary import remove_unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_MODEL = "models:/heimdall-localization-onnx@production"
_ANSWERS_S = 30
"""Seconds after a signal, and after bodies have arrived, for answers to be computed and read."""
_VARIABLES = """variables:
  HEIMDALL_SERVE_TOKEN    callers must send it: Authorization: Bearer TOKEN
  HEIMDALL_MODEL_CACHE    folder for downloaded models
  HEIMDALL_S3_*           the object store; MLFLOW_TRACKING_URI the registry
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve until a signal; exit 0 after SIGTERM, 1 failed, 2 wrong usage, 130 interrupted."""
    flags = parse_flags(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    status = 0
    try:
        asyncio.Runner().run(_serve(flags))
    except SystemExit:  # SIGTERM
        pass
    except KeyboardInterrupt:
        status = 130
    except ExportError as error:
        print(f"heimdall-serve: {error}", file=sys.stderr)
        status = 1
    # Neither the runner nor the interpreter is closed: both wait for threads, and a thread that
    # loads a model waits for a store that may never answer.
    remove_unfinished()
    os._exit(status)


def parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exit 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="heimdall-serve",
        description="Answer over HTTP with the position of a transmitter, from recordings.",
        epilog=_VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        nargs="?",
        default=os.environ.get("HEIMDALL_MODEL") or DEFAULT_MODEL,
        help="a model file, s3://bucket/key or models:/name@alias (default: HEIMDALL_MODEL, or "
        f"{DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--challenger",
        metavar="MODEL",
        help="a second model, asked in silence: its answers are counted and logged",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_between(0, 65535, int), default=8000, help="0 for a free one (%(default)s)"
    )
    parser.add_argument(
        "--poll-s",
        type=_between(0.01, 86400),
        default=os.environ.get("HEIMDALL_POLL_S") or 30.0,
        help="seconds between two questions to the registry (default: HEIMDALL_POLL_S, or 30)",
    )
    parser.add_argument(
        "--upload-s",
        type=_between(0.01, 86400),
        default=os.environ.get("HEIMDALL_UPLOAD_S") or 30.0,
        help="seconds in which a request must arrive (default: HEIMDALL_UPLOAD_S, or 30)",
    )
    parser.add_argument("-V", "--version", action="version", version=version("heimdall-export"))
    return parser.parse_args(arguments)


def _between(low: float, high: float, kind: type[float] = float) -> Callable[[str], float]:
    """Reader of a flag's number."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= (number := kind(text)) <= high:
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {low:g} to {high:g}")

    return read


async def _serve(flags: argparse.Namespace) -> None:
    """Listen, load the model, and answer until a signal.

    Raises:
        ExportError: The service is not installed whole, the address is taken, or the model cannot
            be loaded.
    """
    try:
        import uvicorn

        from heimdall_export.serving.app import Service, ServiceConfig, make_app
    except ModuleNotFoundError as error:
        raise ExportError(
            f"the service needs {error.name}: pip install 'heimdall-export[service]'"
        ) from error
    service = Service(
        ServiceConfig(
            model=flags.model,
            challenger=flags.challenger,
            poll_s=flags.poll_s,
            upload_s=flags.upload_s,
            token=os.environ.get("HEIMDALL_SERVE_TOKEN") or None,
            cache_dir=os.environ.get("HEIMDALL_MODEL_CACHE") or None,
        )
    )
    with listen(flags.host, flags.port) as listening:
        host, port = listening.getsockname()[:2]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        config = uvicorn.Config(
            make_app(service),
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=math.ceil(flags.upload_s) + _ANSWERS_S,
        )
        server = uvicorn.Server(config)

        def stop(_: object) -> None:
            server.should_exit = True

        working = asyncio.create_task(service.work())
        working.add_done_callback(stop)
        await server.serve([listening])
        if working.done():
            working.result()
        working.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for callers.

    Raises:
        ExportError: The address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise ExportError(
            f"cannot listen on {host}, port {port}: {reason}; give another --host or --port"
        ) from error
    # Otherwise the end of an answer waits 40 ms for the caller to acknowledge its beginning.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
