"""A proxy in front of the real object store that breaks requests on demand.

It forwards bytes as they are, signatures included, so that everything but the fault is real.
"""

import http.client
import http.server
import signal
import threading
from contextlib import contextmanager

HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


def cut(handler):
    """Break the connection without an answer."""
    handler.close_connection = True


def unavailable(handler):
    """Answer 503, as a store does that is overloaded."""
    handler.send_response(503)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def full(handler):
    """Answer 507, as a store does whose disk is full."""
    refuse(handler, 507, "XMinioStorageFull")


def forbidden(handler):
    """Answer 403, as a store does where these credentials may not write."""
    refuse(handler, 403, "AccessDenied")


def refuse(handler, status, code):
    """Answer as S3 tells of an error."""
    body = f"<Error><Code>{code}</Code></Error>".encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def carry_out_and_cut(handler):
    """Do what was asked, and break the connection before the answer."""
    handler.upstream()
    handler.close_connection = True


def ctrl_c(handler):
    """Do what was asked; Ctrl-C arrives in the main thread before the answer."""
    handler.upstream()
    handler.close_connection = True
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def hang(handler):
    """Take the request, and never answer; the client hangs up."""
    handler.connection.settimeout(30)
    handler.rfile.read(1)
    handler.close_connection = True


def damage(handler):
    """Store the object with one bit changed."""
    handler.body = bytes([handler.body[0] ^ 1]) + handler.body[1:]
    handler.answer(*handler.upstream())


def broken_off(handler):
    """Send half of the answer, and break the connection."""
    status, headers, body = handler.upstream()
    handler.send_response_only(status)
    for name, value in headers:
        if name.lower() not in HOP_BY_HOP:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


class Handler(http.server.BaseHTTPRequestHandler):
    """Forwards a request, unless a fault is due."""

    protocol_version = "HTTP/1.1"

    def forward(self):
        """Read the request and do what is due with it."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = f"{self.command} {self.path.partition('?')[0]}"
        self.server.seen.append(request)
        due = next(
            (n for n, (end, _) in enumerate(self.server.faults) if matches(request, end)), None
        )
        if due is None:
            self.answer(*self.upstream())
        else:
            self.server.faults.pop(due)[1](self)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815 - http.server wants them

    def upstream(self):
        """The real store's status, headers and body."""
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        connection.request(self.command, self.path, self.body, dict(self.headers))
        answer = connection.getresponse()
        found = answer.status, answer.getheaders(), answer.read()
        connection.close()
        return found

    def answer(self, status, headers, body):
        """Pass on what the real store said."""
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        """Nothing: pytest's output is for pytest."""


def matches(request, end):
    """Whether a request has the method and the end of the path."""
    method, suffix = end.split(" ")
    return request.startswith(f"{method} ") and request.endswith(suffix)


@contextmanager
def faulty_store(host_and_port, faults):
    """A proxy's address, and the list of requests that it has seen.

    Args:
        host_and_port: The real store.
        faults: (method and end of the path, what to do), each done once.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.upstream, server.faults, server.seen = host_and_port, list(faults), []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", server.seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
