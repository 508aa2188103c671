"""Products of 8-bit integers instead of float32: what their inputs are like, and the nodes for it.

Nodes round the inputs of products to 8 bits and back; a runtime sees that and computes with
integers. A weight has one scale a column, so that its largest value is 127 steps; an input has one
scale and zero point, so that what calibration saw of it fits into 256 steps.

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018.

Weights of four bits in the file, of a scale for each column; larger once the file is loaded.

The nodes that widen them take constants alone, so a runtime runs them once, when it loads the file.
A column's scale is the one, of some shares of its largest value, that errs least on it; then that
which fits its integers best, by least squares.
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
from heimdall_export.session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from onnxruntime import InferenceSession
    from torch import Tensor

__all__ = [
    "LEAST_OPSET",
    "Calibration",
    "Range",
    "StoredWeight",
    "calibrated",
    "packed_integers",
    "packed_kernel",
    "use_integers",
]


LEAST_OPSET = 21
"""Before it, ONNX has no integers of four bits."""
_LEAST, _MOST = -8, 7
_SHARES = tuple(0.4 + 0.05 * step for step in range(13))
"""Of a column's largest value, that is `_MOST` steps then; what is beyond is cut off."""
_ROWS = 512
"""Rows of a weight that shares are tried on, evenly spread over it, at least."""
_LEAST_SCALE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """A weight as the file has it."""

    nodes: list[onnx.NodeProto]
    """What makes a weight of what is stored."""
    told: Tensor
    """float32, of the weight's shape: what it is once the file is loaded."""


def packed_integers(graph: WeightedGraph, name: str, weight: Tensor) -> StoredWeight:
    """Put a matrix into the file at four bits.

    Args:
        graph: The weight is not in it any more.
        name: What the parts are named for.
        weight: float32 `(rows, columns)`.

    Returns:
        The nodes that make int8 steps, `{name}.integers`, of the scales `{name}.scales`, one a
        column; and the matrix that these stand for.
    """
    integers, scales = _fitted(weight)
    nodes = [
        _widened(graph, name, "integers", integers, onnx.TensorProto.INT8),
        _scales(graph, name, scales),
    ]
    return StoredWeight(nodes, integers * scales)


def packed_kernel(graph: WeightedGraph, name: str, weight: Tensor) -> StoredWeight:
    """Put a kernel that is used in float32 into the file at four bits.

    Args:
        graph: The weight is not in it any more.
        name: Its name.
        weight: float32 `(outputs, ...)`.

    Returns:
        The nodes that give it back under its name, and what it is then.
    """
    columns, scales = _fitted(weight.flatten(1).t())
    integers = columns.t().reshape(weight.shape)
    scales = scales.reshape(-1, *[1] * (weight.ndim - 1))
    nodes = [
        _widened(graph, name, "steps", integers, onnx.TensorProto.FLOAT),
        _scales(graph, name, scales),
        onnx.helper.make_node("Mul", [f"{name}.steps", f"{name}.scales"], [name]),
    ]
    return StoredWeight(nodes, integers * scales)


