"""What MLflow is told about a run before it starts: parameters and tags, never a secret.

What a run was made from: the source's commit, and the sessions on each side of the split.

What MLflow is told of the data of a run: each side of the split, and where it came from.

The one MLflow run of a training, however often it was interrupted.

Which sessions a model was trained on, as its run in MLflow recorded them.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heimdall_export import ExportError
from heimdall_models.trained import Trained
from heimdall_models.training.history import PartOfRun

from heimdall_trainer.events import tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Literal

    from heimdall_data import Session
    from heimdall_export.tracking.run import MLflowTracker, TrackedDataset
    from heimdall_models.training.parts import RunMetrics

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.data import TrainingData

__all__ = [
    "command_line",
    "dataset_fingerprint",
    "describe_run",
    "new_steps",
    "open_tracker",
    "package_versions",
    "provenance_of",
    "provenance_of_source",
    "run_datasets",
    "run_parameters",
    "run_tags",
    "sessions_trained_on",
    "source_commit",
    "tracked_run",
]


def source_commit(folder: Path = Path(__file__).parent) -> str | None:
    """The commit that the running source was checked out from, with `-modified` if it was edited.

    Args:
        folder: Of the source.

    Returns:
        None for an installed package, also inside somebody else's repository, and without git.
    """
    try:
        if _git(folder, "ls-files", "--error-unmatch", "."):
            edited = "-modified" if _git(folder, "status", "--porcelain", "-uno") else ""
            return _git(folder, "rev-parse", "HEAD") + edited
    except (OSError, subprocess.CalledProcessError):
        pass
    return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def dataset_fingerprint(sides: Mapping[str, Iterable[Session]]) -> str:
    """A hash of which session is on which side; equal for equal splits, in any order.

    Args:
        sides: The sessions of each side, by its name.
    """
    digest = hashlib.sha256()
    for side, sessions in sorted(sides.items()):
        digest.update("\n".join([side, *sorted(session.id for session in sessions)]).encode())
    return digest.hexdigest()


CONTEXTS: dict[str, Literal["training", "validation", "testing"]] = {
    "train": "training",
    "validation": "validation",
    "test": "testing",
}


def run_datasets(data: TrainingData, connections: Connections) -> Iterator[TrackedDataset]:
    """The sessions of each side, by their ids, so that a run can be repeated on the same."""
    from heimdall_export.tracking.run import TrackedDataset

    for side, context in CONTEXTS.items():
        sessions: tuple[Session, ...] = getattr(data, side).sessions
        yield TrackedDataset(
            name=f"heimdall-sessions-{side}",
            digest=dataset_fingerprint({side: sessions}),
            context=context,
            shape=data.features.shape,
            source={
                "recordings": f"s3://{connections.raw_iq_bucket}",
                "features.fingerprint": data.features.fingerprint,
            },
            profile={
                "n_sessions": len(sessions),
                "n_sources": len({session.source_id for session in sessions}),
                "sessions": sorted(session.id for session in sessions),
            },
        )


OURS = ("features", "models", "data", "export", "trainer")
THEIRS = ("torch", "timm", "lightning", "mlflow", "onnx", "onnxruntime", "numpy")


def open_tracker(
    config: TrainingConfig, connections: Connections, run_id: str | None = None
) -> MLflowTracker:
    """Begin the run in MLflow, or go on with one, with artifacts where the connections say.

    Raises:
        ExportError: MLflow refuses or is out of reach.
    """
    from heimdall_export.tracking.run import MLflowTracker

    return MLflowTracker(
        connections.tracking_uri(),
        artifact_root=connections.artifact_root(),
        artifact_store=connections.artifact_store(),
        experiment_name=config.experiment_name,
        run_name_prefix=config.run_name_prefix,
        outbox=connections.state_directory() / "mlflow-outbox",
        run_id=run_id,
    )


def package_versions() -> dict[str, str]:
    """Versions of our packages and of those that the numbers depend on."""
    names = [f"heimdall-{name}" for name in OURS] + list(THEIRS)
    return {name: version(name) for name in names}


def command_line() -> str:
    """The command that is running, as one could type it again."""
    words = ["heimdall", *sys.argv[1:]]
    return shlex.join(_hide(words))


def _hide(words: list[str]) -> list[str]:
    """Replace the values of flags that carry a secret, and passwords in addresses."""
    hidden, secret = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        is_secret = name.replace("_", "-") in SECRET_FLAGS
        hidden.append("***" if secret else f"{name}=***" if is_secret and equals else word)
        secret = is_secret and not equals
    return hidden


SECRET_FLAGS = frozenset(
    ("--database-url", "--s3-access-key", "--s3-secret-key", "--mlflow-tracking-uri")
)


def run_parameters(config: TrainingConfig, data: TrainingData) -> dict[str, Any]:
    """The configuration and what the data made of it, flat."""
    settings = {
        **asdict(config),
        **config.only.parameters(),
        "only": None,
        "checkpoint": ",".join(map(str, config.checkpoint)) or None,
    }
    return {
        **{name: value for name, value in settings.items() if value is not None},
        "receivers": ",".join(station.name for station in data.receivers),
        "sample_rate_hz": data.features.sample_rate_hz,
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "n_test": len(data.test),
        "n_excluded": len(data.exclusions),
    }


def run_tags(config: TrainingConfig, data: TrainingData) -> dict[str, str]:
    """What identifies the run: versions, seed, fingerprints, the source's commit if it has one."""
    return {
        **provenance_of(data),
        **{f"version.{name}": found for name, found in package_versions().items()},
        "seed": str(config.seed),
        "command": command_line(),
    }


