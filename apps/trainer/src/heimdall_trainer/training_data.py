"""From the catalogue to the three parts of a training run, and what was left out of them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_data import (
    Catalogue,
    HeimdallDataset,
    choose_receivers,
    split_sessions,
)
from heimdall_features import FeatureConfig, NormalizationStats
from heimdall_models import Region

from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heimdall_data import Exclusion, Split, Station
    from heimdall_data.dataset import UnusableRecording

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

    def describe(self) -> str:
        """One line: which receivers, how many sessions on each side, and how large the map is."""
        names = ", ".join(station.name for station in self.receivers)
        parts = [len(part) for part in (self.train, self.validation, self.test)]
        return (
            f"{names}; {parts[0]} sessions to train, {parts[1]} to validate, {parts[2]} to test; "
            f"region of {self.region.scale_m / 1000:.0f} km around "
            f"{self.region.latitude_deg:.3f}, {self.region.longitude_deg:.3f}"
        )


def load_training_data(config: TrainingConfig, connections: Connections) -> TrainingData:
    """Read the catalogue, prepare every session's features, and divide the sessions.

    Raises:
        TrainerError: There is no session to train on, or too many cannot be used.
        DataError: The catalogue or the object store cannot be read, or the split fails.
    """
    s3 = connections.need_s3()
    with Catalogue(connections.need_database()) as catalogue:
        sessions = catalogue.sessions(config.only)
        not_used = catalogue.not_used()
        rates_hz = catalogue.sample_rates_hz(config.only)
    if not sessions:
        raise _no_session(config, not_used)
    wanted = config.receivers or None
    n_receivers = len(config.receivers) or config.n_receivers
    receivers = choose_receivers(sessions, n_receivers, wanted)
    features = FeatureConfig(
        receivers=tuple(station.name for station in receivers),
        sample_rate_hz=config.sample_rate_hz or _commonest(rates_hz),
    )
    every = HeimdallDataset(
        sessions,
        features,
        s3,
        cache_dir=connections.state_directory() / "features",
        seed=config.seed,
    )
    usable, exclusions = every.prepare(workers=os.cpu_count() or 1, progress=sys.stderr.isatty())
    _refuse_too_many(exclusions, len(sessions), config.max_excluded)
    split = split_sessions(
        usable.sessions, by=config.split_by, fractions=config.fractions, seed=config.seed
    )
    train = usable.subset(split.train)
    return TrainingData(
        receivers=receivers,
        features=features,
        region=Region.around(*np.transpose([s.position_deg for s in split.train])),
        stats=NormalizationStats.of(train[index]["features"] for index in range(len(train))),
        train=usable.subset(split.train, augment=config.augment),
        validation=usable.subset(split.validation),
        test=usable.subset(split.test),
        split=split,
        exclusions=tuple(exclusions),
        unusable=usable.unusable_recordings,
        not_used=not_used,
    )


def _no_session(config: TrainingConfig, not_used: Mapping[str, int]) -> TrainerError:
    asked = {name: value for name, value in config.only.parameters().items() if value is not None}
    such = f" with {asked}" if asked else ""
    return TrainerError(
        f"the catalogue has no approved and completed session{such} (it has {dict(not_used)}): "
        "approve some, store recordings with `heimdall ingest`, or try `heimdall demo`"
    )


def _commonest(rates_hz: Mapping[float, int]) -> float:
    if not rates_hz:
        raise TrainerError("no measurement states its sample rate; give --sample_rate_hz")
    return next(iter(rates_hz))


def _refuse_too_many(exclusions: Sequence[Exclusion], total: int, most: float) -> None:
    if len(exclusions) > most * total:
        first = exclusions[0]
        raise TrainerError(
            f"{len(exclusions)} of {total} sessions cannot be used, more than --max_excluded "
            f"{most:g} allows; the first is {first.session_id}: {first.reason}"
        )
