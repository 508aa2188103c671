"""A model file as MLflow wants it: a folder with a signature, an input example, requirements."""

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
from heimdall_export.tracking.client import told_plainly

import mlflow.onnx  # isort: skip
from mlflow.models import ModelSignature  # isort: skip
from mlflow.types import Schema, TensorSpec  # isort: skip

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["save_mlflow_model"]

_REQUIREMENTS = ("numpy", "onnx", "onnxruntime")
"""What MLflow's loader needs; heimdall-features only whoever computes the input."""


def save_mlflow_model(
    onnx_path: Path, folder: Path, *, input_example: NDArray[np.float32] | None = None
) -> None:
    """Lay a model out in a new folder; the ONNX file in it is the same, byte by byte.

    So is the file beside it that holds its weights, where there is one.

    Args:
        onnx_path: The model file.
        folder: Must not exist.
        input_example: Feature tensors, float32 `(n, receivers, n_mels, n_frames)`; silence at
            0 dB when None. Beside it a model that takes arrival times has none of them.

    Raises:
        ExportError: The file is not an ONNX file, the example does not fit, or the folder
            cannot be written.
    """
    model = _read(onnx_path)
    shape = _shape(model.graph.input[0])
    example = np.zeros((1, *shape[1:]), np.float32) if input_example is None else input_example
    if example.shape[1:] != shape[1:]:
        raise ExportError(f"the input example is {example.shape}, the model takes {shape}")
    with told_plainly(f"lay out {onnx_path} as a model"):
        mlflow.onnx.save_model(
            model,
            folder,
            signature=_signature(model),
            input_example=_beside(example, model),
            # Given, because MLflow would otherwise load the model to guess them.
            pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
            save_as_external_data=False,
        )
        shutil.copyfile(onnx_path, folder / "model.onnx")
        if weights := weights_beside(onnx_path):
            shutil.copyfile(weights, folder / weights.name)


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ExportError(f"the model file {path} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ExportError(f"{path} is not an ONNX file") from error
    if [end.name for end in model.graph.input] not in ([INPUT], [INPUT, ARRIVALS]):
        raise ExportError(f"{path} has no input {INPUT!r}; it is no model of ours")
    return model


def _beside(example: NDArray[np.float32], model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The example with what further inputs take where nothing is known: zeros."""
    further = {
        end.name: np.zeros((len(example), *_shape(end)[1:]), np.float32)
        for end in model.graph.input[1:]
    }
    return {INPUT: example, **further}


def _signature(model: onnx.ModelProto) -> ModelSignature:
    inputs, outputs = (
        Schema([TensorSpec(np.dtype("float32"), _shape(end), end.name) for end in ends])
        for ends in (model.graph.input, model.graph.output)
    )
    return ModelSignature(inputs=inputs, outputs=outputs)


def _shape(end: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape of an input or output, with -1 for the batch."""
    return tuple(size.dim_value or -1 for size in end.type.tensor_type.shape.dim)
