"""Rewrites of a graph: work done once, before the file is written, instead of at each answer.

`fold_channel_scales` folds what ConvNeXt calls layer scale. A block ends in a product, a bias, a
transposition that moves the channels back to their place, and a factor for each channel. The factor
commutes with all of that, so it can go into the weights and the bias, which saves one pass over the
block's values. It makes new weights, so it is used only where weights are copied anyway.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import onnx
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from heimdall_export.graph.weighted_graph import WeightedGraph

    Node = onnx.NodeProto

_CHANNELS_LAST = (0, 2, 3, 1)
_CHANNELS_FIRST = (0, 3, 1, 2)
_BY_CHANNEL = ([1, -1, 1, 1], [-1, 1, 1])
_LEAST_VALUES = 8192
"""Smaller weights, heads among them, stay as they are: they take little room."""
_MANY_CHANNELS = 96
_LEAST_SIDE = 16
"""Rows and columns of a matrix; thinner ones are tables of places."""


def fold_transposes(graph: WeightedGraph) -> None:
    """Replace transpositions of weights by transposed weights."""
    names: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
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
    graph.replace_nodes(kept)


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
    graph.weights = {short[n]: weight for n, weight in graph.weights.items() if n in short}
    graph.four_bits = {short[n]: shape for n, shape in graph.four_bits.items() if n in short}


def pointwise_as_products(graph: WeightedGraph) -> None:
    """Replace convolutions of one tap by products of matrices, channels moved last and back.

    ONNX Runtime has fast products of 8-bit integers, and removes the moves that cancel.
    """
    plain = {"group": 1, "strides": [1, 1], "pads": [0, 0, 0, 0]}
    make = onnx.helper.make_node
    nodes: list[Node] = []
    for node in graph.nodes:
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
    graph.replace_nodes(nodes)


def fold_channel_scales(graph: WeightedGraph) -> None:
    """Multiply factors of channels into the products before them.

    A factor stays if other nodes see the values in between or share the weights.
    """
    makers = {name: node for node in graph.nodes for name in node.output}
    uses = Counter(name for node in graph.nodes for name in node.input)
    for scaling in graph.nodes:
        if scaling.op_type != "Mul":
            continue
        made_by = _makers_by_type(scaling, makers)
        moved, shaped = made_by.get("Transpose"), made_by.get("Reshape")
        if moved is None or shaped is None or tuple(_attributes(moved)["perm"]) != _CHANNELS_FIRST:
            continue
        added = makers.get(moved.input[0])
        if added is None or added.op_type != "Add":
            continue
        product = _makers_by_type(added, makers).get("MatMul")
        bias = next((name for name in added.input if name in graph.weights), None)
        factor = _channel_factor(graph, makers, shaped)
        if product is None or bias is None or factor is None:
            continue
        weight = product.input[1]
        between = [node.output[0] for node in (shaped, moved, added, product)]
        if weight in graph.weights and all(uses[name] == 1 for name in (*between, weight, bias)):
            graph.weights[weight] = graph.weights[weight] * factor
            graph.weights[bias] = graph.weights[bias] * factor
            moved.output[0] = scaling.output[0]
            graph.model.graph.node.remove(scaling)
            graph.model.graph.node.remove(shaped)
    graph.prune()


def _makers_by_type(node: Node, makers: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes that compute a node's inputs, by their types."""
    return {makers[name].op_type: makers[name] for name in node.input if name in makers}


def _channel_factor(
    graph: WeightedGraph, makers: Mapping[str, Node], reshape: Node
) -> Tensor | None:
    """A vector of weights that a `Reshape` lays along the channels, if it does."""
    factor, shape = graph.weights.get(reshape.input[0]), makers.get(reshape.input[1])
    if factor is None or factor.ndim != 1 or shape is None or shape.op_type != "Constant":
        return None
    sizes = onnx.numpy_helper.to_array(_attributes(shape)["value"]).tolist()
    return factor if sizes in _BY_CHANNEL else None


def large_weights(graph: WeightedGraph, kinds: tuple[str, ...]) -> list[str]:
    """Large matrices and kernels that nodes of these types take, each once."""
    taken = {name for node in graph.nodes if node.op_type in kinds for name in node.input[1:2]}
    return [
        name
        for name, weight in graph.weights.items()
        if name in taken
        and weight.dtype == torch.float32
        and weight.numel() >= _LEAST_VALUES
        and (weight.ndim > 2 or min(weight.shape) >= _LEAST_SIDE)
    ]


def large_nodes(graph: WeightedGraph, kind: str) -> list[Node]:
    """Nodes of a type, `MatMul` or `Conv`, that apply a large weight to a computed value."""
    large = set(large_weights(graph, (kind,)))
    return [node for node in graph.nodes if node.op_type == kind and node.input[1] in large]


def channel_weights(graph: WeightedGraph) -> list[str]:
    """Weights of one value a channel, of many channels: norms, factors, biases."""
    products = {name for node in graph.nodes if node.op_type == "MatMul" for name in node.output}
    taken = {
        name
        for node in graph.nodes
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


def _attributes(node: Node) -> dict[str, Any]:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
