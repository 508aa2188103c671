"""A model file and its description of itself."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from heimdall_export.contract import RECEIVERS_KEY, REGION_KEY
from heimdall_export.model_files import model_size, require_small_metadata
from heimdall_export.serving.metadata import migrated, receivers_of
from heimdall_features.outside_json import parsed_json
from heimdall_models import Region

from heimdall_evaluation.errors import EvaluationError
from heimdall_evaluation.results import ModelSummary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_export.serving.metadata import Receiver
    from torch import nn

SIGMA_BOUNDS_KEY = "heimdall.sigma_bounds_m"
"""Least and largest sigma that a network's levels may claim, in metres.

Times of arrival or an ensemble's disagreement may put a sigma beyond them.
"""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A readable model file."""

    path: Path
    name: str
    metadata: Mapping[str, str]
    n_parameters: int
    """Values in its graph, including the scales of a quantized model."""

    @property
    def summary(self) -> ModelSummary:
        """Name, size and bounds for a report; raises EvaluationError if the bounds are damaged."""
        bounds = None
        if entry := self.metadata.get(SIGMA_BOUNDS_KEY):
            try:
                least, largest = map(float, parsed_json(entry))
            except (ValueError, TypeError, OverflowError) as error:
                raise EvaluationError(
                    f"{self.name}: {SIGMA_BOUNDS_KEY} is {entry:.100}, not two numbers"
                ) from error
            bounds = least, largest
        return ModelSummary(
            name=self.name,
            n_parameters=self.n_parameters,
            size_bytes=model_size(self.path),
            sigma_bounds_m=bounds,
        )

    @property
    def region(self) -> Region:
        """Region that the model was made for; raises EvaluationError if the file names none."""
        return Region.from_json(self._entry(REGION_KEY))

    @property
    def receivers(self) -> tuple[Receiver, ...]:
        """Receivers in channel order; raises EvaluationError if the file names none."""
        self._entry(RECEIVERS_KEY)
        return receivers_of(self.metadata)

    def _entry(self, key: str) -> str:
        if key not in self.metadata:
            raise EvaluationError(f"{self.name} is not a Heimdall model: no {key} in its metadata")
        return self.metadata[key]


def read_model(path: Path, name: str | None = None) -> ModelFile:
    """Read a model file's description of itself; `name` is for reports, the file's when None.

    Raises:
        EvaluationError: It cannot be read, or is not an ONNX file.
        ExportError: Its metadata are larger than those of any model, or of a newer format.
    """
    try:
        require_small_metadata(path)
        model = onnx.load(path, load_external_data=False)
        entries = {entry.key: entry.value for entry in model.metadata_props}
    except OSError as error:
        raise EvaluationError(f"cannot read model file {path}: {error.strerror}") from error
    except (DecodeError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} is not an ONNX file: {error}") from error
    return ModelFile(
        path=path,
        name=name or path.name,
        metadata=migrated(entries),
        n_parameters=sum(math.prod(weights.dims) for weights in model.graph.initializer),
    )


def sigma_bounds_metadata(network: nn.Module, scale_m: float) -> dict[str, str]:
    """Entry for the bounds of a network's sigmas; empty if it has none.

    Args:
        network: One network, or several as one.
        scale_m: Metres in a unit of its plane.
    """
    from heimdall_models.network import Heads

    found = [
        (heads.sigma, float(heads.sigma_factor))
        for heads in network.modules()
        if isinstance(heads, Heads)
    ]
    if not found:
        return {}
    least = min(factor * math.exp(to.middle - to.half_range) for to, factor in found)
    largest = max(factor * math.exp(to.middle + to.half_range) for to, factor in found)
    return {SIGMA_BOUNDS_KEY: json.dumps([least * scale_m, largest * scale_m])}
