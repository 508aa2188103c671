"""Products of 8-bit integers in a graph, and weights of four bits in its file.

Nodes round the inputs of products to 8 bits and back; a runtime recognises that and computes with
integers. A weight has one scale a column, so that its largest value is 127 steps; an input has one
scale and zero point, so that the values seen in calibration fit into 256 steps.

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018.

Weights of four bits have a scale a column too. The nodes that widen them take constants alone, so
a runtime runs them once, when it loads the file. Of some shares of a column's largest value, the
scale is the one with the least error; then it is refitted to the integers by least squares.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from heimdall_export.errors import ExportError
from heimdall_export.graph.rewrite import large_products, large_weights, put_after, put_first
from heimdall_export.graph.weighted_graph import WeightedGraph
from heimdall_export.session import open_session, run_batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    Inputs = Mapping[str, NDArray[np.float32]]

__all__ = [
    "LEAST_OPSET",
    "Calibration",
    "Range",
    "StoredWeight",
    "calibrate",
    "large_convolutions",
    "pack_kernel",
    "pack_matrix",
    "use_integers",
]

LEAST_OPSET = 21
"""The first operator set with integers of four bits."""
_LEAST, _MOST = -8, 7
_SHARES = tuple(0.4 + 0.05 * step for step in range(13))
"""Of a column's largest value, which are `_MOST` steps; larger values are clipped."""
_ROWS = 512
"""Rows of a weight that shares are tried on at least, evenly spread over it."""
_LEAST_SCALE = 1e-12
_CALIBRATION_BATCH = 8


@dataclass(frozen=True, slots=True)
class Range:
    """Values of one product's input during calibration."""

    least: float
    most: float
    power: float
    """Mean square."""
    mean: NDArray[np.float64]
    """Of each column, `(columns,)`."""

    @property
    def scale(self) -> float:
        """Size of one of 255 steps; zero is a step."""
        return max(self.most, 0.0, 1e-12) / 255 - min(self.least, 0.0) / 255

    @property
    def zero_point(self) -> int:
        """The step of 0 to 255 that stands for zero."""
        return round(-min(self.least, 0.0) / self.scale)

    @property
    def noise(self) -> float:
        """Power of the rounding over that of the values."""
        return self.scale**2 / 12 / max(self.power, 1e-24)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Statistics of a graph's values on real features, by their names."""

    ranges: Mapping[str, Range]
    """Of the inputs of large products; empty if there is no such product."""
    means: Mapping[str, Tensor]
    """Of the channels of the inputs of convolutions with a large kernel, `(channels,)`."""


def calibrate(graph: WeightedGraph, inputs: Inputs, *, kernels: bool = False) -> Calibration:
    """Run a graph on real features and collect statistics of its values.

    Args:
        graph: The graph.
        inputs: Real features, and arrival times if it takes them.
        kernels: Collect means for convolutions, too.

    Raises:
        ExportError: The model does not take such inputs, or they make a value NaN or infinite.
    """
    products = dict.fromkeys(node.input[0] for node in large_products(graph))
    convolutions = large_convolutions(graph) if kernels and products else []
    convolved = dict.fromkeys(node.input[0] for node in convolutions)
    seen = _seen(graph, inputs, [*(products | convolved)])
    ranges = {name: _range(seen[name]) for name in products}
    if broken := [n for n, found in ranges.items() if not math.isfinite(found.power)]:
        raise ExportError(
            f"{len(broken)} of {len(ranges)} values to be rounded, such as {broken[0]}, are NaN "
            "or infinite; calibrate a model with finite weights on finite features"
        )
    means = {
        name: torch.from_numpy(np.mean([part.mean(axis=(0, 2, 3)) for part in seen[name]], axis=0))
        for name in convolved
    }
    return Calibration(ranges, means)


def large_convolutions(graph: WeightedGraph) -> list[onnx.NodeProto]:
    """Convolutions with a large kernel."""
    large = set(large_weights(graph, ("Conv",)))
    nodes = graph.model.graph.node
    return [node for node in nodes if node.op_type == "Conv" and node.input[1] in large]


