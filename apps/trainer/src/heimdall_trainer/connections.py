"""Where the catalogue, the object store and MLflow are: flags, environment, `.env`, defaults.

The variables and their defaults are those of the contract's first section. No `repr` carries a
secret, and the help does not offer the flags of secrets, which a process listing would show.

What can be found wrong in a second, before libraries load for ten and data for minutes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from heimdall_data import Catalogue, ObjectStore

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from heimdall_data.cache.bucket import SharedCache
    from heimdall_data.embedded import EmbeddedStack
    from heimdall_data.object_store.settings import S3Settings
    from heimdall_export.object_store.settings import ArtifactStore

__all__ = ["Connections", "check_connections", "default_state_dir"]


REMEDY = (
    "set {variable}, or try `heimdall demo`, or start embedded servers with `heimdall stack up`"
)


def default_state_dir() -> Path:
    """The platform's user data directory for Heimdall."""
    from platformdirs import user_data_path

    return user_data_path("heimdall")


def _variable(name: str) -> Parameter:
    return Parameter(env_var=name)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Connections:
    """Addresses and names of the systems that the trainer works with."""

    database_url: Annotated[str | None, _variable("HEIMDALL_DATABASE_URL")] = field(
        default=None, repr=False
    )
    """Catalogue, postgresql://… ."""
    s3_endpoint_url: Annotated[str | None, _variable("HEIMDALL_S3_ENDPOINT_URL")] = None
    """Object store, http://… or https://… ."""
    s3_access_key: Annotated[
        str | None, Parameter(env_var="HEIMDALL_S3_ACCESS_KEY", show=False)
    ] = field(default=None, repr=False)
    s3_secret_key: Annotated[
        str | None, Parameter(env_var="HEIMDALL_S3_SECRET_KEY", show=False)
    ] = field(default=None, repr=False)
    s3_region: Annotated[str, _variable("HEIMDALL_S3_REGION")] = "us-east-1"
    """Region of the object store."""
    raw_iq_bucket: Annotated[str, _variable("HEIMDALL_RAW_IQ_BUCKET")] = "heimdall-raw-iq"
    """Bucket of the recordings."""
    models_bucket: Annotated[str, _variable("HEIMDALL_MODELS_BUCKET")] = "heimdall-models"
    """Bucket of the exported models."""
    mlflow_tracking_uri: Annotated[str | None, _variable("MLFLOW_TRACKING_URI")] = field(
        default=None, repr=False
    )
    """MLflow, as MLflow defines it; SQLite under the state directory when unset."""
    mlflow_s3_endpoint_url: Annotated[str | None, _variable("MLFLOW_S3_ENDPOINT_URL")] = None
    """Object store of MLflow's artifacts; the recordings' when unset."""
    mlflow_artifact_root: Annotated[str | None, _variable("HEIMDALL_MLFLOW_ARTIFACT_ROOT")] = None
    """Where a new experiment puts artifacts; s3://heimdall-mlflow when there is an endpoint."""
    cache_s3: Annotated[str | None, _variable("HEIMDALL_CACHE_S3")] = None
    """Computed features that machines share, s3://bucket/prefix; none when unset."""
    state_dir: Annotated[Path | None, _variable("HEIMDALL_STATE_DIR")] = None
    """Embedded servers' data, caches, checkpoints; the user data directory when unset."""

    def need_database(self) -> str:
        """The catalogue's URL.

        Raises:
            TrainerError: None is configured.
        """
        if not self.database_url:
            remedy = REMEDY.format(variable="HEIMDALL_DATABASE_URL")
            raise TrainerError(f"no catalogue is configured (HEIMDALL_DATABASE_URL): {remedy}")
        return self.database_url

    def need_s3(self) -> S3Settings:
        """The object store, with the credentials of the environment.

        Raises:
            TrainerError: The endpoint or a credential is not configured.
        """
        from heimdall_data.object_store.settings import S3Settings

        values = {
            "HEIMDALL_S3_ENDPOINT_URL": self.s3_endpoint_url,
            "HEIMDALL_S3_ACCESS_KEY": self.s3_access_key,
            "HEIMDALL_S3_SECRET_KEY": self.s3_secret_key,
        }
        if missing := [name for name, value in values.items() if not value]:
            remedy = REMEDY.format(variable=" and ".join(missing))
            raise TrainerError(f"no object store is configured ({', '.join(missing)}): {remedy}")
        return S3Settings(
            endpoint_url=str(self.s3_endpoint_url),
            access_key=str(self.s3_access_key),
            secret_key=str(self.s3_secret_key),
            region=self.s3_region,
            raw_iq_bucket=self.raw_iq_bucket,
            models_bucket=self.models_bucket,
        )

    def shared_cache(self, *, writes: bool = False) -> SharedCache | None:
        """Computed features in a bucket of the object store, if any are configured.

        Raises:
            TrainerError: The object store is not configured.
            DataError: The address is none.
        """
        if not self.cache_s3:
            return None
        from heimdall_data.cache.bucket import SharedCache

        return SharedCache(self.need_s3(), self.cache_s3, writes=writes)

    def state_directory(self) -> Path:
        """The state directory, made where it is missing.

        Raises:
            TrainerError: It cannot be made or written.
        """
        path = (self.state_dir or default_state_dir()).expanduser().absolute()
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise TrainerError(
                f"the state directory {path} cannot be made ({error.strerror}): "
                "set HEIMDALL_STATE_DIR to a directory that you can write"
            ) from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise TrainerError(
                f"the state directory {path} is not writable: "
                "set HEIMDALL_STATE_DIR to a directory that you can write"
            )
        return path

    @classmethod
    def to_stack(cls, stack: EmbeddedStack) -> Connections:
        """The connections to a running embedded stack."""
        s3 = stack.s3
        return cls(
            database_url=stack.database_url,
            s3_endpoint_url=s3.endpoint_url,
            s3_access_key=s3.access_key,
            s3_secret_key=s3.secret_key,
            state_dir=stack.state_dir,
        )

    def tracking_uri(self) -> str:
        """Where MLflow keeps its runs."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state_directory() / 'mlflow.db'}"

    def artifact_root(self) -> str:
        """Where a new experiment puts its artifacts."""
        if self.mlflow_artifact_root:
            return self.mlflow_artifact_root
        if self.s3_endpoint_url:
            return "s3://heimdall-mlflow"
        return (self.state_directory() / "mlflow-artifacts").as_uri()

    def artifact_store(self) -> ArtifactStore:
        """The object store of MLflow's `s3://` artifacts.

        Raises:
            TrainerError: The object store is not configured.
        """
        from heimdall_export.object_store.settings import ArtifactStore

        s3 = self.need_s3()
        return ArtifactStore(
            endpoint_url=self.mlflow_s3_endpoint_url or s3.endpoint_url,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
            region=s3.region,
        )


def check_connections(connections: Connections) -> None:
    """Reach everything that a run needs, and make the models' bucket where there is none.

    Raises:
        TrainerError: Something is not configured, or the state directory cannot be written.
        CatalogueError: The catalogue cannot be read.
        StoreError: The object store refuses, is out of reach, or lacks the recordings' bucket.
    """
    connections.state_directory()
    database_url, s3 = connections.need_database(), connections.need_s3()
    with Catalogue(database_url) as catalogue:
        catalogue.stations()
    ObjectStore(s3, s3.raw_iq_bucket).require_bucket()
    ObjectStore(s3, s3.models_bucket).ensure_bucket()
