"""Weights of four bits in the file, of a scale for each column; larger once the file is loaded.

The nodes that widen them take constants alone, so a runtime runs them once, when it loads the file.
A column's scale is the one, of some shares of its largest value, that errs least on it; then that
which fits its integers best, by least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from heimdall_export.weighted_graph import WeightedGraph

__all__ = ["LEAST_OPSET", "StoredWeight", "packed_integers", "packed_kernel"]

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
