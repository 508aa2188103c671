"""How the backbone computes: memory layout, recomputation, compilation. Never what it computes.

Sources: gradient checkpointing: T. Chen et al., "Training deep nets with sublinear memory cost",
2016; compilation: J. Ansel et al., "PyTorch 2", ASPLOS 2024.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch

from heimdall_models.convolutions import spare
from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

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
