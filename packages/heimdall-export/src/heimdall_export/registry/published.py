"""Which file a `models:/` address means now, and what proves that it is the one.

A version in the registry says in its tags where its file is and what its sha256 is; the alias
says which version. A registry over HTTP is asked without the mlflow package.

What a registry says of one version, over MLflow's HTTP interface and without its package.

A service that follows an alias needs one request of an interface that MLflow keeps stable
("REST API", version 2.0); the package would bring a hundred others with it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heimdall_export.errors import ExportError
from heimdall_export.object_store.settings import ModelStores
from heimdall_export.registry.version import DELETING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow.entities.model_registry import ModelVersion
    from urllib3.util import Url

__all__ = ["SCHEME", "PublishedModel", "ask_registry", "find_published"]


_CONNECT_S, _READ_S = 10.0, 30.0
_CAN_HEAL = (429, 500, 502, 503, 504)


def ask_registry(tracking_uri: str, endpoint: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The answer to one GET request.

    Credentials are those in the address, or MLflow's own: `MLFLOW_TRACKING_USERNAME` with
    `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`.

    Args:
        tracking_uri: Of the server, `http://…` or `https://…`.
        endpoint: Path below `/api/2.0/mlflow/`.
        fields: Of the query.

    Raises:
        ExportError: The server is out of reach, refuses, or is no MLflow.
    """
    import urllib3

    try:
        address = urllib3.util.parse_url(tracking_uri.rstrip("/"))
    except urllib3.exceptions.LocationParseError:  # its message may hold a password
        raise ExportError(
            "MLFLOW_TRACKING_URI is no URL like http://host:5000; correct it"
        ) from None
    place = address._replace(auth=None).url
    try:
        with urllib3.PoolManager(retries=_retries()) as pool:
            answer = pool.request(
                "GET",
                f"{place}/api/2.0/mlflow/{endpoint}",
                fields=dict(fields),
                headers=_headers(address),
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
            )
    except urllib3.exceptions.HTTPError as error:
        raise ExportError(
            f"the registry at {place} is out of reach: {type(error).__name__}; is it running?"
        ) from error
    return _understood(place, answer.status, answer.data)


def _retries() -> Any:  # noqa: ANN401 - urllib3 is an extra
    import urllib3

    return urllib3.Retry(
        total=3, backoff_factor=0.2, status_forcelist=_CAN_HEAL, raise_on_status=False
    )


def _headers(address: Url) -> dict[str, str]:
    import urllib3

    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if address.auth or (user and password):
        login = address.auth or f"{user}:{password}"
        return dict(urllib3.make_headers(basic_auth=login))
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    return {}


def _understood(place: str, status: int, body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ExportError(
            f"what answers at {place} with status {status} is no MLflow; "
            "is MLFLOW_TRACKING_URI right?"
        )
    if status != 200:
        message = str(said.get("message") or said.get("error_code") or f"status {status}")
        raise ExportError(f"the registry at {place} refuses: {message.partition(chr(10))[0]}")
    return said


SCHEME = "models:/"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """One version of a registered model: where its file is, and its hash."""

    name: str
    version: str
    uri: str
    """`s3://bucket/key`"""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What an address asks for: a version, or the one that an alias points at."""

    name: str
    version: str | None = None
    alias: str | None = None


def find_published(address: str, stores: ModelStores | None = None) -> PublishedModel:
    """Ask the registry which version an address means; costs one request.

    Args:
        address: `models:/name@alias` or `models:/name/version`.
        stores: Where the registry is; the environment's when None.

    Raises:
        ExportError: No such address, model, alias or version; the registry is out of reach; or
            the version does not say where its file is and what its hash is.
    """
    wanted = _parsed(address)
    tracking_uri = (stores or ModelStores.from_environment()).need_tracking_uri()
    over_http = tracking_uri.startswith(("http://", "https://"))
    version, tags = (_over_http if over_http else _with_mlflow)(tracking_uri, wanted)
    return _published(wanted.name, version, tags)


def _parsed(address: str) -> _Wanted:
    rest = address.removeprefix(SCHEME)
    if "@" in rest:
        name, _, alias = rest.rpartition("@")
        if name and alias:
            return _Wanted(name=name, alias=alias)
    name, _, version = rest.rpartition("/")
    if not (name and version.isdecimal()):
        raise ExportError(
            f"{address!r} is no address in a registry; give models:/name@alias or "
            "models:/name/version, such as models:/heimdall-localization-onnx@production"
        )
    return _Wanted(name=name, version=version)


def _over_http(tracking_uri: str, wanted: _Wanted) -> tuple[str, dict[str, str]]:
    if wanted.alias is not None:
        fields = {"name": wanted.name, "alias": wanted.alias}
        said = ask_registry(tracking_uri, "registered-models/alias", fields)
    else:
        fields = {"name": wanted.name, "version": str(wanted.version)}
        said = ask_registry(tracking_uri, "model-versions/get", fields)
    try:
        found: dict[str, Any] = said["model_version"]
        tags = {str(tag["key"]): str(tag.get("value", "")) for tag in found.get("tags", ())}
        return str(found["version"]), tags
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"what answers at MLFLOW_TRACKING_URI describes no version: {said!s:.100}; is it "
            "an MLflow server?"
        ) from error


def _with_mlflow(tracking_uri: str, wanted: _Wanted) -> tuple[str, Mapping[str, str]]:
    try:
        from heimdall_export.tracking.client import open_client, told_plainly
    except ModuleNotFoundError as error:
        raise ExportError(
            f"a registry that is not at http:// needs {error.name}: pip install "
            "'heimdall-export[mlflow]', or set MLFLOW_TRACKING_URI to an MLflow server"
        ) from error
    client = open_client(tracking_uri)
    with told_plainly(f"find {wanted.alias or wanted.version!r} of {wanted.name!r}"):
        found: ModelVersion = (
            client.get_model_version_by_alias(wanted.name, wanted.alias)
            if wanted.alias is not None
            else client.get_model_version(wanted.name, str(wanted.version))
        )
    return str(found.version), found.tags


def _published(name: str, version: str, tags: Mapping[str, str]) -> PublishedModel:
    if tags.get("stage") == DELETING:
        raise ExportError(f"version {version} of {name!r} is being deleted; use another one")
    if missing := [tag for tag in ("onnx_uri", "sha256") if not tags.get(tag)]:
        raise ExportError(
            f"version {version} of {name!r} has no tag {' and no '.join(missing)}: nobody says "
            "where its file is and what it must be; register it with `heimdall train`"
        )
    return PublishedModel(name=name, version=version, uri=tags["onnx_uri"], sha256=tags["sha256"])
