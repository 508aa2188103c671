"""Address, credentials and limits of an object store; any S3, through the MinIO client."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import urllib3
from minio import Minio

from heimdall_data.errors import StoreError

__all__ = ["S3Settings"]

_CONNECT_S = 3.0
_POOL_SIZE = 32
_HOST = re.compile(r"[^\s/\\@]+")
_REGION = re.compile(r"(?![_-])[A-Za-z0-9_-]{1,63}(?<![_-])")
_KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Where the object store is and who we are there; no secret shows in its `repr`.

    Raises:
        StoreError: The endpoint, the region or a key is not valid; the message names which,
            before a client could quote a secret in its own.
    """

    endpoint_url: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    raw_iq_bucket: str = "heimdall-raw-iq"
    models_bucket: str = "heimdall-models"
    patience_s: float = 60.0
    """How long a store that has answered before is waited for when it goes away."""
    stall_s: float = 20.0
    """A connection is given up if nothing comes on it for so long."""
    least_bytes_per_s: float = 4096.0
    """An object must reach this mean rate once `stall_s` have passed: half a 64 kbit/s line."""
    check_md5: bool = True
    """Compare objects with their entity tags; off where those only look like MD5 sums."""

    def __post_init__(self) -> None:
        if not _is_endpoint(self.endpoint_url):
            # Whatever stands before an @ may be a password.
            shown = self.endpoint_url.rpartition("@")[2]
            raise StoreError(
                f"S3 endpoint {shown!r} is not a URL like http://host:9000, without login or "
                "path; correct HEIMDALL_S3_ENDPOINT_URL"
            )
        if not _REGION.fullmatch(self.region):
            raise StoreError(f"invalid S3 region {self.region!r}; set HEIMDALL_S3_REGION")
        for name, key in (("ACCESS", self.access_key), ("SECRET", self.secret_key)):
            if not _KEY.fullmatch(key):
                raise StoreError(
                    f"HEIMDALL_S3_{name}_KEY is empty, or holds a blank or another character "
                    "that no key has; correct it"
                )

    def client(self) -> Minio:
        """Return a client of this store, which connects on first use and fails within seconds."""
        parts = urlsplit(self.endpoint_url)
        return Minio(
            parts.netloc,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=parts.scheme == "https",
            region=self.region,
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=self.stall_s),
                # MinIO's own default waits for minutes on a server that is not there.
                retries=urllib3.Retry(total=None, connect=0, read=0, redirect=2, status=0, other=0),
                maxsize=_POOL_SIZE,
            ),
        )


def _is_endpoint(url: str) -> bool:
    """Whether it is the URL of a server, and no more."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is parsed when it is asked for
    except ValueError:
        return False
    more = parts.username or parts.path.strip("/") or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(_HOST.fullmatch(parts.netloc)) and not more
