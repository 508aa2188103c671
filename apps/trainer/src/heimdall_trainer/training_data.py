"""From the catalogue to the three parts of a training run, and what was left out of them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_data import split_sessions
from heimdall_features import NormalizationStats
from heimdall_models import Region

from heimdall_trainer.arrival_choice import clocks_warning
from heimdall_trainer.errors import TrainerError
from heimdall_trainer.session_choice import choose_sessions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heimdall_data import Exclusion, HeimdallDataset, Split, Station
    from heimdall_data.dataset import UnusableRecording
    from heimdall_features import FeatureConfig

    from heimdall_trainer.connections import Connections
    from heimdall_trainer.training_config import TrainingConfig

__all__ = ["TrainingData", "load_training_data"]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a run trains, chooses and tests on, and how features and plane are defined."""

    receivers: tuple[Station, ...]
    """In channel order."""
    features: FeatureConfig
    region: Region
    stats: NormalizationStats
    """Of the training part alone."""
    train: HeimdallDataset
    validation: HeimdallDataset
    test: HeimdallDataset
    split: Split
    exclusions: tuple[Exclusion, ...]
    """Sessions that the catalogue approves of and that cannot be used."""
    unusable: tuple[UnusableRecording, ...]
    """Recordings left out of sessions that are used for the sake of their other receivers."""
    not_used: Mapping[str, int]
    """Sessions that the catalogue's own rules leave out, counted by reason."""


def load_training_data(config: TrainingConfig, connections: Connections) -> TrainingData:
    """Read the catalogue, prepare every session's features, and divide the sessions.

    Raises:
        TrainerError: There is no session to train on, or too many cannot be used.
        DataError: The catalogue or the object store cannot be read, or the split fails.
    """
    chosen = choose_sessions(config, connections)
    every = chosen.dataset
    usable, exclusions = every.prepare(workers=os.cpu_count() or 1, progress=sys.stderr.isatty())
    _refuse_too_many(exclusions, len(every), config.max_excluded)
    if every.arrivals and (warning := clocks_warning(usable.sessions_by_clocks)):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    split = split_sessions(
        usable.sessions, by=config.split_by, fractions=config.fractions, seed=config.seed
    )
    train = usable.subset(split.train)
    return TrainingData(
        receivers=chosen.receivers,
        features=every.config,
        region=Region.around(*np.transpose([s.position_deg for s in split.train])),
        stats=NormalizationStats.of(train[index]["features"] for index in range(len(train))),
        train=usable.subset(split.train, augment=config.augment),
        validation=usable.subset(split.validation),
        test=usable.subset(split.test),
        split=split,
        exclusions=tuple(exclusions),
        unusable=usable.unusable_recordings,
        not_used=chosen.not_used,
    )


def _refuse_too_many(exclusions: Sequence[Exclusion], total: int, most: float) -> None:
    if len(exclusions) > most * total:
        first = exclusions[0]
        raise TrainerError(
            f"{len(exclusions)} of {total} sessions cannot be used, more than --max_excluded "
            f"{most:g} allows; the first is {first.session_id}: {first.reason}"
        )
