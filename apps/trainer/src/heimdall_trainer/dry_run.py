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
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import lightning.pytorch as pl
import torch
from heimdall_data import Catalogue, ObjectStore
from heimdall_features.addresses import shown_address
from heimdall_models import AveragedWeights
from heimdall_models.training.batches import make_loader
from heimdall_models.training.history import duration

from heimdall_trainer.console import tell_data
from heimdall_trainer.data import load_training_data
from heimdall_trainer.errors import TrainerError, describe, one_line
from heimdall_trainer.events import tell
from heimdall_trainer.pipeline import TrainingPipeline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.data import TrainingData

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
    passed: list[str] = []
    failed: list[str] = []

    def run(name: str, check: Callable[[], tuple[str, _Found]]) -> _Found | None:
        """Run one check and print its line; None if it fails."""
        try:
            said, found = check()
        except Exception as error:  # noqa: BLE001 - it fails this check, and the others go on
            said = describe(error)
            tell("check", f"FAILED   {name:14s} {said}", check=name, ok=False, said=said)
            failed.append(name)
            return None
        tell("check", f"ok       {name:14s} {one_line(said)}", check=name, ok=True, said=said)
        passed.append(name)
        return found

    def skip(name: str, needs: str) -> None:
        tell("check", f"skipped  {name:14s} needs {needs}", check=name, ok=None, said=needs)

    state = run("state", lambda: (str(path := connections.state_directory()), path))
    run("configuration", lambda: _configuration(config, connections))
    reached = (
        run("database", lambda: _database(connections)),
        run("recordings", lambda: _recordings(connections)),
    )
    run("models", lambda: _models(connections))
    run("mlflow", lambda: _mlflow(config, connections))
    data = n_parameters = None
    if state is None or None in reached:
        skip("data", "the state directory, the database and the recordings")
    else:
        data = run("data", lambda: _data(config, connections))
    if data is None or config.export_only:
        skip("batch", "a training" if config.export_only else "the data")
    else:
        n_parameters = run("batch", lambda: _batch(config, connections, data))
    if state is not None:
        run("disk", lambda: _disk(state, n_parameters, config))
    if failed:
        total = len(passed) + len(failed)
        raise TrainerError(f"{len(failed)} of {total} checks failed: {', '.join(failed)}")
    tell("note", f"{len(passed)} checks passed; nothing was trained", said="passed")


def _configuration(config: TrainingConfig, connections: Connections) -> tuple[str, bool]:
    from heimdall_models.training.devices import placement

    TrainingPipeline(config, connections).check()
    placement(config)
    return f"{config.backbone}, {config.features}", True


def _database(connections: Connections) -> tuple[str, bool]:
    with Catalogue(connections.need_database()) as catalogue:
        return f"{len(catalogue.stations())} stations in {catalogue.where}", True


def _recordings(connections: Connections) -> tuple[str, bool]:
    s3 = connections.need_s3()
    ObjectStore(s3, s3.raw_iq_bucket).require_bucket()
    return f"bucket {s3.raw_iq_bucket} of {s3.endpoint_url}", True


def _models(connections: Connections) -> tuple[str, bool]:
    s3 = connections.need_s3()
    exists = ObjectStore(s3, s3.models_bucket).is_writable()
    return f"bucket {s3.models_bucket} {'can be written' if exists else 'will be made'}", exists


def _mlflow(config: TrainingConfig, connections: Connections) -> tuple[str, bool]:
    from heimdall_export.tracking.client import artifact_location, mlflow_errors

    found = artifact_location(connections.tracking_uri(), config.experiment_name)
    place = found or connections.artifact_root()
    root = urlsplit(place)
    if root.scheme == "s3":
        artifacts = connections.artifact_store()
        store = replace(connections.need_s3(), endpoint_url=artifacts.endpoint_url)
        if ObjectStore(store, root.netloc).is_writable():
            with mlflow_errors(f"list the artifacts in {shown_address(place)}"):
                artifacts.check_artifacts(place)
    exists = "exists" if found else "will be made"
    return (
        f"experiment {config.experiment_name} {exists}; artifacts in {shown_address(place)}",
        bool(found),
    )


def _data(config: TrainingConfig, connections: Connections) -> tuple[str, TrainingData]:
    from heimdall_models.training.timing import timed_parts

    data = load_training_data(config, connections)
    tell_data(data)
    if config.features == "mel+timing":
        timed_parts(data)
    n_used = sum(len(part) for part in (data.train, data.validation, data.test))
    first = "".join(f"; {left.session_id}: {left.reason}" for left in data.exclusions[:MAX_PRINTED])
    return f"{n_used} sessions, {len(data.exclusions)} excluded{first}", data


def _disk(state: Path, n_parameters: int | None, config: TrainingConfig) -> tuple[str, bool]:
    free = shutil.disk_usage(state).free
    said = f"{free / 1e9:.1f} GB free in {state}"
    if n_parameters is None:
        return said, True
    needed = n_parameters * BYTES_A_PARAMETER * N_CHECKPOINTS * config.ensemble
    if free < needed:
        raise TrainerError(
            f"{said}, and checkpoints take {needed / 1e9:.1f} GB: "
            "make room, or set --checkpoint_dir or HEIMDALL_STATE_DIR"
        )
    return f"{said}, checkpoints take {needed / 1e9:.1f} GB", True


def _batch(config: TrainingConfig, connections: Connections, data: TrainingData) -> tuple[str, int]:
    """Train and validate on a few batches on one device, with a network that is thrown away.

    The whole backbone learns from the start, as in the slowest epochs of a training.

    Returns:
        Time and memory of the training, and the number of parameters.

    Raises:
        TrainerError: Memory does not hold a batch, or its loss is not finite.
        ModelError: The network cannot be trained as it should be.
    """
    config = replace(config, unfreeze_epoch=0, unfreeze_every=0)
    module = TrainingPipeline(config, connections).create_lightning_module(data)
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
    step_s = _mean_s(clock.train_s[N_WARM:] if len(clock.train_s) > N_WARM + 1 else clock.train_s)
    epoch_s = step_s * len(train) + _mean_s(clock.validation_s) * len(validation)
    n_epochs = config.epochs * config.ensemble
    return (
        f"{step_s:.3f} s a step of {config.batch_size} on {device}, "
        f"{memory_bytes / 1e6:.0f} MB of memory; an epoch will take about "
        f"{duration(epoch_s)}, all of {n_epochs} at most {duration(epoch_s * n_epochs)}",
        sum(weights.numel() for weights in module.parameters()),
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
