"""A network in evaluation mode for a while, and as it was afterwards."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["evaluating"]


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
