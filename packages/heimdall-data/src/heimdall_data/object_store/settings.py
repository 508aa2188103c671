"""Address, credentials and limits of an object store: any S3, through the MinIO client."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3
from heimdall_features.addresses import http_pool, shown_address
from minio import Minio

from heimdall_data.errors import StoreError
from heimdall_data.object_store.retry import ANSWERED

if TYPE_CHECKING:
    from collections.abc import Callable

_CONNECT_S = 3.0
_POOL_SIZE = 32
_HOST = re.compile(r"[^\s/\\@]+")
_REGION = re.compile(r"(?![_-])[A-Za-z0-9_-]{1,63}(?<![_-])")
_KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Address of the object store, our credentials and limits; its `repr` shows no secret.

    A copy in another process waits for the store if it has answered this one.

    Raises:
        StoreError: The endpoint, the region or a key is invalid; the message shows no secret.
    """

    endpoint_url: str
    """`http://host:port` or `https://host`, without a path."""
    access_key: str = field(repr=False)
    """Name of the credentials."""
    secret_key: str = field(repr=False)
    """Secret of the credentials."""
    region: str = "us-east-1"
    """Region that requests are signed for."""
    raw_iq_bucket: str = "heimdall-raw-iq"
    """Bucket of the recordings."""
    models_bucket: str = "heimdall-models"
    """Bucket of the exported models."""
    patience_s: float = 60.0
    """Seconds to wait for a store that has answered before and goes away."""
    stall_s: float = 20.0
    """Give up a connection on which nothing arrives for so long."""
    least_bytes_per_s: float = 4096.0
    """Mean rate that an object must reach once `stall_s` have passed: half a 64 kbit/s line."""
    check_md5: bool = True
    """Compare objects with their entity tags; turn off for tags that only look like MD5 sums."""

    def __post_init__(self) -> None:
        if not _is_endpoint(self.endpoint_url):
            raise StoreError(
                f"S3 endpoint {shown_address(self.endpoint_url)!r} is not a URL like "
                "http://host:9000, without login or path; correct HEIMDALL_S3_ENDPOINT_URL"
            )
        if not _REGION.fullmatch(self.region):
            raise StoreError(f"invalid S3 region {self.region!r}; set HEIMDALL_S3_REGION")
        for name, key in (("ACCESS", self.access_key), ("SECRET", self.secret_key)):
            if not _KEY.fullmatch(key):
                raise StoreError(
                    f"HEIMDALL_S3_{name}_KEY is empty or has a character that no key has, such "
                    "as a blank; correct it"
                )

    def __reduce__(self) -> tuple[Callable[..., S3Settings], tuple[dict[str, Any], bool]]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return (_copy, (values, self.endpoint_url in ANSWERED))

    def client(self) -> Minio:
        """Return a client of this store, which connects on first use and fails within seconds.

        Raises:
            StoreError: The address of the proxy is invalid.
        """
        parts = urlsplit(self.endpoint_url)
        try:
            pool = http_pool(
                self.endpoint_url,
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=self.stall_s),
                # MinIO's own default waits for minutes on a server that is not there.
                retries=urllib3.Retry(total=None, connect=0, read=0, redirect=2, status=0, other=0),
                maxsize=_POOL_SIZE,
            )
        except ValueError as error:
            raise StoreError(str(error)) from error
        return Minio(
            parts.netloc,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=parts.scheme == "https",
            region=self.region,
            http_client=pool,
        )


def _copy(values: dict[str, Any], answered: bool) -> S3Settings:  # noqa: FBT001 - for pickle
    if answered:
        ANSWERED.add(values["endpoint_url"])
    return S3Settings(**values)


def _is_endpoint(url: str) -> bool:
    """Return True for the URL of a server without a path, a login and so on."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed only now
    except ValueError:
        return False
    more = parts.username or parts.path.strip("/") or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(_HOST.fullmatch(parts.netloc)) and not more
