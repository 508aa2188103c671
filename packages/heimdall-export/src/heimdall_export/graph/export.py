"""Export of a PyTorch module as the contract's ONNX file, checked and written whole.

`torch.onnx.export` copies and serialises all weights several times. Here they are passed with the
call, as further inputs, so that the exporter and the checker see only their types and shapes;
`weighted_graph` writes them to the file in one pass. The graph is traced, so which operations run
must not depend on values: `_NoDecisions` detects a network where it does.

torch has two ways to a graph, whose files are alike. Its TorchScript tracer is deprecated, and the
default here because it is many times faster and needs no onnxscript; with `dynamo=True` the graph
comes from `torch.export`, which is to replace it.

`_NanGuard` makes the file answer NaN to NaN, infinity and values that no receiver measures (levels
of a thousand decibels, times of a second); the network alone would answer with a position. A NaN
in the input is no protection: ONNX Runtime's `Relu`, `Max`, `Clip` and max-pooling may drop it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from heimdall_export.contract import (
    ARRIVALS,
    CORRELATIONS,
    DEFAULT_OPSET,
    INPUT,
    MIXTURE_OUTPUTS,
    OPSETS,
    OUTPUTS,
    TIMED_OUTPUTS,
)
from heimdall_export.errors import ExportError
from heimdall_export.graph.rewrite import fold_transposes
from heimdall_export.graph.weighted_graph import LARGEST_FILE, WeightedGraph
from heimdall_export.serving.metadata import require_metadata

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

_NEWEST_TRACED_OPSET = 20
"""Newest operator set of torch's tracing exporter; newer ones need a conversion."""
_OLDEST_EXPORTED_OPSET = 18
"""Oldest operator set of torch's other exporter."""
_LARGEST_DB = 1e3
"""The largest and the smallest float32, as powers, are within 400 dB."""
_LARGEST_ARRIVAL = 1e6
"""Microseconds (light goes once around the Earth in 0.14 s) and, far below it, decibels."""


def export_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: tuple[int, int, int] = (3, 128, 32),
    arrivals_shape: tuple[int, int] | None = None,
    metadata: Mapping[str, str],
    opset: int = DEFAULT_OPSET,
    largest_file: int = LARGEST_FILE,
    dynamo: bool = False,
) -> Path:
    """Write a module as an ONNX file with a dynamic batch.

    The file answers NaN to an input that is not finite, whatever the network does.

    Args:
        network: Takes float32 `(batch, *input_shape)` in dB; returns positions in degrees and
            uncertainties in metres, float32 `(batch, 2)` each, and, if it has them, the
            correlations of the errors east and north, `(batch,)`. With `arrivals_shape` it also
            takes float32 `(batch, *arrivals_shape)`, and must return those correlations and the
            unexplained part, float32 `(batch,)` each. A mixture of K Gaussians may follow: weights
            `(batch, K)`, means `(batch, K, 2)` in degrees, covariances `(batch, K, 3)` in m².
            Exported in evaluation mode.
        path: The file; an existing one is replaced as a whole.
        input_shape: Receivers, mel bands and frames.
        arrivals_shape: Receivers and columns of the arrival times; None for a network of
            spectrograms alone.
        metadata: All of the contract's keys and, only with `arrivals_shape`, those of
            `ArrivalExtractor.metadata`; further keys may follow.
        opset: ONNX operator set, one of `OPSETS`.
        largest_file: Weights of more bytes go into a file of their own, `*.data`, beside the
            model and named for its contents; both must be kept in one folder.
        dynamo: Make the graph with `torch.export` instead of the deprecated TorchScript tracer;
            needs onnxscript and operator set 18 or newer.

    Returns:
        The path.

    Raises:
        ExportError: An unsupported operator set, metadata that lack a key, weights that are not
            finite, a network of another shape or one that decides by values, a graph that the
            exporter or the checker refuses, or a path that cannot be written.
    """
    target = Path(path)
    if opset not in OPSETS:
        raise ExportError(
            f"opset {opset} is not supported; use one from {OPSETS[0]} to {OPSETS[-1]}, "
            f"by default {DEFAULT_OPSET}"
        )
    if dynamo and opset < _OLDEST_EXPORTED_OPSET:
        raise ExportError(
            f"opset {opset} is not supported with dynamo=True; use one from "
            f"{_OLDEST_EXPORTED_OPSET} on"
        )
    require_metadata(metadata, timed=arrivals_shape is not None)
    for name, values in network.state_dict().items():
        if values.is_floating_point() and not values.isfinite().all():
            raise ExportError(
                f"{name} holds NaN or infinity: the training diverged; use an earlier checkpoint"
            )
    shapes = (input_shape,) if arrivals_shape is None else (input_shape, arrivals_shape)
    with evaluating(network) as device:
        # Two samples: the exporter would make a constant of a batch of one.
        examples = tuple(torch.zeros((2, *shape), device=device) for shape in shapes)
        make = _exported_graph if dynamo else _traced_graph
        graph = _checked_graph(network, examples, _output_names(network, examples), opset, make)
    onnx.helper.set_model_props(graph.model, dict(metadata))
    _describe(graph.model, input_shape[0], metadata["heimdall.created_at"])
    graph.save(target, largest=largest_file)
    return target