def _fitted(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers from -8 to 7, as int8, and the scale of each column, exact in bfloat16."""
    weight = weight.detach().float().contiguous()
    some = weight[:: max(1, len(weight) // _ROWS)]
    largest = weight.abs().amax(dim=0).clamp_min(_LEAST_SCALE) / _MOST
    tried = torch.stack([_short(share * largest) for share in _SHARES])
    errors = torch.stack([(_steps(some, s) * s - some).square().sum(dim=0) for s in tried])
    scales = tried.gather(0, errors.argmin(dim=0)[None])[0]
    steps = _steps(weight, scales)
    fit = (weight * steps).sum(dim=0) / steps.square().sum(dim=0).clamp_min(1)
    scales = _short(torch.where(fit > 0, fit, scales))
    return _steps(weight, scales).to(torch.int8), scales


def _steps(weight: Tensor, scales: Tensor) -> Tensor:
    return (weight / scales).round().clamp(_LEAST, _MOST)


def _short(scales: Tensor) -> Tensor:
    return scales.clamp_min(_LEAST_SCALE).to(torch.bfloat16).float()


def _widened(
    graph: WeightedGraph, name: str, part: str, integers: Tensor, to: int
) -> onnx.NodeProto:
    """The node that makes `{name}.{part}` of four bits."""
    graph.add_four_bits(f"{name}.packed", integers)
    return onnx.helper.make_node("Cast", [f"{name}.packed"], [f"{name}.{part}"], to=to)


def _scales(graph: WeightedGraph, name: str, scales: Tensor) -> onnx.NodeProto:
    graph.weights[f"{name}.short"] = scales.to(torch.bfloat16)
    to = onnx.TensorProto.FLOAT
    return onnx.helper.make_node("Cast", [f"{name}.short"], [f"{name}.scales"], to=to)


_BATCH = 8


@dataclass(frozen=True, slots=True)
class Range:
    """What calibration saw of one input of a product."""

    least: float
    most: float
    power: float
    """Mean square."""
    mean: NDArray[np.float64]
    """Of each column, `(columns,)`."""

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


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a graph's values are like on real features, by their names."""

    ranges: Mapping[str, Range]
    """Of what large products take; none where there is no such product."""
    means: Mapping[str, Tensor]
    """Of each channel of what convolutions with a large kernel take, `(channels,)`; if wanted."""


def calibrated(
    graph: WeightedGraph, inputs: Mapping[str, NDArray[np.float32]], *, kernels: bool = False
) -> Calibration:
    """Watch a graph answer.

    Args:
        graph: What to watch.
        inputs: Real features, and arrival times if it takes them.
        kernels: Whether means are wanted, too.

    Raises:
        ExportError: The model does not take such inputs, or they make a value NaN or infinite.
    """
    products = dict.fromkeys(node.input[0] for node in large_products(graph))
    convolutions = _large_convolutions(graph) if kernels and products else ()
    convolved = dict.fromkeys(node.input[0] for node in convolutions)
    seen = _seen(graph, inputs, [*(products | convolved)])
    ranges = {name: _range(seen[name]) for name in products}
    if broken := [n for n, found in ranges.items() if not math.isfinite(found.power)]:
        raise ExportError(
            f"{len(broken)} of {len(ranges)} values that are to be rounded, such as {broken[0]}, "
            "are NaN or infinite; calibrate a model that is sound, on features that are finite"
        )
    return Calibration(ranges, {name: _channel_means(seen[name]) for name in convolved})


def _large_convolutions(graph: WeightedGraph) -> Iterator[onnx.NodeProto]:
    large = set(large_weights(graph, ("Conv",)))
    nodes = graph.model.graph.node
    return (node for node in nodes if node.op_type == "Conv" and node.input[1] in large)


def _channel_means(parts: list[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.mean([part.mean(axis=(0, 2, 3)) for part in parts], axis=0))


def _seen(
    graph: WeightedGraph, inputs: Mapping[str, NDArray[np.float32]], names: list[str]
) -> dict[str, list[NDArray[np.float32]]]:
    """What values of a graph are on real features, batch by batch."""
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
    n = _require_inputs(session, inputs)
    plain = {name: np.asarray(values, np.float32) for name, values in inputs.items()}
    seen = [
        session.run(own, {key: values[at : at + _BATCH] for key, values in plain.items()})
        for at in range(0, n, _BATCH)
    ]
    given = {name: [inputs[name]] for name in names if name in inputs}
    return given | {name: parts for name, *parts in zip(own, *seen, strict=True)}


def _require_inputs(session: InferenceSession, inputs: Mapping[str, NDArray[np.float32]]) -> int:
    """How many samples there are, of inputs that the model takes."""
    takes = {end.name: tuple(end.shape[1:]) for end in session.get_inputs()}
    given = {name: values.shape for name, values in inputs.items()}
    numbers = {shape[:1] for shape in given.values()}
    if takes != {name: shape[1:] for name, shape in given.items()} or len(numbers) > 1:
        raise ExportError(f"the model takes (n, ...) of {takes}, to calibrate it came {given}")
    if numbers == {(0,)}:
        raise ExportError("there are no features to calibrate integers on; give some dozens")
    return len(next(iter(inputs.values())))


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
    """Make integer products of those whose inputs' ranges are given.

    Args:
        graph: What to change.
        ranges: Of inputs, by their names; other products stay as they are.
        packed: Weights of 4 bits in the file; they are of 8 once it is loaded.
    """
    widened: dict[str, list[onnx.NodeProto]] = {}
    before: list[onnx.NodeProto] = []
    for name, nodes in _by_weight(graph, ranges).items():
        weight = graph.weights.pop(name)
        store = packed_integers if packed else _stored
        found = store(graph, name, weight)
        before.extend([*found.nodes, _widened_weight(name)])
        lost = weight - found.told
        for node in nodes:
            given = node.input[0]
            _make_up(graph, node, torch.from_numpy(ranges[given].mean).float() @ lost)
            if given not in widened:
                widened[given] = _rounded(graph, given, ranges[given])
            node.input[0] = widened[given][-1].output[0]
    put_first(graph, before)
    put_after(graph, widened)
    graph.prune()


def _by_weight(
    graph: WeightedGraph, ranges: Mapping[str, Range]
) -> dict[str, list[onnx.NodeProto]]:
    """The products whose inputs' ranges are known, by their weights."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in large_products(graph):
        if node.input[0] in ranges:
            found.setdefault(node.input[1], []).append(node)
    return found


def _make_up(graph: WeightedGraph, product: onnx.NodeProto, shift: Tensor) -> None:
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


def _widened_weight(name: str) -> onnx.NodeProto:
    parts = [f"{name}.{part}" for part in ("integers", "scales")]
    return onnx.helper.make_node("DequantizeLinear", parts, [name], axis=1)


def _rounded(graph: WeightedGraph, name: str, seen: Range) -> list[onnx.NodeProto]:
    scale, zero = f"{name}.scale", f"{name}.zero"
    graph.weights[scale] = torch.tensor(seen.scale)
    graph.weights[zero] = torch.tensor(seen.zero_point, dtype=torch.uint8)
    make = onnx.helper.make_node
    return [
        make("QuantizeLinear", [name, scale, zero], [f"{name}.integers"]),
        make("DequantizeLinear", [f"{name}.integers", scale, zero], [f"{name}.rounded"]),
    ]


def _stored(graph: WeightedGraph, name: str, weight: Tensor) -> StoredWeight:
    scale = (weight.abs().amax(dim=0) / 127).clamp_min(1e-12)
    integers = (weight / scale).round().to(torch.int8)
    graph.weights[f"{name}.integers"] = integers
    graph.weights[f"{name}.scales"] = scale
    return StoredWeight([], integers * scale)
