"""The object store: any S3, through the MinIO client.

Only this module speaks S3. Nothing here prints or represents a secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minio import Minio

__all__ = ["S3Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Where the object store is and who we are there."""

    endpoint_url: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    raw_iq_bucket: str = "heimdall-raw-iq"
    models_bucket: str = "heimdall-models"

    def client(self) -> Minio:
        """A MinIO client of this store; it connects on first use."""
        raise NotImplementedError
