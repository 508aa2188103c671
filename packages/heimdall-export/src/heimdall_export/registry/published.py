"""The file that a `models:/` address stands for now, and its hash.

A version in the registry carries the address and the sha256 of its file in its tags; the alias
says which version. A registry over HTTP is asked without the mlflow package, which would bring a
hundred others: one request of an interface that MLflow keeps stable ("REST API", version 2.0).
"""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from heimdall_features.addresses import certificate_problem, shown_address, shown_text
from heimdall_features.outside_json import parsed_json

from heimdall_export.contract import DELETING
from heimdall_export.errors import ExportError
from heimdall_export.object_store.store import TRANSIENT_STATUS, ModelStores, pool_for
from heimdall_export.registry.listing import list_versions
from heimdall_export.registry.versions import version_in
from heimdall_export.tracking.address import is_unverified, require_address, server_certificates

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEME = "models:/"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """One version of a registered model, with the address and hash of its file."""

    name: str
    """Name of the registered model."""
    version: str
    """Number of the version."""
    uri: str
    """`s3://bucket/key`"""
    sha256: str
    """Hash of the file."""


def find_published(address: str, stores: ModelStores | None = None) -> PublishedModel:
    """Ask the registry, in one request, what `models:/name@alias` or `models:/name/version` means.

    The registry's address is in `stores`, or in the environment's when None.

    Raises:
        ExportError: No such address, model, alias or version; the registry is out of reach; or
            the version lacks the address or the hash of its file.
    """
    rest = address.removeprefix(SCHEME)
    name, _, alias = rest.rpartition("@")
    number = None
    if not (name and alias):
        name, _, number = rest.rpartition("/")
        if not (name and number.isdecimal()):
            raise ExportError(
                f"{shown_text(address)!r} is not an address in a registry; give "
                "models:/name@alias or models:/name/version, such as "
                "models:/heimdall-localization-onnx@production"
            )
    tracking_uri = (stores or ModelStores.from_environment()).need_tracking_uri()
    over_http = tracking_uri.startswith(("http://", "https://"))
    ask = _over_http if over_http else _in_database
    version, tags = ask(tracking_uri, name, alias, number)
    if tags.get("stage") == DELETING:
        raise ExportError(f"version {version} of {name!r} is being deleted; use another one")
    if missing := [tag for tag in ("onnx_uri", "sha256") if not tags.get(tag)]:
        raise ExportError(
            f"version {version} of {name!r} has no tag {' and no '.join(missing)}, so its file "
            "cannot be found or verified; register it with `heimdall train`"
        )
    return PublishedModel(name=name, version=version, uri=tags["onnx_uri"], sha256=tags["sha256"])


def _over_http(
    tracking_uri: str, name: str, alias: str, number: str | None
) -> tuple[str, Mapping[str, str]]:
    """Number and tags of a version, by the number or else the alias."""
    endpoint, which = "registered-models/alias", {"alias": alias}
    if number is not None:
        endpoint, which = "model-versions/get", {"version": number}
    answer = _get(tracking_uri, endpoint, {"name": name} | which)
    try:
        found: dict[str, Any] = answer["model_version"]
        tags = {str(tag["key"]): str(tag.get("value", "")) for tag in found.get("tags", ())}
        return str(found["version"]), tags
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"the answer from MLFLOW_TRACKING_URI describes no version: {answer!s:.100}; is it "
            "an MLflow server?"
        ) from error


def _in_database(
    tracking_uri: str, name: str, alias: str, number: str | None
) -> tuple[str, Mapping[str, str]]:
    """As `_over_http`, of a registry in a database."""
    known = list_versions(tracking_uri, name)
    if number is not None:
        number = str(int(number))
    elif alias.lower() == "latest":
        number = next((one.version for one in known), "@latest")
    else:
        number = next((one.version for one in known if alias in one.aliases), f"@{alias}")
    found = version_in(known, name, number)
    return found.version, found.tags


def _get(tracking_uri: str, endpoint: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The answer to one GET request below `/api/2.0/mlflow/`.

    Credentials are those in the address, or MLflow's own: `MLFLOW_TRACKING_USERNAME` with
    `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`. Certificates are judged as MLflow's
    variables have it: `MLFLOW_TRACKING_SERVER_CERT_PATH`, `MLFLOW_TRACKING_INSECURE_TLS`,
    `MLFLOW_TRACKING_CLIENT_CERT_PATH`.
    """
    import urllib3

    require_address(tracking_uri)
    address = urlsplit(tracking_uri)
    place = shown_address(tracking_uri)
    user, password, token = (
        os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD", "TOKEN")
    )
    login = unquote(address.netloc.rpartition("@")[0])
    login = login or (f"{user}:{password}" if user and password else "")
    headers = {}
    if login:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    retries = urllib3.Retry(
        total=3, backoff_factor=0.2, status_forcelist=TRANSIENT_STATUS, raise_on_status=False
    )
    trust: dict[str, Any] = {"ca_certs": server_certificates()}
    if is_unverified():
        trust = {"ca_certs": None, "cert_reqs": "CERT_NONE"}
    try:
        trust["cert_file"] = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
        with pool_for(tracking_uri, retries=retries, **trust) as pool:
            answer = pool.request(
                "GET",
                f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
                f"{address.path.rstrip('/')}/api/2.0/mlflow/{endpoint}",
                fields=dict(fields),
                headers=headers,
                timeout=urllib3.Timeout(connect=10.0, read=30.0),
            )
    except urllib3.exceptions.HTTPError as error:
        reason = certificate_problem(error) or f"{type(error).__name__}; is it running?"
        raise ExportError(f"the registry at {place} is out of reach: {reason}") from error
    try:
        found: dict[str, Any] = {**parsed_json(answer.data)}
    except (ValueError, TypeError) as error:
        raise ExportError(
            f"the server at {place} answers with status {answer.status} and is no MLflow; "
            "is MLFLOW_TRACKING_URI right?"
        ) from error
    if answer.status != 200:
        message = str(found.get("message") or found.get("error_code") or f"status {answer.status}")
        raise ExportError(f"the registry at {place} refuses: {message.partition(chr(10))[0]}")
    return found