def _seen(
    graph: WeightedGraph, inputs: Inputs, names: list[str]
) -> dict[str, list[NDArray[np.float32]]]:
    """Values of a graph on real features, batch by batch."""
    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(graph.model)
    own = [name for name in names if name not in inputs]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in own)
    with tempfile.TemporaryDirectory(prefix="heimdall-calibrate-") as folder:
        path = Path(folder, "watched.onnx")
        WeightedGraph(watched, graph.weights).write(path)
        session = open_session(path)
    takes = {end.name: tuple(end.shape[1:]) for end in session.get_inputs()}
    given = {name: values.shape for name, values in inputs.items()}
    lengths = {shape[:1] for shape in given.values()}
    if takes != {name: shape[1:] for name, shape in given.items()} or len(lengths) > 1:
        raise ExportError(
            f"the calibration inputs are {given}; the model takes (n, ...) of {takes}"
        )
    if lengths == {(0,)}:
        raise ExportError("no features to calibrate integers on; some dozens are needed")
    batches = run_batches(session, inputs, own, _CALIBRATION_BATCH)
    return {name: [inputs[name]] for name in names if name in inputs} | {
        name: parts for name, *parts in zip(own, *batches, strict=True)
    }


def _range(parts: list[NDArray[np.float32]]) -> Range:
    return Range(
        least=float(min(part.min() for part in parts)),
        most=float(max(part.max() for part in parts)),
        power=float(np.mean([np.square(part, dtype=np.float64).mean() for part in parts])),
        mean=np.mean([part.mean(axis=tuple(range(part.ndim - 1))) for part in parts], axis=0),
    )


def use_integers(
    graph: WeightedGraph, ranges: Mapping[str, Range], *, packed: bool = False
) -> None:
    """Turn products into integer products where the range of the input is given.

    Args:
        graph: The graph to change.
        ranges: Ranges of inputs by name; other products stay as they are.
        packed: Store weights of 4 bits in the file, which are of 8 once it is loaded.
    """
    by_weight: dict[str, list[onnx.NodeProto]] = {}
    for node in large_products(graph):
        if node.input[0] in ranges:
            by_weight.setdefault(node.input[1], []).append(node)
    make = onnx.helper.make_node
    rounded: dict[str, list[onnx.NodeProto]] = {}
    first: list[onnx.NodeProto] = []
    for name, nodes in by_weight.items():
        weight = graph.weights.pop(name)
        stored = (pack_matrix if packed else _store_matrix)(graph, name, weight)
        parts = [f"{name}.integers", f"{name}.scales"]
        first += [*stored.nodes, make("DequantizeLinear", parts, [name], axis=1)]
        lost = weight - stored.value
        for node in nodes:
            given = node.input[0]
            _correct_bias(graph, node, torch.from_numpy(ranges[given].mean).float() @ lost)
            if given not in rounded:
                scale, zero, steps = (f"{given}.{part}" for part in ("scale", "zero", "integers"))
                graph.weights[scale] = torch.tensor(ranges[given].scale)
                graph.weights[zero] = torch.tensor(ranges[given].zero_point, dtype=torch.uint8)
                rounded[given] = [
                    make("QuantizeLinear", [given, scale, zero], [steps]),
                    make("DequantizeLinear", [steps, scale, zero], [f"{given}.rounded"]),
                ]
            node.input[0] = f"{given}.rounded"
    put_first(graph, first)
    put_after(graph, rounded)
    graph.prune()


def _correct_bias(graph: WeightedGraph, product: onnx.NodeProto, shift: Tensor) -> None:
    """Add to a product's bias, if it has one, what rounding its weight takes from its mean.

    Source: M. Nagel et al., "Data-free quantization through weight equalization and bias
    correction", ICCV 2019.
    """
    (result,) = product.output
    for node in graph.model.graph.node:
        if node.op_type != "Add" or result not in node.input:
            continue
        place = 1 - list(node.input).index(result)
        bias = graph.weights.get(node.input[place])
        if bias is not None and bias.shape == shift.shape:
            node.input[place] = f"{result}.bias"
            graph.weights[f"{result}.bias"] = bias + shift


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """A weight as the file stores it."""

    nodes: Iterable[onnx.NodeProto]
    """Nodes that make the weight of what is stored."""
    value: Tensor
    """The weight once the file is loaded, float32, of the weight's shape."""


