"""Smaller and faster files of a model: weights of two bytes, or products of integers.

`fp16`, `bf16`: weights of products and convolutions are stored in two bytes and widened when the
file is loaded. The arithmetic is float32 as before: half the file, the same speed.

`int8`: nodes round the inputs of products with a weight, convolutions of one tap among them, to 8
bits and back; a runtime recognises that and computes with integers. A weight has one scale a
column, so that its largest value is 127 steps; an input has one scale and zero point, so that the
values seen in calibration fit into 256 steps. These are fixed in the file, so an answer depends on
its own input alone, not on the rest of the batch. Everything else, such as wider convolutions and
heads, stays float32. Source: B. Jacob et al., "Quantization and training of neural networks for
efficient integer-arithmetic-only inference", CVPR 2018.

`int4`: the same with 4-bit weights in the file, kernels of wider convolutions too. Half the size of
`int8`, as fast, and less exact; the operator set is 21 or newer. The nodes that widen the weights
take only constants, so a runtime runs them once, when it loads the file. A column's scale is the
one with the least error among some shares of its largest value, refitted to the integers by least
squares.

What rounding a weight takes from the mean of its results is added to the bias. Source: M. Nagel et
al., "Data-free quantization through weight equalization and bias correction", ICCV 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError

from heimdall_export.errors import ExportError
from heimdall_export.graph.rewrite import (
    channel_weights,
    fold_channel_scales,
    large_nodes,
    large_weights,
    pointwise_as_products,
    shorten_names,
)
from heimdall_export.graph.weighted_graph import WeightedGraph
from heimdall_export.serving.metadata import PRECISION_KEY
from heimdall_export.session import Sample, open_session, run_batches
from heimdall_export.temporary import TemporaryFolder

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    Inputs = Mapping[str, NDArray[np.float32]]
    Stored = tuple[list[onnx.NodeProto], Tensor]

Kind = Literal["fp16", "bf16", "int8", "int4"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_LEAST_OPSET = 21
"""The first operator set with integers of four bits."""
_LEAST, _MOST = -8, 7
_SHARES = tuple(0.4 + 0.05 * step for step in range(13))
"""Shares of a column's largest value that are tried as `_MOST` steps; larger values are clipped."""
_ROWS = 512
"""Least number of a weight's rows that shares are tried on, evenly spread over it."""
_LEAST_SCALE = 1e-12
_CALIBRATION_BATCH = 8
_make = onnx.helper.make_node


