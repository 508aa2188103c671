"""The S3 stores of models and artifacts: addresses, credentials, clients and their errors.

MLflow takes credentials from the process's environment, where every child process inherits them
and they remain when the run is over. Here they are passed to it, or set for a while.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from heimdall_features.addresses import (
    certificate_problem,
    http_pool,
    is_ambiguous,
    is_local,
    no_proxy_here,
    shown_address,
    shown_text,
    trusted_certificates,
)

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from minio import Minio
    from minio.error import S3Error
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
    from urllib3 import PoolManager

S3_SCHEME = "s3://"
TRANSIENT_STATUS = (429, 500, 502, 503, 504)
_BUCKET = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:-]{1,61}[A-Za-z0-9]")
_TOLERATED_SKEW_S = 300.0
"""Stores refuse signatures that differ from their own clock by more than 5 to 15 minutes."""
_MLFLOW_S3 = (
    "MLFLOW_S3_UPLOAD_EXTRA_ARGS",
    "MLFLOW_S3_EXPECTED_BUCKET_OWNER",
    "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE",
)
"""What MLflow lets users set for stores of theirs, which one on this machine need not have."""
_NEEDED = ("HEIMDALL_S3_ENDPOINT_URL", "HEIMDALL_S3_ACCESS_KEY", "HEIMDALL_S3_SECRET_KEY")


@contextlib.contextmanager
def temporary_environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables for a library that takes its settings from nowhere else.

    None removes a variable; afterwards each is as it was.
    """
    before = {name: os.environ.get(name) for name in variables}
    try:
        _set(variables)
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def pool_for(url: str, **options: Any) -> PoolManager:  # noqa: ANN401 - urllib3's own
    """`http_pool`, with an `ExportError` for a proxy whose address is ambiguous."""
    try:
        return http_pool(url, **options)
    except ValueError as error:
        raise ExportError(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactStore:
    """An S3 store and our credentials there.

    Raises:
        ExportError: A key has a character that no key has; the message does not show it.
    """

    endpoint_url: str = field(repr=False)
    """`http://host:port` or `https://host`."""
    access_key: str = field(repr=False)
    """Name of the credentials."""
    secret_key: str = field(repr=False)
    """Secret of the credentials."""
    region: str = "us-east-1"
    """Region that requests are signed for."""

    def __post_init__(self) -> None:
        for name, key in (("ACCESS", self.access_key), ("SECRET", self.secret_key)):
            if not re.fullmatch("[!-~]+", key):  # Libraries would show the header that has it.
                raise ExportError(
                    f"HEIMDALL_S3_{name}_KEY is empty or has a character that no key has, such as "
                    "a line break; correct it"
                )

    def client(self) -> Minio:
        """A client of the store.

        Raises:
            ExportError: The extra `s3` is not installed, or the endpoint is not a URL.
        """
        try:
            import urllib3
            from minio import Minio
        except ModuleNotFoundError as error:
            raise ExportError(
                f"a model in an object store needs {error.name}: pip install 'heimdall-export[s3]'"
            ) from error
        timeout = urllib3.Timeout(connect=10.0, read=60.0)
        parts = urlsplit("" if is_ambiguous(self.endpoint_url) else self.endpoint_url)
        try:
            return Minio(
                parts.netloc,
                access_key=self.access_key,
                secret_key=self.secret_key,
                secure={"https": True, "http": False}[parts.scheme],
                region=self.region,
                http_client=pool_for(self.endpoint_url, timeout=timeout, retries=False),
            )
        except ExportError:
            raise
        except (KeyError, ValueError):  # its message may hold a password
            raise ExportError(
                f"S3 endpoint {shown_address(self.endpoint_url)!r} is not a URL like "
                "http://host:9000; correct HEIMDALL_S3_ENDPOINT_URL or MLFLOW_S3_ENDPOINT_URL"
            ) from None

    @contextlib.contextmanager
    def repository(self, artifact_uri: str) -> Iterator[S3ArtifactRepository]:
        """MLflow's artifacts at an `s3://` address; credentials stay out of the environment."""
        from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

        keys = {"access_key_id": self.access_key, "secret_access_key": self.secret_key}
        with self._alone({}):
            yield S3ArtifactRepository(artifact_uri, **keys)

    def check_artifacts(self, artifact_uri: str) -> None:
        """List artifacts with the client that will store some; its own errors pass through.

        Raises:
            ExportError: A variable of MLflow that storing reads is invalid.
        """
        with self.repository(artifact_uri) as repository:
            repository.list_artifacts("heimdall")  # type: ignore[no-untyped-call]
            try:
                repository.get_s3_file_upload_extra_args()  # type: ignore[no-untyped-call]
            except ValueError as error:
                raise ExportError("MLFLOW_S3_UPLOAD_EXTRA_ARGS is not JSON; correct it") from error

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """The environment in which MLflow's own functions, such as `load_model`, find this store.

        Afterwards the environment is as it was.
        """
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        with self._alone(keys):
            yield

    @contextlib.contextmanager
    def _alone(self, keys: Mapping[str, str]) -> Iterator[None]:
        """The environment in which boto3 knows this store, and nothing of other programs' AWS."""
        import boto3  # type: ignore[import-untyped]

        variables: dict[str, str | None] = {
            **dict.fromkeys(name for name in os.environ if name.startswith("AWS_")),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CA_BUNDLE": trusted_certificates(),
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint_url,
            **no_proxy_here(),
            **keys,
            **dict.fromkeys(_MLFLOW_S3 if is_local(urlsplit(self.endpoint_url).hostname) else ()),
        }
        # A session keeps the configuration that it has read.
        before, boto3.DEFAULT_SESSION = boto3.DEFAULT_SESSION, None
        try:
            with temporary_environment(variables):
                yield
        finally:
            boto3.DEFAULT_SESSION = before


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStores:
    """The stores from which a service fetches a model by its address."""

    s3: ArtifactStore | None = None
    """Store of `s3://` addresses; None if only files and MLflow are read."""
    tracking_uri: str | None = field(default=None, repr=False)
    """Address of the MLflow registry; may hold a password."""

    @classmethod
    def from_environment(cls) -> ModelStores:
        """The stores in the contract's variables; None for those that are unset."""
        endpoint_url, access_key, secret_key = (os.environ.get(name) for name in _NEEDED)
        s3 = None
        if endpoint_url and access_key and secret_key:
            s3 = ArtifactStore(
                endpoint_url=endpoint_url,
                access_key=access_key,
                secret_key=secret_key,
                region=os.environ.get("HEIMDALL_S3_REGION") or "us-east-1",
            )
        return cls(s3=s3, tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or None)

    def need_s3(self) -> ArtifactStore:
        """The object store; `ExportError` if none is configured."""
        if self.s3 is None:
            raise ExportError(
                f"no object store is configured; set {', '.join(_NEEDED)}, or give "
                "stores=ModelStores(s3=...)"
            )
        return self.s3

    def need_tracking_uri(self) -> str:
        """The registry's address; `ExportError` if none is configured."""
        if self.tracking_uri is None:
            raise ExportError(
                "no model registry is configured; set MLFLOW_TRACKING_URI, give "
                "stores=ModelStores(tracking_uri=...), or open a model file"
            )
        return self.tracking_uri


def split_address(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`; `ExportError` for any other text."""
    bucket, _, key = uri.removeprefix(S3_SCHEME).partition("/")
    is_key = key and key.isprintable() and not {".", ".."} & set(key.split("/"))
    if not (uri.startswith(S3_SCHEME) and _BUCKET.fullmatch(bucket) and is_key):
        raise ExportError(
            f"{shown_text(uri[:200])!r} is not a model's address; give s3://bucket/key, such as "
            "s3://heimdall-models/models/localization/v20261120_120000.onnx"
        )
    return bucket, key


@contextlib.contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Turn the errors of a store or the network into `ExportError("cannot {doing}: ...")`."""
    import urllib3
    from minio.error import MinioException, S3Error

    try:
        yield
    except S3Error as error:
        remedy = "check the address, the credentials and their permissions"
        if error.code == "RequestTimeTooSkewed" or _is_skewed(error):
            remedy = "set this machine's clock or the store's (NTP), which differ"
        raise ExportError(
            f"cannot {doing}: the object store refuses with {error.code}, {error.message}; {remedy}"
        ) from error
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        reason = f"is out of reach ({type(error).__name__}); check that it runs"
        if problem := certificate_problem(error):
            reason = f"cannot be trusted: {problem}"
        elif isinstance(getattr(error, "reason", error), urllib3.exceptions.ProxyError):
            reason = "is out of reach: correct HTTP_PROXY or HTTPS_PROXY, or add it to NO_PROXY"
        raise ExportError(f"cannot {doing}: the object store {reason}") from error


def _is_skewed(error: S3Error) -> bool:
    """True if the store's clock differs from ours: refusals of HEAD do not say why."""
    try:
        there = parsedate_to_datetime(error.response.headers["date"])
    except (KeyError, ValueError):
        return False
    return error.response.status == 403 and abs(there.timestamp() - time.time()) > _TOLERATED_SKEW_S


def ensure_bucket(client: Minio, bucket: str) -> None:
    """Make a bucket unless it exists; the client's own errors pass through."""
    from minio.error import S3Error

    if client.bucket_exists(bucket):
        return
    try:
        client.make_bucket(bucket)
    except S3Error as error:
        # Somebody else may have made it since the question.
        if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


def chunks_of(client: Minio, bucket: str, key: str) -> Iterator[bytes]:
    """An object in pieces; its connection is given back even if the reading is cut short."""
    answer = client.get_object(bucket, key)
    try:
        yield from answer.stream(2**20)
    finally:
        answer.close()
        answer.release_conn()