def _store_matrix(graph: WeightedGraph, name: str, weight: Tensor) -> StoredWeight:
    """Store a matrix in 8 bits: `{name}.integers` of the scales `{name}.scales`."""
    scales = (weight.abs().amax(dim=0) / 127).clamp_min(_LEAST_SCALE)
    integers = (weight / scales).round().to(torch.int8)
    graph.weights[f"{name}.integers"] = integers
    graph.weights[f"{name}.scales"] = scales
    return StoredWeight([], integers * scales)


def pack_matrix(graph: WeightedGraph, name: str, weight: Tensor) -> StoredWeight:
    """Store a matrix in 4 bits.

    Args:
        graph: Gets the parts; the weight itself is no longer in it.
        name: Prefix of the parts' names.
        weight: float32 `(rows, columns)`.

    Returns:
        The nodes that make int8 steps, `{name}.integers`, of the scales `{name}.scales`, one a
        column; and the matrix that these stand for.
    """
    integers, scales = _fitted(weight)
    nodes = _packed(graph, name, "integers", integers, onnx.TensorProto.INT8, scales)
    return StoredWeight(nodes, integers * scales)


def pack_kernel(graph: WeightedGraph, name: str, weight: Tensor) -> StoredWeight:
    """Store a kernel, which is used in float32, in 4 bits.

    Args:
        graph: Gets the parts; the weight itself is no longer in it.
        name: The weight's name, which the last of the nodes gives to its result.
        weight: float32 `(outputs, ...)`.
    """
    columns, scales = _fitted(weight.flatten(1).t())
    integers = columns.t().reshape(weight.shape)
    scales = scales.reshape(-1, *[1] * (weight.ndim - 1))
    nodes = _packed(graph, name, "steps", integers, onnx.TensorProto.FLOAT, scales)
    product = onnx.helper.make_node("Mul", [f"{name}.steps", f"{name}.scales"], [name])
    return StoredWeight([*nodes, product], integers * scales)


def _packed(
    graph: WeightedGraph, name: str, part: str, integers: Tensor, to: int, scales: Tensor
) -> list[onnx.NodeProto]:
    """Nodes that make `{name}.{part}` of four bits, and `{name}.scales` of bfloat16."""
    graph.add_four_bits(f"{name}.packed", integers)
    graph.weights[f"{name}.short"] = scales.to(torch.bfloat16)
    cast = onnx.helper.make_node
    return [
        cast("Cast", [f"{name}.packed"], [f"{name}.{part}"], to=to),
        cast("Cast", [f"{name}.short"], [f"{name}.scales"], to=onnx.TensorProto.FLOAT),
    ]


def _fitted(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers from -8 to 7, as int8, and the scale of each column, exact in bfloat16."""
    weight = weight.detach().float().contiguous()
    some = weight[:: max(1, len(weight) // _ROWS)]
    largest = weight.abs().amax(dim=0).clamp_min(_LEAST_SCALE) / _MOST
    tried = torch.stack([_bfloat16(share * largest) for share in _SHARES])
    errors = torch.stack([(_steps(some, s) * s - some).square().sum(dim=0) for s in tried])
    scales = tried.gather(0, errors.argmin(dim=0)[None])[0]
    steps = _steps(weight, scales)
    fit = (weight * steps).sum(dim=0) / steps.square().sum(dim=0).clamp_min(1)
    scales = _bfloat16(torch.where(fit > 0, fit, scales))
    return _steps(weight, scales).to(torch.int8), scales


def _steps(weight: Tensor, scales: Tensor) -> Tensor:
    return (weight / scales).round().clamp(_LEAST, _MOST)


def _bfloat16(scales: Tensor) -> Tensor:
    return scales.clamp_min(_LEAST_SCALE).to(torch.bfloat16).float()
