"""Never a confident answer to a broken question: NaN, infinity and nonsense in, NaN out.

Nonsense is what no receiver measures: levels of a thousand decibels, times of a second. A network
would make a position of it like any other. Nor does a NaN always end in one: ONNX Runtime's
`Relu`, `Max`, `Clip` and max-pooling may drop one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["NanGuard"]

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
