"""The S3 where MLflow keeps artifacts, with credentials that stay out of the environment.

MLflow takes them from the process's environment, from where they reach every child process and
are still there when the run is over. Here they are handed over in person, or lent for a while.

Environment variables for a while: for libraries that take their settings from nowhere else.

Where addresses of models lead: the object store of `s3://`, the registry of `models:/`.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

__all__ = ["ArtifactStore", "ModelStores", "lent"]


@contextlib.contextmanager
def lent(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables, None takes one away; afterwards each is as it was."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactStore:
    """Where the artifacts' S3 is and who we are there."""

    endpoint_url: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"

    @contextlib.contextmanager
    def repository(self, artifact_uri: str) -> Iterator[S3ArtifactRepository]:
        """MLflow's artifacts at an `s3://` address; the environment tells the place alone."""
        from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

        with lent(self._place()):
            yield S3ArtifactRepository(
                artifact_uri,
                access_key_id=self.access_key,
                secret_access_key=self.secret_key,
            )

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """The environment in which MLflow's own functions find this store.

        `mlflow.onnx.load_model` is one of them. The environment is afterwards as it was.
        """
        import boto3  # type: ignore[import-untyped]

        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        with lent(self._place() | keys):
            boto3.setup_default_session()  # it keeps what it found first
            try:
                yield
            finally:
                boto3.setup_default_session()

    def ensure_bucket(self, artifact_uri: str) -> None:
        """Make the bucket of an `s3://` address where there is none.

        Raises:
            ClientError, BotoCoreError: The store refuses, or is out of reach.
        """
        import boto3
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        bucket = urlsplit(artifact_uri).netloc
        with lent(self._place()):
            client = boto3.client(
                "s3",
                endpoint_url=self.endpoint_url,
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
            )
            try:
                client.head_bucket(Bucket=bucket)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                # Amazon's first region alone must not be named.
                where = {"LocationConstraint": self.region}
                named = {} if self.region == "us-east-1" else {"CreateBucketConfiguration": where}
                client.create_bucket(Bucket=bucket, **named)

    def _place(self) -> dict[str, str | None]:
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            # They would win over, or mix with, what is given here.
            "AWS_PROFILE": None,
            "AWS_SESSION_TOKEN": None,
        }


_NEEDED = ("HEIMDALL_S3_ENDPOINT_URL", "HEIMDALL_S3_ACCESS_KEY", "HEIMDALL_S3_SECRET_KEY")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStores:
    """What a service needs to know to fetch a model by its address."""

    s3: ArtifactStore | None = None
    tracking_uri: str | None = field(default=None, repr=False)
    """Of the MLflow registry; may hold a password."""

    @classmethod
    def from_environment(cls) -> ModelStores:
        """What the contract's variables say; None for what they do not."""
        endpoint_url, access_key, secret_key = (os.environ.get(name) for name in _NEEDED)
        s3 = None
        if endpoint_url and access_key and secret_key:
            region = os.environ.get("HEIMDALL_S3_REGION") or "us-east-1"
            s3 = ArtifactStore(
                endpoint_url=endpoint_url,
                access_key=access_key,
                secret_key=secret_key,
                region=region,
            )
        return cls(s3=s3, tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or None)

    def need_s3(self) -> ArtifactStore:
        """The object store.

        Raises:
            ExportError: None is configured.
        """
        if self.s3 is None:
            raise ExportError(
                f"no object store is configured: set {', '.join(_NEEDED)}, or give "
                "stores=ModelStores(s3=...)"
            )
        return self.s3

    def need_tracking_uri(self) -> str:
        """The registry's address.

        Raises:
            ExportError: None is configured.
        """
        if self.tracking_uri is None:
            raise ExportError(
                "no model registry is configured: set MLFLOW_TRACKING_URI, or give "
                "stores=ModelStores(tracking_uri=...)"
            )
        return self.tracking_uri
