"""Addresses of trackers and registries, and what MLflow's own variables say of their servers."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from heimdall_features.addresses import ESCAPE, is_ambiguous, shown_address, trusted_certificates

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Engine

TIMEOUT_S = 10
"""MLflow itself would try to connect for 100 s."""


def with_driver(uri: str) -> str:
    """The address with psycopg 3 for `postgresql://`, where SQLAlchemy would look for psycopg2."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri)


def require_address(tracking_uri: str) -> None:
    """Check an address, and the credentials in MLflow's variables, before a library gets them.

    Raises:
        ExportError: Libraries would disagree on where the password ends, and show what they take
            for the host; or a header cannot hold the token, and they would show it.
    """
    if "://" in tracking_uri and is_ambiguous(tracking_uri):
        raise ExportError(f"MLFLOW_TRACKING_URI cannot be taken apart: {ESCAPE}")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token and not re.fullmatch("[!-~]+", token):
        raise ExportError(
            "MLFLOW_TRACKING_TOKEN has a character that no token has, such as a line break; "
            "correct it"
        )


def is_unverified() -> bool:
    """Return True if MLflow's client is told to trust any server."""
    return os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")


def server_certificates() -> str | None:
    """File of the certificates that an MLflow server is judged by, in the client of MLflow too."""
    names = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "SSL_CERT_FILE")
    # `requests`, through which MLflow's client goes, knows the next two.
    found = (os.environ.get(name) for name in (*names, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    return next(filter(None, found), None) or trusted_certificates()


def _prepare_nothing(
    dialect: Dialect, _record: object, _arguments: object, options: dict[str, Any]
) -> None:
    """Connect without prepared statements, which psycopg 3 leaves in a session of the server.

    Behind a pooler such as pgbouncer, the next transaction has another session.
    """
    if dialect.driver == "psycopg":
        options.setdefault("prepare_threshold", None)


def database_engine(uri: str) -> Engine:
    """SQLAlchemy's engine of an address `sqlite:///` or `postgresql://`; it waits for 10 s.

    From then on, no engine of this process prepares statements: MLflow makes its own.

    Raises:
        ExportError: SQLAlchemy cannot take the address apart.
    """
    from sqlalchemy import Engine, create_engine, event, make_url

    if not event.contains(Engine, "do_connect", _prepare_nothing):
        event.listen(Engine, "do_connect", _prepare_nothing)
    try:
        url = make_url(with_driver(uri))
    except ValueError:  # No chain: it may quote the password.
        raise ExportError(
            f"MLflow cannot open {shown_address(uri)}: its port is no number; give one host, as "
            "SQLAlchemy takes no list of them"
        ) from None
    options = {} if url.get_backend_name() == "sqlite" else {"connect_timeout": TIMEOUT_S}
    return create_engine(url, connect_args=options)
