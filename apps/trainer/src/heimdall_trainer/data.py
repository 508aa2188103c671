"""Data of a run: from the catalogue to the three parts of the split, with their features.

`heimdall train` and `heimdall cache build` both choose sessions and features here, so that the one
finds what the other has computed. Loads no torch.
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from heimdall_data import Catalogue, HeimdallDataset, choose_receivers, split_sessions
from heimdall_features import ArrivalConfig, FeatureConfig, NormalizationStats
from heimdall_models import Region

from heimdall_trainer.errors import TrainerError, UsageError
from heimdall_trainer.events import LOGGER
from heimdall_trainer.provenance import dataset_fingerprint, provenance_of_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from heimdall_data import Exclusion, SessionFilter, Split, Station
    from heimdall_data.dataset import UnusableRecording

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections

__all__ = [
    "FEWEST_CLOCKS",
    "ChosenSessions",
    "SessionChoice",
    "TrainingData",
    "arrival_config",
    "baseline_m",
    "cache_directory",
    "choose_sessions",
    "clocks_warning",
    "load_training_data",
    "provenance_of",
]


FEWEST_CLOCKS = 3
"""Two time differences: a position in the plane."""
_LEAST_M = 10_000.0
_MARGIN = 1.05
"""Stations are surveyed to some metres, clocks and paths are late by some microseconds."""
_STEP_M = 1_000.0
"""A station's position that is corrected by a metre must not leave a cache behind."""


def arrival_config(receivers: Sequence[Station], sample_rate_hz: float) -> ArrivalConfig:
    """How to measure arrivals at these receivers, over all that they record.

    Raises:
        TrainerError: They are too few for a position.
    """
    if len(receivers) < FEWEST_CLOCKS:
        names = ", ".join(station.name for station in receivers)
        raise TrainerError(
            f"--features mel+timing takes {FEWEST_CLOCKS} receivers or more, and {len(receivers)} "
            f"are chosen ({names}); raise --n_receivers, or use --features mel"
        )
    return ArrivalConfig(
        receivers=tuple(station.name for station in receivers),
        baseline_m=baseline_m(receivers),
        sample_rate_hz=sample_rate_hz,
    )


def baseline_m(receivers: Sequence[Station]) -> float:
    """The largest distance between two receivers along the ellipsoid, and a little more."""
    from pyproj import Geod

    places = [station.position_deg for station in receivers]
    ellipsoid = Geod(ellps="WGS84")
    farthest_m = max(
        float(ellipsoid.inv(east, north, other_east, other_north)[2])
        for (north, east), (other_north, other_east) in itertools.combinations(places, 2)
    )
    return max(_LEAST_M, math.ceil(_MARGIN * farthest_m / _STEP_M) * _STEP_M)


def clocks_warning(sessions_by_clocks: Mapping[int, int]) -> str | None:
    """What to tell of sessions that have too few clocks; None where most have enough.

    Args:
        sessions_by_clocks: How many sessions have how many receivers with a locked clock.

    Raises:
        TrainerError: Not one session has enough.
    """
    total = sum(sessions_by_clocks.values())
    enough = sum(n for n_clocks, n in sessions_by_clocks.items() if n_clocks >= FEWEST_CLOCKS)
    found = (
        f"{enough} of {total} sessions have the {FEWEST_CLOCKS} receivers with a locked clock "
        "that a position from arrival times takes"
    )
    if total and not enough:
        raise TrainerError(
            f"{found}; use --features mel, or choose --receivers with GNSS clocks: recordings in "
            "KiwiSDR's WAV have them, NumPy files never do"
        )
    return f"{found}; the others are learned from levels" if 2 * enough < total else None


class SessionChoice(Protocol):
    """What a command was told of the sessions and features it is to work on."""

    @property
    def only(self) -> SessionFilter:
        """Which sessions of the catalogue."""

    @property
    def features(self) -> Literal["mel", "mel+timing"]:
        """What a model sees of a session; timing is measured only where it is asked for."""

    @property
    def receivers(self) -> tuple[str, ...]:
        """Names in channel order; empty takes the `n_receivers` most often present."""

    @property
    def n_receivers(self) -> int:
        """How many, where none is named."""

    @property
    def sample_rate_hz(self) -> float | None:
        """To which every recording is brought; None takes the most common one."""

    @property
    def seed(self) -> int:
        """Of augmentation."""

    @property
    def cache_gb(self) -> float:
        """Most that the cache of features may take, in 1e9 bytes."""


