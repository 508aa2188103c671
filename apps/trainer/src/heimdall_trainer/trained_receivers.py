"""Which receivers a checkpoint listens to: as many others are no error to its network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_models.checkpoint import tensors_and_text

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from heimdall_trainer.training_data import TrainingData

__all__ = ["RECEIVERS", "receivers_of", "require_receivers", "told_apart"]

RECEIVERS = "heimdall_receivers"
"""Key of a checkpoint: names, in channel order."""


def receivers_of(checkpoint: Path) -> tuple[str, ...] | None:
    """Names of the receivers, in channel order; None where the checkpoint does not say.

    Raises:
        ModelError: The file is absent, cut short, or no checkpoint.
    """
    contents = tensors_and_text(checkpoint)
    names = contents.get(RECEIVERS) if isinstance(contents, dict) else None
    return None if names is None else tuple(map(str, names))


def require_receivers(checkpoint: Path, data: TrainingData) -> None:
    """Refuse data of other receivers than a checkpoint's network listens to, as far as it says.

    Raises:
        TrainerError: They are others, or in another order.
        ModelError: The file is absent, cut short, or no checkpoint.
    """
    heard = receivers_of(checkpoint)
    here = tuple(station.name for station in data.receivers)
    if heard is not None and heard != here:
        raise told_apart(checkpoint.name, heard, here)


def told_apart(name: str, heard: Sequence[str], here: Sequence[str]) -> TrainerError:
    """The error of a network that listens to others than the data's receivers."""
    wanted = " ".join(f"'{receiver}'" for receiver in heard)
    return TrainerError(
        f"{name} listens to {', '.join(heard)}, and the data has {', '.join(here)}: "
        f"give --receivers {wanted}"
    )
