"""Any timm backbone by its name, as a trunk from receivers' spectrograms to one vector.

Source: R. Wightman, "PyTorch Image Models" (2019); ConvNeXt: Z. Liu et al., "A ConvNet for the
2020s", CVPR 2022.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch

from heimdall_models.errors import ModelError
from heimdall_models.pretrained import adapted, hub_is_possible, state_dict_from_file, unprefixed

if TYPE_CHECKING:
    from torch import nn

HUB = "hub"
"""The value of `weights` that asks timm's hub instead of a file."""


def trunk(
    backbone: str,
    n_receivers: int,
    image_shape: tuple[int, int],
    *,
    weights: str | Path | None = None,
    drop_path: float = 0.0,
) -> tuple[nn.Module, int]:
    """A timm network without its classifier, and the width of the vector that it returns.

    Args:
        backbone: timm's name, such as `convnext_large`.
        n_receivers: Input channels.
        image_shape: Mel bands and frames.
        weights: None for random weights, a file, or `hub`.
        drop_path: Stochastic depth rate, for backbones that have it.

    Raises:
        ModelError: If timm knows no such backbone, it cannot take such an input, or the weights
            cannot be had or do not fit. Weights are never silently random.
    """
    _check_known(backbone)
    if weights == HUB:
        hub_is_possible(backbone)
    try:
        network = timm.create_model(
            backbone,
            pretrained=weights == HUB,
            in_chans=n_receivers,
            num_classes=0,
            **_optional_arguments(backbone, image_shape, drop_path),
        )
    except Exception as error:
        # timm, the hub's client and the network raise what they like; the cause is chained.
        raise ModelError(_why_not(backbone, n_receivers, image_shape, weights, error)) from error
    if weights is not None and weights != HUB:
        _load(network, backbone, n_receivers, Path(weights))
    return network, _width(network, n_receivers, image_shape)


def _check_known(backbone: str) -> None:
    architecture = backbone.partition(".")[0]
    if timm.is_model(architecture):
        return
    near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.4)
    raise ModelError(
        f"timm knows no backbone {backbone!r}; did you mean {', '.join(near)}?"
        if near
        else f"timm knows no backbone {backbone!r}; timm.list_models() names those that it knows"
    )


def _optional_arguments(
    backbone: str, image_shape: tuple[int, int], drop_path: float
) -> dict[str, Any]:
    """What only some backbones take: timm refuses arguments that a backbone does not know."""
    arguments: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    if config is not None and config.fixed_input_size:
        arguments["img_size"] = image_shape
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    return arguments


def _load(network: nn.Module, backbone: str, n_receivers: int, path: Path) -> None:
    try:
        found = unprefixed(state_dict_from_file(path), network.state_dict())
        state = adapted(found, network, n_receivers)
    except (KeyError, IndexError, RuntimeError) as error:
        # timm's renaming of older files takes the architecture for granted.
        raise ModelError(
            f"{path} holds weights of another architecture than {backbone}: "
            f"its tensor {error} has no place there"
        ) from error
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(state))
    reshaped = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if missing or reshaped:
        raise ModelError(
            f"{path} holds weights of another architecture than {backbone}: "
            f"{len(missing)} of {len(wanted)} tensors are missing ({', '.join(missing[:2])}), "
            f"{len(reshaped)} have another shape ({'; '.join(reshaped[:1])})"
        )
    network.load_state_dict({name: state[name] for name in wanted})


def _width(network: nn.Module, n_receivers: int, image_shape: tuple[int, int]) -> int:
    """Asked of the network itself, because its own word differs from family to family."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, n_receivers, *image_shape))
    network.train(was_training)
    return math.prod(features.shape[1:])


def _why_not(
    backbone: str,
    n_receivers: int,
    image_shape: tuple[int, int],
    weights: str | Path | None,
    error: Exception,
) -> str:
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    if weights == HUB:
        return (
            f"no pretrained weights of {backbone} from the hub ({first_line}); "
            f"give a local file as weights, or none to start from random ones"
        )
    return (
        f"backbone {backbone!r} cannot take {n_receivers} receivers of "
        f"{image_shape[0]} x {image_shape[1]}: {first_line}"
    )
