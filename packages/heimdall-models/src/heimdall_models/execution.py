"""Execution of the backbone: memory layout, recomputation, compilation, convolutions.

None of it changes what the backbone computes. In training, `SpareConv2d` gives the results of
torch's convolutions faster, and in bfloat16 on CPUs correctly:

- Idle taps. In the last stages of a backbone the image is as small as 4 x 1, and most taps of a
  7 x 7 kernel see only padding. Leaving them out changes no output and no gradient, and saves up
  to nine tenths of a depthwise convolution's time.
- Kernels of one tap are matrix products; on CPUs those are up to four times faster.
- bfloat16 on CPUs with oneDNN 3.12 (in torch 2.14). With AMX, strided convolutions leave parts of
  their outputs (where an output is one column wide, or the stride is 4) and of their weights'
  gradients (where an input is one column wide) uninitialised: sometimes NaN, mostly just wrong.
  Gradients of depthwise kernels take two to three times as long as in float32. Both are computed
  in float32, whatever the precision around them.

Sources: gradient checkpointing: T. Chen et al., "Training deep nets with sublinear memory cost",
2016; compilation: J. Ansel et al., "PyTorch 2", ASPLOS 2024.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from heimdall_models.config import LocalizationConfig


def arrange(backbone: nn.Module, config: LocalizationConfig) -> None:
    """Set up the backbone as the configuration says; the names of its weights stay.

    Raises:
        ModelError: If this backbone cannot recompute activations, or nothing here can compile.
    """
    spare(backbone)
    if config.channels_last:
        backbone.to(memory_format=torch.channels_last)
    if config.gradient_checkpointing:
        try:
            backbone.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError) as error:
            raise ModelError(
                f"backbone {config.backbone!r} has no gradient checkpointing; turn it off, or take "
                "a backbone that has it, such as one of the ConvNeXts"
            ) from error
    if config.compile:
        # Checked here, before data is read for minutes.
        if not torch.cuda.is_available() and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            raise ModelError(
                "torch.compile needs a C++ compiler; install g++ or train without compile"
            )
        # In place: torch.compile(backbone) would wrap it and rename every weight.
        backbone.compile()


def spare(backbone: nn.Module) -> None:
    """Make the plain convolutions of a backbone `SpareConv2d`s, in place: weights stay."""
    for module in backbone.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            module.__class__ = SpareConv2d


class SpareConv2d(nn.Conv2d):
    """A convolution without idle taps, in float32 where bfloat16 is worse."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's
        plain = self.stride == (1, 1) and self.groups == 1
        half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        if input.device.type != "cpu" or plain or torch.bfloat16 not in (half, weight.dtype):
            return self._convolved(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            full_bias = None if bias is None else bias.float()
            full = self._convolved(input.float(), weight.float(), full_bias)
        return full.to(torch.bfloat16)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half = tuple(length // 2 for length in self.kernel_size)
        odd = all(length % 2 for length in self.kernel_size)
        keeps_size = odd and self.padding == half and self.stride == self.dilation == (1, 1)
        if not (self.training and keeps_size):
            return conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        is_product = self.kernel_size == (1, 1) and self.groups == 1 and x.device.type == "cpu"
        if is_product and x.is_contiguous(memory_format=torch.channels_last):
            return linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        weight, padding = without_idle_taps(weight, x.shape[-2:])
        return conv2d(x, weight, bias, padding=padding, groups=self.groups)


def without_idle_taps(weight: Tensor, image_shape: torch.Size) -> tuple[Tensor, tuple[int, int]]:
    """The part of an odd kernel that a small image reaches, and the padding that goes with it.

    The kernel, `(out, in, height, width)`, is padded so that the image keeps its size.
    """
    padding = tuple(length // 2 for length in weight.shape[-2:])
    kept = tuple(min(reach, length - 1) for reach, length in zip(padding, image_shape, strict=True))
    if kept == padding:
        return weight, (kept[0], kept[1])
    rows, columns = (slice(a - b, a + b + 1) for a, b in zip(padding, kept, strict=True))
    part = weight[:, :, rows, columns]
    return part.contiguous(memory_format=torch.channels_last), (kept[0], kept[1])
