"""The bytes of an object in a store, as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from minio import Minio

__all__ = ["chunks_of"]

_CHUNK = 2**20


def chunks_of(client: Minio, bucket: str, key: str) -> Iterator[bytes]:
    """The object in pieces; its connection is given back however the reading ends.

    Raises:
        MinioException: It is not there, or may not be read.
        HTTPError: urllib3's, of a store that does not answer.
    """
    answer = client.get_object(bucket, key)
    try:
        yield from answer.stream(_CHUNK)
    finally:
        answer.close()
        answer.release_conn()
