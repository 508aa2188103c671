"""Any timm backbone by its name, as a trunk from receivers' spectrograms to one vector.

Source: R. Wightman, "PyTorch Image Models" (2019); ConvNeXt: Z. Liu et al., "A ConvNet for the
2020s", CVPR 2022.

Pretrained weights from a local file, for any number of receivers.

Only tensors are read: safetensors, or PyTorch files with `weights_only`. A stem that was trained
on three colours is repeated over the receivers and scaled so that its response keeps its size.
"""

from __future__ import annotations

import difflib
import inspect
import math
import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn


_WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model")
"""Under which key training scripts keep the weights, the averaged ones first."""


def state_dict_from_file(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors or PyTorch file.

    Raises:
        ModelError: If the file is absent, is neither, holds pickled code, or no tensors.
    """
    if not path.is_file():
        raise ModelError(f"no weights file at {path}")
    try:
        state = _read(path)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is neither safetensors nor PyTorch weights: {error}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors and is not loaded, because it could run code; "
            f"save its state_dict alone, best as safetensors"
        ) from error
    return _unwrapped(state, path)


def adapted(state: dict[str, Tensor], network: nn.Module, n_receivers: int) -> dict[str, Tensor]:
    """The weights with timm's renaming of older files, and the stem fitted to the receivers."""
    rename = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if rename is not None:
        both = len(inspect.signature(rename).parameters) > 1
        state = rename(state, network) if both else rename(state)
    first = getattr(network, "pretrained_cfg", {}).get("first_conv") or ()
    for name in (first,) if isinstance(first, str) else first:
        stem = state.get(f"{name}.weight")
        if stem is not None and stem.ndim == 4 and stem.shape[1] != n_receivers:
            state = {**state, f"{name}.weight": repeated_stem(stem, n_receivers)}
    return state


def unprefixed(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors without what a training script put before their names.

    Such as `module.` (several devices), `_orig_mod.` (compiled), `model.` (Lightning), or
    `net.backbone.` (our own checkpoints, whose other tensors are left out).

    Args:
        state: Named tensors.
        names: Those that the network would like to find.
    """
    wanted = set(names)
    if wanted & set(state):
        return state
    found = Counter(
        name[: -len(rest)] for name in state for rest in _endings(name) if rest in wanted
    )
    if not found:  # An older layout, whose names timm still has to change.
        return _without_shared_start(state)
    prefix = found.most_common(1)[0][0]
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _without_shared_start(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if len({name.partition(".")[0] for name in state}) > 1 or not all("." in n for n in state):
        return state
    return _without_shared_start({n.partition(".")[2]: value for n, value in state.items()})


def _endings(name: str) -> Iterator[str]:
    """What is left of a name from each of its dots on."""
    while "." in name:
        name = name.partition(".")[2]
        yield name


def repeated_stem(weight: Tensor, n_receivers: int) -> Tensor:
    """A stem's kernel `(out, channels, h, w)` for another number of channels.

    The channels are repeated in turn and scaled by old/new, so that equal inputs give the
    response that the trained stem gave to grey.
    """
    channels = weight.shape[1]
    repeats = -(-n_receivers // channels)
    cut = weight.repeat(1, repeats, 1, 1)[:, :n_receivers]
    return cut * (weight.sum(dim=1, keepdim=True) / cut.sum(dim=1, keepdim=True)).nan_to_num(1.0)


def hub_is_possible(backbone: str) -> None:
    """Nothing, if timm's hub has weights of this backbone.

    Raises:
        ModelError: If nobody published any; timm would go on with random ones.
    """
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    if config is None or not (config.hf_hub_id or config.url):
        raise ModelError(
            f"timm's hub has no pretrained weights of {backbone!r}; "
            f"give a local file as weights, or none to start from random ones"
        )


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    contents: object = torch.load(path, map_location="cpu", weights_only=True)
    return contents


def _unwrapped(state: object, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    tensors = isinstance(state, dict) and {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ModelError(f"{path} holds no named tensors, so no weights")
    return tensors


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
