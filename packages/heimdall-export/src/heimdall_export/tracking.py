"""A training run in MLflow: parameters, metrics, tags and artifacts, and how it ended.

Everything goes through one explicit client; MLflow's global state is left alone, save for the
environment variables through which its S3 library takes addresses and credentials.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from heimdall_export.contract import EXPERIMENT
from heimdall_export.errors import ExportError

# Before MLflow is imported: no telemetry, no advice about git, no network but the named servers.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = ["MLflowTracker", "s3_environment", "told_plainly"]

for _noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)

_SECRET_WORDS = ("password", "secret", "access_key", "token", "database_url")
_LONGEST_PARAM = 6000
_BATCH = 100


@contextlib.contextmanager
def told_plainly(doing: str) -> Iterator[None]:
    """Turn whatever MLflow or its stores raise into one `ExportError`."""
    try:
        yield
    except ExportError:
        raise
    except MlflowException as error:
        raise ExportError(f"MLflow cannot {doing}: {_first_line(error)}") from error
    except OSError as error:
        raise ExportError(f"MLflow cannot {doing}: {error}") from error
    except Exception as error:
        # boto3 and SQLAlchemy have bases of their own, and are MLflow's dependencies, not ours.
        if type(error).__module__.partition(".")[0] in {"boto3", "botocore", "sqlalchemy"}:
            raise ExportError(f"MLflow cannot {doing}: {_first_line(error)}") from error
        raise


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def s3_environment(
    endpoint_url: str, access_key: str, secret_key: str, region: str = "us-east-1"
) -> None:
    """Tell MLflow's S3 library where the artifacts are and who we are there.

    It reads the process's environment and offers no other way. Variables that the user set keep
    their values.
    """
    os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", endpoint_url)
    os.environ.setdefault("AWS_ACCESS_KEY_ID", access_key)
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", secret_key)
    os.environ.setdefault("AWS_DEFAULT_REGION", region)
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")


class MLflowTracker:
    """One MLflow run, as a context manager: finished, failed or killed as its body ends.

    Attributes:
        client: MLflow's client of the tracking server.
        run_id: MLflow's id of the run.
        run_name: `{prefix}_{YYYYMMDD_HHMMSS}` in UTC.
        experiment_id: MLflow's id of the experiment.
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        artifact_root: str,
        experiment_name: str = EXPERIMENT,
        run_name_prefix: str = "rf-localization",
    ) -> None:
        """Begin a run; the experiment is made where it is missing.

        Args:
            tracking_uri: As MLflow defines it.
            artifact_root: Where a new experiment puts artifacts; an existing one keeps its own.
            experiment_name: The experiment.
            run_name_prefix: Of the run's name.

        Raises:
            ExportError: The tracking server cannot be reached or refuses.
        """
        with told_plainly(f"begin a run in experiment {experiment_name!r}"):
            self.client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
            self.tracking_uri = tracking_uri
            self.experiment_id = self._experiment(experiment_name, artifact_root)
            self.run_name = f"{run_name_prefix}_{datetime.now(UTC):%Y%m%d_%H%M%S}"
            run = self.client.create_run(self.experiment_id, run_name=self.run_name)
            self.run_id = str(run.info.run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(_status(kind))

    def _experiment(self, name: str, artifact_root: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name, artifact_location=artifact_root))
        if found.lifecycle_stage == "deleted":
            raise ExportError(
                f"experiment {name!r} was deleted in MLflow; restore it, or give another "
                "--experiment_name"
            )
        return str(found.experiment_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record what the run was told.

        Raises:
            ExportError: A name that speaks of a secret, or MLflow refuses.
        """
        for name in params:
            if any(word in name.lower() for word in _SECRET_WORDS):
                raise ExportError(f"parameter {name!r} could be a secret; it is not recorded")
        entries = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in params.items()]
        with told_plainly("record the parameters"):
            for start in range(0, len(entries), _BATCH):
                self.client.log_batch(self.run_id, params=entries[start : start + _BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record the finite ones of some metrics at a step.

        Raises:
            ExportError: MLflow refuses.
        """
        now_ms = int(time.time() * 1000)
        entries = [
            Metric(name, float(value), now_ms, step)
            for name, value in metrics.items()
            if math.isfinite(value)
        ]
        with told_plainly("record metrics"):
            self.client.log_batch(self.run_id, metrics=entries)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record what identifies the run.

        Raises:
            ExportError: MLflow refuses.
        """
        entries = [RunTag(name, value[:_LONGEST_PARAM]) for name, value in tags.items()]
        with told_plainly("record tags"):
            self.client.log_batch(self.run_id, tags=entries)

    def log_artifact(self, path: str | os.PathLike[str], folder: str | None = None) -> None:
        """Store a file with the run.

        Raises:
            ExportError: It cannot be stored.
        """
        with told_plainly(f"store {os.fspath(path)}"):
            self.client.log_artifact(self.run_id, os.fspath(path), folder)

    def end(self, status: str = "FINISHED") -> None:
        """Say how the run ended: FINISHED, FAILED or KILLED.

        Raises:
            ExportError: MLflow cannot be reached.
        """
        with told_plainly("close the run"):
            self.client.set_terminated(self.run_id, status)


def _status(kind: type[BaseException] | None) -> str:
    if kind is None:
        return "FINISHED"
    return "KILLED" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "FAILED"
