"""A network's graph without its weights: what the exporter writes down in a second.

`torch.onnx.export` copies and serialises all weights several times. Here they come with the call,
as further inputs, so that the exporter sees their shapes alone; whoever writes the file puts
them in (`weighted_graph`). The graph is traced: which operations follow which must not depend
on values, and `refuse_decisions` finds a network where it does.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from heimdall_export.errors import ExportError
from heimdall_export.weighted_graph import WeightedGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["NEWEST_TRACED_OPSET", "refuse_decisions", "traced_graph"]

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
