"""Which parts of the backbone learn in which epoch.

Heads that start from nothing send noise into a pretrained backbone; so it may stay frozen until
they have settled, and then thaw from its last stage to its stem, as J. Howard and S. Ruder,
"Universal language model fine-tuning for text classification", ACL 2018, thaw theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from timm.models import group_parameters

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from heimdall_models.config import LocalizationConfig
    from heimdall_models.network import LocalizationNet


def set_learning(net: LocalizationNet, config: LocalizationConfig, epoch: int) -> None:
    """Freeze and thaw the stages of the backbone as they shall be in this epoch.

    A function of the epoch alone, so that a resumed run goes on as it would have.
    """
    stages = stages_of(net.backbone)
    n_learning = learning_stages(config, epoch, len(stages))
    if n_learning == 0:
        net.freeze()
        return
    net.unfreeze()
    parameters = dict(net.backbone.named_parameters())
    for name in [name for stage in stages[: len(stages) - n_learning] for name in stage]:
        parameters[name].requires_grad_(False)  # noqa: FBT003 - torch's stub takes no name
    for module in net.backbone.modules():
        _rest_if_frozen(module)


def learning_stages(config: LocalizationConfig, epoch: int, n_stages: int) -> int:
    """How many stages learn in an epoch, counted from the last."""
    if epoch < config.unfreeze_epoch:
        return 0
    if config.unfreeze_every == 0:
        return n_stages
    return min(1 + (epoch - config.unfreeze_epoch) // config.unfreeze_every, n_stages)


def stages_of(backbone: nn.Module) -> list[list[str]]:
    """Names of the parameters of each stage, from the stem on, as timm groups them."""
    matcher = getattr(backbone, "group_matcher", None)
    parameters = dict(backbone.named_parameters())
    if matcher is None:
        return [list(parameters)]
    groups = group_parameters(backbone, matcher(coarse=True))
    stages: list[list[str]] = []
    for names in (groups[key] for key in sorted(groups)):
        # A norm alone, as after the last blocks, is no stage worth some epochs.
        if stages and all(parameters[name].ndim == 1 for name in names):
            stages[-1] += names
        else:
            stages.append(list(names))
    return stages


def check_strategy(model: nn.Module | None) -> None:
    """Nothing, if a backbone can thaw under what wraps the model.

    Raises:
        ModelError: If it is a DistributedDataParallel that waits for every gradient.
    """
    if getattr(model, "find_unused_parameters", True):
        return
    raise ModelError(
        "a backbone that thaws while training has parameters without gradients, which this "
        "strategy waits for; use Lightning's strategy ddp_find_unused_parameters_true"
    )


def _rest_if_frozen(module: nn.Module) -> None:
    """No dropout and no running statistics where nothing learns."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
