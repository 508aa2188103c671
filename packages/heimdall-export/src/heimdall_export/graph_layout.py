"""What is cheaper done once, before the file is written, than at each loading or each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from heimdall_export.weighted_graph import WeightedGraph

__all__ = ["CHANNELS_FIRST", "fold_transposes", "pointwise_as_products", "shorten_names"]

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
