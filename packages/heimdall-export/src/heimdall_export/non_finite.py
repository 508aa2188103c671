"""Never a confident answer to a broken question: NaN and infinity in, NaN out.

A network need not do that by itself. ONNX Runtime's `Relu`, `Max`, `Clip` and max-pooling may
drop a NaN, so that one bad sample of a recording could end as a position like any other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["NanGuard"]


class NanGuard(nn.Module):
    """A network whose every output is NaN for those of the batch that are not finite.

    Args:
        network: Takes tensors `(batch, ...)`, returns a tuple of floating tensors `(batch, n)`
            or `(batch,)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs; NaN where an input or an output is not finite."""
        outputs: tuple[Tensor, ...] = self.network(*inputs)
        finite = _finite(inputs[0])
        for values in (*inputs[1:], *outputs):
            finite = finite & _finite(values)
        return tuple(_where(finite, output) for output in outputs)


def _finite(values: Tensor) -> Tensor:
    """Whether all of each sample's values are finite, bool `(batch,)`."""
    finite = values.isfinite()
    return finite if finite.ndim == 1 else finite.flatten(start_dim=1).all(dim=1)


def _where(finite: Tensor, output: Tensor) -> Tensor:
    return torch.where(finite if output.ndim == 1 else finite[:, None], output, math.nan)