class NothingToQuantize(ExportError):
    """A model gains nothing from a precision."""


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
        target: The new file; an existing one is replaced as a whole.
        kind: `fp16`, `bf16`, `int8` or `int4`.
        features: Training features to calibrate integers on, float32
            `(n, receivers, n_mels, n_frames)`; some dozens are enough.
        arrivals: Their arrival times, if the model takes them.
        keep: Share of the products that stay float32: those whose inputs 8 bits round most.

    Returns:
        The target.

    Raises:
        ExportError: An unknown kind, a file that is not a float32 model of ours, features that it
            does not take, or a target that cannot be written.
    """
    if kind not in KINDS:
        raise ExportError(f"unknown precision {kind!r}; use one of {', '.join(KINDS)}")
    graph = _read(Path(path))
    if kind in _HALVES:
        _halve(graph, large_weights(graph, ("MatMul", "Gemm", "Conv")), _HALVES[kind])
    else:
        _to_integers(graph, Sample(features, arrivals).inputs, keep=keep, packed=kind == "int4")
    graph.model.metadata_props.add(key=PRECISION_KEY, value=kind)
    try:
        onnx.checker.check_model(graph.declared(), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the quantised graph: {error}") from error
    graph.save(Path(target))
    return Path(target)


def _read(path: Path) -> WeightedGraph:
    try:
        graph = WeightedGraph.read(path)
    except OSError as error:
        raise ExportError(f"cannot read the model file {path}: {error.strerror}") from error
    except (DecodeError, TypeError) as error:
        raise ExportError(f"{path} is not an ONNX file of float32 weights: {error}") from error
    except onnx.checker.ValidationError as error:
        raise ExportError(f"cannot read the weights beside {path}: {error}") from error
    for entry in graph.model.metadata_props:
        if entry.key == PRECISION_KEY:
            raise ExportError(f"{path} is {entry.value} already; use the float32 file")
    return graph


def _to_integers(graph: WeightedGraph, inputs: Inputs, *, keep: float, packed: bool) -> None:
    if packed and graph.opset() < _LEAST_OPSET:
        graph.convert(_LEAST_OPSET)
    pointwise_as_products(graph)
    fold_channel_scales(graph)
    ranges, means = calibrate(graph, inputs, kernels=packed)
    if not ranges:
        raise NothingToQuantize(
            "the model has no product of matrices that integers would gain from; use fp16"
        )
    kept = sorted(ranges, key=lambda name: -ranges[name].noise)[: round(keep * len(ranges))]
    _use_integers(graph, {n: ranges[n] for n in ranges if n not in kept}, packed=packed)
    if packed:
        _pack_kernels(graph, means)
        _halve(graph, channel_weights(graph), torch.float16)
        shorten_names(graph)


def _halve(graph: WeightedGraph, names: list[str], dtype: torch.dtype) -> None:
    """Store weights in two bytes each, except those beyond the type's range."""
    casts = []
    for name in names:
        if graph.weights[name].abs().max() > torch.finfo(dtype).max:
            continue
        half = f"{name}.half"
        graph.weights[half] = graph.weights.pop(name).to(dtype)
        casts.append(onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
    graph.replace_nodes([*casts, *graph.nodes])


@dataclass(frozen=True, slots=True)
class Range:
    """Values of one product's input during calibration."""

    least: float
    most: float
    power: float
    """Mean square."""
    mean: NDArray[np.float64]
    """Mean of each column, `(columns,)`."""

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


def calibrate(
    graph: WeightedGraph, inputs: Inputs, *, kernels: bool = False
) -> tuple[dict[str, Range], dict[str, Tensor]]:
    """Run a graph on real features, and arrival times if it takes them, for statistics of values.

    Returns:
        By the values' names: the ranges of the inputs of large products, if there are any; and,
        with `kernels`, the means of the channels of large convolutions' inputs, `(channels,)`.

    Raises:
        ExportError: The model does not take such inputs, or they make a value NaN or infinite.
    """
    products = dict.fromkeys(node.input[0] for node in large_nodes(graph, "MatMul"))
    convolutions = large_nodes(graph, "Conv") if kernels and products else []
    convolved = dict.fromkeys(node.input[0] for node in convolutions)
    seen = _seen(graph, inputs, [*(products | convolved)])
    ranges = {name: _range(seen[name]) for name in products}
    if broken := [n for n, found in ranges.items() if not math.isfinite(found.power)]:
        raise ExportError(
            f"{len(broken)} of {len(ranges)} values to be rounded, such as {broken[0]}, are NaN "
            "or infinite; calibrate a model with finite weights on finite features"
        )
    return ranges, {
        name: torch.from_numpy(np.mean([part.mean(axis=(0, 2, 3)) for part in seen[name]], axis=0))
        for name in convolved
    }


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
    with TemporaryFolder("calibrate") as folder:
        path = folder / "watched.onnx"
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
    # Asked for no output, ONNX Runtime returns all of them.
    batches = run_batches(session, inputs, own, _CALIBRATION_BATCH) if own else ()
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


def _use_integers(
    graph: WeightedGraph, ranges: Mapping[str, Range], *, packed: bool = False
) -> None:
    """Turn products into integer products where the range of the input is given by name.

    `packed` stores weights of 4 bits in the file, which are of 8 once it is loaded.
    """
    by_weight: dict[str, list[onnx.NodeProto]] = {}
    for node in large_nodes(graph, "MatMul"):
        if node.input[0] in ranges:
            by_weight.setdefault(node.input[1], []).append(node)
    rounded: dict[str, list[onnx.NodeProto]] = {}
    nodes: list[onnx.NodeProto] = []
    for name, products in by_weight.items():
        weight = graph.weights.pop(name)
        unpacking, value = (pack_matrix if packed else _store_matrix)(graph, name, weight)
        parts = [f"{name}.integers", f"{name}.scales"]
        nodes += [*unpacking, _make("DequantizeLinear", parts, [name], axis=1)]
        for product in products:
            given = product.input[0]
            mean = torch.from_numpy(ranges[given].mean).float()
            _correct_bias(graph, product, mean @ (weight - value))
            if given not in rounded:
                scale, zero, steps = (f"{given}.{part}" for part in ("scale", "zero", "integers"))
                graph.weights[scale] = torch.tensor(ranges[given].scale)
                graph.weights[zero] = torch.tensor(ranges[given].zero_point, dtype=torch.uint8)
                rounded[given] = [
                    _make("QuantizeLinear", [given, scale, zero], [steps]),
                    _make("DequantizeLinear", [steps, scale, zero], [f"{given}.rounded"]),
                ]
            product.input[0] = f"{given}.rounded"
    nodes += [node for end in graph.model.graph.input for node in rounded.get(end.name, ())]
    for node in graph.nodes:
        nodes += [node, *(after for name in node.output for after in rounded.get(name, ()))]
    graph.replace_nodes(nodes)


def _correct_bias(graph: WeightedGraph, product: onnx.NodeProto, shift: Tensor) -> None:
    """Add a shift of the mean to a product's bias, if it has one."""
    (result,) = product.output
    for node in graph.nodes:
        if node.op_type != "Add" or result not in node.input:
            continue
        place = 1 - list(node.input).index(result)
        bias = graph.weights.get(node.input[place])
        if bias is not None and bias.shape == shift.shape:
            node.input[place] = f"{result}.bias"
            graph.weights[f"{result}.bias"] = bias + shift


def _store_matrix(graph: WeightedGraph, name: str, weight: Tensor) -> Stored:
    """As `pack_matrix`, in 8 bits."""
    scales = (weight.abs().amax(dim=0) / 127).clamp_min(_LEAST_SCALE)
    integers = (weight / scales).round().to(torch.int8)
    graph.weights[f"{name}.integers"] = integers
    graph.weights[f"{name}.scales"] = scales
    return [], integers * scales


def pack_matrix(graph: WeightedGraph, name: str, weight: Tensor) -> Stored:
    """Store a matrix, float32 `(rows, columns)`, in 4 bits.

    Returns:
        The nodes that make int8 steps, `{name}.integers`, of the scales `{name}.scales`, one a
        column; and the matrix that these stand for, float32.
    """
    integers, scales = _fitted(weight)
    nodes = _packed(graph, name, "integers", integers, onnx.TensorProto.INT8, scales)
    return nodes, integers * scales


def _pack_kernels(graph: WeightedGraph, means: Mapping[str, Tensor]) -> None:
    """Store the kernels of convolutions, which are used in float32, in four bits.

    `means` are those of the channels of the convolutions' inputs, as `calibrate` returns them.
    """
    nodes: list[onnx.NodeProto] = []
    convolutions = large_nodes(graph, "Conv")
    for name in large_weights(graph, ("Conv",)):
        weight = graph.weights.pop(name)
        columns, scales = _fitted(weight.flatten(1).t())
        integers = columns.t().reshape(weight.shape)
        scales = scales.reshape(-1, *[1] * (weight.ndim - 1))
        nodes += _packed(graph, name, "steps", integers, onnx.TensorProto.FLOAT, scales)
        nodes.append(_make("Mul", [f"{name}.steps", f"{name}.scales"], [name]))
        lost = (weight - integers * scales).flatten(2).sum(dim=2)  # (outputs, inputs of a group)
        for node in convolutions:
            if node.input[1] != name or len(node.input) < 3:
                continue
            mean = means[node.input[0]]
            n_groups = len(mean) // lost.shape[1]
            shift = lost.reshape(n_groups, -1, lost.shape[1]) @ mean.reshape(n_groups, -1, 1)
            bias = f"{node.output[0]}.bias"
            graph.weights[bias] = graph.weights[node.input[2]] + shift.flatten()
            node.input[2] = bias
    graph.replace_nodes([*nodes, *graph.nodes])


def _packed(
    graph: WeightedGraph, name: str, part: str, integers: Tensor, to: int, scales: Tensor
) -> list[onnx.NodeProto]:
    """Nodes that make `{name}.{part}` of four bits, and `{name}.scales` of bfloat16."""
    graph.add_four_bits(f"{name}.packed", integers)
    graph.weights[f"{name}.short"] = scales.to(torch.bfloat16)
    return [
        _make("Cast", [f"{name}.packed"], [f"{name}.{part}"], to=to),
        _make("Cast", [f"{name}.short"], [f"{name}.scales"], to=onnx.TensorProto.FLOAT),
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