def provenance_of_source() -> dict[str, str]:
    """The commit that runs, if it is one."""
    commit = source_commit()
    return {} if commit is None else {"git.commit": commit}


def provenance_of(data: TrainingData) -> dict[str, str]:
    """The commit that runs, and which features and sessions there were."""
    return {
        **provenance_of_source(),
        "features.fingerprint": data.features.fingerprint,
        "dataset.fingerprint": dataset_fingerprint(
            {side: getattr(data.split, side) for side in ("train", "validation", "test")}
        ),
    }


def tracked_run(
    config: TrainingConfig, connections: Connections, checkpoint: Path | None
) -> MLflowTracker:
    """A new run in MLflow, or that of the checkpoint that training goes on from.

    Raises:
        ExportError: MLflow is out of reach, or refuses.
        ModelError: The checkpoint cannot be read.
    """
    from heimdall_export.errors import ExportError, OutOfReach

    run_id = None if checkpoint is None else Trained.open(checkpoint).members[0].run.run_id
    if run_id is None:
        return open_tracker(config, connections)
    try:
        return open_tracker(config, connections, run_id)
    except OutOfReach:
        raise
    except ExportError as error:
        print(
            f"warning: training goes on as another MLflow run: {error}", file=sys.stderr, flush=True
        )
        return open_tracker(config, connections)


def describe_run(
    tracker: MLflowTracker, config: TrainingConfig, data: TrainingData, connections: Connections
) -> None:
    """Tell MLflow how the run trains and on what; of one that goes on, by which command.

    Raises:
        ExportError: MLflow refuses.
    """
    tell("run", run_id=tracker.run_id, run_name=tracker.run_name)
    if tracker.is_resumed:
        tracker.set_tags({"resumed.command": command_line()})
        return
    tracker.log_params(run_parameters(config, data))
    tracker.set_tags(run_tags(config, data))
    tracker.log_datasets(run_datasets(data, connections))


def new_steps(tracker: MLflowTracker) -> RunMetrics:
    """The run as training tells it of metrics: what it knows of a step is not told again."""
    return PartOfRun(run=tracker, known=tracker.logged) if tracker.logged else tracker


_CONTEXT = "mlflow.data.context"


def sessions_trained_on(run_id: str, connections: Connections) -> frozenset[str] | None:
    """Ids of the sessions of a run's training part.

    None, with a warning, where that cannot be known: the model tells no run, its run is not in
    this MLflow, or it exported a checkpoint that another run had trained.
    """
    if not run_id:
        return None
    try:
        return _recorded(run_id, connections.tracking_uri())
    except ExportError as error:
        said = f"warning: nobody can say which sessions the model was trained on: {error}"
        print(said, file=sys.stderr, flush=True)
        return None


def _recorded(run_id: str, tracking_uri: str) -> frozenset[str] | None:
    from heimdall_export.tracking.client import open_client, told_plainly

    with told_plainly(f"find run {run_id}"):
        run = open_client(tracking_uri).get_run(run_id)
    if run.inputs is None or run.data.params.get("export_only") == "True":
        return None
    for given in run.inputs.dataset_inputs:
        if any(tag.key == _CONTEXT and tag.value == "training" for tag in given.tags):
            return frozenset(json.loads(given.dataset.profile or "{}").get("sessions", ()))
    return None
