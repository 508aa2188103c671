"""Rewrites of a graph: work done once, before the file is written, instead of at each answer.

`fold_channel_scales` is for what ConvNeXt calls layer scale. A block ends in a product, a bias, the
channels moved back to their place, and a factor for each channel. The factor commutes with all of
that, so it can go into the weights and the bias: one pass over the block's values less. It makes
new weights, so it is used only where weights are copied anyway.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import onnx
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from heimdall_export.graph.weighted_graph import WeightedGraph

    Node = onnx.NodeProto

__all__ = [
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
_CHANNELS_FIRST = (0, 3, 1, 2)
_BY_CHANNEL = ([1, -1, 1, 1], [-1, 1, 1])
_LEAST_VALUES = 8192
"""Smaller weights, heads among them, stay as they are: they take little room."""
_MANY_CHANNELS = 96
_LEAST_SIDE = 16
"""Of a matrix; thinner ones are tables of places."""


def fold_transposes(graph: WeightedGraph) -> None:
    """Replace transpositions of weights by transposed weights."""
    names: dict[str, str] = {}
    kept = []
    for node in graph.model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in graph.weights:
            order = tuple(_attributes(node)["perm"])
            name = f"{node.input[0]}.{''.join(map(str, order))}"
            graph.weights[name] = graph.weights[node.input[0]].permute(order)
            names[node.output[0]] = name
        else:
            kept.append(node)
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    _replace_nodes(graph, kept)
    graph.prune()


def shorten_names(graph: WeightedGraph) -> None:
    """Number the names inside; those of a large network take a quarter of a megabyte."""
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
    """Replace convolutions of one tap by products of matrices, channels moved last and back.

    ONNX Runtime has fast products of 8-bit integers, and removes the moves that cancel.
    """
    plain = {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0]}
    make = onnx.helper.make_node
    nodes: list[Node] = []
    for node in graph.model.graph.node:
        attributes = _attributes(node)
        if (
            node.op_type != "Conv"
            or node.input[1] not in graph.weights
            or graph.weights[node.input[1]].shape[2:] != (1, 1)
            or any(attributes.get(name, value) != value for name, value in plain.items())
        ):
            nodes.append(node)
            continue
        given, kernel, *bias = node.input
        (result,) = node.output
        matrix = f"{kernel}.matrix"
        graph.weights[matrix] = graph.weights[kernel].flatten(1).t()
        last, product, added = (f"{result}.{step}" for step in ("last", "product", "added"))
        nodes += [
            make("Transpose", [given], [last], perm=_CHANNELS_LAST),
            make("MatMul", [last, matrix], [product]),
            *([make("Add", [product, bias[0]], [added])] if bias else []),
            make("Transpose", [added if bias else product], [result], perm=_CHANNELS_FIRST),
        ]
    _replace_nodes(graph, nodes)
    graph.prune()


def fold_channel_scales(graph: WeightedGraph) -> None:
    """Multiply factors of channels into the products before them."""
    nodes = graph.model.graph.node
    makers = {name: node for node in nodes for name in node.output}
    uses = Counter(name for node in nodes for name in node.input)
    for node in list(nodes):
        if node.op_type != "Mul":
            continue
        for value, scale in (node.input, reversed(node.input)):
            if _fold_scale(graph, makers, uses, node, value, scale):
                break
    graph.prune()


def _fold_scale(
    graph: WeightedGraph,
    makers: Mapping[str, Node],
    uses: Mapping[str, int],
    scaling: Node,
    value: str,
    scale: str,
) -> bool:
    """Fold one factor if `value` is a product's and `scale` one of its channels; True if found.

    Nothing is changed if other nodes see the values in between or share the weights.
    """
    moved, shaped = makers.get(value), makers.get(scale)
    if moved is None or moved.op_type != "Transpose":
        return False
    added = makers.get(moved.input[0])
    if added is None or added.op_type != "Add":
        return False
    products = [makers[name] for name in added.input if name in makers]
    if tuple(_attributes(moved)["perm"]) != _CHANNELS_FIRST or len(products) != 1:
        return False
    factor = _factor(graph, makers, shaped)
    (product,) = products
    if shaped is None or factor is None or product.op_type != "MatMul":
        return False
    weight = product.input[1]
    (bias,) = (name for name in added.input if name != product.output[0])
    between = (node.output[0] for node in (shaped, moved, added, product))
    is_alone = all(uses.get(name) == 1 for name in (*between, weight, *added.input))
    if is_alone and weight in graph.weights and bias in graph.weights:
        graph.weights[weight] = graph.weights[weight] * factor
        graph.weights[bias] = graph.weights[bias] * factor
        moved.output[0] = scaling.output[0]
        graph.model.graph.node.remove(scaling)
        graph.model.graph.node.remove(shaped)
    return True


def _factor(graph: WeightedGraph, makers: Mapping[str, Node], node: Node | None) -> Tensor | None:
    """A vector of weights that a node lays along the channels, if it does."""
    if node is None or node.op_type != "Reshape" or node.input[0] not in graph.weights:
        return None
    factor, shape = graph.weights[node.input[0]], node.input[1]
    if shape in graph.weights:
        sizes = graph.weights[shape].tolist()
    elif shape in makers and makers[shape].op_type == "Constant":
        sizes = onnx.numpy_helper.to_array(_attributes(makers[shape])["value"]).tolist()
    else:
        return None
    return factor if factor.ndim == 1 and sizes in _BY_CHANNEL else None


def large_weights(graph: WeightedGraph, kinds: tuple[str, ...]) -> list[str]:
    """Large matrices and kernels that nodes of these kinds take, each once."""
    taken = {
        name for node in graph.model.graph.node if node.op_type in kinds for name in node.input[1:2]
    }
    return [
        name
        for name, weight in graph.weights.items()
        if name in taken
        and weight.dtype == torch.float32
        and weight.numel() >= _LEAST_VALUES
        and (weight.ndim > 2 or min(weight.shape) >= _LEAST_SIDE)
    ]


def channel_weights(graph: WeightedGraph) -> list[str]:
    """Weights of one value a channel, of many channels: norms, factors, biases."""
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


def large_products(graph: WeightedGraph) -> list[Node]:
    """Products of a computed value with a large matrix."""
    large = set(large_weights(graph, ("MatMul",)))
    nodes = graph.model.graph.node
    return [node for node in nodes if node.op_type == "MatMul" and node.input[1] in large]


def put_first(graph: WeightedGraph, nodes: Iterable[Node]) -> None:
    """Insert nodes that take weights alone before all others."""
    _replace_nodes(graph, [*nodes, *graph.model.graph.node])


def put_after(graph: WeightedGraph, nodes: Mapping[str, list[Node]]) -> None:
    """Insert nodes after the one that computes the value they take, given by its name."""
    ordered = []
    for node in graph.model.graph.node:
        ordered.append(node)
        for name in node.output:
            ordered.extend(nodes.get(name, ()))
    _replace_nodes(graph, ordered)


def _replace_nodes(graph: WeightedGraph, nodes: Iterable[Node]) -> None:
    kept = list(nodes)
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(kept)


def _attributes(node: Node) -> dict[str, Any]:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
