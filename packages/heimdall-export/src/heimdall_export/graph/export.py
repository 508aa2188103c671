"""From a PyTorch module to the contract's ONNX file, checked, and whole or not there at all.

The graph is traced without its weights (`graph_capture`), arranged (`graph_layout`), checked, and
written together with them in one pass (`weighted_graph`): neither the checker nor the exporter
ever sees more than their types and shapes, which is what they would look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch

from heimdall_export.atomic import written_at_once
from heimdall_export.contract import (
    ARRIVAL_KEYS,
    ARRIVALS,
    DEFAULT_OPSET,
    INPUT,
    METADATA_KEYS,
    OPSETS,
    OUTPUTS,
    TIMED_OUTPUTS,
)
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

    In the file, an input that is not finite has NaN for an answer, whatever the network does.

    Args:
        network: Takes float32 `(batch, *input_shape)` in dB; returns positions in degrees and
            uncertainties in metres, float32 `(batch, 2)` each, and, if it has them, the
            correlations of the errors east and north, `(batch,)`. With `arrivals_shape` it takes
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
        largest_file: Weights of more bytes go into a file of their own, `*.data`, beside the
            model and named for its contents; both must be kept in one folder.

    Returns:
        The path.

    Raises:
        ExportError: An operator set that nobody runs, metadata that lack a key, weights that
            are not finite, a network of another shape or one that decides by values, a graph
            that the exporter or the checker refuses, or a place that cannot be written.
    """
    target = Path(path)
    _require_opset(opset)
    _require_metadata(metadata, timed=arrivals_shape is not None)
    _require_weights(network)
    shapes = (input_shape,) if arrivals_shape is None else (input_shape, arrivals_shape)
    with evaluating(network) as device:
        # Two sessions: of a batch of one the exporter would make a constant.
        examples = tuple(torch.zeros((2, *shape), device=device) for shape in shapes)
        outputs = _outputs(network, examples)
        graph = _graph(network, examples, outputs, opset)
    onnx.helper.set_model_props(graph.model, dict(metadata))
    with written_at_once(target) as part:
        graph.write(part, largest=largest_file)
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
    for name, values in network.state_dict().items():
        # The sum first: it reads large weights once, and is finite if they are.
        if values.is_floating_point() and not values.sum().isfinite():
            if values.isfinite().all():
                continue
            raise ExportError(
                f"{name} holds values that are not finite; the training diverged, "
                "take an earlier checkpoint"
            )


def _outputs(network: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> tuple[str, ...]:
    """The names of what the network returns, which must be what its inputs call for."""
    shapes = " and ".join(str(tuple(example.shape)) for example in examples)
    try:
        with torch.no_grad(), refuse_decisions(network):
            outputs = network(*examples)
    except ExportError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(
            f"the network does not take an input of shape {shapes}: {error}"
        ) from error
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    found = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors]
    batch = len(examples[0])
    pair, single = (f"{torch.float32} {shape}" for shape in ((batch, 2), (batch,)))
    told = f"{' and '.join(OUTPUTS)} are {pair} each"
    if len(examples) > 1:
        names: tuple[str, ...] = (*OUTPUTS, *TIMED_OUTPUTS)
        told += f", {' and '.join(TIMED_OUTPUTS)} {single} each"
    else:
        # A network of spectrograms whose ellipses lean says so; further outputs have no name.
        names = (*OUTPUTS, *TIMED_OUTPUTS[:1])[: max(len(found), len(OUTPUTS))]
    if found[: len(names)] != [pair] * len(OUTPUTS) + [single] * (len(names) - len(OUTPUTS)):
        raise ExportError(f"the network returned {', '.join(found)} for a batch of {batch}; {told}")
    return names


def _graph(
    network: torch.nn.Module,
    examples: tuple[torch.Tensor, ...],
    outputs: tuple[str, ...],
    opset: int,
) -> WeightedGraph:
    graph = traced_graph(
        NanGuard(network),
        examples,
        (INPUT, ARRIVALS)[: len(examples)],
        outputs,
        min(opset, NEWEST_TRACED_OPSET),
    )
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
    """The trace of a network that makes a Python number of the batch's size holds that number."""
    for end in model.graph.output:
        end.type.tensor_type.ClearField("shape")
    found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    fixed = [end.name for end in found.graph.output if _first_size(end)]
    if fixed:
        raise ExportError(
            f"the graph of {name} has a fixed batch size in {', '.join(fixed)}; "
            "take sizes from tensors' shapes, without int()"
        )


def _first_size(end: onnx.ValueInfoProto) -> int:
    sizes = end.type.tensor_type.shape.dim
    return int(sizes[0].dim_value) if sizes else 0
