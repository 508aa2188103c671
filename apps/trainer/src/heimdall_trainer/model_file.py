"""A model file that some earlier run exported, and what it says of itself."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from heimdall_export.weights_beside import model_size
from heimdall_features import ArrivalExtractor, FeatureExtractor

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.report import ModelSummary
from heimdall_trainer.sigma_bounds import bounds_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_models import Region

    from heimdall_trainer.training_config import TrainingConfig

__all__ = ["ModelFile", "read_model", "with_features_of"]


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model file that can be read."""

    path: Path
    name: str
    """As whoever gave it calls it."""
    metadata: Mapping[str, str]
    n_parameters: int
    """Values in its graph; a smaller precision has its scales among them."""

    @property
    def summary(self) -> ModelSummary:
        """What a report says of it."""
        return ModelSummary(
            name=self.name,
            n_parameters=self.n_parameters,
            size_bytes=model_size(self.path),
            sigma_bounds_m=bounds_in(self.metadata),
        )

    @property
    def region(self) -> Region:
        """Where it was made for.

        Raises:
            TrainerError: It does not say.
            ModelError: What it says is no region.
        """
        from heimdall_models import Region

        try:
            return Region.from_json(self.metadata["heimdall.region"])
        except KeyError as error:
            raise TrainerError(
                f"{self.name} does not say for which region it was made; it is no model of ours"
            ) from error

    @property
    def receivers(self) -> frozenset[str]:
        """Names of the receivers that it listens to."""
        told = json.loads(self.metadata.get("heimdall.receivers", "[]"))
        return frozenset(str(receiver["name"]) for receiver in told)


def read_model(path: Path, name: str | None = None) -> ModelFile:
    """A model file with what it says of itself.

    Args:
        path: An ONNX file.
        name: What to call it; its own name when None.

    Raises:
        TrainerError: It cannot be read, or is no ONNX file.
    """
    graph = _read(path)
    return ModelFile(
        path=path,
        name=name or path.name,
        metadata={entry.key: entry.value for entry in graph.metadata_props},
        n_parameters=sum(math.prod(weights.dims) for weights in graph.graph.initializer),
    )


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


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise TrainerError(f"no model file can be read at {path}: {error.strerror}") from error
    except DecodeError as error:
        raise TrainerError(f"{path} is not an ONNX file: {error}") from error
