"""Weights of four bits in the file, which are what they stand for once it is loaded.

Two values share a byte. Each stands for one of 16 levels, the same for all of a weight's columns,
times the scale of its column; levels and scales are those of least square error that
alternating between them finds. The file's first nodes undo that of operators which every runtime
has, and since they take constants alone, a runtime does so once, when it loads the file.

Source of the levels: S. P. Lloyd, "Least squares quantization in PCM", IEEE Transactions on
Information Theory 28(2), 1982.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from heimdall_export.weighted_graph import WeightedGraph

__all__ = ["StoredWeight", "packed_integers", "packed_kernel"]

_LEVELS = 16
_LARGEST = 127
"""Of the integers that levels are."""
_ROUNDS = 6
_LEARNT_FROM = 256
"""Rows of a weight that its levels are learned from, evenly spread over it, at least."""
_LEAST = 1e-12


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
    levels, codes, scales = _fitted(weight)
    steps = (levels * _LARGEST).round()
    graph.weights[f"{name}.scales"] = scales / _LARGEST
    nodes = _unpacking(graph, name, codes, steps.to(torch.int8), f"{name}.integers")
    return StoredWeight(nodes, steps[codes] * (scales / _LARGEST))


def packed_kernel(graph: WeightedGraph, name: str, weight: Tensor) -> StoredWeight:
    """Put a kernel that is used in float32 into the file at four bits.

    Args:
        graph: The weight is not in it any more.
        name: Its name.
        weight: float32 `(outputs, ...)`.

    Returns:
        The nodes that give it back under its name, and what it is then.
    """
    levels, codes, scales = _fitted(weight.flatten(1).t())
    codes = codes.t().reshape(weight.shape)
    scales = scales.reshape(-1, *[1] * (weight.ndim - 1))
    graph.weights[f"{name}.scales"] = scales
    nodes = _unpacking(graph, name, codes, levels, f"{name}.levels")
    product = onnx.helper.make_node("Mul", [f"{name}.levels", f"{name}.scales"], [name])
    return StoredWeight([*nodes, product], levels[codes] * scales)


def _fitted(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels from -1 to 1, the level of each value, and the scale of each column."""
    weight = weight.detach().float().contiguous()
    some = weight[:: max(1, len(weight) // _LEARNT_FROM)]
    levels = torch.linspace(-1, 1, _LEVELS)
    scales = some.abs().amax(dim=0).clamp_min(_LEAST)
    for _ in range(_ROUNDS):
        levels = _lloyd(some / scales, levels)
        scales = _scales(some, levels[_nearest(some / scales, levels)])
    scales = _scales(weight, levels[_nearest(weight / scales, levels)])
    return levels, _nearest(weight / scales, levels), scales


def _scales(weight: Tensor, told: Tensor) -> Tensor:
    """What each column of levels is to be multiplied by: least squares."""
    fit = (weight * told).sum(dim=0) / told.square().sum(dim=0).clamp_min(_LEAST)
    return fit.abs().clamp_min(_LEAST)


def _lloyd(values: Tensor, levels: Tensor) -> Tensor:
    """One round: each level at the mean of the values that are nearest to it."""
    codes = _nearest(values, levels).flatten()
    counts = torch.bincount(codes, minlength=_LEVELS)
    means = torch.bincount(codes, values.flatten(), minlength=_LEVELS) / counts.clamp_min(1)
    moved = torch.where(counts > 0, means, levels).float()
    return moved / moved.abs().max().clamp_min(_LEAST)


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)


def _unpacking(
    graph: WeightedGraph, name: str, codes: Tensor, levels: Tensor, result: str
) -> list[onnx.NodeProto]:
    """Nodes that make `result` of the bytes, the first half of the values in their high bits."""
    flat = codes.flatten().to(torch.uint8)
    high, low = torch.nn.functional.pad(flat, (0, len(flat) % 2)).chunk(2)
    part = {key: f"{name}.{key}" for key in ("packed", "palette", "four", "shape", "high", "low")}
    graph.weights[part["packed"]] = high << 4 | low
    graph.weights[part["palette"]] = levels
    graph.weights[part["four"]] = torch.tensor(4, dtype=torch.uint8)
    graph.weights[part["shape"]] = torch.tensor(codes.shape)
    raised, codes_name, indices, flat_name = (
        f"{name}.{step}" for step in ("raised", "codes", "indices", "flat")
    )
    make = onnx.helper.make_node
    nodes = [
        make("BitShift", [part["packed"], part["four"]], [part["high"]], direction="RIGHT"),
        make("BitShift", [part["packed"], part["four"]], [raised], direction="LEFT"),
        make("BitShift", [raised, part["four"]], [part["low"]], direction="RIGHT"),
        make("Concat", [part["high"], part["low"]], [codes_name], axis=0),
        make("Cast", [codes_name], [indices], to=onnx.TensorProto.INT32),
        make("Gather", [part["palette"], indices], [flat_name]),
    ]
    return [*nodes, make("Reshape", [flat_name, part["shape"]], [result])]
