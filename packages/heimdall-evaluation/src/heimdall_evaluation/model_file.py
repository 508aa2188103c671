"""A model file that some earlier run exported, and what it says of itself.

Which sigmas a network may claim, as its model file tells: in metres, least and largest.

They bound what levels say. What arrival times or an ensemble's disagreement make of a sigma may
lie beyond.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from heimdall_export.model_files import model_size
from heimdall_models.network import BoundedSigma
from heimdall_trainer.errors import TrainerError

from heimdall_evaluation.report import ModelSummary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_models import Region
    from torch import nn

__all__ = ["KEY", "ModelFile", "bounds_in", "read_model", "sigma_bounds_metadata"]


KEY = "heimdall.sigma_bounds_m"


def sigma_bounds_metadata(network: nn.Module, scale_m: float) -> dict[str, str]:
    """What goes into a model file's metadata; nothing where a network has no bounds.

    Args:
        network: What is exported: one network, or several as one.
        scale_m: Metres of a unit of its plane.
    """
    found = [module for module in network.modules() if isinstance(module, BoundedSigma)]
    if not found:
        return {}
    least = min(math.exp(bounded.middle - bounded.half_range) for bounded in found)
    largest = max(math.exp(bounded.middle + bounded.half_range) for bounded in found)
    return {KEY: json.dumps([least * scale_m, largest * scale_m])}


def bounds_in(metadata: Mapping[str, str]) -> tuple[float, float] | None:
    """The bounds that a model file tells; None where it is of a version that told none."""
    if KEY not in metadata:
        return None
    least, largest = json.loads(metadata[KEY])
    return float(least), float(largest)


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


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise TrainerError(f"no model file can be read at {path}: {error.strerror}") from error
    except DecodeError as error:
        raise TrainerError(f"{path} is not an ONNX file: {error}") from error
