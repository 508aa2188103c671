"""Smaller and faster files of a model: weights of two bytes, or products of integers.

Two bytes (`fp16`, `bf16`): the weights of products and convolutions are stored so, and widened when
the file is loaded. The arithmetic is float32 as before: half the file, the same speed.

`int8`: products with a weight, convolutions of one tap among them, are computed of 8-bit integers.
A weight has one scale a column, so that its largest value is 127 steps; an input of a product
has one scale and zero point, so that what calibration saw of it fits into 256 steps. Everything
else, wider convolutions and heads among it, stays float32. Scales are fixed in the file: an answer
depends on its own input alone, and not on what else is in the batch.

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError

from heimdall_export.contract import ARRIVALS, INPUT
from heimdall_export.errors import ExportError
from heimdall_export.graph_layout import pointwise_as_products
from heimdall_export.onnx_session import open_session
from heimdall_export.weighted_graph import WeightedGraph
from heimdall_export.whole_model import written_at_once

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["KINDS", "PRECISION_KEY", "Kind", "NothingToQuantize", "quantize_model"]

Kind = Literal["fp16", "bf16", "int8"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PRECISION_KEY = "heimdall.precision"
"""Of the metadata: how a file that is not plain float32 computes."""
_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_LEAST_VALUES = 8192
"""Smaller weights stay as they are: they take no room, and heads are among them."""
_LEAST_SIDE = 16
"""Of a matrix; thinner ones are tables of places."""
_LARGEST_HALF = 65504.0
_BATCH = 8


class NothingToQuantize(ExportError):
    """A model gains nothing from a precision."""


@dataclass(frozen=True, slots=True)
class Range:
    """What calibration saw of one input of a product."""

    least: float
    most: float
    power: float
    """Mean square."""

    @property
    def scale(self) -> float:
        """Of one of 255 steps; zero is among them."""
        return max(self.most, 0.0, 1e-12) / 255 - min(self.least, 0.0) / 255

    @property
    def zero_point(self) -> int:
        """Which of 0 to 255 is zero."""
        return round(-min(self.least, 0.0) / self.scale)

    @property
    def noise(self) -> float:
        """Power of rounding over that of the values."""
        return self.scale**2 / 12 / max(self.power, 1e-24)


def quantize_model(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: Kind,
    *,
    features: NDArray[np.float32],
    arrivals: NDArray[np.float32] | None = None,
    keep: float = 0.0,
) -> Path:
    """Write a smaller file of a model.

    Args:
        path: A float32 model file.
        target: Where the new one goes; a file that is there is replaced at once.
        kind: `fp16`, `bf16` or `int8`.
        features: Training features that `int8` is calibrated on, float32
            `(n, receivers, n_mels, n_frames)`; some dozens will do.
        arrivals: Their arrival times, if the model takes them.
        keep: Share of the products that stay float32, those first whose inputs `int8` rounds most.

    Returns:
        The target.

    Raises:
        ExportError: An unknown kind, a file that is no float32 model of ours, features that it
            does not take, or a place that cannot be written.
    """
    if kind not in KINDS:
        raise ExportError(f"there is no precision {kind!r}; give one of {', '.join(KINDS)}")
    graph = _read(Path(path))
    if kind == "int8":
        pointwise_as_products(graph)
        inputs = {INPUT: features} | ({} if arrivals is None else {ARRIVALS: arrivals})
        ranges = _calibrated(graph, inputs)
        kept = sorted(ranges, key=lambda name: -ranges[name].noise)[: round(keep * len(ranges))]
        _use_integers(graph, {name: ranges[name] for name in ranges if name not in kept})
    else:
        _halve(graph, _HALVES[kind])
    graph.model.metadata_props.add(key=PRECISION_KEY, value=kind)
    _check(graph)
    with written_at_once(Path(target)) as part:
        graph.write(part)
    return Path(target)


def _read(path: Path) -> WeightedGraph:
    try:
        graph = WeightedGraph.read(path)
    except OSError as error:
        raise ExportError(f"the model file {path} cannot be read: {error.strerror}") from error
    except (DecodeError, TypeError) as error:
        raise ExportError(f"{path} is not an ONNX file of float32 weights: {error}") from error
    said = {entry.key: entry.value for entry in graph.model.metadata_props}
    if PRECISION_KEY in said:
        raise ExportError(f"{path} is {said[PRECISION_KEY]} already; give the float32 file")
    return graph


def _check(graph: WeightedGraph) -> None:
    try:
        onnx.checker.check_model(graph.declared(), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the quantised graph: {error}") from error


def _halve(graph: WeightedGraph, dtype: torch.dtype) -> None:
    casts = []
    for name in _large_weights(graph, ("MatMul", "Gemm", "Conv")):
        weight = graph.weights[name]
        if dtype == torch.float16 and weight.abs().max() > _LARGEST_HALF:
            continue
        half = f"{name}.half"
        graph.weights[half] = weight.to(dtype)
        casts.append(onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
        del graph.weights[name]
    _put_first(graph, casts)
    graph.prune()


def _large_weights(graph: WeightedGraph, kinds: tuple[str, ...]) -> list[str]:
    """Matrices and kernels that nodes of these kinds take, each once."""
    taken = {
        name
        for node in graph.model.graph.node
        if node.op_type in kinds
        for name in node.input[1:2]
        if name in graph.weights
    }
    weights = graph.weights
    return [
        name
        for name in weights
        if name in taken
        and weights[name].dtype == torch.float32
        and weights[name].numel() >= _LEAST_VALUES
        and (weights[name].ndim > 2 or min(weights[name].shape) >= _LEAST_SIDE)
    ]


def _products(graph: WeightedGraph) -> list[onnx.NodeProto]:
    """Products of something computed with a large matrix."""
    large = set(_large_weights(graph, ("MatMul",)))
    nodes = graph.model.graph.node
    return [node for node in nodes if node.op_type == "MatMul" and node.input[1] in large]


def _calibrated(
    graph: WeightedGraph, inputs: Mapping[str, NDArray[np.float32]]
) -> dict[str, Range]:
    """What each product's input is like on real features, by its name."""
    names = list(dict.fromkeys(node.input[0] for node in _products(graph)))
    if not names:
        raise NothingToQuantize(
            "the model has no product of matrices that int8 would gain from; use fp16"
        )
    watched = onnx.ModelProto()
    watched.CopyFrom(graph.model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.TemporaryDirectory(prefix="heimdall-calibrate-") as folder:
        path = Path(folder, "watched.onnx")
        WeightedGraph(watched, graph.weights).write(path)
        session = open_session(path)
    n = len(next(iter(inputs.values())))
    seen = [
        session.run(names, {key: values[at : at + _BATCH] for key, values in inputs.items()})
        for at in range(0, n, _BATCH)
    ]
    return {name: _range(parts) for name, *parts in zip(names, *seen, strict=True)}


def _range(parts: list[NDArray[np.float32]]) -> Range:
    return Range(
        least=float(min(part.min() for part in parts)),
        most=float(max(part.max() for part in parts)),
        power=float(np.mean([np.square(part, dtype=np.float64).mean() for part in parts])),
    )


def _use_integers(graph: WeightedGraph, ranges: Mapping[str, Range]) -> None:
    """Round the inputs of products to 8 bits and back; runtimes see that and use integers."""
    widened: dict[str, list[onnx.NodeProto]] = {}
    before: list[onnx.NodeProto] = []
    for node in _products(graph):
        given, name = node.input
        if given not in ranges:
            continue
        if given not in widened:
            widened[given] = _rounded(graph, given, ranges[given])
        if name in graph.weights:
            before.append(_integer_weight(graph, name))
        node.input[0] = widened[given][-1].output[0]
    _put_first(graph, before)
    _put_after(graph, widened)


def _rounded(graph: WeightedGraph, name: str, seen: Range) -> list[onnx.NodeProto]:
    scale, zero = f"{name}.scale", f"{name}.zero"
    graph.weights[scale] = torch.tensor(seen.scale)
    graph.weights[zero] = torch.tensor(seen.zero_point, dtype=torch.uint8)
    make = onnx.helper.make_node
    return [
        make("QuantizeLinear", [name, scale, zero], [f"{name}.integers"]),
        make("DequantizeLinear", [f"{name}.integers", scale, zero], [f"{name}.rounded"]),
    ]


def _integer_weight(graph: WeightedGraph, name: str) -> onnx.NodeProto:
    """The weight in 8 bits, and the node that gives it back under its name."""
    weight = graph.weights.pop(name)
    scale = (weight.abs().amax(dim=0) / 127).clamp_min(1e-12)
    integers, scales, zeros = (f"{name}.{part}" for part in ("integers", "scales", "zeros"))
    graph.weights[integers] = (weight / scale).round().to(torch.int8)
    graph.weights[scales] = scale
    graph.weights[zeros] = torch.zeros(len(scale), dtype=torch.int8)
    return onnx.helper.make_node("DequantizeLinear", [integers, scales, zeros], [name], axis=1)


def _put_first(graph: WeightedGraph, nodes: list[onnx.NodeProto]) -> None:
    rest = list(graph.model.graph.node)
    del graph.model.graph.node[:]
    graph.model.graph.node.extend([*nodes, *rest])


def _put_after(graph: WeightedGraph, nodes: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Put nodes behind the one that computes what they take; the order must stay a valid one."""
    ordered = []
    for node in graph.model.graph.node:
        ordered.append(node)
        for name in node.output:
            ordered.extend(nodes.get(name, ()))
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(ordered)
    graph.prune()
