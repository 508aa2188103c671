"""An object that must not exist yet: written only under a name that is free.

The store itself refuses where an object is there already (`If-None-Match: *`, RFC 9110, section
13.1.2; in S3 since 2024, in MinIO and SeaweedFS too), so that two writers cannot both win. The
MinIO client sends no such header, a presigned address takes it.
"""

from __future__ import annotations

import io
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import urllib3

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from typing import BinaryIO

    from minio import Minio

__all__ = ["put_new"]

_WAITS_S = (0.1, 0.4, 1.6)
"""Before each further attempt at what can heal."""
_STORED = (200, 201, 204)
_NAME_TAKEN = (409, 412)
_CAN_HEAL = (429, 500, 502, 503, 504)
_VALID = timedelta(minutes=15)
_TIMEOUT = urllib3.Timeout(connect=10, read=60)


def put_new(
    client: Minio, bucket: str, key: str, body: bytes | BinaryIO, content_type: str
) -> bool:
    """Store an object under a name that is free.

    Args:
        client: The object store.
        bucket: Must be there.
        key: The name.
        body: The contents, or a file, which is sent from its beginning.
        content_type: Its media type.

    Returns:
        False where the name is taken. After a connection that broke, by this very call perhaps:
        compare what is there.

    Raises:
        ExportError: The store refuses, or is out of reach after four attempts.
    """
    headers = {
        "Content-Type": content_type,
        # Without it a file would go in chunks of unknown number, which S3 does not take.
        "Content-Length": str(_size(body)),
        "If-None-Match": "*",
    }
    said = ""
    for wait_s in (0.0, *_WAITS_S):
        time.sleep(wait_s)
        status, said = _put(client.presigned_put_object(bucket, key, _VALID), body, headers)
        if status in _STORED:
            return True
        if status in _NAME_TAKEN:
            return False
        if status is not None and status not in _CAN_HEAL:
            break
    raise ExportError(
        f"the object store took no {key} into bucket {bucket!r}: {said}; "
        "check that it runs and what the credentials may do"
    )


def _size(body: bytes | BinaryIO) -> int:
    return len(body) if isinstance(body, bytes) else body.seek(0, io.SEEK_END)


def _put(url: str, body: bytes | BinaryIO, headers: dict[str, str]) -> tuple[int | None, str]:
    """The answer's status, None where there was no answer, and what it said.

    No message holds the address: who has it may write.
    """
    if not isinstance(body, bytes):
        body.seek(0)
    with urllib3.PoolManager(timeout=_TIMEOUT, retries=False) as pool:
        try:
            answer = pool.request("PUT", url, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            return None, type(error).__name__
    return answer.status, f"status {answer.status}, {answer.data[:300].decode(errors='replace')}"
