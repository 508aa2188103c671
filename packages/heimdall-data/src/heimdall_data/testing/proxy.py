"""A TCP proxy between a real client and a real server, with faults on request."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from typing import ClassVar

from heimdall_data.embedded.state import LOOPBACK

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
        """Connections are accepted and get no answer."""
        self.cut_after_bytes: int | None = None
        """A connection ends after so many bytes from the server."""
        self.cuts_left = 0
        """Number of further connections to cut."""
        self.busy_left = 0
        """Number of further connections that get the answer 503 SlowDown."""
        self.flip_left = 0
        """Number of further answers in which the last bit of a chunk is flipped."""
        self.connections = 0
        """Number of connections so far."""
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"http://{LOOPBACK}:{self.port}"

    def down(self) -> None:
        """Refuse connections and cut the open ones, like a killed server."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.open):
            hang_up(connection)

    def up(self) -> None:
        """Accept connections, again on the same port."""
        self._server = _Server((LOOPBACK, self.port), _Connection)
        self._server.proxy = self
        self._server.open = set()
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down_for(self, seconds: float) -> threading.Timer:
        """Go down, and come up again after a while; `join` the result to wait for that."""
        self.down()
        back = threading.Timer(seconds, self.up)
        back.start()
        return back

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, *exception: object) -> None:
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
            asking = threading.Thread(target=forward, args=(self.request, behind), daemon=True)
            asking.start()
            with contextlib.suppress(OSError):  # the client or the server has gone
                self._answer(proxy, behind)
            hang_up(behind)
            hang_up(self.request)
            asking.join()
        self.server.open -= {behind, self.request}

    def _answer(self, proxy: FaultyProxy, behind: socket.socket) -> None:
        """Forward the server's answer with the proxy's faults."""
        sent = 0
        while chunk := behind.recv(_CHUNK_BYTES):
            limit = proxy.cut_after_bytes
            if limit is not None and sent + len(chunk) > limit and self._takes("cuts_left"):
                self.request.sendall(chunk[: limit - sent])
                return
            if len(chunk) > 1000 and self._takes("flip_left"):
                chunk = chunk[:-1] + bytes([chunk[-1] ^ 1])
            while proxy.silent:
                time.sleep(0.02)
            rate = proxy.bytes_per_s
            step = len(chunk) if rate is None else max(1, int(rate / 20))
            for start in range(0, len(chunk), step):
                self.request.sendall(chunk[start : start + step])
                time.sleep(0 if rate is None else step / rate)
            sent += len(chunk)

    def _takes(self, faults: str) -> bool:
        """Return True if this connection gets one of the remaining faults."""
        with self.turns:
            left: int = getattr(self.server.proxy, faults)
            setattr(self.server.proxy, faults, max(0, left - 1))
        return left > 0


def forward(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what arrives, until one of the two ends."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            sink.sendall(chunk)


def hang_up(connection: socket.socket) -> None:
    """End a connection for both sides."""
    with contextlib.suppress(OSError):  # it has already ended
        connection.shutdown(socket.SHUT_RDWR)
