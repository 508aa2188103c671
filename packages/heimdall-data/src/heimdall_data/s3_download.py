"""An object on its way to us: never a part of it taken for the whole, and never for ever."""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING

from urllib3.exceptions import ProtocolError

from heimdall_data.s3_faults import BrokenObject

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

__all__ = ["TooSlow", "download"]

_CHUNK_BYTES = 1 << 20
_MD5 = re.compile(r"[0-9a-f]{32}")
_ENCRYPTION = "x-amz-server-side-encryption"


class TooSlow(OSError):
    """The object comes more slowly than is any use."""


def download(
    response: BaseHTTPResponse, *, grace_s: float, least_bytes_per_s: float, check_md5: bool
) -> bytes:
    """All bytes of the object.

    Args:
        response: its headers are read, its body is not.
        grace_s: this long any rate will do.
        least_bytes_per_s: the mean rate that it must reach after that.
        check_md5: compare with the entity tag, where that is a sum of the content.

    Raises:
        BrokenObject: it ended early, or its content is not that of its entity tag.
        TooSlow: it came more slowly than at the least rate.
    """
    started_s = time.monotonic()
    size = response.headers.get("content-length")
    chunks: list[bytes] = []
    n_bytes = 0
    while chunk := _next_bytes(response):
        chunks.append(chunk)
        n_bytes += len(chunk)
        taken_s = time.monotonic() - started_s
        if taken_s > grace_s + n_bytes / least_bytes_per_s:
            raise TooSlow(f"{n_bytes} of {size} bytes came in {taken_s:.0f} s")
    if size is not None and n_bytes != int(size):
        raise BrokenObject(f"{n_bytes} bytes came of {size}")
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if check_md5:
        _check_md5(response, body)
    return body


def _next_bytes(response: BaseHTTPResponse) -> bytes:
    """What has come by now, at least one byte; none at the end."""
    try:
        return response.read1(_CHUNK_BYTES)
    except ProtocolError as error:
        raise BrokenObject("the connection ended in the middle of it") from error


def _check_md5(response: BaseHTTPResponse, body: bytes) -> None:
    """Compare with the entity tag: the MD5 sum of what was sent in one piece, unencrypted.

    Source: Amazon S3 API Reference, "Object", `ETag`.
    """
    tag = response.headers.get("etag", "").strip('"').lower()
    encrypted = response.headers.get(_ENCRYPTION, "AES256") != "AES256"
    own_key = f"{_ENCRYPTION}-customer-algorithm" in response.headers
    if encrypted or own_key or not _MD5.fullmatch(tag):
        return
    found = hashlib.md5(body, usedforsecurity=False).hexdigest()
    if found != tag:
        raise BrokenObject(f"its content has the MD5 sum {found}, its entity tag says {tag}")
