"""What MLflow is told about a run before it starts: parameters and tags, never a secret."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from heimdall_trainer.provenance import dataset_fingerprint, source_commit

if TYPE_CHECKING:
    from heimdall_export.tracking import MLflowTracker

    from heimdall_trainer.connections import Connections
    from heimdall_trainer.training_config import TrainingConfig
    from heimdall_trainer.training_data import TrainingData

__all__ = [
    "command_line",
    "open_tracker",
    "package_versions",
    "provenance_of",
    "provenance_of_source",
    "run_parameters",
    "run_tags",
]

OURS = ("features", "models", "data", "export", "trainer")
THEIRS = ("torch", "timm", "lightning", "mlflow", "onnx", "onnxruntime", "numpy")


def open_tracker(
    config: TrainingConfig, connections: Connections, run_id: str | None = None
) -> MLflowTracker:
    """Begin the run in MLflow, or go on with one, with artifacts where the connections say.

    Raises:
        ExportError: MLflow refuses or is out of reach.
    """
    from heimdall_export.tracking import MLflowTracker

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
