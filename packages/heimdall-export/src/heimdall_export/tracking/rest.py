"""One request to an MLflow server, without the mlflow package, which brings a hundred others."""

from __future__ import annotations

import os
import urllib.request
from typing import TYPE_CHECKING, Any

from heimdall_features.outside_json import parsed_json

from heimdall_export.errors import ExportError
from heimdall_export.object_store.store import TRANSIENT_STATUS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import PoolManager, Retry
    from urllib3.util import Url


def get(tracking_uri: str, endpoint: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The answer to one GET request below `/api/2.0/mlflow/`.

    Credentials are those in the address, or MLflow's own: `MLFLOW_TRACKING_USERNAME` with
    `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`. Proxies and authorities are those of
    the environment that MLflow's own client takes.

    Raises:
        ExportError: It cannot be reached, refuses, or is no MLflow server.
    """
    import urllib3

    try:
        address = urllib3.util.parse_url(tracking_uri.rstrip("/"))
    except urllib3.exceptions.LocationParseError:  # its message may hold a password
        raise ExportError(
            "MLFLOW_TRACKING_URI is not a URL like http://host:5000; correct it"
        ) from None
    user, password, token = (
        os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD", "TOKEN")
    )
    login = address.auth or (f"{user}:{password}" if user and password else None)
    headers = dict(urllib3.make_headers(basic_auth=login)) if login else {}
    if token and not login:
        headers["Authorization"] = f"Bearer {token}"
    place = address._replace(auth=None).url
    retries = urllib3.Retry(
        total=3, backoff_factor=0.2, status_forcelist=TRANSIENT_STATUS, raise_on_status=False
    )
    try:
        with _pool(address, retries) as pool:
            answer = pool.request(
                "GET",
                f"{place}/api/2.0/mlflow/{endpoint}",
                fields=dict(fields),
                headers=headers,
                timeout=urllib3.Timeout(connect=10.0, read=30.0),
            )
    except urllib3.exceptions.HTTPError as error:
        raise ExportError(
            f"the registry at {place} is out of reach: {type(error).__name__}; is it running?"
        ) from error
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


def _pool(address: Url, retries: Retry) -> PoolManager:
    """Connections as the client of MLflow makes them."""
    import urllib3

    trust: dict[str, Any] = {"retries": retries}
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        trust["cert_reqs"] = "CERT_NONE"
    elif authorities := [
        os.environ[name]
        for name in ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        if os.environ.get(name)
    ]:
        trust["ca_certs"] = authorities[0]
    proxy = urllib.request.getproxies().get(address.scheme or "")
    if proxy and not urllib.request.proxy_bypass(address.host or ""):
        return urllib3.ProxyManager(proxy, **trust)
    return urllib3.PoolManager(**trust)
