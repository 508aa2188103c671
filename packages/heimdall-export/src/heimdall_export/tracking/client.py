"""MLflow as a library: found without telemetry, quiet, and with errors in one line.

The only module that imports MLflow first; the others import it through here, because what
follows must hold before MLflow is imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_export.errors import ExportError, OutOfReach

# MLflow reports home unless told not to, and draws bars for seven small files.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# A server that is gone costs half a minute a call, long enough for it to be restarted; MLflow's
# seven attempts take four minutes, at the end of which the training still waits.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")

from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from heimdall_export.object_store.settings import lent

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ASKED_ONCE", "MlflowException", "open_client", "told_plainly", "with_driver"]

_REFUSALS = (MlflowException, OSError, Boto3Error, BotoCoreError, ClientError, SQLAlchemyError)
_LATER = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""What MLflow calls a server that is not there, and a database that its server cannot reach."""
_PATIENCE_S = 10
ASKED_ONCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_PATIENCE_S),
}
"""The environment in which MLflow asks a server that does not answer no second time."""
_USER_IN_ADDRESS = re.compile(r"://[^/\s'\"]*@")

# Ends the client of a process that imported MLflow before this module could say no.
set_telemetry_client()  # type: ignore[no-untyped-call]
for _chatty in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)
# It warns that it cannot find pip, in environments that were made without.
logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)


@contextlib.contextmanager
def told_plainly(doing: str) -> Iterator[None]:
    """Turn whatever MLflow or one of its stores raises into one `ExportError`.

    Args:
        doing: Continues the sentence "MLflow cannot".

    Raises:
        OutOfReach: It does not answer, or cannot do anything now.
        ExportError: It refuses.
    """
    try:
        yield
    except _REFUSALS as error:
        raise _plain(doing, error) from _presentable(error)


def _plain(doing: str, error: Exception) -> ExportError:
    first_line = str(error).strip().partition("\n")[0]
    code = getattr(error, "error_code", None)
    is_later = code in _LATER or isinstance(error, (OSError, OperationalError))
    return (OutOfReach if is_later else ExportError)(
        f"MLflow cannot {doing}: {without_password(first_line) or type(error).__name__}"
    )


def _presentable(error: Exception) -> Exception | None:
    """The error, if a traceback may show it."""
    return error if without_password(str(error)) == str(error) else None


def without_password(text: str) -> str:
    """A text as it may be shown: its addresses without user and password."""
    return _USER_IN_ADDRESS.sub("://", text)


def open_client(tracking_uri: str) -> MlflowClient:
    """A client of a tracking server and registry that answers now.

    MLflow asks a server that does not answer again and again, which is right in the middle of a
    run; here, before one begins, it is asked once. MLflow's global settings are left alone.

    Raises:
        ExportError: The address is none that MLflow knows, or nobody answers there.
    """
    uri = with_driver(tracking_uri)
    with told_plainly(f"open {without_password(tracking_uri)}"):
        if uri.startswith(("postgresql", "sqlite:///")):
            _connect_once(make_url(uri))
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if uri.startswith("http"):
            with lent(ASKED_ONCE):
                client.search_experiments(max_results=1)
    return client


def with_driver(uri: str) -> str:
    """The address with psycopg 3 for `postgresql://`, where SQLAlchemy would look for psycopg2."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri)


def _connect_once(url: URL) -> None:
    """MLflow would try ten times, for 100 s, with a warning each time."""
    patience = {"connect_timeout": _PATIENCE_S}
    if is_file := url.get_backend_name() == "sqlite":
        Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={} if is_file else patience)
    try:
        engine.connect().close()
    finally:
        engine.dispose()
