"""Smaller and faster files of a model: weights of two bytes, or products of integers.

`fp16`, `bf16`: weights of products and convolutions are stored in two bytes and widened when the
file is loaded. The arithmetic is float32 as before: half the file, the same speed.

`int8`: products with a weight, convolutions of one tap among them, are computed with 8-bit integers
(`integers`). Everything else, such as wider convolutions and heads, stays float32. Scales are fixed
in the file, so an answer depends on its own input alone, not on the rest of the batch.

`int4`: the same with 4-bit weights in the file, kernels of wider convolutions too. Half the size of
`int8`, as fast, and less exact; the operator set is 21 or newer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import onnx
import torch
from google.protobuf.message import DecodeError

from heimdall_export.errors import ExportError
from heimdall_export.graph.integers import LEAST_OPSET, calibrate, pack_kernels, use_integers
from heimdall_export.graph.rewrite import (
    channel_weights,
    fold_channel_scales,
    large_weights,
    pointwise_as_products,
    shorten_names,
)
from heimdall_export.graph.weighted_graph import WeightedGraph
from heimdall_export.serving.metadata import PRECISION_KEY
from heimdall_export.session import Sample

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["KINDS", "Kind", "NothingToQuantize", "quantize_model"]

Kind = Literal["fp16", "bf16", "int8", "int4"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


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


def _to_integers(
    graph: WeightedGraph, inputs: Mapping[str, NDArray[np.float32]], *, keep: float, packed: bool
) -> None:
    if packed and graph.opset() < LEAST_OPSET:
        graph.convert(LEAST_OPSET)
    pointwise_as_products(graph)
    fold_channel_scales(graph)
    ranges, means = calibrate(graph, inputs, kernels=packed)
    if not ranges:
        raise NothingToQuantize(
            "the model has no product of matrices that integers would gain from; use fp16"
        )
    kept = sorted(ranges, key=lambda name: -ranges[name].noise)[: round(keep * len(ranges))]
    use_integers(graph, {n: ranges[n] for n in ranges if n not in kept}, packed=packed)
    if packed:
        pack_kernels(graph, means)
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
