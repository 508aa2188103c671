"""Which weights of a graph are large, and where nodes that make or round values may stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx

    from heimdall_export.weighted_graph import WeightedGraph

__all__ = ["channel_weights", "large_products", "large_weights", "put_after", "put_first"]

_LEAST_VALUES = 8192
"""Smaller weights stay as they are: they take no room, and heads are among them."""
_MANY_CHANNELS = 96
_LEAST_SIDE = 16
"""Of a matrix; thinner ones are tables of places."""


def large_weights(graph: WeightedGraph, kinds: tuple[str, ...]) -> list[str]:
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


def channel_weights(graph: WeightedGraph) -> list[str]:
    """One value a channel, of many channels: norms, factors, what convolutions and products add."""
    nodes = graph.model.graph.node
    products = {name for node in nodes if node.op_type == "MatMul" for name in node.output}
    taken = {
        name
        for node in nodes
        if node.op_type in ("LayerNormalization", "Conv", "Mul")
        or (node.op_type == "Add" and products & set(node.input))
        for name in node.input
    }
    return [
        name
        for name, weight in graph.weights.items()
        if name in taken
        and weight.dtype == torch.float32
        and weight.ndim == 1
        and len(weight) >= _MANY_CHANNELS
    ]


def large_products(graph: WeightedGraph) -> list[onnx.NodeProto]:
    """Products of something computed with a large matrix."""
    large = set(large_weights(graph, ("MatMul",)))
    nodes = graph.model.graph.node
    return [node for node in nodes if node.op_type == "MatMul" and node.input[1] in large]


def put_first(graph: WeightedGraph, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put nodes that take weights alone before all others."""
    rest = list(graph.model.graph.node)
    del graph.model.graph.node[:]
    graph.model.graph.node.extend([*nodes, *rest])


def put_after(graph: WeightedGraph, nodes: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Put nodes behind the one that computes what they take; the order must stay a valid one."""
    ordered = []
    for node in graph.model.graph.node:
        ordered.append(node)
        for name in node.output:
            ordered.extend(nodes.get(name, ()))
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(ordered)
