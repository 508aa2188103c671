"""Export of a PyTorch module as the contract's ONNX file, checked and written whole.

The graph is traced without its weights (`trace`), rewritten (`rewrite`), checked, and written with
them in one pass (`weighted_graph`): the checker and the exporter see only the weights' types and
shapes, which is all they look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch

from heimdall_export.contract import ARRIVALS, DEFAULT_OPSET, INPUT, OPSETS, OUTPUTS, TIMED_OUTPUTS
from heimdall_export.errors import ExportError
from heimdall_export.graph.rewrite import fold_transposes
from heimdall_export.graph.trace import (
    NEWEST_TRACED_OPSET,
    NanGuard,
    evaluating,
    refuse_decisions,
    traced_graph,
)
from heimdall_export.graph.weighted_graph import LARGEST_FILE
from heimdall_export.serving.metadata import require_metadata

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from heimdall_export.graph.weighted_graph import WeightedGraph

__all__ = ["export_onnx"]


def export_onnx(
    network: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: tuple[int, int, int] = (3, 128, 32),
    arrivals_shape: tuple[int, int] | None = None,
    metadata: Mapping[str, str],
    opset: int = DEFAULT_OPSET,
    largest_file: int = LARGEST_FILE,
) -> Path:
    """Write a module as an ONNX file with a dynamic batch.

    The file answers NaN to an input that is not finite, whatever the network does.

    Args:
        network: Takes float32 `(batch, *input_shape)` in dB; returns positions in degrees and
            uncertainties in metres, float32 `(batch, 2)` each, and, if it has them, the
            correlations of the errors east and north, `(batch,)`. With `arrivals_shape` it takes
            float32 `(batch, *arrivals_shape)` as well, and returns also the correlations of the
            errors east and north and the unexplained part, float32 `(batch,)` each. Exported in
            evaluation mode.
        path: The file; an existing one is replaced as a whole.
        input_shape: Receivers, mel bands and frames.
        arrivals_shape: Receivers and columns of the arrival times; None for a network of
            spectrograms alone.
        metadata: All of the contract's keys and, only with `arrivals_shape`, those of
            `ArrivalExtractor.metadata`; further keys may follow.
        opset: ONNX operator set, one of `OPSETS`.
        largest_file: Weights of more bytes go into a file of their own, `*.data`, beside the
            model and named for its contents; both must be kept in one folder.

    Returns:
        The path.

    Raises:
        ExportError: An unsupported operator set, metadata that lack a key, weights that are not
            finite, a network of another shape or one that decides by values, a graph that the
            exporter or the checker refuses, or a path that cannot be written.
    """
    target = Path(path)
    if opset not in OPSETS:
        raise ExportError(
            f"opset {opset} is not supported; use one from {OPSETS[0]} to {OPSETS[-1]}, "
            f"by default {DEFAULT_OPSET}"
        )
    require_metadata(metadata, timed=arrivals_shape is not None)
    _require_finite_weights(network)
    shapes = (input_shape,) if arrivals_shape is None else (input_shape, arrivals_shape)
    with evaluating(network) as device:
        # Two samples: the exporter would make a constant of a batch of one.
        examples = tuple(torch.zeros((2, *shape), device=device) for shape in shapes)
        graph = _checked_graph(network, examples, _output_names(network, examples), opset)
    onnx.helper.set_model_props(graph.model, dict(metadata))
    graph.save(target, largest=largest_file)
    return target


def _require_finite_weights(network: torch.nn.Module) -> None:
    for name, values in network.state_dict().items():
        # The sum first: it reads large weights once, and is finite only if they are.
        if values.is_floating_point() and not values.sum().isfinite():
            if values.isfinite().all():
                continue
            raise ExportError(
                f"{name} holds NaN or infinity: the training diverged; use an earlier checkpoint"
            )


def _output_names(network: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> tuple[str, ...]:
    """Names of the network's outputs, which must be those that its inputs call for."""
    shapes = " and ".join(str(tuple(example.shape)) for example in examples)
    try:
        with torch.no_grad(), refuse_decisions(network):
            outputs = network(*examples)
    except ExportError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"the network fails on an input of shape {shapes}: {error}") from error
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    found = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors]
    if len(examples) > 1:
        names: tuple[str, ...] = (*OUTPUTS, *TIMED_OUTPUTS)
    else:
        # A network of spectrograms may return correlations too; further outputs have no name.
        names = (*OUTPUTS, *TIMED_OUTPUTS[:1])[: max(len(found), len(OUTPUTS))]
    batch = len(examples[0])
    shape = {name: (batch, 2) if name in OUTPUTS else (batch,) for name in names}
    if found[: len(names)] != [f"{torch.float32} {shape[name]}" for name in names]:
        wanted = ", ".join(f"{name} {torch.float32} {shape[name]}" for name in names)
        raise ExportError(
            f"the network returned {', '.join(found)} for a batch of {batch}; required: {wanted}"
        )
    return names


def _checked_graph(
    network: torch.nn.Module,
    examples: tuple[torch.Tensor, ...],
    outputs: tuple[str, ...],
    opset: int,
) -> WeightedGraph:
    inputs = (INPUT, ARRIVALS)[: len(examples)]
    traced_opset = min(opset, NEWEST_TRACED_OPSET)
    graph = traced_graph(NanGuard(network), examples, inputs, outputs, traced_opset)
    fold_transposes(graph)
    try:
        if opset > NEWEST_TRACED_OPSET:
            graph.convert(opset)
        declared = graph.declared()
        onnx.checker.check_model(declared, full_check=True)
        _require_free_batch(declared, type(network).__name__)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        onnx.version_converter.ConvertError,
    ) as error:
        raise ExportError(f"onnx.checker refuses the exported graph: {error}") from error
    return graph


def _require_free_batch(model: onnx.ModelProto, name: str) -> None:
    """Refuse the trace of a network that made a Python number of the batch's size."""
    for end in model.graph.output:
        end.type.tensor_type.ClearField("shape")
    found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    fixed = [
        end.name
        for end in found.graph.output
        if any(size.dim_value for size in end.type.tensor_type.shape.dim[:1])
    ]
    if fixed:
        raise ExportError(
            f"the graph of {name} has a fixed batch size in {', '.join(fixed)}; "
            "take sizes from tensors' shapes, without int()"
        )
