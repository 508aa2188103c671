"""Any timm backbone by its name, as a trunk from receivers' spectrograms to one vector.

Pretrained weights fit any number of receivers: a stem that was trained on three colours is repeated
over the receivers. Only tensors are read: safetensors, or PyTorch files with `weights_only`.

Source: R. Wightman, "PyTorch Image Models" (2019); ConvNeXt: Z. Liu et al., "A ConvNet for the
2020s", CVPR 2022.
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
from safetensors import SafetensorError
from safetensors.torch import load_file

from heimdall_models.config import HUB
from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model")
"""Keys under which training scripts keep the weights, averaged ones first."""


def trunk(
    backbone: str,
    n_receivers: int,
    image_shape: tuple[int, int],
    *,
    weights: str | Path | None = None,
    drop_path: float = 0.0,
) -> tuple[nn.Module, int]:
    """A timm network without its classifier, and the width of the vector that it returns.

    Arguments as of `LocalizationNet`; an image is mel bands by frames.

    Raises:
        ModelError: If timm knows no such backbone, it cannot take such an input, or the weights
            cannot be read or do not fit. Weights are never silently random.
    """
    architecture = backbone.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() has their names"
        raise ModelError(f"timm knows no backbone {backbone!r}; {hint}")
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    instead = "give a local file as weights, or none to start from random ones"
    if weights == HUB and (config is None or not (config.hf_hub_id or config.url)):
        # timm would carry on with random weights.
        raise ModelError(f"timm's hub has no pretrained weights of {backbone!r}; {instead}")
    # timm refuses arguments that a backbone does not know.
    optional: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if config is not None and config.fixed_input_size:
        optional["img_size"] = image_shape
    try:
        network = timm.create_model(
            backbone, pretrained=weights == HUB, in_chans=n_receivers, num_classes=0, **optional
        )
    except Exception as error:
        # timm, the hub's client and the network may raise anything; the cause is chained.
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"no pretrained weights of {backbone} from the hub ({first_line}); {instead}"
            if weights == HUB
            else f"backbone {backbone!r} cannot take {n_receivers} receivers of "
            f"{image_shape[0]} x {image_shape[1]}: {first_line}"
        ) from error
    if weights is not None and weights != HUB:
        _load(network, backbone, n_receivers, Path(weights))
    # Families differ in what they report as their width, so it is measured.
    was_training = network.training
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, n_receivers, *image_shape))
    network.train(was_training)
    return network, math.prod(features.shape[1:])


def repeated_stem(weight: Tensor, n_receivers: int) -> Tensor:
    """A stem's kernel `(out, channels, h, w)` for another number of channels.

    The channels are repeated in turn and scaled so that equal inputs give the response to grey.
    """
    repeats = -(-n_receivers // weight.shape[1])
    cut = weight.repeat(1, repeats, 1, 1)[:, :n_receivers]
    return cut * (weight.sum(dim=1, keepdim=True) / cut.sum(dim=1, keepdim=True)).nan_to_num(1.0)


def _load(network: nn.Module, backbone: str, n_receivers: int, path: Path) -> None:
    """Load a file's weights, all of them or none."""
    wanted = network.state_dict()
    another = f"{path} holds weights of another architecture than {backbone}"
    try:
        state = _adapted(_unprefixed(_named_tensors(path), set(wanted)), network, n_receivers)
    except (KeyError, IndexError, RuntimeError) as error:
        # timm's renaming of older files takes the architecture for granted.
        raise ModelError(f"{another}: its tensor {error} does not belong there") from error
    wrong = [n for n in wanted if n not in state or state[n].shape != wanted[n].shape]
    if wrong:
        raise ModelError(
            f"{another}: {len(wrong)} of {len(wanted)} tensors are missing or have another shape "
            f"({', '.join(wrong[:2])})"
        )
    network.load_state_dict({name: state[name] for name in wanted})


def _named_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors or PyTorch file."""
    if not path.is_file():
        raise ModelError(f"no weights file at {path}")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} is neither safetensors nor PyTorch weights: {error}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors and is not loaded, because it could run code; "
            f"save its state_dict alone, best as safetensors"
        ) from error
    if isinstance(state, dict):
        state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), state)
    entries = state.items() if isinstance(state, dict) else ()
    tensors = {
        name: value
        for name, value in entries
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ModelError(f"{path} holds no named tensors, so no weights")
    return tensors


def _unprefixed(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The tensors without prefixes such as `module._orig_mod.` or our own `net.backbone.`."""
    if wanted & set(state):
        return state
    ends = [(name, at + 1) for name in state for at, letter in enumerate(name) if letter == "."]
    prefixes = Counter(name[:end] for name, end in ends if name[end:] in wanted)
    if prefixes:
        prefix = prefixes.most_common(1)[0][0]
        return {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
    # An older layout, which timm renames later: drop first parts that all names share.
    while all("." in name for name in state) and len({n.partition(".")[0] for n in state}) == 1:
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def _adapted(state: dict[str, Tensor], network: nn.Module, n_receivers: int) -> dict[str, Tensor]:
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
