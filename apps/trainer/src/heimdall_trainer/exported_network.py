"""The network that a checkpoint's model file holds: of spectrograms alone, or with times beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_models import LocalizationModule
from heimdall_models.serving import ServingNet, TimedServingNet
from heimdall_models.timing_checkpoint import load_timing, timing_sites

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from pathlib import Path

    from heimdall_trainer.training_config import TrainingConfig
    from heimdall_trainer.training_data import TrainingData

__all__ = ["exported_network", "require_same_features"]


def exported_network(checkpoint: Path, data: TrainingData) -> ServingNet | TimedServingNet:
    """What to export of a checkpoint, in evaluation mode.

    Raises:
        ModelError: The checkpoint is not one of ours.
        TrainerError: The model listens to other receivers than the data has, or takes arrival
            times that the data has not.
    """
    module = LocalizationModule.load(checkpoint)
    _require_same_receivers(module, data)
    timing = load_timing(checkpoint, module.region)
    _require_same_order(checkpoint, data)
    if timing is None:
        return module.serving_net()
    return TimedServingNet(module.serving_net(), timing).eval()


def require_same_features(config: TrainingConfig) -> None:
    """Refuse to export a checkpoint with other features than it was trained on.

    Raises:
        TrainerError: `--features` and the checkpoint differ.
        ModelError: The checkpoint is not one of ours.
    """
    if config.checkpoint is None:
        return
    found = "mel" if timing_sites(config.checkpoint) is None else "mel+timing"
    if found != config.features:
        raise TrainerError(
            f"{config.checkpoint} was trained with --features {found}, and --features is "
            f"{config.features}; give --features {found}, or the checkpoint of another run"
        )


def _require_same_receivers(module: LocalizationModule, data: TrainingData) -> None:
    if module.config.n_receivers != len(data.receivers):
        names = ", ".join(station.name for station in data.receivers)
        raise TrainerError(
            f"the checkpoint listens to {module.config.n_receivers} receivers, and the data has "
            f"{len(data.receivers)} ({names}): give the --receivers it was trained with"
        )


def _require_same_order(checkpoint: Path, data: TrainingData) -> None:
    """A network of times knows where each of its receivers stands."""
    sites = timing_sites(checkpoint)
    here = [station.name for station in data.receivers]
    if sites is not None and [site.name for site in sites] != here:
        names = " ".join(f"'{site.name}'" for site in sites)
        raise TrainerError(
            f"the checkpoint takes arrival times of other receivers than {', '.join(here)}, or of "
            f"these in another order: give --receivers {names}"
        )
