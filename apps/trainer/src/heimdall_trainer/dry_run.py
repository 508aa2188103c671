"""`heimdall train --dry_run`: whether a training would go through, and how long it would take.

Every check says one line, and a failed one what to do; the others go on where they can. MLflow
and the object store are asked, and told nothing. Features that have to be computed for it stay in
the cache, where the training finds them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from heimdall_data import Catalogue, ObjectStore

from heimdall_trainer.bucket_access import require_writable_bucket
from heimdall_trainer.errors import TrainerError, is_expected
from heimdall_trainer.mlflow_reach import find_experiment
from heimdall_trainer.run_log import duration, tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heimdall_trainer.connections import Connections
    from heimdall_trainer.measured_steps import MeasuredSteps
    from heimdall_trainer.training_config import TrainingConfig
    from heimdall_trainer.training_data import TrainingData

__all__ = ["dry_run"]

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
    from heimdall_trainer.pipeline import TrainingPipeline
    from heimdall_trainer.placement import placement

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
    from heimdall_trainer.run_overview import tell_data
    from heimdall_trainer.timing_training import timed_parts
    from heimdall_trainer.training_data import load_training_data

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
    from heimdall_trainer.measured_steps import measure_steps
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
