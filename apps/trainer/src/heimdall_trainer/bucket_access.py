"""Whether we may write to a bucket, asked without writing to it.

The beginning of an upload in parts needs the permission to write, and leaves nothing behind when
it is called off: no object, no version, no event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from heimdall_data.s3 import S3Settings

__all__ = ["require_writable_bucket"]

PROBE = "heimdall-dry-run"
PATIENCE_S = 5


def require_writable_bucket(s3: S3Settings, bucket: str) -> bool:
    """Refuse a bucket that could not be written.

    Returns:
        Whether there is such a bucket; where there is none, training makes it.

    Raises:
        TrainerError: It is there, and not ours to write; or the store is out of reach.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    try:
        client = _client(s3)
        begun = client.create_multipart_upload(Bucket=bucket, Key=PROBE)
        client.abort_multipart_upload(Bucket=bucket, Key=PROBE, UploadId=begun["UploadId"])
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "refused"))
        if code == "NoSuchBucket":
            return False
        raise TrainerError(
            f"bucket {bucket!r} of {s3.endpoint_url} cannot be written ({code}): allow "
            "PutObject and AbortMultipartUpload there, or choose another bucket"
        ) from None
    except BotoCoreError as error:
        raise TrainerError(
            f"no usable answer from the object store {s3.endpoint_url} "
            f"({type(error).__name__}): check that it runs"
        ) from None
    return True


def _client(s3: S3Settings) -> Any:  # noqa: ANN401 - the library's clients have no types
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint_url,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name=s3.region,
        config=Config(
            connect_timeout=PATIENCE_S,
            read_timeout=PATIENCE_S,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
        ),
    )
