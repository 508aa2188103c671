"""A network's graph without its weights: what the exporter writes down in a second.

`torch.onnx.export` copies and serialises all weights several times. Here they come with the call,
as further inputs, so that the exporter sees their shapes alone; whoever writes the file puts
them in (`weighted_graph`). The graph is traced: which operations follow which must not depend
on values, and `refuse_decisions` finds a network where it does.

A network in evaluation mode for a while, and as it was afterwards.

Never a confident answer to a broken question: NaN, infinity and nonsense in, NaN out.

Nonsense is what no receiver measures: levels of a thousand decibels, times of a second. A network
would make a position of it like any other. Nor does a NaN always end in one: ONNX Runtime's
`Relu`, `Max`, `Clip` and max-pooling may drop one.
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
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["NEWEST_TRACED_OPSET", "NanGuard", "evaluating", "refuse_decisions", "traced_graph"]


@contextlib.contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[torch.device]:
    """Yields the device of the network's weights; each module gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    tensors = (*network.parameters(), *network.buffers())
    network.eval()
    try:
        yield tensors[0].device if tensors else torch.device("cpu")
    finally:
        for module, training in modes:
            module.training = training


NEWEST_TRACED_OPSET = 20
"""The newest operator set that the exporter of traces writes; newer ones are converted to."""


def traced_graph(
    network: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
) -> WeightedGraph:
    """A network as a graph, and its weights beside it.

    Args:
        network: In evaluation mode.
        examples: Its inputs, of a batch of two or more.
        inputs: Their names.
        outputs: Names of what it returns.
        opset: ONNX operator set, `NEWEST_TRACED_OPSET` at most.

    Raises:
        ExportError: It has an operation that ONNX has not.
    """
    weights = dict(_tensors(network))
    lent = _LentWeights(network, tuple(weights), len(examples))
    file = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                lent.eval(),
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


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, each once, however many names it has."""
    yield from network.named_parameters()
    yield from network.named_buffers()


class _LentWeights(nn.Module):
    """A network that takes its weights behind its inputs."""

    def __init__(self, network: nn.Module, names: tuple[str, ...], n_inputs: int) -> None:
        super().__init__()
        # Not as a child: the exporter would find the weights in it.
        self._called: Callable[[], nn.Module] = lambda: network
        self._names = names
        self._n_inputs = n_inputs

    def forward(self, *given: Tensor) -> Any:  # noqa: ANN401 - whatever the network returns
        """What the network returns with these weights."""
        network = self._called()
        inputs, weights = given[: self._n_inputs], given[self._n_inputs :]
        with _exchanged(network, dict(zip(self._names, weights, strict=True))):
            return network(*inputs)


@contextlib.contextmanager
def _exchanged(network: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The network with other tensors for weights; `torch.func.functional_call` refuses traces."""
    own = dict(_tensors(network))
    by_id = {id(own[name]): weight for name, weight in weights.items()}
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (held, name, weight)
        for module in network.modules()
        for held in (module._parameters, module._buffers)
        for name, weight in held.items()
        if weight is not None
    ]
    try:
        for held, name, weight in places:
            held[name] = by_id[id(weight)]
        yield
    finally:
        for held, name, weight in places:
            held[name] = weight


class _Decision(Exception):
    """A value was asked for while the network ran."""


class _NoDecisions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises `_Decision` where Python learns a tensor's value."""

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
    """Run a network in here, and it may not look at values: a graph would hold one answer.

    Raises:
        ExportError: It did.
    """
    try:
        with _NoDecisions():  # type: ignore[no-untyped-call]
            yield
    except _Decision as error:
        raise ExportError(
            f"torch.onnx.export cannot make a graph of {type(network).__name__}: it decides by "
            "values in Python; use torch.where"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its own developers off the screen; its errors are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


_LARGEST_DB = 1e3
"""The largest and the smallest float32, as powers, are within 400 dB."""
_LARGEST_ARRIVAL = 1e6
"""Microseconds; light goes once around the Earth in 0.14 s. Decibels are far below."""


class NanGuard(nn.Module):
    """A network whose every output is NaN for those of the batch that are broken.

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
        for values in inputs[1:]:
            sound = sound & _all(values.abs() <= _LARGEST_ARRIVAL) & _all(_measured(values))
        for values in outputs:
            sound = sound & _all(values.isfinite())
        return tuple(_where(sound, output) for output in outputs)


def _measured(rows: Tensor) -> Tensor:
    """Whether rows say heard or not, and if so how surely; `(batch, receivers)`."""
    heard, sigma_us = rows[..., 0], rows[..., 2]
    return (heard == 0) | ((heard == 1) & (sigma_us > 0))


def _all(holds: Tensor) -> Tensor:
    """Whether it holds for all values of a sample, bool `(batch,)`; of NaN no comparison does."""
    return holds if holds.ndim == 1 else holds.flatten(start_dim=1).all(dim=1)


def _where(sound: Tensor, output: Tensor) -> Tensor:
    return torch.where(sound if output.ndim == 1 else sound[:, None], output, math.nan)
