"""MLflow as a library: found without telemetry, quiet, and with errors in one line.

The only module that imports MLflow first; the others import it through here, because what
follows must hold before MLflow is imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from heimdall_export.errors import ExportError

# MLflow reports home unless told not to, and draws bars for seven small files.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import mlflow
from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client
from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MlflowClient", "MlflowException", "mlflow", "open_client", "told_plainly"]

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
    """
    try:
        yield
    except (MlflowException, OSError, Boto3Error, BotoCoreError, ClientError) as error:
        raise ExportError(f"MLflow cannot {doing}: {_first_line(error)}") from error
    except SQLAlchemyError as error:
        raise ExportError(f"MLflow cannot {doing}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def open_client(tracking_uri: str) -> MlflowClient:
    """A client of a tracking server and registry; MLflow's global settings are left alone.

    Raises:
        ExportError: The address is none that MLflow knows, or its database cannot be opened.
    """
    with told_plainly(f"open {without_password(tracking_uri)}"):
        return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def without_password(uri: str) -> str:
    """An address as it may be shown: no user, no password."""
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"
