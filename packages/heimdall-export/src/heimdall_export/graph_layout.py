"""What is cheaper done once, before the file is written, than at each loading or each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from heimdall_export.weighted_graph import WeightedGraph

__all__ = ["fold_transposes"]


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
