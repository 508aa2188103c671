"""From a PyTorch module to the contract's ONNX file, checked, and whole or not there at all."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch

from heimdall_export.contract import INPUT, OUTPUTS
from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DEFAULT_OPSET", "OPSETS", "export_onnx"]

OPSETS = range(18, 24)
"""Operator sets that torch's exporter writes and ONNX Runtime runs."""
DEFAULT_OPSET = 20


def export_onnx(
    network: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: tuple[int, int, int] = (3, 128, 32),
    metadata: Mapping[str, str],
    opset: int = DEFAULT_OPSET,
) -> Path:
    """Write a module as an ONNX file with a dynamic batch.

    Args:
        network: Takes float32 `(batch, *input_shape)`, returns positions and uncertainties,
            float32 `(batch, 2)` each. Put into evaluation mode.
        path: Where the file goes; a file that is there is replaced at once.
        input_shape: Receivers, mel bands and frames.
        metadata: Goes into the file, by the contract's keys.
        opset: ONNX operator set.

    Returns:
        The path.

    Raises:
        ExportError: An operator set that nobody runs, weights that are not finite, a graph that
            the checker refuses, or a place that cannot be written.
    """
    if opset not in OPSETS:
        raise ExportError(f"opset {opset} is not supported; give {OPSETS[0]} to {OPSETS[-1]}")
    _require_finite(network)
    target = Path(path)
    model = _graph(network.eval(), input_shape, opset)
    onnx.helper.set_model_props(model, dict(metadata))
    _check(model)
    try:
        _write_at_once(target, model.SerializeToString())
    except OSError as error:
        raise ExportError(f"cannot write the model to {target}: {error.strerror}") from error
    return target


def _require_finite(network: torch.nn.Module) -> None:
    for name, values in network.state_dict().items():
        if values.is_floating_point() and not values.isfinite().all():
            raise ExportError(
                f"{name} holds values that are not finite; the training diverged, "
                "take an earlier checkpoint"
            )


def _graph(
    network: torch.nn.Module, input_shape: tuple[int, int, int], opset: int
) -> onnx.ModelProto:
    # Two sessions: of a batch of one the exporter would make a constant.
    example = torch.zeros((2, *input_shape))
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export gave no program")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its advice to its own developers off the screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the exported graph: {error}") from error


def _write_at_once(target: Path, contents: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as part:
        try:
            part.write(contents)
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(target)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
