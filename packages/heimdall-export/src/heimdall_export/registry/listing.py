"""The versions of a registered model, read without MLflow, whose import takes seconds.

A registry in a database is read with one query for each of three tables, one over HTTP by the
interface that MLflow keeps stable ("REST API", version 2.0). What is not as expected is left to
MLflow itself: another kind of address, and a database of another schema or that does not answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from heimdall_export.contract import REGISTERED_MODEL
from heimdall_export.errors import ExportError
from heimdall_export.registry.versions import newest_first, version_in
from heimdall_export.tracking.address import with_driver
from heimdall_export.tracking.rest import get

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from heimdall_export.registry.versions import RegisteredVersion

_IS_PROMPT = "mlflow.prompt.is_prompt"
"""Tag of a version that is a prompt, which MLflow keeps in the same tables."""
_TIMEOUT_S = 10
_PAGE = 1000
"""Versions in one answer of a server."""
_OF_MODEL = "WHERE workspace = 'default' AND name = :name"
_VERSIONS = (
    f"SELECT version, run_id FROM model_versions {_OF_MODEL} "  # noqa: S608 - both are constants
    "AND current_stage <> 'Deleted_Internal'"
)
_TAGS = f"SELECT version, key, value FROM model_version_tags {_OF_MODEL}"  # noqa: S608
_ALIASES = f"SELECT version, alias FROM registered_model_aliases {_OF_MODEL}"  # noqa: S608


def list_versions(
    tracking: str | MlflowClient, model_name: str = REGISTERED_MODEL
) -> tuple[RegisteredVersion, ...]:
    """Every version of a model, newest first; empty where there is no such model.

    `tracking` is the registry's address or an open client of it; `ExportError` if it cannot be
    reached.
    """
    if isinstance(tracking, str) and tracking.startswith(("http://", "https://")):
        return _over_http(tracking, model_name)
    try:
        if isinstance(tracking, str):
            found = _in_database(tracking, model_name)
            if found is not None:
                return found
        from heimdall_export.registry.registry import registered, versions_of
        from heimdall_export.tracking.client import mlflow_errors, open_client
    except ModuleNotFoundError as error:
        raise ExportError(
            f"a registry that is not at http:// needs {error.name}: pip install "
            "'heimdall-export[mlflow]', or set MLFLOW_TRACKING_URI to an MLflow server"
        ) from error
    client = open_client(tracking) if isinstance(tracking, str) else tracking
    with mlflow_errors(f"list the versions of {model_name!r}"):
        model = registered(client, model_name)
        return () if model is None else versions_of(client, model)


def find_version(tracking_uri: str, model_name: str, version: str) -> RegisteredVersion:
    """One version of a model; `ExportError` if there is none or the registry is out of reach."""
    return version_in(list_versions(tracking_uri, model_name), model_name, version)


def _in_database(tracking_uri: str, model_name: str) -> tuple[RegisteredVersion, ...] | None:
    """The versions in a database; None if it is not a database as MLflow 3 makes it."""
    from sqlalchemy import create_engine, make_url, text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = make_url(with_driver(tracking_uri))
        is_file = url.get_backend_name() == "sqlite"
        if is_file and not Path(url.database or "").is_file():
            return ()
        options = {} if is_file else {"connect_timeout": _TIMEOUT_S}
        engine = create_engine(url, connect_args=options)
        try:
            with engine.connect() as connection:
                runs, tags, aliases = (
                    connection.execute(text(query), {"name": model_name}).all()
                    for query in (_VERSIONS, _TAGS, _ALIASES)
                )
        finally:
            engine.dispose()
    except SQLAlchemyError:
        return None
    prompts = {version for version, key, _ in tags if key == _IS_PROMPT}
    models = [(version, run_id) for version, run_id in runs if version not in prompts]
    return newest_first(models, map(tuple, tags), map(tuple, aliases))


def _over_http(tracking_uri: str, model_name: str) -> tuple[RegisteredVersion, ...]:
    """The versions that an MLflow server tells of."""
    quote = '"' if "'" in model_name else "'"  # MLflow knows no escape
    of_model = f"name = {quote}{model_name}{quote}"
    search = {"filter": of_model, "max_results": str(_PAGE), "page_token": ""}
    found: list[dict[str, Any]] = []
    while True:
        page = get(tracking_uri, "model-versions/search", search)
        found += page.get("model_versions", ())
        if not (token := page.get("next_page_token")):
            break
        search["page_token"] = token
    if not found:
        return ()
    model = get(tracking_uri, "registered-models/get", {"name": model_name})
    return newest_first(
        ((int(one["version"]), one.get("run_id")) for one in found),
        (
            (int(one["version"]), tag["key"], tag.get("value", ""))
            for one in found
            for tag in one.get("tags", ())
        ),
        (
            (int(alias["version"]), alias["alias"])
            for alias in model["registered_model"].get("aliases", ())
        ),
    )
