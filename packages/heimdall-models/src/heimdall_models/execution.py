"""How the backbone computes: memory layout, recomputation, compilation. Never what it computes.

One thing is kept from bfloat16 on CPUs: convolutions with a stride. The AMX kernels of oneDNN 3.12,
in torch 2.14, leave parts of their outputs (where an output is one column wide, or the stride is
4) and of their weights' gradients (where an input is one column wide) as the memory happened to
be. They are few, stem and downsampling, and in float32 they are right.

Sources: gradient checkpointing: T. Chen et al., "Training deep nets with sublinear memory cost",
2016; compilation: J. Ansel et al., "PyTorch 2", ASPLOS 2024.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from heimdall_models.config import LocalizationConfig


class StridedConv2d(nn.Conv2d):
    """A convolution that on a CPU computes in float32 whatever the precision around it."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's
        lowered = torch.is_autocast_enabled("cpu") or weight.dtype == torch.bfloat16
        if input.device.type != "cpu" or not lowered:
            same: Tensor = super()._conv_forward(input, weight, bias)
            return same
        with torch.autocast("cpu", enabled=False):
            full_bias = None if bias is None else bias.float()
            full: Tensor = super()._conv_forward(input.float(), weight.float(), full_bias)
        return full.to(torch.bfloat16)


def arrange(backbone: nn.Module, config: LocalizationConfig) -> None:
    """Set up the backbone as the configuration says; the names of its weights stay.

    Raises:
        ModelError: If this backbone cannot recompute activations, or nothing here can compile.
    """
    for module in backbone.modules():
        if type(module) is nn.Conv2d and max(module.stride) > 1:
            # In place, because the layer has its weights and its name already.
            module.__class__ = StridedConv2d
    if config.channels_last:
        backbone.to(memory_format=torch.channels_last)
    if config.gradient_checkpointing:
        _recompute_activations(backbone, config.backbone)
    if config.compile:
        _require_compiler()
        # In place: torch.compile(backbone) would wrap it, and rename every weight.
        backbone.compile()


def _recompute_activations(backbone: nn.Module, name: str) -> None:
    lacking = ModelError(
        f"backbone {name!r} has no gradient checkpointing; turn it off, or take a backbone that "
        f"has it, such as one of the ConvNeXts"
    )
    switch = getattr(backbone, "set_grad_checkpointing", None)
    if switch is None:
        raise lacking
    try:
        switch(True)  # noqa: FBT003 - timm's
    except AssertionError as error:
        # timm's way of saying that a family has no such thing.
        raise lacking from error


def _require_compiler() -> None:
    """Found out here, and not after the data has been read for minutes.

    Raises:
        ModelError: If torch would find no C++ compiler for the CPU.
    """
    if torch.cuda.is_available() or any(map(shutil.which, ("g++", "clang++", "c++"))):
        return
    raise ModelError("torch.compile needs a C++ compiler; install g++ or train without compile")
