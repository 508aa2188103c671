"""What a registry says of one version, over MLflow's HTTP interface and without its package.

A service that follows an alias needs one request of an interface that MLflow keeps stable
("REST API", version 2.0); the package would bring a hundred others with it.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3.util import Url

__all__ = ["ask_registry"]

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