def _describe(model: onnx.ModelProto, n_receivers: int, created_at: str) -> None:
    """Fill the fields that viewers and model stores show."""
    model.producer_name, model.producer_version = "heimdall-export", version("heimdall-export")
    model.domain = "heimdall"
    # ONNX has a number: 2026-03-01T12:00:00 is version 20260301120000.
    model.model_version = int(re.sub(r"\D", "", created_at)[:14] or 0)
    model.doc_string = (
        f"Position of a radio transmitter and its uncertainty, from features of {n_receivers} "
        "receivers. The metadata hold the receivers and the definition of the features, which "
        "heimdall-features computes."
    )


def _output_names(network: nn.Module, examples: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Names of the network's outputs, whose shapes must be those that its inputs require."""
    shapes = " and ".join(str(tuple(example.shape)) for example in examples)
    try:
        with torch.no_grad(), _NoDecisions(network):
            outputs = network(*examples)
    except ExportError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"the network fails on an input of shape {shapes}: {error}") from error
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    found = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors]
    n_mixture = len(MIXTURE_OUTPUTS)
    n_components = tensors[-1].shape[1] if len(found) > n_mixture and tensors[-1].ndim == 3 else 0
    names: tuple[str, ...] = (*OUTPUTS, *TIMED_OUTPUTS)
    if len(examples) == 1:
        # A network of spectrograms may return correlations too; further outputs have no name.
        names = (*OUTPUTS, CORRELATIONS)
        names = names[: 3 if len(found) - n_mixture * bool(n_components) > 2 else 2]
    batch = len(examples[0])
    kinds = dict.fromkeys(names, (batch,)) | dict.fromkeys(OUTPUTS, (batch, 2))
    if n_components:
        shapes_of = ((batch, n_components, *rest) for rest in ((), (2,), (3,)))
        kinds |= dict(zip(MIXTURE_OUTPUTS, shapes_of, strict=True))
        names = (*names, *MIXTURE_OUTPUTS)
    wanted = {name: f"{torch.float32} {kinds[name]}" for name in names}
    if found[: len(names)] != [*wanted.values()]:
        required = ", ".join(f"{name} {kind}" for name, kind in wanted.items())
        raise ExportError(
            f"the network returned {', '.join(found)} for a batch of {batch}; required: {required}"
        )
    return names


def _checked_graph(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    outputs: tuple[str, ...],
    opset: int,
    make: Callable[..., WeightedGraph],
) -> WeightedGraph:
    inputs = (INPUT, ARRIVALS)[: len(examples)]
    traced_opset = min(opset, _NEWEST_TRACED_OPSET)
    graph = make(_NanGuard(network), examples, inputs, outputs, traced_opset)
    fold_transposes(graph)
    try:
        if opset > _NEWEST_TRACED_OPSET:
            graph.convert(opset)
        model = graph.declared()
        onnx.checker.check_model(model, full_check=True)
        for end in model.graph.output:
            end.type.tensor_type.ClearField("shape")
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        onnx.version_converter.ConvertError,
    ) as error:
        raise ExportError(f"onnx.checker refuses the exported graph: {error}") from error
    # A network that makes a Python number of the batch's size has it in the shapes.
    sizes = {end.name: end.type.tensor_type.shape.dim[:1] for end in model.graph.output}
    if fixed := [name for name, first in sizes.items() if any(size.dim_value for size in first)]:
        raise ExportError(
            f"the graph of {type(network).__name__} has a fixed batch size in {', '.join(fixed)}; "
            "take sizes from tensors' shapes, without int()"
        )
    return graph


class _NanGuard(nn.Module):
    """A network whose outputs are all NaN for the broken samples of a batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs; NaN where an input is broken or an output is not finite."""
        outputs: tuple[Tensor, ...] = self.network(*inputs)
        sound = _all(inputs[0].abs() <= _LARGEST_DB)
        for rows in inputs[1:]:
            sound = sound & _all(rows.abs() <= _LARGEST_ARRIVAL)
            heard, sigma_us = rows[..., 0], rows[..., 2]
            sound = sound & _all((heard == 0) | ((heard == 1) & (sigma_us > 0)))
        for values in outputs:
            sound = sound & _all(values.isfinite())
        by_ndim = {1: sound, 2: sound[:, None], 3: sound[:, None, None]}
        return tuple(torch.where(by_ndim[output.ndim], output, math.nan) for output in outputs)


