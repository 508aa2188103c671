"""The objects of a session to be: which keys they have, and how they are stored."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

from heimdall_data.session_identity import object_key, session_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heimdall_data.new_session import NewSession
    from heimdall_data.s3 import ObjectStore

__all__ = ["objects_of", "size_of", "store_objects"]


def objects_of(session: NewSession) -> Iterator[tuple[str, bytes]]:
    """Key and content of every object of the session."""
    identity = session_id(session)
    for recording in session.measurements:
        key = object_key(identity, recording)
        if recording.payload is not None:
            yield key, recording.payload
        if recording.metadata is not None:
            yield key.removesuffix("-data") + "-meta", recording.metadata


def size_of(session: NewSession) -> int:
    """Bytes of all objects of the session together."""
    return sum(len(content) for _, content in objects_of(session))


def store_objects(store: ObjectStore, session: NewSession, *, compare: bool) -> Counter[str]:
    """Store the session's objects; what was done, under the names of `IngestReport`.

    Args:
        store: where to.
        session: whose objects.
        compare: leave alone what is there with the same content (one more request).
    """
    there: dict[str, str] = {}
    if compare:
        prefix = f"sessions/{session_id(session)}/"
        there = {found.key: found.etag for found in store.list(prefix)}
    done: Counter[str] = Counter()
    for key, content in objects_of(session):
        if key in there and there[key] == _etag(content):
            done["objects_unchanged"] += 1
        else:
            store.put(key, content)
            done["objects_stored"] += 1
            done["bytes_stored"] += len(content)
    return done


def _etag(content: bytes) -> str:
    """What S3 says of an object that was sent in one piece; anything else is sent again."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
