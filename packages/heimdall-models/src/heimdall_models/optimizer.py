"""AdamW with a linear warm-up and a cosine to zero; norms and biases do not decay.

Sources: I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019, and
"SGDR: stochastic gradient descent with warm restarts", ICLR 2017; warm-up: P. Goyal et al.,
"Accurate, large minibatch SGD", 2017.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn
    from torch.optim import Optimizer


def adamw(parts: Iterable[tuple[nn.Module, float]], weight_decay: float) -> AdamW:
    """Fused AdamW over the parameters that train; only matrices and kernels decay.

    Args:
        parts: Modules, each with its learning rate.
        weight_decay: Of matrices and kernels.

    Raises:
        ModelError: If no parameter trains.
    """
    groups = []
    for part, rate in parts:
        trained = [each for each in part.parameters() if each.requires_grad]
        decaying = [each for each in trained if each.ndim > 1]
        steady = [each for each in trained if each.ndim <= 1]
        groups += [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for parameters, decay in ((decaying, weight_decay), (steady, 0.0))
            if parameters
        ]
    if not groups:
        raise ModelError("no parameter of the network trains; everything is frozen")
    # One pass over each tensor: four times faster on a CPU.
    optimizer = AdamW(groups, fused=True)
    # Otherwise a fused optimiser would undo a gradient scaler's scale in its own step, which is
    # after clipping; Lightning would therefore refuse to clip, even without a scaler.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def warmup_cosine(optimizer: Optimizer, n_steps: int, warmup_fraction: float) -> LambdaLR:
    """The schedule over `n_steps` optimiser steps, to be stepped after each."""
    n_warmup = min(round(n_steps * warmup_fraction), n_steps - 1)

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        progress = (step - n_warmup) / max(n_steps - n_warmup, 1)
        return (1 + math.cos(math.pi * min(progress, 1.0))) / 2

    return LambdaLR(optimizer, factor)
