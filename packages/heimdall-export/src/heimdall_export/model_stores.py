"""Where addresses of models lead: the object store of `s3://`, the registry of `models:/`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from heimdall_export.artifact_store import ArtifactStore
from heimdall_export.errors import ExportError

__all__ = ["ModelStores"]

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
