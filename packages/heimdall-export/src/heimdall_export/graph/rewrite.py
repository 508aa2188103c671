"""What is cheaper done once, before the file is written, than at each loading or each request.

Factors of channels taken into the weights before them: what ConvNeXt calls layer scale.

A block ends in a product, a bias, the channels moved back to their place, and a factor for each
channel. The factor commutes with all of that, so it can be in the weights and the bias: one pass
over the block's values less, for each answer. Only where weights are copied anyway: it makes new
ones.

Which weights of a graph are large, and where nodes that make or round values may stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from heimdall_export.graph.weighted_graph import WeightedGraph

__all__ = [
    "CHANNELS_FIRST",
    "channel_weights",
    "fold_channel_scales",
    "fold_transposes",
    "large_products",
    "large_weights",
    "pointwise_as_products",
    "put_after",
    "put_first",
    "shorten_names",
]


_CHANNELS_LAST = (0, 2, 3, 1)
CHANNELS_FIRST = (0, 3, 1, 2)


def fold_transposes(graph: WeightedGraph) -> None:
    """Transposed weights instead of weights and their transposition."""
    names: dict[str, str] = {}
    kept = []
    for node in graph.model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in graph.weights:
            order = tuple(onnx.helper.get_node_attr_value(node, "perm"))
            name = f"{node.input[0]}.{''.join(map(str, order))}"
            graph.weights[name] = graph.weights[node.input[0]].permute(order)
            names[node.output[0]] = name
        else:
            kept.append(node)
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(kept)
    graph.prune()


def shorten_names(graph: WeightedGraph) -> None:
    """Numbers for the names of what is inside; a large network's take a quarter of a megabyte."""
    inside = graph.model.graph
    kept = {end.name for end in (*inside.input, *inside.output)}
    short: dict[str, str] = {}
    for node in inside.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name and name not in kept:
                    names[place] = short.setdefault(name, f"{len(short):x}")
    graph.rename(short)


def pointwise_as_products(graph: WeightedGraph) -> None:
    """Convolutions of one tap as products of matrices, the channels moved to the end and back.

    ONNX Runtime has fast products of 8-bit integers, and takes out what is moved there and back.
    """
    nodes = []
    for node in graph.model.graph.node:
        nodes.extend(_product(graph, node) if _is_pointwise(graph, node) else [node])
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(nodes)
    graph.prune()


def _is_pointwise(graph: WeightedGraph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Conv" or node.input[1] not in graph.weights:
        return False
    weight = graph.weights[node.input[1]]
    plain = {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0]}
    said = {name: onnx.helper.get_node_attr_value(node, name) for name in _names(node) & set(plain)}
    return tuple(weight.shape[2:]) == (1, 1) and all(said[name] == plain[name] for name in said)


def _names(node: onnx.NodeProto) -> set[str]:
    return {attribute.name for attribute in node.attribute}


def _product(graph: WeightedGraph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    given, kernel, *bias = node.input
    (result,) = node.output
    matrix = f"{kernel}.matrix"
    graph.weights[matrix] = graph.weights[kernel].flatten(1).t()
    last, product, added = (f"{result}.{step}" for step in ("last", "product", "added"))
    make = onnx.helper.make_node
    return [
        make("Transpose", [given], [last], perm=_CHANNELS_LAST),
        make("MatMul", [last, matrix], [product]),
        *([make("Add", [product, bias[0]], [added])] if bias else []),
        make("Transpose", [added if bias else product], [result], perm=CHANNELS_FIRST),
    ]


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
