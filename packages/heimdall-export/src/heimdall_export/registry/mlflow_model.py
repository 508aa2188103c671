"""A model file as an MLflow model: a folder with signature, input example and requirements."""

from __future__ import annotations

import shutil
from importlib.metadata import version as installed
from typing import TYPE_CHECKING

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from heimdall_export.contract import ARRIVALS, INPUT
from heimdall_export.errors import ExportError
from heimdall_export.model_files import weights_beside
from heimdall_export.tracking.client import mlflow_errors

import mlflow.onnx  # isort: skip
from mlflow.models import ModelSignature  # isort: skip
from mlflow.types import Schema, TensorSpec  # isort: skip

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["save_mlflow_model"]

_REQUIREMENTS = ("numpy", "onnx", "onnxruntime")
"""For MLflow's loader; heimdall-features is needed only to compute the input."""


def save_mlflow_model(
    onnx_path: Path, folder: Path, *, input_example: NDArray[np.float32] | None = None
) -> None:
    """Write a model as an MLflow model; the ONNX file in it is the same, byte by byte.

    So is the file beside it that holds its weights, where there is one.

    Args:
        onnx_path: The model file.
        folder: Must not exist.
        input_example: Feature tensors, float32 `(n, receivers, n_mels, n_frames)`; silence at
            0 dB when None. Arrival times in the example are all zero.

    Raises:
        ExportError: The file is not an ONNX file, the example does not fit, or the folder
            cannot be written.
    """
    try:
        model = onnx.load(onnx_path, load_external_data=False)
    except OSError as error:
        raise ExportError(f"cannot read the model file {onnx_path}: {error.strerror}") from error
    except DecodeError as error:
        raise ExportError(f"{onnx_path} is not an ONNX file") from error
    inputs, outputs = (
        {end.name: _shape(end) for end in ends} for ends in (model.graph.input, model.graph.output)
    )
    if [*inputs] not in ([INPUT], [INPUT, ARRIVALS]):
        raise ExportError(f"{onnx_path} has inputs {[*inputs]}, our models have {INPUT!r}")
    shape = inputs[INPUT]
    example = np.zeros((1, *shape[1:]), np.float32) if input_example is None else input_example
    if example.shape[1:] != shape[1:]:
        raise ExportError(f"the input example is {example.shape}, the model takes {shape}")
    silent = {n: np.zeros((len(example), *s[1:]), np.float32) for n, s in inputs.items()}
    columns, answers = (
        Schema([TensorSpec(np.dtype("float32"), s, name) for name, s in ends.items()])
        for ends in (inputs, outputs)
    )
    with mlflow_errors(f"lay out {onnx_path} as a model"):
        mlflow.onnx.save_model(
            model,
            folder,
            signature=ModelSignature(inputs=columns, outputs=answers),
            input_example=silent | {INPUT: example},
            # Given, because MLflow would otherwise load the model to guess them.
            pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
            save_as_external_data=False,
        )
        shutil.copyfile(onnx_path, folder / "model.onnx")
        if weights := weights_beside(onnx_path):
            shutil.copyfile(weights, folder / weights.name)


def _shape(end: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape of an input or output, with -1 for the batch."""
    return tuple(size.dim_value or -1 for size in end.type.tensor_type.shape.dim)
