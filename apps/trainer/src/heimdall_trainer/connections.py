"""Addresses of the catalogue, the object store and MLflow: flags, environment, `.env`, defaults.

The variables and their defaults are those of the contract's first section. Secrets are left out of
every `repr`, and their flags out of the help: a process listing would show them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

from cyclopts import Parameter

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from heimdall_data.cache.bucket import SharedCache
    from heimdall_data.embedded import EmbeddedStack
    from heimdall_data.object_store.settings import S3Settings
    from heimdall_export.object_store.store import ArtifactStore, ModelStores

OUTBOX = "mlflow-outbox"
"""Folder of the state directory where runs claim to live; see `Connections.outbox`."""
SECRETS = frozenset(("s3_access_key", "s3_secret_key"))
ADDRESSES = frozenset(
    (
        "database_url",
        "s3_endpoint_url",
        "mlflow_tracking_uri",
        "mlflow_s3_endpoint_url",
        "broker_url",
        "result_backend",
    )
)


def shown_value(name: str, value: str) -> str:
    """The value of a setting as it may be shown: `***` in place of what is or may be secret."""
    from heimdall_features.addresses import HIDDEN, shown_address, shown_text

    if name in SECRETS:
        return HIDDEN
    return shown_address(value) if name in ADDRESSES else shown_text(value)


def _not_configured(what: str, names: list[str]) -> TrainerError:
    return TrainerError(
        f"no {what} is configured ({', '.join(names)}): set {' and '.join(names)}, or try "
        "`heimdall demo`, or start embedded servers with `heimdall stack up`"
    )


@Parameter(name="*", group="Servers and folders")
@dataclass(frozen=True, kw_only=True)
class Connections:
    """Addresses and names of the systems that the trainer works with."""

    database_url: Annotated[str | None, Parameter(env_var="HEIMDALL_DATABASE_URL")] = field(
        default=None, repr=False
    )
    """Catalogue, postgresql://… ."""
    s3_endpoint_url: Annotated[str | None, Parameter(env_var="HEIMDALL_S3_ENDPOINT_URL")] = field(
        default=None, repr=False
    )
    """Object store, http://… or https://… ."""
    s3_access_key: Annotated[
        str | None, Parameter(env_var="HEIMDALL_S3_ACCESS_KEY", show=False)
    ] = field(default=None, repr=False)
    """Name of the object store's credentials."""
    s3_secret_key: Annotated[
        str | None, Parameter(env_var="HEIMDALL_S3_SECRET_KEY", show=False)
    ] = field(default=None, repr=False)
    """Secret of the object store's credentials."""
    s3_region: Annotated[str, Parameter(env_var="HEIMDALL_S3_REGION")] = "us-east-1"
    """Region of the object store."""
    raw_iq_bucket: Annotated[str, Parameter(env_var="HEIMDALL_RAW_IQ_BUCKET")] = "heimdall-raw-iq"
    """Bucket of the recordings."""
    models_bucket: Annotated[str, Parameter(env_var="HEIMDALL_MODELS_BUCKET")] = "heimdall-models"
    """Bucket of the exported models."""
    mlflow_tracking_uri: Annotated[str | None, Parameter(env_var="MLFLOW_TRACKING_URI")] = field(
        default=None, repr=False
    )
    """MLflow, as MLflow defines it; SQLite under the state directory when unset."""
    mlflow_s3_endpoint_url: Annotated[str | None, Parameter(env_var="MLFLOW_S3_ENDPOINT_URL")] = (
        field(default=None, repr=False)
    )
    """Object store of MLflow's artifacts; the recordings' when unset."""
    mlflow_artifact_root: Annotated[
        str | None, Parameter(env_var="HEIMDALL_MLFLOW_ARTIFACT_ROOT")
    ] = None
    """Artifacts of a new experiment; s3://heimdall-mlflow when there is an endpoint."""
    cache_s3: Annotated[str | None, Parameter(env_var="HEIMDALL_CACHE_S3")] = None
    """Computed features that machines share, s3://bucket/prefix; none when unset."""
    state_dir: Annotated[Path | None, Parameter(env_var="HEIMDALL_STATE_DIR")] = None
    """Embedded servers' data, caches, checkpoints; the user data directory when unset."""

    def need_database(self) -> str:
        """Return the catalogue's URL.

        Raises:
            TrainerError: None is configured.
        """
        if not self.database_url:
            raise _not_configured("catalogue", ["HEIMDALL_DATABASE_URL"])
        return self.database_url

    def need_s3(self) -> S3Settings:
        """Return the settings of the object store.

        Raises:
            TrainerError: The endpoint or a credential is not configured.
            StoreError: One of them is invalid.
        """
        from heimdall_data.object_store.settings import S3Settings

        values = {
            "HEIMDALL_S3_ENDPOINT_URL": self.s3_endpoint_url,
            "HEIMDALL_S3_ACCESS_KEY": self.s3_access_key,
            "HEIMDALL_S3_SECRET_KEY": self.s3_secret_key,
        }
        if missing := [name for name, value in values.items() if not value]:
            raise _not_configured("object store", missing)
        return S3Settings(
            endpoint_url=str(self.s3_endpoint_url),
            access_key=str(self.s3_access_key),
            secret_key=str(self.s3_secret_key),
            region=self.s3_region,
            raw_iq_bucket=self.raw_iq_bucket,
            models_bucket=self.models_bucket,
        )

    def shared_cache(self, *, writes: bool = False) -> SharedCache | None:
        """Return the cache of features in a bucket of the object store, if one is configured.

        Raises:
            TrainerError: The object store is not configured.
            DataError: The address is invalid.
        """
        if not self.cache_s3:
            return None
        from heimdall_data.cache.bucket import SharedCache

        return SharedCache(self.need_s3(), self.cache_s3, writes=writes)

    def state_directory(self) -> Path:
        """Return the state directory, made where it is missing.

        Raises:
            TrainerError: It is not known, or cannot be made or written.
        """
        from platformdirs import user_data_path

        try:
            path = (self.state_dir or user_data_path("heimdall")).expanduser().absolute()
        except RuntimeError:  # a container's user, with neither HOME nor a name
            raise TrainerError(
                "the state directory is not known, as this user has no home: "
                "set HEIMDALL_STATE_DIR to a directory that you can write"
            ) from None
        problem = ""
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            problem = f"cannot be made ({error.strerror})"
        else:
            if not os.access(path, os.W_OK | os.X_OK):
                problem = "is not writable"
        if problem:
            raise TrainerError(
                f"the state directory {path} {problem}: "
                "set HEIMDALL_STATE_DIR to a directory that you can write"
            )
        return path

    def state_folder(self, name: str) -> Path:
        """Return a folder of the state directory, made for its owner alone where it is missing.

        Raises:
            TrainerError: It cannot be made, or the state directory cannot be written.
        """
        path = self.state_directory() / name
        try:
            path.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise TrainerError(
                f"the folder {path} cannot be made ({error.strerror}); move away what is there"
            ) from error
        return path

    @classmethod
    def to_stack(cls, stack: EmbeddedStack) -> Connections:
        """Return the connections to a running embedded stack."""
        s3 = stack.s3
        return cls(
            database_url=stack.database_url,
            s3_endpoint_url=s3.endpoint_url,
            s3_access_key=s3.access_key,
            s3_secret_key=s3.secret_key,
            state_dir=stack.state_dir,
        )

    def environment(self, *, defaults: bool = True) -> dict[str, str]:
        """Return the contract's variables with these values, with or without the defaults."""
        hints, default = get_type_hints(Connections, include_extras=True), Connections()
        return {
            variable: str(value)
            for name, hint in hints.items()
            if (value := getattr(self, name)) is not None
            and (defaults or value != getattr(default, name))
            for variable in hint.__metadata__[0].env_var
        }

    def outbox(self) -> Path:
        """Return the folder where runs claim to live, and keep what MLflow has not taken."""
        return self.state_folder(OUTBOX)

    def tracking_uri(self) -> str:
        """Return MLflow's address."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state_directory() / 'mlflow.db'}"

    def artifact_root(self) -> str:
        """Return the address where a new experiment puts its artifacts."""
        if self.mlflow_artifact_root:
            return self.mlflow_artifact_root
        if self.s3_endpoint_url:
            return "s3://heimdall-mlflow"
        return self.state_folder("mlflow-artifacts").as_uri()

    def model_stores(self, model: str) -> ModelStores | None:
        """Return the object store and the registry behind a model's address; None for a path.

        Raises:
            TrainerError: No object store is configured.
        """
        from heimdall_export.object_store.store import S3_SCHEME, ModelStores
        from heimdall_export.registry.published import SCHEME

        if not model.startswith((S3_SCHEME, SCHEME)):
            return None
        return ModelStores(
            s3=self.artifact_store(of_mlflow=False), tracking_uri=self.tracking_uri()
        )

    def artifact_store(self, *, of_mlflow: bool = True) -> ArtifactStore:
        """Return the object store of MLflow's `s3://` artifacts, or that of the models.

        Raises:
            TrainerError: The object store is not configured.
        """
        from heimdall_export.object_store.store import ArtifactStore

        s3 = self.need_s3()
        return ArtifactStore(
            endpoint_url=(self.mlflow_s3_endpoint_url if of_mlflow else None) or s3.endpoint_url,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
            region=s3.region,
        )


def check_connections(connections: Connections) -> None:
    """Connect to all servers that a run needs, and create the models' bucket if it is missing.

    Raises:
        TrainerError: Something is not configured, or the state directory cannot be written.
        CatalogueError: The catalogue cannot be read.
        StoreError: The object store refuses, is out of reach, or lacks the recordings' bucket.
    """
    from heimdall_data import Catalogue, ObjectStore

    connections.state_directory()
    database_url, s3 = connections.need_database(), connections.need_s3()
    with Catalogue(database_url) as catalogue:
        catalogue.stations()
    ObjectStore(s3, s3.raw_iq_bucket).require_bucket()
    ObjectStore(s3, s3.models_bucket).ensure_bucket()
