"""Faults of an object store: which of them may heal, and our error for each."""

from __future__ import annotations

import time
from email.utils import formatdate, parsedate_to_datetime
from enum import Enum

import urllib3
from heimdall_features.addresses import certificate_problem, proxy_for, shown_address
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from heimdall_data.errors import BucketUnusable, ObjectMissing, ObjectUnreadable, StoreError

# The client raises ValueError for invalid names of buckets and keys.
FAULTS = (MinioException, urllib3.exceptions.HTTPError, OSError, ValueError)
_MISSING = ("NoSuchKey", "NoSuchObject", "NoSuchVersion")
_FULL = ("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded")
_BAD_NAMES = ("XMinioInvalidObjectName", "InvalidObjectName", "KeyTooLongError")
_OTHER_REGION = ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_TOLERATED_SKEW_S = 300.0
"""Stores refuse signatures that differ from their own clock by more than 5 to 15 minutes."""
_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")


class BrokenObject(OSError):
    """The store began to send an object, and the bytes that arrived are not the object."""


class DamagedObject(BrokenObject):
    """All bytes arrived, and they are not those of which the store states the MD5 sum."""


class OversizedObject(ValueError):
    """The object is larger than what was asked for may be."""


class Fault(Enum):
    """Kind of a fault, which decides how long a request is retried."""

    PERMANENT = "the answer will be the same"
    OUTAGE = "the store may come back"
    SILENCE = "an outage in which each further request costs seconds"
    OBJECT = "the store answers, but one object does not arrive"
    DAMAGED = "an object arrives with other bytes, as it does again unless the link damaged it"


def classify(error: Exception) -> Fault:
    """Return the kind of a fault."""
    if isinstance(error, S3Error):
        if error.code == "InternalError":
            return Fault.OBJECT
        if error.code in (*_FULL, "NotImplemented"):  # with the status of an outage
            return Fault.PERMANENT
        status = error.response.status
        return Fault.OUTAGE if status >= 500 or status in (408, 429) else Fault.PERMANENT
    if isinstance(error, (InvalidResponseError, ServerError)):
        return Fault.OUTAGE  # a gateway's page of HTML, or a status without a body
    if isinstance(error, BrokenObject):
        return Fault.DAMAGED if isinstance(error, DamagedObject) else Fault.OBJECT
    cause = _innermost(error)
    is_final = isinstance(cause, (urllib3.exceptions.NameResolutionError, ValueError))
    if is_final or certificate_problem(cause):
        return Fault.PERMANENT
    # The exact type: a refused connection, which a restart heals, is a subclass of it.
    timeouts = (urllib3.exceptions.ReadTimeoutError, urllib3.exceptions.ConnectTimeoutError)
    return Fault.SILENCE if type(cause) in timeouts else Fault.OUTAGE


def store_error(error: Exception, store: str, bucket: str, key: str) -> StoreError:
    """Return our error for a fault of the store at this endpoint: one sentence, without secrets."""
    what = f"{key!r} in bucket {bucket!r}"
    if isinstance(error, S3Error):
        if error.code in _MISSING:
            return ObjectMissing(f"no object {what} of {store}")
        if error.code == "NoSuchBucket":
            return missing_bucket(store, bucket)
        if error.code == "RequestTimeTooSkewed" or (error.code in _REFUSED and _is_skewed(error)):
            theirs = error.response.headers.get("date", "another time")
            return StoreError(
                f"{store} refuses requests because this machine's clock says "
                f"{formatdate(time.time(), usegmt=True)}, and the store's {theirs}; set the wrong "
                "clock, or start NTP"
            )
        if error.code in _REFUSED:
            # Our keys may be right, and another's bucket closed to them.
            kind = BucketUnusable if error.code == "AccessDenied" else StoreError
            return kind(
                f"{store} refuses our credentials for bucket {bucket!r} ({error.code}); "
                "check HEIMDALL_S3_ACCESS_KEY and HEIMDALL_S3_SECRET_KEY"
            )
        if error.code in _FULL:
            return StoreError(
                f"{store} has no space for {what} ({error.code}); delete objects, or raise the "
                "quota"
            )
        if error.code in _OTHER_REGION:
            return StoreError(
                f"{store} is in another region than requests are signed for ({error.message}); set "
                "HEIMDALL_S3_REGION"
            )
        is_one = classify(error) is Fault.OBJECT or error.code in (*_BAD_NAMES, "InvalidRange")
        kind = ObjectUnreadable if is_one else StoreError
        why = "; the store's log says why; its disk may be full"
        return kind(
            f"{store} answers {error.code} for {what}{why if error.code == 'InternalError' else ''}"
        )
    if isinstance(error, BrokenObject):
        return ObjectUnreadable(
            f"object {what} of {store} does not arrive whole ({error}); store it again"
        )
    if isinstance(error, OversizedObject):
        return ObjectUnreadable(f"object {what} of {store} has {error}; cut it into several")
    if isinstance(error, ValueError):
        return ObjectUnreadable(
            f"{what} of the object store {store} is not a valid name ({error}); correct it"
        )
    cause = _innermost(error)
    if problem := certificate_problem(cause):
        return StoreError(f"cannot trust the object store {store}: {problem}")
    if isinstance(cause, urllib3.exceptions.ProxyError):
        proxy = shown_address(proxy_for(store) or "")
        return StoreError(
            f"no way to the object store {store}: the proxy {proxy} "
            "does not pass requests on; correct HTTP_PROXY or HTTPS_PROXY, or add the store to "
            "NO_PROXY"
        )
    reason = str(cause).rpartition(": ")[2] or type(cause).__name__
    return StoreError(
        f"no usable answer from the object store {store} ({reason}); "
        "check HEIMDALL_S3_ENDPOINT_URL and that the server runs"
    )


def _is_skewed(error: S3Error) -> bool:
    """Return True if the clock of the store differs from ours: answers to HEAD name no reason."""
    try:
        there = parsedate_to_datetime(error.response.headers["date"])
    except (KeyError, ValueError):
        return False
    return abs(there.timestamp() - time.time()) > _TOLERATED_SKEW_S


def missing_bucket(store: str, bucket: str) -> BucketUnusable:
    """Return the error for a bucket that the store does not have."""
    return BucketUnusable(f"no bucket {bucket!r} in {store}; make it, or correct the bucket's name")


def _innermost(error: Exception) -> Exception:
    """The fault that urllib3 wrapped, perhaps several times."""
    while isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    return error
