"""`heimdall train --dry_run`: reach every server, load the data, and time a few batches.

Each check prints one line and a failed one says what to do; the others go on where they can. MLflow
and the object store are only read. Features computed on the way stay in the cache for the training.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import lightning.pytorch as pl
import torch
from heimdall_data import Catalogue, ObjectStore
from heimdall_models import AveragedWeights
from heimdall_models.training.batches import make_loader
from heimdall_models.training.history import duration
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from heimdall_trainer.console import tell_data
from heimdall_trainer.data import load_training_data
from heimdall_trainer.errors import TrainerError, describe
from heimdall_trainer.events import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from heimdall_data.object_store.settings import S3Settings

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.data import TrainingData
    from heimdall_trainer.pipeline import TrainingPipeline

__all__ = ["MeasuredSteps", "artifact_root_of", "bucket_is_writable", "dry_run", "measure_steps"]


N_CHECKPOINTS = 6
"""The three best, the last, one from within an epoch, and one being written."""
BYTES_A_PARAMETER = 16
"""In a checkpoint: weight, average, and the optimizer's two moments."""
MAX_PRINTED = 3
N_WARM = 2
"""Steps that are not timed: the first ones allocate buffers and choose kernels."""
N_STEPS = 12
N_VALIDATED = 4
ENOUGH_S = 20.0
"""No step begins after this long."""
_Found = TypeVar("_Found")


def dry_run(config: TrainingConfig, connections: Connections) -> None:
    """Check everything that a training needs.

    Raises:
        TrainerError: A check failed; the line of the check says why.
    """
    checks = _Checks()
    state = checks.run("state", connections.state_directory)
    checks.run("configuration", lambda: _configuration(config, connections))
    reached = (
        checks.run("database", lambda: _database(connections)),
        checks.run("recordings", lambda: _recordings(connections)),
    )
    checks.run("models", lambda: _models(connections))
    checks.run("mlflow", lambda: _mlflow(config, connections))
    data = steps = None
    if state is None or None in reached:
        checks.skip("data", "the state directory, the database and the recordings")
    else:
        data = checks.run("data", lambda: _data(config, connections), _data_text)
    if data is None or config.export_only:
        checks.skip("batch", "a training" if config.export_only else "the data")
    else:
        from heimdall_trainer.pipeline import TrainingPipeline

        pipeline = TrainingPipeline(config, connections)
        steps = checks.run(
            "batch", lambda: measure_steps(pipeline, data), lambda found: _steps_text(found, config)
        )
    if state is not None:
        checks.run("disk", lambda: _disk(state, steps, config))
    if checks.failed:
        total = checks.n_passed + len(checks.failed)
        names = ", ".join(checks.failed)
        raise TrainerError(f"{len(checks.failed)} of {total} checks failed: {names}")
    tell("note", f"{checks.n_passed} checks passed; nothing was trained", said="passed")


@dataclass
class _Checks:
    """Results of the checks so far."""

    n_passed: int = 0
    failed: list[str] = field(default_factory=list)

    def run(
        self, name: str, check: Callable[[], _Found], text: Callable[[_Found], str] = str
    ) -> _Found | None:
        """Run one check and print its line; None if it fails."""
        try:
            found = check()
        except Exception as error:  # noqa: BLE001 - it fails this check, and the others go on
            said = describe(error)
            tell("check", f"FAILED   {name:14s} {said}", check=name, ok=False, said=said)
            self.failed.append(name)
            return None
        said = text(found)
        tell("check", f"ok       {name:14s} {said}", check=name, ok=True, said=said)
        self.n_passed += 1
        return found

    def skip(self, name: str, needs: str) -> None:
        """Print that something cannot be checked."""
        tell("check", f"skipped  {name:14s} needs {needs}", check=name, ok=None, said=needs)


def _configuration(config: TrainingConfig, connections: Connections) -> str:
    from heimdall_models.training.devices import placement

    from heimdall_trainer.pipeline import TrainingPipeline

    TrainingPipeline(config, connections).check()
    placement(config)
    return f"{config.backbone}, {config.features}"


def _database(connections: Connections) -> str:
    with Catalogue(connections.need_database()) as catalogue:
        return f"{len(catalogue.stations())} stations in {catalogue.where}"


def _recordings(connections: Connections) -> str:
    s3 = connections.need_s3()
    ObjectStore(s3, s3.raw_iq_bucket).require_bucket()
    return f"bucket {s3.raw_iq_bucket} of {s3.endpoint_url}"


def _models(connections: Connections) -> str:
    s3 = connections.need_s3()
    exists = bucket_is_writable(s3, s3.models_bucket)
    return f"bucket {s3.models_bucket} {'can be written' if exists else 'will be made'}"


def bucket_is_writable(s3: S3Settings, bucket: str) -> bool:
    """Return True for a bucket that can be written, False if there is none: training makes it.

    A multipart upload that is begun and aborted needs the permission to write and leaves nothing.

    Raises:
        TrainerError: The bucket cannot be written, or the store is out of reach.
    """
    client, key = s3.client(), "heimdall-dry-run"
    try:
        upload = client._create_multipart_upload(bucket, key, {})
        client._abort_multipart_upload(bucket, key, upload)
    except S3Error as error:
        if error.code == "NoSuchBucket":
            return False
        raise TrainerError(
            f"bucket {bucket!r} of {s3.endpoint_url} cannot be written ({error.code}): allow "
            "PutObject and AbortMultipartUpload there, or choose another bucket"
        ) from None
    except (MinioException, HTTPError, ValueError) as error:
        raise TrainerError(
            f"no usable answer from the object store {s3.endpoint_url} about bucket {bucket!r} "
            f"({type(error).__name__}): check that it runs"
        ) from None
    return True


def _mlflow(config: TrainingConfig, connections: Connections) -> str:
    found = artifact_root_of(config.experiment_name, connections)
    place = found or connections.artifact_root()
    root = urlsplit(place)
    if root.scheme == "s3":
        endpoint = connections.artifact_store().endpoint_url
        bucket_is_writable(replace(connections.need_s3(), endpoint_url=endpoint), root.netloc)
    exists = "exists" if found else "will be made"
    return f"experiment {config.experiment_name} {exists}; artifacts in {place}"


def artifact_root_of(experiment: str, connections: Connections) -> str | None:
    """Return the address of an experiment's artifacts; None if there is no such experiment.

    MLflow's client creates missing tables, so a database without them is never opened with it.

    Raises:
        TrainerError: The experiment was deleted.
        ExportError: MLflow is out of reach, or refuses.
    """
    from heimdall_export.tracking.client import mlflow_errors, open_client, with_driver
    from sqlalchemy import create_engine, inspect, make_url

    uri = connections.tracking_uri()
    with mlflow_errors(f"look for experiment {experiment!r}"):
        if uri.startswith(("sqlite", "postgres")):
            url = make_url(with_driver(uri))
            if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
                return None
            engine = create_engine(url)
            try:
                if not inspect(engine).has_table("experiments"):
                    return None
            finally:
                engine.dispose()
        found = open_client(uri).get_experiment_by_name(experiment)
    if found is None:
        return None
    if found.lifecycle_stage == "deleted":
        raise TrainerError(
            f"experiment {experiment!r} was deleted in MLflow: restore it, or choose another "
            "--experiment_name"
        )
    return str(found.artifact_location)


def _data(config: TrainingConfig, connections: Connections) -> TrainingData:
    from heimdall_models.training.timing import timed_parts

    data = load_training_data(config, connections)
    tell_data(data)
    if config.features == "mel+timing":
        timed_parts(data)
    return data


def _data_text(data: TrainingData) -> str:
    n_used = sum(len(part) for part in (data.train, data.validation, data.test))
    first = "".join(f"; {left.session_id}: {left.reason}" for left in data.exclusions[:MAX_PRINTED])
    return f"{n_used} sessions, {len(data.exclusions)} excluded{first}"


def _steps_text(steps: MeasuredSteps, config: TrainingConfig) -> str:
    n_epochs = config.epochs * config.ensemble
    return (
        f"{steps.step_s:.3f} s a step of {config.batch_size} on {steps.device}, "
        f"{steps.memory_bytes / 1e6:.0f} MB of memory; an epoch will take about "
        f"{duration(steps.epoch_s)}, all of {n_epochs} at most "
        f"{duration(steps.epoch_s * n_epochs)}"
    )


def _disk(state: Path, steps: MeasuredSteps | None, config: TrainingConfig) -> str:
    free = shutil.disk_usage(state).free
    said = f"{free / 1e9:.1f} GB free in {state}"
    if steps is None:
        return said
    needed = steps.n_parameters * BYTES_A_PARAMETER * N_CHECKPOINTS * config.ensemble
    if free < needed:
        raise TrainerError(
            f"{said}, and checkpoints take {needed / 1e9:.1f} GB: "
            "make room, or set --checkpoint_dir or HEIMDALL_STATE_DIR"
        )
    return f"{said}, checkpoints take {needed / 1e9:.1f} GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSteps:
    """Time and memory of training on one device of this machine."""

    device: str
    step_s: float
    """One batch: loading, forward, backward and optimizer."""
    epoch_s: float
    """All batches of the training and the validation part."""
    memory_bytes: int
    """Peak memory of the device, or of this process where the device is the CPU."""
    n_parameters: int


def measure_steps(pipeline: TrainingPipeline, data: TrainingData) -> MeasuredSteps:
    """Train and validate on a few batches on one device, with a network that is thrown away.

    The whole backbone learns from the start, as in the slowest epochs of a training.

    Raises:
        TrainerError: Memory does not hold a batch, or its loss is not finite.
        ModelError: The network cannot be trained as it should be.
    """
    config = replace(pipeline.config, unfreeze_epoch=0, unfreeze_every=0)
    module = type(pipeline)(config, pipeline.connections).create_lightning_module(data)
    clock = _StepClock()
    trainer = pl.Trainer(
        max_epochs=1,
        limit_train_batches=N_WARM + N_STEPS,
        limit_val_batches=N_VALIDATED,
        accelerator=config.accelerator,
        devices=1,
        precision=config.precision,
        gradient_clip_val=config.gradient_clip or None,
        callbacks=[clock, *([AveragedWeights(config.ema_decay)] if config.ema_decay else [])],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        deterministic="warn",
    )
    device = trainer.strategy.root_device
    train, validation = make_loader(data.train, config), make_loader(data.validation, config)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.fit(module, train, validation)
    except torch.OutOfMemoryError:
        raise TrainerError(
            f"a batch of {config.batch_size} does not fit into the memory of {device}: lower "
            "--batch_size, or try --gradient_checkpointing or --precision bf16-mixed"
        ) from None
    if not math.isfinite(clock.loss):
        raise TrainerError("the loss of a first batch is not finite: lower --learning_rate")
    if device.type == "cuda":
        memory_bytes = torch.cuda.max_memory_allocated(device)
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory_bytes = most if sys.platform == "darwin" else most * 1024
    warm_s = clock.train_s[N_WARM:] if len(clock.train_s) > N_WARM + 1 else clock.train_s
    step_s = _mean_s(warm_s)
    return MeasuredSteps(
        device=str(device),
        step_s=step_s,
        epoch_s=step_s * len(train) + _mean_s(clock.validation_s) * len(validation),
        memory_bytes=memory_bytes,
        n_parameters=sum(weights.numel() for weights in module.parameters()),
    )


class _StepClock(pl.Callback):
    """Times at which batches ended, in seconds, and the last loss."""

    def __init__(self) -> None:
        self.loss = math.nan
        self.train_s: list[float] = []
        self.validation_s: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:  # noqa: ANN401 - Lightning's
        self.train_s.append(_now_s())

    def on_train_batch_end(self, trainer: pl.Trainer, _: Any, outputs: Any, *__: Any) -> None:  # noqa: ANN401
        self.loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        self.train_s.append(_now_s())
        if self.train_s[-1] - self.train_s[0] > ENOUGH_S and len(self.train_s) > N_WARM + 1:
            trainer.should_stop = True

    def on_validation_start(self, *_: Any) -> None:  # noqa: ANN401
        self.validation_s.append(_now_s())

    def on_validation_batch_end(self, *_: Any) -> None:  # noqa: ANN401
        self.validation_s.append(_now_s())


def _now_s() -> float:
    if torch.cuda.is_available():  # kernels run on after the step has returned
        torch.cuda.synchronize()
    return time.monotonic()


def _mean_s(ends_s: list[float]) -> float:
    return (ends_s[-1] - ends_s[0]) / max(len(ends_s) - 1, 1) if ends_s else 0.0
