"""What a run was trained and tested on, in MLflow's own record of datasets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from heimdall_export.contract import INPUT
from heimdall_export.mlflow_client import MlflowException  # noqa: F401 - it comes first

from mlflow.data.code_dataset_source import CodeDatasetSource  # isort: skip
from mlflow.data.schema import TensorDatasetSchema  # isort: skip
from mlflow.entities import Dataset, DatasetInput, InputTag  # isort: skip
from mlflow.types import Schema, TensorSpec  # isort: skip
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TrackedDataset", "dataset_input"]

_LONGEST_DIGEST = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedDataset:
    """One part of the data of a run."""

    name: str
    digest: str
    """Of what is in it; MLflow keeps 36 characters."""
    context: Literal["training", "validation", "testing"]
    shape: tuple[int, ...]
    """Of one feature tensor."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Where it came from; no secrets."""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """What is in it, as JSON can say it."""


def dataset_input(dataset: TrackedDataset) -> DatasetInput:
    """A part of the data as MLflow records it; `mlflow.data.get_source` can read it."""
    source = CodeDatasetSource(dict(dataset.source))
    schema = TensorDatasetSchema(
        Schema([TensorSpec(np.dtype("float32"), (-1, *dataset.shape), INPUT)])
    )
    entity = Dataset(
        name=dataset.name,
        digest=dataset.digest[:_LONGEST_DIGEST],
        source_type=source._get_source_type(),
        source=source.to_json(),
        schema=json.dumps(schema.to_dict()),
        profile=json.dumps(dict(dataset.profile)),
    )
    return DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, dataset.context)])