def _all(holds: Tensor) -> Tensor:
    """True for samples all of whose values hold, `(batch,)`; comparisons with NaN are false."""
    return holds if holds.ndim == 1 else holds.flatten(start_dim=1).all(dim=1)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[torch.device]:
    """Yield the device of a network in evaluation mode; afterwards each module has its own mode."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield next((weight.device for _, weight in _tensors(network)), torch.device("cpu"))
    finally:
        for module, training in modes:
            module.training = training


class _NoDecisions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that refuses a network that reads values in Python: a graph would freeze one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = type(network).__name__

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is torch.ops.aten._local_scalar_dense.default:
            raise ExportError(
                f"torch.onnx.export cannot make a graph of {self._name}, which decides by values "
                "in Python; use torch.where"
            )
        return func(*args, **(kwargs or {}))


def _traced_graph(
    network: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> WeightedGraph:
    """Trace a network, which is in evaluation mode, into a graph with its weights beside it."""
    weights = dict(_tensors(network))
    file = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                _WeightsAsInputs(network, len(examples)).eval(),
                (*examples, *(weight.detach() for weight in weights.values())),
                file,  # type: ignore[arg-type] # torch writes to any file
                input_names=[*inputs, *weights],
                output_names=[*outputs],
                dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
                opset_version=opset,
                do_constant_folding=False,
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(
            f"torch.onnx.export cannot make a graph of the network: {reason}"
        ) from error
    return WeightedGraph(onnx.load_from_string(file.getvalue()), weights)


def _exported_graph(
    network: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> WeightedGraph:
    """As `_traced_graph`, by `torch.export`."""
    try:
        import onnx_ir
        import onnxscript  # noqa: F401 - torch needs it
    except ModuleNotFoundError as error:
        raise ExportError(
            f"dynamo=True needs {error.name}: pip install 'heimdall-export[dynamo]'"
        ) from error
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                network,
                tuple(examples),
                input_names=[*inputs],
                output_names=[*outputs],
                dynamic_shapes=(tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(
            f"torch.onnx.export cannot make a graph of the network: {reason}"
        ) from error
    made: onnx_ir.Model = program.model  # type: ignore[union-attr] # None without dynamo
    held = made.graph.initializers
    weights = {name: weight.detach() for name, weight in _tensors(network) if name in held}
    # Others are weights that the exporter has transposed or added up, or constants.
    others = {n: v.const_value.numpy() for n, v in held.items() if v.const_value is not None}
    weights |= {
        name: torch.tensor(values)
        for name, values in others.items()
        if name not in weights and values.ndim and values.dtype == "float32"
    }
    for name in weights:
        value = held.pop(name)
        value.const_value = None  # so that it is not written
        made.graph.inputs.append(value)
    graph = onnx_ir.to_proto(made)
    _simplify(graph)
    return WeightedGraph(graph, weights)


def _simplify(model: onnx.ModelProto) -> None:
    """Name the batch, make nodes of constants, as the tracer does, and drop debugging notes."""
    graph = model.graph
    for end in (*graph.input, *graph.output):
        for size in end.type.tensor_type.shape.dim[:1]:
            if size.dim_param:
                size.dim_param = "batch"
    constants = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in graph.initializer
    ]
    nodes = [*constants, *graph.node]
    for part in (*nodes, *graph.input, *graph.output, graph, model):
        part.ClearField("metadata_props")
    del graph.initializer[:], graph.node[:]
    graph.node.extend(nodes)


class _WeightsAsInputs(nn.Module):
    """A network that takes its weights after its inputs, in the order of `_tensors`.

    `torch.func.functional_call` does the same, but cannot be traced.
    """

    def __init__(self, network: nn.Module, n_inputs: int) -> None:
        super().__init__()
        # Not a child module, in which the exporter would find the weights.
        self._network: Callable[[], nn.Module] = lambda: network
        self._n_inputs = n_inputs

    def forward(self, *given: Tensor) -> Any:  # noqa: ANN401 - whatever the network returns
        """The network's outputs with these weights."""
        network = self._network()
        own = [tensor for _, tensor in _tensors(network)]
        replaced = dict(zip(map(id, own), given[self._n_inputs :], strict=True))
        places = [
            (held, name, tensor)
            for module in network.modules()
            for held in (module._parameters, module._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]
        try:
            for held, name, tensor in places:
                held[name] = replaced[id(tensor)]  # type: ignore[assignment] # no Parameter
            return network(*given[: self._n_inputs])
        finally:
            for held, name, tensor in places:
                held[name] = tensor  # type: ignore[assignment]


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, each once however many names it has."""
    yield from network.named_parameters()
    yield from network.named_buffers()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's advice to its own developers; its errors are raised anyway."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
