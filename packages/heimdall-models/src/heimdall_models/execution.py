"""How the backbone computes: memory layout, recomputation, compilation. Never what it computes.

Sources: gradient checkpointing: T. Chen et al., "Training deep nets with sublinear memory cost",
2016; compilation: J. Ansel et al., "PyTorch 2", ASPLOS 2024.

Convolutions that in training give what torch's give, sooner, and on CPUs in bfloat16 at all.

Idle taps. In the last stages of a backbone the image is as small as 4 x 1, and most taps of a 7 x 7
kernel see nothing but the padding around it. Computing without them changes no output and no
gradient, and takes up to nine tenths of a depthwise convolution's time.

Kernels of one tap are matrix products; on CPUs those are up to four times faster.

bfloat16 on CPUs, where oneDNN computes (3.12, in torch 2.14):

- strided convolutions are wrong on CPUs with AMX. Parts of their outputs (where an output is one
  column wide, or the stride is 4) and of their weights' gradients (where an input is one column
  wide) are left as the memory happened to be: sometimes NaN, mostly just wrong;
- gradients of depthwise kernels take two to three times as long as in float32.

Both are computed in float32 there, whatever the precision around them.
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


class SpareConv2d(nn.Conv2d):
    """A convolution without idle taps, in float32 where bfloat16 is worse."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's
        if not self._is_better_in_float32(input, weight):
            return self._convolved(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            full_bias = None if bias is None else bias.float()
            full = self._convolved(input.float(), weight.float(), full_bias)
        return full.to(torch.bfloat16)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (self.training and self._keeps_size()):
            return conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        last = torch.channels_last
        if self._is_product() and x.device.type == "cpu" and x.is_contiguous(memory_format=last):
            return linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        weight, padding = without_idle_taps(weight, x.shape[-2:])
        return conv2d(x, weight, bias, padding=padding, groups=self.groups)

    def _keeps_size(self) -> bool:
        size = tuple(length // 2 for length in self.kernel_size)
        odd = all(length % 2 for length in self.kernel_size)
        return odd and self.padding == size and self.stride == self.dilation == (1, 1)

    def _is_product(self) -> bool:
        return self.kernel_size == (1, 1) and self.groups == 1

    def _is_better_in_float32(self, x: Tensor, weight: Tensor) -> bool:
        if x.device.type != "cpu" or (self.stride == (1, 1) and self.groups == 1):
            return False
        half = torch.get_autocast_dtype("cpu") == torch.bfloat16
        return (torch.is_autocast_enabled("cpu") and half) or weight.dtype == torch.bfloat16


def spare(backbone: nn.Module) -> None:
    """Make the plain convolutions of a backbone ours; weights and their names stay."""
    for module in backbone.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            # In place, because the layer has its weights already.
            module.__class__ = SpareConv2d


def without_idle_taps(weight: Tensor, image_shape: torch.Size) -> tuple[Tensor, tuple[int, int]]:
    """The part of an odd kernel that a small image reaches, and the padding that goes with it.

    Args:
        weight: `(out, in, height, width)` of a kernel padded so that the image keeps its size.
        image_shape: Height and width of the image.
    """
    padding = tuple(length // 2 for length in weight.shape[-2:])
    kept = tuple(min(reach, length - 1) for reach, length in zip(padding, image_shape, strict=True))
    if kept == padding:
        return weight, (kept[0], kept[1])
    top, left = padding[0] - kept[0], padding[1] - kept[1]
    height, width = 2 * kept[0] + 1, 2 * kept[1] + 1
    part = weight[:, :, top : top + height, left : left + width]
    return part.contiguous(memory_format=torch.channels_last), (kept[0], kept[1])


def arrange(backbone: nn.Module, config: LocalizationConfig) -> None:
    """Set up the backbone as the configuration says; the names of its weights stay.

    Raises:
        ModelError: If this backbone cannot recompute activations, or nothing here can compile.
    """
    spare(backbone)
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
