"""From a PyTorch module to the contract's ONNX file, checked, and whole or not there at all.

The graph is written by `torch.onnx.export` from a `torch.export` program, with a dynamic batch.
What the exporter notes beside each node is removed: it names the files and folders of the
machine that exported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch

from heimdall_export.contract import (
    ARRIVAL_KEYS,
    ARRIVALS,
    INPUT,
    METADATA_KEYS,
    OUTPUTS,
    TIMED_OUTPUTS,
)
from heimdall_export.errors import ExportError
from heimdall_export.evaluation_mode import evaluating
from heimdall_export.non_finite import NanGuard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DEFAULT_OPSET", "OPSETS", "export_onnx"]

OPSETS = range(18, 24)
"""Operator sets that torch's exporter writes without conversion and ONNX Runtime 1.24 runs."""
DEFAULT_OPSET = 20
_LARGEST_FILE = 2**31 - 2**26
"""Bytes of weights in one file; Protocol Buffers end at 2 GiB, graph and names included."""
_CHATTY = ("torch.onnx", "torch.export", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir")


def export_onnx(
    network: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: tuple[int, int, int] = (3, 128, 32),
    arrivals_shape: tuple[int, int] | None = None,
    metadata: Mapping[str, str],
    opset: int = DEFAULT_OPSET,
) -> Path:
    """Write a module as an ONNX file with a dynamic batch.

    In the file, an input that is not finite has NaN for an answer, whatever the network does.

    Args:
        network: Takes float32 `(batch, *input_shape)` in dB; returns positions in degrees and
            uncertainties in metres, float32 `(batch, 2)` each. With `arrivals_shape` it takes
            float32 `(batch, *arrivals_shape)` as well, and returns also the correlations of the
            errors east and north and what is unexplained, float32 `(batch,)` each. Exported in
            evaluation mode.
        path: Where the file goes; a file that is there is replaced at once.
        input_shape: Receivers, mel bands and frames.
        arrivals_shape: Receivers and columns of the arrival times; None for a network of
            spectrograms alone.
        metadata: Goes into the file; all of the contract's keys must be there, and with
            `arrivals_shape`, and only then, those of `ArrivalExtractor.metadata`.
        opset: ONNX operator set, one of `OPSETS`.

    Returns:
        The path.

    Raises:
        ExportError: An operator set that nobody runs, metadata that lack a key, weights that
            are not finite or more than 2 GiB, a network of another shape, a graph that the
            exporter or the checker refuses, or a place that cannot be written.
    """
    target = Path(path)
    _require_opset(opset)
    _require_metadata(metadata, timed=arrivals_shape is not None)
    _require_weights(network)
    shapes = (input_shape,) if arrivals_shape is None else (input_shape, arrivals_shape)
    with evaluating(network) as device:
        # Two sessions: of a batch of one the exporter would make a constant.
        examples = tuple(torch.zeros((2, *shape), device=device) for shape in shapes)
        _require_outputs(network, examples)
        model = _graph(NanGuard(network), examples, opset)
    _remove_traces(model)
    onnx.helper.set_model_props(model, dict(metadata))
    try:
        with _written_at_once(target) as part:
            onnx.save(model, part)
            _check(part)
    except OSError as error:
        raise ExportError(
            f"the model cannot be written to {target}: {error.strerror or error}"
        ) from error
    return target


def _require_opset(opset: int) -> None:
    if opset not in OPSETS:
        raise ExportError(
            f"opset {opset} is not supported; give one from {OPSETS[0]} to {OPSETS[-1]}, "
            f"{DEFAULT_OPSET} by default"
        )


def _require_metadata(metadata: Mapping[str, str], *, timed: bool) -> None:
    wanted = METADATA_KEYS + ARRIVAL_KEYS if timed else METADATA_KEYS
    if missing := [key for key in wanted if key not in metadata]:
        raise ExportError(f"the model's metadata lack {', '.join(missing)}")
    if not timed and (beside := [key for key in ARRIVAL_KEYS if key in metadata]):
        raise ExportError(
            f"the model's metadata have {', '.join(beside)}, of a model that takes arrival "
            "times; give arrivals_shape, or leave them out"
        )
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ExportError(f"metadata {key!r} is {value!r}; it must be text")


def _require_weights(network: torch.nn.Module) -> None:
    weights = network.state_dict()
    for name, values in weights.items():
        if values.is_floating_point() and not values.isfinite().all():
            raise ExportError(
                f"{name} holds values that are not finite; the training diverged, "
                "take an earlier checkpoint"
            )
    size = sum(values.nbytes for values in weights.values())
    if size > _LARGEST_FILE:
        raise ExportError(
            f"the weights take {size / 2**30:.2f} GiB and one ONNX file holds 2 GiB; "
            "take a smaller backbone"
        )


def _require_outputs(network: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> None:
    shapes = " and ".join(str(tuple(example.shape)) for example in examples)
    try:
        with torch.no_grad():
            outputs = network(*examples)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(
            f"the network does not take an input of shape {shapes}: {error}"
        ) from error
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    found = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors]
    batch = len(examples[0])
    wanted = [f"{torch.float32} {(batch, 2)}"] * len(OUTPUTS)
    told = f"{' and '.join(OUTPUTS)} are {wanted[0]} each"
    if len(examples) > 1:
        further = f"{torch.float32} {(batch,)}"
        wanted += [further] * len(TIMED_OUTPUTS)
        told += f", {' and '.join(TIMED_OUTPUTS)} {further} each"
    if found[: len(wanted)] != wanted:
        raise ExportError(f"the network returned {', '.join(found)} for a batch of {batch}; {told}")


def _graph(
    network: torch.nn.Module, examples: tuple[torch.Tensor, ...], opset: int
) -> onnx.ModelProto:
    batch = torch.export.Dim("batch")
    timed = len(examples) > 1
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                examples,
                input_names=[INPUT, ARRIVALS] if timed else [INPUT],
                output_names=[*OUTPUTS, *TIMED_OUTPUTS] if timed else [*OUTPUTS],
                # One tuple within the other: the guard takes its inputs as `*inputs`.
                dynamic_shapes=(tuple({0: batch} for _ in examples),),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(
            f"torch.onnx.export cannot make a graph with a free batch size of "
            f"{type(network.network).__name__}: {reason}"
        ) from error
    if program is None:
        raise ExportError("torch.onnx.export gave no program; report the versions of torch")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its own developers off the screen; its errors are raised."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _remove_traces(model: onnx.ModelProto) -> None:
    graph = model.graph
    ends = (*graph.input, *graph.output, *graph.value_info)
    for noted in (graph, *graph.node, *graph.initializer, *ends):
        noted.ClearField("metadata_props")


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the exported graph: {error}") from error


@contextlib.contextmanager
def _written_at_once(target: Path) -> Iterator[Path]:
    """A path beside the target, which becomes the target if the body ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        _to_disk(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
