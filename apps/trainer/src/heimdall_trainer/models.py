"""A model as people name it: a file, a checkpoint, an address in a store or in the registry.

Whatever it was, what is evaluated is a model file, because that is what will be served. A
checkpoint is exported for it, into a folder that goes when the evaluation is done.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_evaluation.model_file import ModelFile, read_model, sigma_bounds_metadata
from heimdall_export.graph.export import export_onnx
from heimdall_export.object_store.download import S3_SCHEME
from heimdall_export.object_store.settings import ArtifactStore, ModelStores
from heimdall_export.registry.published import SCHEME
from heimdall_export.serving.source import local_model
from heimdall_features import ArrivalExtractor, FeatureExtractor
from heimdall_models import TimedServingNet
from heimdall_models.trained import Trained
from heimdall_models.training.resume import (
    exported_network,
    of_other_sessions,
    receivers_of,
    warn_of_other_sessions,
)

from heimdall_trainer.data import load_training_data
from heimdall_trainer.mlflow_run import sessions_trained_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from heimdall_data import Station
    from heimdall_models import Region
    from heimdall_models.training.parts import TrainingData

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections

__all__ = [
    "OpenedModel",
    "file_name",
    "is_address",
    "model_metadata",
    "opened_model",
    "stores_of",
    "with_features_of",
]


def with_features_of(metadata: Mapping[str, str], config: TrainingConfig) -> TrainingConfig:
    """A configuration whose data are what a model file says that it takes.

    Raises:
        FeatureError: Its features cannot be computed by this version.
    """
    features = FeatureExtractor.from_metadata(metadata).config
    return replace(
        config,
        receivers=features.receivers,
        sample_rate_hz=features.sample_rate_hz,
        features="mel" if ArrivalExtractor.from_metadata(metadata) is None else "mel+timing",
    )


def model_metadata(data: TrainingData, region: Region, run_id: str) -> dict[str, str]:
    """What travels inside the model file, by the contract's keys.

    Args:
        data: Receivers and features.
        region: The network's own; a checkpoint of other sessions has another one than the data.
        run_id: MLflow's id of the run.
    """
    arrivals = data.train.arrivals
    receivers = [_entry(station, timed=arrivals is not None) for station in data.receivers]
    return {
        **FeatureExtractor(data.features).metadata(),
        **({} if arrivals is None else ArrivalExtractor(arrivals).metadata()),
        "heimdall.receivers": json.dumps(receivers),
        "heimdall.region": region.to_json(),
        "heimdall.run_id": run_id,
        "heimdall.created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _entry(station: Station, *, timed: bool) -> dict[str, str | float]:
    where = {"latitude": station.latitude_deg, "longitude": station.longitude_deg}
    height = {"altitude": station.altitude_m or 0.0} if timed else {}
    return {"name": station.name, **where, **height}


if TYPE_CHECKING:
    Load = Callable[[TrainingConfig], TrainingData]


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedModel:
    """A model file, and the sessions as it takes them."""

    file: ModelFile
    data: TrainingData
    trained_on: frozenset[str] | None
    """Ids of the sessions that it was trained on; None where nobody knows."""
    uri: str | None = None
    """Of its object, if it came from a store."""


def is_address(model: str) -> bool:
    """Whether a model is named by where it is stored, and not by a path."""
    return model.startswith((S3_SCHEME, SCHEME))


def file_name(model: str) -> str:
    """A name for files about a model, of letters that any file system takes."""
    plain = model.removeprefix(S3_SCHEME).removeprefix(SCHEME).rstrip("/")
    name = plain.rpartition("/")[2] if not model.startswith(SCHEME) else plain
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


@contextlib.contextmanager
def opened_model(
    model: str, config: TrainingConfig, connections: Connections, load: Load | None = None
) -> Iterator[OpenedModel]:
    """A model with its data; what was downloaded or exported for it goes when the context ends.

    Receivers and features are the model's own, as far as it knows them; the split is the
    configuration's.

    Args:
        model: A model file, a checkpoint (`.ckpt`), `s3://bucket/key` or `models:/name@alias`.
        config: The split; of a checkpoint without times also receivers and rate.
        connections: Where everything is.
        load: What loads the data, for callers that open several models on the same.

    Raises:
        TrainerError: There is no such file, or it is no model of ours.
        ExportError: The address leads nowhere, or what is there is not what it must be.
        FeatureError: Its features cannot be computed by this version.
    """
    load = load or (lambda asked: load_training_data(asked, connections))
    if model.endswith(".ckpt") and not is_address(model):
        with tempfile.TemporaryDirectory(prefix="heimdall-checkpoint-") as folder:
            yield _of_checkpoint(Path(model), config, load, Path(folder))
        return
    stores = stores_of(connections) if is_address(model) else None
    with local_model(model if stores else Path(model), stores, None) as (path, published):
        version = f", version {published.version}" if published else ""
        found = read_model(Path(str(path)), f"{model}{version}" if stores else Path(model).name)
        data = load(with_features_of(found.metadata, config))
        run_id = found.metadata.get("heimdall.run_id", "")
        yield OpenedModel(
            file=found,
            data=data,
            trained_on=sessions_trained_on(run_id, connections),
            uri=published.uri if published else model if stores else None,
        )


def stores_of(connections: Connections) -> ModelStores:
    """The object store and the registry that a command is connected to.

    Raises:
        TrainerError: There is no object store.
    """
    s3 = connections.need_s3()
    return ModelStores(
        s3=ArtifactStore(
            endpoint_url=s3.endpoint_url,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
            region=s3.region,
        ),
        tracking_uri=connections.tracking_uri(),
    )


def _of_checkpoint(path: Path, config: TrainingConfig, load: Load, folder: Path) -> OpenedModel:
    data = load(_with_features_of_checkpoint(path, config))
    network = exported_network(path, data)
    region = network.levels.region if isinstance(network, TimedServingNet) else network.region
    written = export_onnx(
        network,
        folder / f"{path.stem}.onnx",
        input_shape=data.features.shape,
        arrivals_shape=None if data.train.arrivals is None else data.train[0]["arrivals"].shape,
        metadata=model_metadata(data, region, run_id="")
        | sigma_bounds_metadata(network, region.scale_m),
        opset=config.opset,
    )
    warn_of_other_sessions(path, data)
    known = not of_other_sessions(path, data)
    return OpenedModel(
        file=read_model(written, path.name),
        data=data,
        trained_on=frozenset(s.id for s in data.split.train) if known else None,
    )


def _with_features_of_checkpoint(path: Path, config: TrainingConfig) -> TrainingConfig:
    """A checkpoint of ours knows its receivers by name; a merged one how many they are."""
    first = Trained.open(path).members[0]
    sites = tuple(site.name for site in first.sites) if first.sites else None
    names = sites or receivers_of(path) or config.receivers
    return replace(
        config,
        receivers=names,
        n_receivers=first.module.config.n_receivers,
        features="mel" if first.timing is None else "mel+timing",
    )
