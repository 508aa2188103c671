"""Factors of channels taken into the weights before them: what ConvNeXt calls layer scale.

A block ends in a product, a bias, the channels moved back to their place, and a factor for each
channel. The factor commutes with all of that, so it can be in the weights and the bias: one pass
over the block's values less, for each answer. Only where weights are copied anyway: it makes new
ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from heimdall_export.graph_layout import CHANNELS_FIRST

if TYPE_CHECKING:
    from torch import Tensor

    from heimdall_export.weighted_graph import WeightedGraph

__all__ = ["fold_channel_scales"]

_BY_CHANNEL = ([1, -1, 1, 1], [-1, 1, 1])


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A factor and all that it goes through to the product."""

    factor: Tensor
    shaped: onnx.NodeProto
    """What lays the factor along the channels."""
    scaling: onnx.NodeProto
    moved: onnx.NodeProto
    added: onnx.NodeProto
    product: onnx.NodeProto


def fold_channel_scales(graph: WeightedGraph) -> None:
    """Take factors of channels into the products before them."""
    makers = {name: node for node in graph.model.graph.node for name in node.output}
    uses: dict[str, int] = {}
    for node in graph.model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for node in list(graph.model.graph.node):
        found = _scaled(graph, makers, node) if node.op_type == "Mul" else None
        if found and _is_alone(found, uses):
            _fold(graph, found)
    graph.prune()


def _scaled(
    graph: WeightedGraph, makers: dict[str, onnx.NodeProto], scaling: onnx.NodeProto
) -> _Scaled | None:
    """What a factor stands behind, if it is that of a product's channels."""
    for value, by_channel in (scaling.input, reversed(scaling.input)):
        moved = makers.get(value)
        added = makers.get(moved.input[0]) if moved and moved.op_type == "Transpose" else None
        if moved is None or added is None or added.op_type != "Add":
            continue
        if tuple(onnx.helper.get_node_attr_value(moved, "perm")) != CHANNELS_FIRST:
            continue
        products = [makers[name] for name in added.input if name in makers]
        shaped = makers.get(by_channel)
        factor = _factor(graph, shaped, makers)
        if shaped is None or factor is None or len(products) != 1:
            continue
        if products[0].op_type == "MatMul":
            return _Scaled(factor, shaped, scaling, moved, added, products[0])
    return None


def _factor(
    graph: WeightedGraph, node: onnx.NodeProto | None, makers: dict[str, onnx.NodeProto]
) -> Tensor | None:
    """A vector of the weights that is laid along the channels."""
    if node is None or node.op_type != "Reshape" or node.input[0] not in graph.weights:
        return None
    factor, shape = graph.weights[node.input[0]], node.input[1]
    if shape in graph.weights:
        sizes = graph.weights[shape].tolist()
    elif shape in makers and makers[shape].op_type == "Constant":
        sizes = onnx.numpy_helper.to_array(
            onnx.helper.get_node_attr_value(makers[shape], "value")
        ).tolist()
    else:
        return None
    return factor if factor.ndim == 1 and sizes in _BY_CHANNEL else None


def _is_alone(found: _Scaled, uses: dict[str, int]) -> bool:
    """Whether nobody else sees what is changed, nor shares the weights."""
    own = (
        found.shaped.output[0],
        found.moved.output[0],
        found.added.output[0],
        found.product.output[0],
    )
    return all(uses.get(name) == 1 for name in (*own, found.product.input[1], *found.added.input))


def _fold(graph: WeightedGraph, found: _Scaled) -> None:
    weight = found.product.input[1]
    (bias,) = (name for name in found.added.input if name != found.product.output[0])
    if weight not in graph.weights or bias not in graph.weights:
        return
    graph.weights[weight] = graph.weights[weight] * found.factor
    graph.weights[bias] = graph.weights[bias] * found.factor
    found.moved.output[0] = found.scaling.output[0]
    graph.model.graph.node.remove(found.scaling)
    graph.model.graph.node.remove(found.shaped)
