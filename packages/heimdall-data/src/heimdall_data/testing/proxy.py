"""A TCP proxy that misbehaves on command, for faults that no real server shows when asked.

Behind it is a real server, in front of it the real client.
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from typing import TYPE_CHECKING, ClassVar

from heimdall_data.embedded.state import LOOPBACK

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["FaultyProxy"]

_CHUNK_BYTES = 1 << 16
_BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: 76\r\n\r\n<Error><Code>SlowDown</Code><Message>Reduce your rate."
    b"</Message></Error>    "
)


class FaultyProxy:
    """A proxy of the server at `host:port`; its faults can be changed at any time."""

    def __init__(self, host: str, port: int) -> None:
        """Listen on a free port; the faults below are off."""
        self.behind = (host, port)
        self.bytes_per_s: float | None = None
        """Rate of the server's answers; None does not limit it."""
        self.silent = False
        """Connections are taken, and nothing ever comes."""
        self.cut_after_bytes: int | None = None
        """A connection ends once so many bytes have come from the server."""
        self.cuts_left = 0
        """Number of further connections that are cut so."""
        self.busy_left = 0
        """Number of further connections that get the answer 503 SlowDown."""
        self.flip_left = 0
        """Number of further answers in which the last bit of a chunk is flipped."""
        self.connections = 0
        """Number of connections so far."""
        self._server = _listen(self, 0)
        self.port: int = self._server.server_address[1]

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"http://{LOOPBACK}:{self.port}"

    def down(self) -> None:
        """Refuse connections and cut those that are open, as when the server was killed."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.open):
            _hang_up(connection)

    def up(self) -> None:
        """Take connections again, on the same port."""
        self._server = _listen(self, self.port)

    def down_for(self, seconds: float) -> threading.Timer:
        """Be down, and come back after a while; `join` the result to know that it is over."""
        self.down()
        back = threading.Timer(seconds, self.up)
        back.start()
        return back

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    proxy: FaultyProxy
    open: set[socket.socket]


class _Connection(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket
    turns: ClassVar[threading.Lock] = threading.Lock()

    def handle(self) -> None:
        proxy = self.server.proxy
        proxy.connections += 1
        self.server.open.add(self.request)
        if self._takes("busy_left"):
            self.request.recv(_CHUNK_BYTES)
            self.request.sendall(_BUSY)
            return
        with socket.create_connection(proxy.behind) as behind:
            self.server.open.add(behind)
            asking = threading.Thread(target=_forward, args=(self.request, behind), daemon=True)
            asking.start()
            self._answer(proxy, behind)
            _hang_up(behind)
            _hang_up(self.request)
            asking.join()
        self.server.open -= {behind, self.request}

    def _answer(self, proxy: FaultyProxy, behind: socket.socket) -> None:
        sent = 0
        try:
            while chunk := behind.recv(_CHUNK_BYTES):
                limit = proxy.cut_after_bytes
                if limit is not None and sent + len(chunk) > limit and self._takes("cuts_left"):
                    self.request.sendall(chunk[: limit - sent])
                    return
                if len(chunk) > 1000 and self._takes("flip_left"):
                    chunk = chunk[:-1] + bytes([chunk[-1] ^ 1])
                self._send(proxy, chunk)
                sent += len(chunk)
        except OSError:
            return

    def _send(self, proxy: FaultyProxy, chunk: bytes) -> None:
        while proxy.silent:
            time.sleep(0.02)
        if proxy.bytes_per_s is None:
            self.request.sendall(chunk)
            return
        step = max(1, int(proxy.bytes_per_s / 20))
        for start in range(0, len(chunk), step):
            self.request.sendall(chunk[start : start + step])
            time.sleep(step / proxy.bytes_per_s)

    def _takes(self, faults: str) -> bool:
        """Whether this connection gets one of the faults that are left."""
        with self.turns:
            left: int = getattr(self.server.proxy, faults)
            setattr(self.server.proxy, faults, max(0, left - 1))
        return left > 0


def _listen(proxy: FaultyProxy, port: int) -> _Server:
    server = _Server((LOOPBACK, port), _Connection)
    server.proxy = proxy
    server.open = set()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def _forward(source: socket.socket, sink: socket.socket) -> None:
    try:
        while chunk := source.recv(_CHUNK_BYTES):
            sink.sendall(chunk)
    except OSError:
        return


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself
