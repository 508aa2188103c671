"""`heimdall train --dry_run`: whether a training would go through, and how long it would take.

Every check says one line, and a failed one what to do; the others go on where they can. MLflow
and the object store are asked, and told nothing. Features that have to be computed for it stay in
the cache, where the training finds them.

Whether we may write to a bucket, asked without writing to it.

The beginning of an upload in parts needs the permission to write, and leaves nothing behind when
it is called off: no object, no version, no event.

Whether MLflow would take a run, asked without telling it of one.

MLflow's own client makes tables where there are none, so a database is asked directly.

A few steps of a training, to know what an epoch will take.
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
from heimdall_models.training.fit import make_loader
from heimdall_models.training.history import duration

from heimdall_trainer.errors import TrainerError, is_expected
from heimdall_trainer.events import tell
from heimdall_trainer.overview import ModelSize

if TYPE_CHECKING:
    from collections.abc import Callable

    from heimdall_data.object_store.settings import S3Settings

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.data import TrainingData
    from heimdall_trainer.pipeline import TrainingPipeline

__all__ = [
    "Experiment",
    "MeasuredSteps",
    "dry_run",
    "find_experiment",
    "measure_steps",
    "require_writable_bucket",
]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What MLflow has of an experiment."""

    known: bool
    """False where the first run will make it."""
    artifact_root: str


def find_experiment(name: str, connections: Connections) -> Experiment:
    """The experiment that a run would join.

    Raises:
        TrainerError: It was deleted.
        ExportError: MLflow is out of reach, or refuses.
    """
    uri = connections.tracking_uri()
    found = _in_database(uri, name) if uri.startswith(("sqlite", "postgres")) else _asked(uri, name)
    if found is None:
        return Experiment(known=False, artifact_root=connections.artifact_root())
    stage, root = found
    if stage == "deleted":
        raise TrainerError(
            f"experiment {name!r} was deleted in MLflow: restore it, or choose another "
            "--experiment_name"
        )
    return Experiment(known=True, artifact_root=root)


def _asked(uri: str, name: str) -> tuple[str, str] | None:
    from heimdall_export.tracking.client import open_client, told_plainly

    client = open_client(uri)
    with told_plainly(f"look for experiment {name!r}"):
        found = client.get_experiment_by_name(name)
    return None if found is None else (str(found.lifecycle_stage), str(found.artifact_location))


def _in_database(uri: str, name: str) -> tuple[str, str] | None:
    from heimdall_export.tracking.client import told_plainly, with_driver
    from sqlalchemy import create_engine, inspect, make_url, text

    url = make_url(with_driver(uri))
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return None
    engine = create_engine(url)
    try:
        with told_plainly(f"look for experiment {name!r}"), engine.connect() as connection:
            if not inspect(connection).has_table("experiments"):
                return None
            asked = "SELECT lifecycle_stage, artifact_location FROM experiments WHERE name = :name"
            row = connection.execute(text(asked), {"name": name}).first()
    finally:
        engine.dispose()
    return None if row is None else (str(row[0]), str(row[1]))


N_CHECKPOINTS = 6
"""The three best, the last, one from within an epoch, and one being written."""
BYTES_A_PARAMETER = 16
"""In a checkpoint: weight, average, and the optimizer's two moments."""
MOST_TOLD = 3
_Found = TypeVar("_Found")


def dry_run(config: TrainingConfig, connections: Connections) -> None:
    """Check everything that a training needs.

    Raises:
        TrainerError: A check failed; what is wrong was said before.
    """
    checks = _Checks()
    state = checks.ask("state", connections.state_directory, str)
    checks.ask("configuration", lambda: _configuration(config, connections), str)
    reached = (
        checks.ask("database", lambda: _database(connections), str),
        checks.ask("recordings", lambda: _recordings(connections), str),
    )
    checks.ask("models", lambda: _models(connections), str)
    checks.ask("mlflow", lambda: _mlflow(config, connections), str)
    data = None
    if state is None or None in reached:
        checks.skip("data", "the state directory, the database and the recordings")
    else:
        data = checks.ask("data", lambda: _data(config, connections), _described)
    steps = None
    if data is None or config.export_only:
        checks.skip("batch", "a training" if config.export_only else "the data")
    else:
        steps = checks.ask(
            "batch", lambda: _batch(config, connections, data), lambda it: _timed(it, config)
        )
    if state is not None:
        checks.ask("disk", lambda: _disk(state, steps, config), str)
    checks.end()


@dataclass
class _Checks:
    """What was checked, and what of it failed."""

    n_passed: int = 0
    failed: list[str] = field(default_factory=list)

    def ask(
        self, name: str, ask: Callable[[], _Found], said: Callable[[_Found], str]
    ) -> _Found | None:
        """Check one thing; None where it fails."""
        try:
            found = ask()
        except Exception as error:  # noqa: BLE001 - it fails this check, and the others go on
            known = is_expected(error)
            text = " ".join(str(error).split())
            self._tell(name, text if known else f"{type(error).__name__}: {text}", ok=False)
            self.failed.append(name)
            return None
        self._tell(name, said(found), ok=True)
        self.n_passed += 1
        return found

    def skip(self, name: str, needs: str) -> None:
        """Say that something could not be checked."""
        tell("check", f"skipped  {name:14s} needs {needs}", check=name, ok=None, said=needs)

    def _tell(self, name: str, said: str, *, ok: bool) -> None:
        tell(
            "check",
            f"{'ok' if ok else 'FAILED':8s} {name:14s} {said}",
            check=name,
            ok=ok,
            said=said,
        )

    def end(self) -> None:
        if self.failed:
            total = self.n_passed + len(self.failed)
            names = ", ".join(self.failed)
            raise TrainerError(f"{len(self.failed)} of {total} checks failed: {names}")
        tell("note", f"{self.n_passed} checks passed; nothing was trained", said="passed")


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
    there = require_writable_bucket(s3, s3.models_bucket)
    return f"bucket {s3.models_bucket} {'can be written' if there else 'will be made'}"


def _mlflow(config: TrainingConfig, connections: Connections) -> str:
    found = find_experiment(config.experiment_name, connections)
    root = urlsplit(found.artifact_root)
    if root.scheme == "s3":
        endpoint = connections.artifact_store().endpoint_url
        s3 = replace(connections.need_s3(), endpoint_url=endpoint)
        require_writable_bucket(s3, root.netloc)
    known = "is there" if found.known else "will be made"
    return f"experiment {config.experiment_name} {known}; artifacts in {found.artifact_root}"


def _data(config: TrainingConfig, connections: Connections) -> TrainingData:
    from heimdall_models.training.timing import timed_parts

    from heimdall_trainer.data import load_training_data
    from heimdall_trainer.overview import tell_data

    data = load_training_data(config, connections)
    tell_data(data)
    if config.features == "mel+timing":
        timed_parts(data)
    return data


def _described(data: TrainingData) -> str:
    n_used = sum(len(part) for part in (data.train, data.validation, data.test))
    first = "".join(f"; {left.session_id}: {left.reason}" for left in data.exclusions[:MOST_TOLD])
    return f"{n_used} sessions, {len(data.exclusions)} excluded{first}"


def _batch(config: TrainingConfig, connections: Connections, data: TrainingData) -> MeasuredSteps:
    from heimdall_trainer.pipeline import TrainingPipeline

    return measure_steps(TrainingPipeline(config, connections), data)


def _timed(steps: MeasuredSteps, config: TrainingConfig) -> str:
    whole_s = steps.epoch_s * config.epochs * config.ensemble
    return (
        f"{steps.step_s:.3f} s a step of {config.batch_size} on {steps.device}, "
        f"{steps.memory_bytes / 1e6:.0f} MB of memory; an epoch will take about "
        f"{duration(steps.epoch_s)}, all of {config.epochs * config.ensemble} at most "
        f"{duration(whole_s)}"
    )


def _disk(state: Path, steps: MeasuredSteps | None, config: TrainingConfig) -> str:
    free = shutil.disk_usage(state).free
    said = f"{free / 1e9:.1f} GB free in {state}"
    if steps is None:
        return said
    needed = steps.size.parameters * BYTES_A_PARAMETER * N_CHECKPOINTS * config.ensemble
    if free < needed:
        raise TrainerError(
            f"{said}, and checkpoints take {needed / 1e9:.1f} GB: "
            "make room, or set --checkpoint_dir or HEIMDALL_STATE_DIR"
        )
    return f"{said}, checkpoints take {needed / 1e9:.1f} GB"


N_WARM = 2
"""Steps that are not counted: the first ones make buffers and choose kernels."""
N_STEPS = 12
N_VALIDATED = 4
ENOUGH_S = 20.0
"""No step begins after this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSteps:
    """What a training does to one device of this machine."""

    device: str
    n_steps: int
    step_s: float
    """One batch: loading, forward, backward and optimizer."""
    epoch_s: float
    """All batches of the training and the validation part."""
    memory_bytes: int
    """Most that was held: by the device, or by this process where that is the CPU."""
    size: ModelSize


def measure_steps(pipeline: TrainingPipeline, data: TrainingData) -> MeasuredSteps:
    """Train and validate on a few batches, on one device, and forget the network.

    Everything learns that will learn at last, which is when an epoch takes longest.

    Raises:
        TrainerError: Memory does not hold a batch, or its loss is not finite.
        ModelError: The network cannot be trained as it should be.
    """
    config = replace(pipeline.config, unfreeze_epoch=0, unfreeze_every=0)
    module = type(pipeline)(config, pipeline.connections).create_lightning_module(data)
    clock = StepClock()
    trainer = _trainer(config, clock)
    train, validation = make_loader(data.train, config), make_loader(data.validation, config)
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.fit(module, train, validation)
    except torch.OutOfMemoryError:
        raise TrainerError(
            f"a batch of {config.batch_size} does not fit into the memory of "
            f"{trainer.strategy.root_device}: lower --batch_size, or try "
            "--gradient_checkpointing or --precision bf16-mixed"
        ) from None
    if not math.isfinite(clock.loss):
        raise TrainerError("the loss of a first batch is not finite: lower --learning_rate")
    return MeasuredSteps(
        device=str(trainer.strategy.root_device),
        n_steps=clock.n_steps,
        step_s=clock.step_s,
        epoch_s=clock.step_s * len(train) + clock.validation_step_s * len(validation),
        memory_bytes=_most_memory(trainer.strategy.root_device),
        size=ModelSize.of(module, averaged=bool(config.ema_decay)),
    )


def _trainer(config: TrainingConfig, clock: StepClock) -> pl.Trainer:
    return pl.Trainer(
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


def _most_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class StepClock(pl.Callback):
    """Times steps from the end of the warm-up, with the loading of their batches."""

    def __init__(self) -> None:
        self.n_steps = 0
        self.loss = math.nan
        self._ends_s: list[float] = []
        self._validated_s = [0.0, 0.0]
        self._n_validated = 0

    @property
    def step_s(self) -> float:
        """Mean seconds of a step; of the second and later ones, if there are so few."""
        ends_s = self._ends_s[N_WARM:] if len(self._ends_s) > N_WARM + 1 else self._ends_s
        return (ends_s[-1] - ends_s[0]) / (len(ends_s) - 1)

    @property
    def validation_step_s(self) -> float:
        """Mean seconds of a batch's validation."""
        begun_s, ended_s = self._validated_s
        return (ended_s - begun_s) / max(self._n_validated, 1)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._ends_s.append(_now_s())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Note when the step ended, and end it all when that is enough."""
        del pl_module, batch
        self.loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        self._ends_s.append(_now_s())
        self.n_steps = batch_idx + 1
        if self._ends_s[-1] - self._ends_s[0] > ENOUGH_S and self.n_steps > N_WARM:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the other clock."""
        del trainer, pl_module
        self._validated_s[0] = _now_s()

    def on_validation_batch_end(self, *_: Any) -> None:  # noqa: ANN401
        """Count a batch."""
        self._n_validated += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the other clock."""
        del trainer, pl_module
        self._validated_s[1] = _now_s()


def _now_s() -> float:
    if torch.cuda.is_available():  # which goes on after the step has returned
        torch.cuda.synchronize()
    return time.monotonic()
