"""The versions of a registered model.

Importing MLflow takes seconds, so a registry in a database is read with one query of MLflow's
tables. Whatever is not as expected is left to MLflow itself: another kind of address, a database
with other tables, and workspaces.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_features.addresses import redacted, shown_address

from heimdall_export.contract import REGISTERED_MODEL
from heimdall_export.errors import ExportError, OutOfReach
from heimdall_export.registry.versions import version_in, versions_from_rows
from heimdall_export.tracking.address import database_engine, require_address

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from heimdall_export.registry.versions import RegisteredVersion

_OF_MODEL = "WHERE workspace = 'default' AND name = :name"
# One statement sees one state of the database.
_QUERY = f"""
SELECT 'run', version, run_id, NULL FROM model_versions {_OF_MODEL}
    AND current_stage <> 'Deleted_Internal'
UNION ALL SELECT 'tag', version, key, value FROM model_version_tags {_OF_MODEL}
UNION ALL SELECT 'alias', version, alias, NULL FROM registered_model_aliases {_OF_MODEL}
"""  # noqa: S608 - put together from constants
_IS_PROMPT = "mlflow.prompt.is_prompt"
"""Tag of prompts, which MLflow keeps in the same tables."""


def list_versions(
    tracking: str | MlflowClient, model_name: str = REGISTERED_MODEL
) -> tuple[RegisteredVersion, ...]:
    """Every version of a model, newest first; empty where there is no such model.

    `tracking` is the registry's address or an open client of it.

    Raises:
        ExportError: The registry cannot be reached, or the extra `mlflow` is not installed.
    """
    try:
        if isinstance(tracking, str):
            found = _in_database(tracking, model_name)
            if found is not None:
                return found
        from heimdall_export.registry.registry import registered, versions_of
        from heimdall_export.tracking.client import mlflow_errors, open_client
    except ModuleNotFoundError as error:
        raise ExportError(
            f"reading the registry needs {error.name}: pip install 'heimdall-export[mlflow]'"
        ) from error
    client = open_client(tracking) if isinstance(tracking, str) else tracking
    with mlflow_errors(f"list the versions of {model_name!r}"):
        model = registered(client, model_name)
        return () if model is None else versions_of(client, model)


def find_version(tracking_uri: str, model_name: str, version: str) -> RegisteredVersion:
    """One version of a model; `ExportError` if there is none or the registry is out of reach."""
    return version_in(list_versions(tracking_uri, model_name), model_name, version)


def _in_database(tracking_uri: str, model_name: str) -> tuple[RegisteredVersion, ...] | None:
    """The versions in a database; None if it is not one as MLflow 3 makes it.

    Raises:
        OutOfReach: It does not answer.
    """
    if not tracking_uri.startswith(("sqlite:///", "postgres")) or "?" in tracking_uri:
        return None
    if os.environ.get("MLFLOW_ENABLE_WORKSPACES") or os.environ.get("MLFLOW_WORKSPACE"):
        return None
    require_address(tracking_uri)
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    try:
        engine = database_engine(tracking_uri)
        if engine.name == "sqlite" and not Path(engine.url.database or "").exists():
            return ()
    except (SQLAlchemyError, OSError, ValueError):
        return None
    try:
        with engine.connect() as connection:
            try:
                rows = connection.execute(text(_QUERY), {"name": model_name}).all()
            except (SQLAlchemyError, UnicodeEncodeError):
                return None
    except OperationalError as error:
        first_line = redacted(str(error.orig), tracking_uri).strip().partition("\n")[0]
        place = shown_address(tracking_uri)
        raise OutOfReach(f"MLflow cannot open {place}: {first_line}") from error
    finally:
        engine.dispose()
    tags = [row[1:] for row in rows if row[0] == "tag"]
    if any(key == _IS_PROMPT and value == "true" for _, key, value in tags):
        return ()
    return versions_from_rows(
        [row[1:3] for row in rows if row[0] == "run"],
        tags,
        [row[1:3] for row in rows if row[0] == "alias"],
    )
