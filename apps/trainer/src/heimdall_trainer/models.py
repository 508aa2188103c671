"""Models by file, checkpoint, `s3://` address or `models:/` name.

Evaluation always runs the model file, as a service does; a checkpoint is exported into a temporary
folder first.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_evaluation.model_file import ModelFile, read_model
from heimdall_export.object_store.store import S3_SCHEME
from heimdall_export.registry.published import SCHEME
from heimdall_export.serving.source import local_model
from heimdall_export.temporary import TemporaryFolder
from heimdall_features import ArrivalExtractor, FeatureExtractor
from heimdall_models.trained import Trained
from heimdall_models.training.resume import (
    exported_network,
    of_other_sessions,
    warn_of_other_sessions,
)

from heimdall_trainer.data import load_new_sessions, load_training_data
from heimdall_trainer.delivery import (
    evaluate_new_sessions,
    evaluate_part,
    export_file,
    write_report,
)
from heimdall_trainer.errors import UsageError
from heimdall_trainer.mlflow_run import sessions_trained_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from heimdall_evaluation.evaluate import EvaluatedModel
    from heimdall_evaluation.report import Part

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.data import NewSessions, TrainingData

    Load = Callable[[TrainingConfig], TrainingData]


def is_address(model: str) -> bool:
    """Return True if a model is named by an address in a store, not by a path."""
    return model.startswith((S3_SCHEME, SCHEME))


def file_name(model: str) -> str:
    """Name for files about a model, without an ending and valid on any file system.

    The last part of a path or an `s3://` address; all of `models:/name/version`.
    """
    plain = model.removeprefix(SCHEME).rstrip("/")
    name = plain if model.startswith(SCHEME) else plain.rpartition("/")[2]
    for ending in (".html", ".htm", ".onnx", ".ckpt"):
        name = name.removesuffix(ending)
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def beside(model: str, ending: str, folder: str, connections: Connections) -> Path:
    """Path of a file about a model: beside it, or in a folder of the state directory."""
    if not is_address(model):
        return Path(model).with_suffix(ending)
    return connections.state_folder(folder) / f"{file_name(model)}{ending}"


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedModel:
    """A model file, and the sessions with its receivers and features."""

    file: ModelFile
    data: TrainingData
    trained_on: frozenset[str] | None
    """Ids of the sessions that it was trained on; None if not known."""
    uri: str | None = None
    """Address of its object, if it came from a store."""


@contextlib.contextmanager
def opened_model(
    model: str, config: TrainingConfig, connections: Connections, load: Load | None = None
) -> Iterator[OpenedModel]:
    """Open a model and load its data; temporary files are removed when the context ends.

    Receivers and features come from the model as far as it names them, the split from the
    configuration.

    Args:
        model: A model file, a checkpoint (`.ckpt`), `s3://bucket/key` or `models:/name@alias`.
        config: The split; of a checkpoint without times also receivers and rate.
        connections: Addresses of all servers.
        load: Loads the data, for callers that open several models on the same data.

    Raises:
        TrainerError: There is no such file, or it is not a model of ours.
        ExportError: There is no model at the address.
        FeatureError: This version cannot compute the model's features.
    """
    load = load or (lambda wanted: load_training_data(wanted, connections))
    if _is_checkpoint(model):
        with TemporaryFolder("checkpoint") as folder:
            yield _of_checkpoint(Path(model), config, load, folder)
        return
    with _opened_file(model, connections) as (file, uri):
        yield OpenedModel(
            file=file,
            data=load(_config_of(file, config)),
            trained_on=sessions_trained_on(_run_id(file), connections),
            uri=uri,
        )


def _is_checkpoint(model: str) -> bool:
    return model.endswith(".ckpt") and not is_address(model)


@contextlib.contextmanager
def _opened_file(model: str, connections: Connections) -> Iterator[tuple[ModelFile, str | None]]:
    """A model file, and the address of its object if it came from a store."""
    stores = connections.model_stores(model)
    with local_model(model if stores else Path(model), stores, None) as (path, published):
        version = f", version {published.version}" if published else ""
        file = read_model(Path(str(path)), f"{model}{version}" if stores else Path(model).name)
        yield file, published.uri if published else model if stores else None


def _config_of(file: ModelFile, config: TrainingConfig) -> TrainingConfig:
    """The configuration with the receivers and the features of a model file."""
    features = FeatureExtractor.from_metadata(file.metadata).config
    timing = ArrivalExtractor.from_metadata(file.metadata) is not None
    return replace(
        config,
        receivers=features.receivers,
        sample_rate_hz=features.sample_rate_hz,
        features="mel+timing" if timing else "mel",
    )


def _run_id(file: ModelFile) -> str:
    return file.metadata.get("heimdall.run_id", "")


def _of_checkpoint(path: Path, config: TrainingConfig, load: Load, folder: Path) -> OpenedModel:
    """Export a checkpoint; old ones have only the number of their receivers, not the names."""
    trained = Trained.open(path)
    first = trained.members[0]
    data = load(
        replace(
            config,
            receivers=first.receivers or config.receivers,
            n_receivers=first.module.config.n_receivers,
            features="mel" if first.timing is None else "mel+timing",
        )
    )
    network = exported_network(trained, data)
    target = folder / f"{path.stem}.onnx"
    written, _ = export_file(
        network, data, target, run_id="", opset=config.opset, calibration=first.calibration
    )
    warn_of_other_sessions(trained, data)
    known = not of_other_sessions(trained, data)
    return OpenedModel(
        file=read_model(written, path.name),
        data=data,
        trained_on=frozenset(s.id for s in data.split.train) if known else None,
    )


def evaluate_file(
    model: str | Path,
    config: TrainingConfig,
    connections: Connections,
    report: Path | None = None,
    part: Part = "test",
    limits: Mapping[str, float] | None = None,
) -> tuple[EvaluatedModel, Path]:
    """Evaluate a model on a part of a split, and write its report.

    Args:
        model: As in `opened_model`.
        config: The split; receivers and features are the model's own.
        connections: Addresses of all servers.
        report: Path of the page; beside the model when None, or in `reports` of the state
            directory for an address.
        part: Side of the split.
        limits: By the names of thresholds, see `heimdall_evaluation.thresholds`.

    Returns:
        The evaluation, and the path of the report.

    Raises:
        TrainerError, ExportError, FeatureError: As for `opened_model`, or the part is empty.
    """
    started = time.monotonic()
    ending = ".html" if part == "test" else f".{part}.html"  # parts do not overwrite each other
    with opened_model(str(model), config, connections) as opened:
        evaluated = evaluate_part(opened.file.path, opened.data, part, opened.trained_on, limits)
        page = write_report(
            report or beside(str(model), ending, "reports", connections),
            opened.data,
            opened.file.summary,
            evaluated,
            seed=config.seed,
            timings={"evaluation": time.monotonic() - started},
        )
    return evaluated, page


def evaluate_new(
    model: str,
    config: TrainingConfig,
    connections: Connections,
    since: datetime,
    report: Path | None = None,
    limits: Mapping[str, float] | None = None,
) -> tuple[NewSessions, EvaluatedModel | None, Path | None]:
    """Evaluate a model on sessions approved since some time, which its training has not used.

    Neither those that it learned from are judged, nor those that chose its checkpoint. Where they
    are not known, the evaluation says so.

    Args:
        model: A model file, `s3://bucket/key` or `models:/name@alias`.
        config: The filter, and what `prepared` takes; receivers and features are the model's own.
        connections: Addresses of all servers.
        since: See `load_new_sessions`.
        report: As in `evaluate_file`.
        limits: As in `evaluate_file`.

    Returns:
        The sessions, and where there is one the evaluation and the path of the report.

    Raises:
        TrainerError, ExportError, FeatureError: As for `opened_model`.
    """
    started = time.monotonic()
    if _is_checkpoint(model):
        raise UsageError(
            f"--since takes a model file or an address, and {model} is a checkpoint, which does "
            "not say what it was trained on; export it with `heimdall train --export_only`"
        )
    with _opened_file(model, connections) as (file, _):
        known = sessions_trained_on(_run_id(file), connections, ("train", "validation"))
        data = load_new_sessions(
            _config_of(file, config),
            connections,
            since=since,
            known=known or (),
            region=file.region,
        )
        if not len(data.dataset):
            return data, None, None
        evaluated = evaluate_new_sessions(file.path, data, known, limits or {})
        page = write_report(
            report or beside(model, ".new.html", "reports", connections),
            data,
            file.summary,
            evaluated,
            seed=config.seed,
            timings={"evaluation": time.monotonic() - started},
        )
    return data, evaluated, page
