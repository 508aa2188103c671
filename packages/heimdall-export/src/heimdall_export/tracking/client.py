"""The MLflow library: without telemetry, quiet, and with errors of one line.

The other modules import this one before MLflow, because the environment that it sets must be there
before MLflow is imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_features.addresses import (
    certificate_problem,
    no_proxy_here,
    redacted,
    shown_address,
)

from heimdall_export.errors import ExportError, OutOfReach
from heimdall_export.temporary import lock
from heimdall_export.tracking.address import (
    TIMEOUT_S,
    database_engine,
    is_unverified,
    require_address,
    server_certificates,
    with_driver,
)

# MLflow reports home unless told not to, and draws bars for seven small files.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# A server that is gone costs half a minute a call, long enough for it to be restarted; MLflow's
# seven attempts take four minutes, at the end of which the training still waits.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
os.environ.update(no_proxy_here())
if not is_unverified() and (_trusted := server_certificates()):
    os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"] = _trusted

from boto3.exceptions import Boto3Error  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from sqlalchemy import inspect
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from heimdall_export.object_store.store import temporary_environment

# MLflow cannot be imported without a home, which users of containers often have not.
_is_homeless = os.path.expanduser("~") == "~"  # noqa: PTH111 - Path's raises
with temporary_environment({"HOME": tempfile.gettempdir()} if _is_homeless else {}):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.telemetry import set_telemetry_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_export.object_store.store import ArtifactStore

_REFUSALS = (
    MlflowException,
    OSError,
    ImportError,  # the driver of a database
    Boto3Error,
    BotoCoreError,
    ClientError,
    SQLAlchemyError,
)
_TRANSIENT = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""MLflow's codes of a server that is not there, and of a database that its server cannot reach."""
_REMEDIES = {
    "RequestTimeTooSkewed": "set this machine's clock or the store's (NTP)",
    "statement timeout": "raise statement_timeout of the user of MLflow's database",
}
"""Remedies by a part of the message, for causes that look like another."""
TABLES_S = 60.0
"""How long others may take to make MLflow's tables; whoever locks a folder longer does not."""
NO_RETRIES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S),
}
"""The environment in which MLflow asks a server only once."""
_opened: set[str] = set()
"""Addresses of this process, whose passwords the messages of libraries may have."""

# Ends the client of a process that imported MLflow before this module set its environment.
set_telemetry_client()  # type: ignore[no-untyped-call]
for _chatty in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)
# It warns that it cannot find pip, in environments that were made without.
logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)


@contextlib.contextmanager
def mlflow_errors(doing: str) -> Iterator[None]:
    """Turn the errors of MLflow and its stores into one line: "MLflow cannot {doing}: ...".

    Raises:
        OutOfReach: It does not answer, or is temporarily unable to.
        ExportError: It refuses.
    """
    try:
        yield
    except _REFUSALS as error:
        text = redacted(str(error), *_opened).strip()
        code = getattr(error, "error_code", None)
        is_transient = code in _TRANSIENT or isinstance(error, (OSError, OperationalError))
        said = certificate_problem(text) or text.partition("\n")[0] or type(error).__name__
        remedies = (f"; {remedy}" for cause, remedy in _REMEDIES.items() if cause in said)
        # A traceback must not show a password either.
        chain = "".join(traceback.format_exception(error))
        raise (OutOfReach if is_transient else ExportError)(
            f"MLflow cannot {doing}: {said}{next(remedies, '')}"
        ) from (error if redacted(chain, *_opened) == chain else None)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes or changes MLflow's tables in a folder, which it does without a lock."""
    with contextlib.ExitStack() as opened:
        with contextlib.suppress(OSError):  # a system without locks, or a folder not to be read
            descriptor = os.open(folder, os.O_RDONLY)
            opened.callback(os.close, descriptor)
            until_s = time.monotonic() + TABLES_S
            while not lock(descriptor) and time.monotonic() < until_s:
                time.sleep(0.05)
        yield


def open_client(tracking_uri: str) -> MlflowClient:
    """A client of a tracking server and registry that answers now.

    MLflow asks a server that does not answer again and again, which is right in the middle of a
    run; here, before one begins, it is asked once. MLflow's global settings are left alone.

    Raises:
        ExportError: MLflow does not know such an address, or nobody answers there.
    """
    require_address(tracking_uri)
    _opened.add(tracking_uri)
    uri = with_driver(tracking_uri)
    with mlflow_errors(f"open {shown_address(tracking_uri)}"):
        with contextlib.ExitStack() as held:
            if uri.startswith(("postgresql", "sqlite:///")):
                engine = database_engine(uri)
                if engine.name == "sqlite":
                    folder = Path(engine.url.database or "").parent
                    folder.mkdir(parents=True, exist_ok=True)
                    held.enter_context(_alone(folder))
                try:
                    engine.connect().close()
                finally:
                    engine.dispose()
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if uri.startswith("http"):
            with temporary_environment(NO_RETRIES):
                client.search_experiments(max_results=1)
    return client


def artifact_location(tracking_uri: str, experiment: str) -> str | None:
    """Address of an experiment's artifacts; None if there is no such experiment.

    MLflow's client creates missing tables, so a database without them is not opened with it.

    Raises:
        ExportError: The experiment was deleted, or MLflow is out of reach or refuses.
    """
    require_address(tracking_uri)
    _opened.add(tracking_uri)
    with mlflow_errors(f"look for experiment {experiment!r}"):
        if tracking_uri.startswith(("sqlite", "postgres")):
            engine = database_engine(tracking_uri)
            if engine.name == "sqlite" and not Path(engine.url.database or "").is_file():
                return None
            try:
                if not inspect(engine).has_table("experiments"):
                    return None
            finally:
                engine.dispose()
        found = open_client(tracking_uri).get_experiment_by_name(experiment)
    if found is None:
        return None
    if found.lifecycle_stage == "deleted":
        raise ExportError(
            f"experiment {experiment!r} was deleted in MLflow: restore it, or choose another name"
        )
    return str(found.artifact_location)


def store_artifact(
    client: MlflowClient,
    run_id: str,
    path: str | os.PathLike[str],
    folder: str | None = None,
    *,
    artifact_store: ArtifactStore | None = None,
) -> str:
    """Store a file, or all of a folder's files, with a run that may have ended.

    They go into `folder` of the run's artifacts, or their root when None. Without an
    `artifact_store`, MLflow finds the S3 of `s3://` artifacts in the environment.

    Returns:
        Address of the run's artifacts.

    Raises:
        ExportError: There is no such file or run, or it cannot be stored.
    """
    source = os.fspath(path)
    if not Path(source).exists():
        raise ExportError(f"no file {source} to store with run {run_id}")
    with mlflow_errors(f"store {source} with run {run_id}"):
        place = str(client.get_run(run_id).info.artifact_uri)
        is_folder = Path(source).is_dir()
        if artifact_store is not None and place.startswith("s3://"):
            with artifact_store.repository(place) as repository:
                put = repository.log_artifacts if is_folder else repository.log_artifact
                put(source, folder)  # type: ignore[no-untyped-call]
        else:
            log = client.log_artifacts if is_folder else client.log_artifact
            log(run_id, source, folder)
    return place
