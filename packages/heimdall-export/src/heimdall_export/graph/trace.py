"""A network's graph without its weights, which the exporter writes in a second.

`torch.onnx.export` copies and serialises all weights several times. Here they are passed with the
call, as further inputs, so that the exporter sees only their shapes; `weighted_graph` writes them
to the file. The graph is traced, so which operations run must not depend on values;
`refuse_decisions` detects a network where it does.

`NanGuard` makes the file answer NaN to NaN, infinity and values that no receiver measures (levels
of a thousand decibels, times of a second), of which a network would make a position like any
other. A NaN alone is no protection: ONNX Runtime's `Relu`, `Max`, `Clip` and max-pooling may
drop it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from heimdall_export.errors import ExportError
from heimdall_export.graph.weighted_graph import WeightedGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["NEWEST_TRACED_OPSET", "NanGuard", "evaluating", "refuse_decisions", "traced_graph"]

NEWEST_TRACED_OPSET = 20
"""Newest operator set of torch's tracing exporter; newer ones need a conversion."""
_LARGEST_DB = 1e3
"""The largest and the smallest float32, as powers, are within 400 dB."""
_LARGEST_ARRIVAL = 1e6
"""Microseconds (light goes once around the Earth in 0.14 s) and, far below it, decibels."""


class NanGuard(nn.Module):
    """A network whose outputs are all NaN for the broken samples of a batch.

    Args:
        network: Takes levels in dB `(batch, ...)`, and perhaps arrival times as
            `ArrivalExtractor` measures them `(batch, receivers, 5)`; returns a tuple of floating
            tensors `(batch, n)` or `(batch,)`.
    """

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
        return tuple(
            torch.where(sound if output.ndim == 1 else sound[:, None], output, math.nan)
            for output in outputs
        )


def _all(holds: Tensor) -> Tensor:
    """True for samples all of whose values hold, `(batch,)`; comparisons with NaN are false."""
    return holds if holds.ndim == 1 else holds.flatten(start_dim=1).all(dim=1)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[torch.device]:
    """Put a network into evaluation mode; afterwards each module has its own mode again.

    Yields:
        The device of the network's weights.
    """
    modes = [(module, module.training) for module in network.modules()]
    tensors = (*network.parameters(), *network.buffers())
    network.eval()
    try:
        yield tensors[0].device if tensors else torch.device("cpu")
    finally:
        for module, training in modes:
            module.training = training


class _Decision(Exception):
    """Python asked for a tensor's value while the network ran."""


class _NoDecisions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises `_Decision` where Python reads a tensor's value."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is torch.ops.aten._local_scalar_dense.default:
            raise _Decision
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def refuse_decisions(network: nn.Module) -> Iterator[None]:
    """Refuse a network that reads values in Python when run in here: a graph would freeze one.

    Raises:
        ExportError: It did.
    """
    try:
        with _NoDecisions():  # type: ignore[no-untyped-call]
            yield
    except _Decision as error:
        raise ExportError(
            f"torch.onnx.export cannot make a graph of {type(network).__name__}, which decides "
            "by values in Python; use torch.where"
        ) from error


def traced_graph(
    network: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> WeightedGraph:
    """Trace a network into a graph with its weights beside it.

    Args:
        network: In evaluation mode.
        examples: Its inputs, of a batch of two or more.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        opset: ONNX operator set, `NEWEST_TRACED_OPSET` at most.

    Raises:
        ExportError: It has an operation that ONNX lacks.
    """
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


class _WeightsAsInputs(nn.Module):
    """A network that takes its weights after its inputs, in the order of `_tensors`.

    `torch.func.functional_call` would do, but cannot be traced.
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
    try:
        logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
