"""TLS in front of a real server, with the certificate of a private authority."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from heimdall_data.embedded.state import LOOPBACK
from heimdall_data.testing.proxy import forward, hang_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def behind_tls(port: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """Offer the server at a port of this machine by `https://`.

    Yields its URL, and the file with the authority's certificate.
    """
    authority, pair = _written(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            # A client that does not trust the certificate hangs up.
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as outside,
                socket.create_connection((LOOPBACK, port)) as behind,
            ):
                answering = threading.Thread(target=_answer, args=(behind, outside), daemon=True)
                answering.start()
                forward(outside, behind)
                hang_up(behind)
                answering.join()

    with socketserver.ThreadingTCPServer((LOOPBACK, 0), Connection) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"https://{LOOPBACK}:{server.server_address[1]}", authority
        server.shutdown()


def _answer(behind: socket.socket, outside: socket.socket) -> None:
    forward(behind, outside)
    hang_up(outside)


def _written(folder: Path) -> tuple[Path, Path]:
    """Files with an authority's certificate, and with a server's certificate and key."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _builder("Test authority", "Test authority", authority_key)
    signed = authority.add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    ).sign(authority_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))])
    server = _builder("server", "Test authority", key).add_extension(names, critical=False)
    certificate = server.sign(authority_key, hashes.SHA256())
    paths = folder / "authority.pem", folder / "server.pem"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def _builder(name: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    subject, authority = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, issuer)
    )
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
    )
