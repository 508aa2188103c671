"""Where a model is in an object store: `s3://bucket/key`."""

from __future__ import annotations

import re

from heimdall_export.errors import ExportError

__all__ = ["S3_SCHEME", "split_address"]

S3_SCHEME = "s3://"
_BUCKET = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:-]{1,61}[A-Za-z0-9]")


def split_address(uri: str) -> tuple[str, str]:
    """Bucket and key.

    Raises:
        ExportError: It is no address, or one that no store takes.
    """
    bucket, _, key = uri.removeprefix(S3_SCHEME).partition("/")
    is_key = key and key.isprintable() and not {".", ".."} & set(key.split("/"))
    if not (uri.startswith(S3_SCHEME) and _BUCKET.fullmatch(bucket) and is_key):
        raise ExportError(
            f"{uri[:200]!r} is no model's address; give s3://bucket/key, such as "
            "s3://heimdall-models/models/localization/v20261120_120000.onnx"
        )
    return bucket, key
