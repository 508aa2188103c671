"""What can go wrong between us and the object store: what may heal, and what to say of it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import urllib3
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from heimdall_data.errors import BucketUnusable, ObjectMissing, ObjectUnreadable, StoreError

if TYPE_CHECKING:
    from heimdall_data.object_store.settings import S3Settings

__all__ = ["FAULTS", "BrokenObject", "Healing", "healing_of", "mlflow_errors", "no_bucket"]

# The client refuses odd names of buckets and keys with a ValueError.
FAULTS = (MinioException, urllib3.exceptions.HTTPError, OSError, ValueError)
_MISSING = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchVersion"})
_REFUSED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
)
_BUSY_STATUSES = frozenset({408, 429})


class BrokenObject(OSError):
    """The store began to send an object, and what came is not the object."""


class Healing(Enum):
    """Whether to ask again, and for how long."""

    NEVER = "the answer will be the same"
    OUTAGE = "the store may come back"
    SILENCE = "as an outage; but asking a store that is silent costs seconds each time"
    OBJECT = "the store answers; one object does not come"


def healing_of(error: Exception) -> Healing:
    """What is to be hoped for after `error`."""
    if isinstance(error, S3Error):
        return _healing_of_answer(error)
    if isinstance(error, (InvalidResponseError, ServerError)):
        # A gateway's page of HTML, or a status without a body.
        return Healing.OUTAGE
    if isinstance(error, BrokenObject):
        return Healing.OBJECT
    cause = _innermost(error)
    if isinstance(cause, (urllib3.exceptions.NameResolutionError, ValueError)):
        return Healing.NEVER
    # The exact type: a refused connection, which a restart heals, is a subclass of it.
    silent = isinstance(cause, urllib3.exceptions.ReadTimeoutError) or (
        type(cause) is urllib3.exceptions.ConnectTimeoutError
    )
    return Healing.SILENCE if silent else Healing.OUTAGE


def mlflow_errors(error: Exception, settings: S3Settings, bucket: str, key: str) -> StoreError:
    """What went wrong in one sentence of ours, without secrets."""
    where = settings.endpoint_url
    if isinstance(error, S3Error):
        return _answer_told(error, where, bucket, key)
    if healing_of(error) is Healing.OBJECT:
        return ObjectUnreadable(
            f"object {key!r} in bucket {bucket!r} of {where} does not come whole "
            f"({_reason(error)}); store it again"
        )
    if isinstance(error, ValueError):
        return ObjectUnreadable(
            f"no usable answer from the object store {where}: {key!r} in bucket {bucket!r} can "
            f"be no object ({error}); correct the name"
        )
    return StoreError(
        f"no usable answer from the object store {where} ({_reason(error)}); "
        "check HEIMDALL_S3_ENDPOINT_URL and that the server runs"
    )


def no_bucket(where: str, bucket: str) -> BucketUnusable:
    """The store lacks the bucket."""
    return BucketUnusable(f"no bucket {bucket!r} in {where}; make it, or correct the bucket's name")


def _answer_told(error: S3Error, where: str, bucket: str, key: str) -> StoreError:
    if error.code in _MISSING:
        return ObjectMissing(f"no object {key!r} in bucket {bucket!r} of {where}")
    if error.code == "NoSuchBucket":
        return no_bucket(where, bucket)
    if error.code in _REFUSED:
        # Our keys may be right, and another's bucket closed to them.
        kind = BucketUnusable if error.code == "AccessDenied" else StoreError
        return kind(
            f"{where} refuses our credentials for bucket {bucket!r} ({error.code}); "
            "check HEIMDALL_S3_ACCESS_KEY and HEIMDALL_S3_SECRET_KEY"
        )
    kind = ObjectUnreadable if healing_of(error) is Healing.OBJECT else StoreError
    return kind(f"{where} answers {error.code} for {key!r} in bucket {bucket!r}")


def _healing_of_answer(error: S3Error) -> Healing:
    if error.code == "InternalError":
        return Healing.OBJECT
    status = error.response.status
    return Healing.OUTAGE if status >= 500 or status in _BUSY_STATUSES else Healing.NEVER


def _innermost(error: Exception) -> Exception:
    """What urllib3 wrapped, perhaps several times."""
    while isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    return error


def _reason(error: Exception) -> str:
    cause = _innermost(error)
    if isinstance(cause, BrokenObject):
        return str(cause)
    return str(cause).rpartition(": ")[2] or type(cause).__name__