@dataclass(frozen=True, kw_only=True)
class ChosenSessions:
    """Sessions with the features that a model sees of them, not computed yet."""

    dataset: HeimdallDataset
    receivers: tuple[Station, ...]
    """In channel order."""
    not_used: Mapping[str, int]
    """Sessions that the catalogue's own rules leave out, counted by reason."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The sessions that a run trains, chooses and tests on, with their features."""

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
    """Approved sessions that cannot be used."""
    unusable: tuple[UnusableRecording, ...]
    """Recordings left out of sessions whose other recordings are used."""
    not_used: Mapping[str, int]
    """Sessions that the catalogue's own rules leave out, counted by reason."""


def cache_directory(connections: Connections) -> Path:
    """Where computed features are kept."""
    return connections.state_directory() / "features"


def choose_sessions(
    choice: SessionChoice, connections: Connections, *, shares: bool = False
) -> ChosenSessions:
    """Read the catalogue, and choose receivers and sample rate where the caller did not.

    Args:
        choice: What the command was told.
        connections: Where everything is.
        shares: What is computed goes to the shared cache too, if there is one.

    Raises:
        TrainerError: There is no session to work on, no such station to choose by, no sample
            rate, or too few receivers for timing.
        DataError: The catalogue cannot be read, or has no such receivers.
    """
    s3 = connections.need_s3()
    with Catalogue(connections.need_database()) as catalogue:
        _require_known(choice.only, [station.name for station in catalogue.stations()])
        sessions = catalogue.sessions(choice.only)
        not_used = catalogue.rejected_counts()
        if not sessions:
            raise _no_session(choice.only, not_used)
        rate_hz = choice.sample_rate_hz or _commonest(catalogue.sample_rates_hz(choice.only))
    n_receivers = len(choice.receivers) or choice.n_receivers
    receivers = choose_receivers(sessions, n_receivers, choice.receivers or None)
    timing = choice.features == "mel+timing"
    features = FeatureConfig(
        receivers=tuple(station.name for station in receivers),
        sample_rate_hz=rate_hz,
    )
    dataset = HeimdallDataset(
        sessions,
        features,
        s3,
        cache_dir=cache_directory(connections),
        seed=choice.seed,
        cache_limit_bytes=int(choice.cache_gb * 1e9),
        shared_cache=connections.shared_cache(writes=shares),
        arrivals=arrival_config(receivers, rate_hz) if timing else None,
    )
    return ChosenSessions(dataset=dataset, receivers=receivers, not_used=not_used)


def _require_known(only: SessionFilter, known: Sequence[str]) -> None:
    """Refuse a misspelt station, which would choose fewer sessions than were meant.

    Raises:
        UsageError: The catalogue has other stations, and not this one.
    """
    for name in only.stations or ():
        if known and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"--stations: the catalogue has no station {name!r}; {hint}")


def _no_session(only: SessionFilter, not_used: Mapping[str, int]) -> TrainerError:
    asked = {name: value for name, value in only.parameters().items() if value is not None}
    such = f" with {asked}" if asked else ""
    return TrainerError(
        f"the catalogue has no approved and completed session{such} (it has {dict(not_used)}): "
        "approve some, store recordings with `heimdall ingest`, or try `heimdall demo`"
    )


def _commonest(rates_hz: Mapping[float, int]) -> float:
    if not rates_hz:
        raise TrainerError("no measurement states its sample rate; give --sample_rate_hz")
    return next(iter(rates_hz))


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
        LOGGER.warning("%s", warning)
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


def provenance_of(data: TrainingData) -> dict[str, str]:
    """The commit that runs, and which features and sessions there were."""
    return {
        **provenance_of_source(),
        "features.fingerprint": data.features.fingerprint,
        "dataset.fingerprint": dataset_fingerprint(
            {side: getattr(data.split, side) for side in ("train", "validation", "test")}
        ),
    }
