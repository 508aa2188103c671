"""Data of a run: from the catalogue to the three parts of the split, with their features.

`heimdall train` and `heimdall cache build` choose sessions and features with the same function, so
that training finds what the cache has computed. Importing this module does not import torch.
"""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import heimdall_locate
import numpy as np
from heimdall_data import Catalogue, HeimdallDataset, choose_receivers, split_sessions
from heimdall_data.catalogue.approval import approved_since
from heimdall_data.split import dataset_fingerprint
from heimdall_features import ArrivalConfig, FeatureConfig, NormalizationStats
from heimdall_locate import Site
from heimdall_models import Region

from heimdall_trainer.errors import TrainerError, UsageError
from heimdall_trainer.events import LOGGER
from heimdall_trainer.provenance import provenance_of_source

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import Any

    from heimdall_data import Exclusion, Session, Split, Station
    from heimdall_data.catalogue.table import SessionTable
    from heimdall_data.dataset import UnusableRecording

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections

FEWEST_CLOCKS = 3
"""A position in the plane needs two time differences."""


def arrival_config(receivers: Sequence[Station], sample_rate_hz: float) -> ArrivalConfig:
    """Configuration of the arrival times at these receivers, as `heimdall locate` has it.

    Raises:
        TrainerError: There are too few for a position.
    """
    if len(receivers) < FEWEST_CLOCKS:
        names = ", ".join(station.name for station in receivers)
        raise TrainerError(
            f"--features mel+timing takes {FEWEST_CLOCKS} receivers or more, and {len(receivers)} "
            f"are chosen ({names}); raise --n_receivers, or use --features mel"
        )
    sites = [Site(each.name, *each.position_deg) for each in receivers]
    return heimdall_locate.arrival_config(sites, sample_rate_hz)


def clocks_warning(sessions_by_clocks: Mapping[int, int]) -> str | None:
    """Warning about sessions with too few locked clocks; None where at least half have enough.

    Args:
        sessions_by_clocks: Number of sessions, by their number of receivers with a locked clock.

    Raises:
        TrainerError: No session has enough.
    """
    total = sum(sessions_by_clocks.values())
    enough = sum(n for n_clocks, n in sessions_by_clocks.items() if n_clocks >= FEWEST_CLOCKS)
    found = (
        f"{enough} of {total} sessions have the {FEWEST_CLOCKS} receivers with a locked clock "
        "that a position from arrival times needs"
    )
    if total and not enough:
        raise TrainerError(
            f"{found}; use --features mel, or choose --receivers with GNSS clocks: recordings in "
            "KiwiSDR's WAV have them, NumPy files never do"
        )
    return f"{found}; the others are learned from levels" if 2 * enough < total else None


@dataclass(frozen=True, kw_only=True)
class ChosenSessions:
    """Sessions and their features, not computed yet."""

    sessions: SessionTable
    dataset: HeimdallDataset
    receivers: tuple[Station, ...]
    """In channel order."""
    not_used: Mapping[str, int]
    """Number of sessions that the catalogue's own rules leave out, by reason."""


@dataclass(frozen=True, kw_only=True)
class LoadedSessions:
    """Sessions with their features, and what was left out."""

    receivers: tuple[Station, ...]
    """In channel order."""
    features: FeatureConfig
    region: Region
    exclusions: tuple[Exclusion, ...]
    """Approved sessions that cannot be used."""
    unusable: tuple[UnusableRecording, ...]
    """Recordings left out of sessions whose other recordings are used."""
    not_used: Mapping[str, int]
    """Number of sessions that the catalogue's own rules leave out, by reason."""


@dataclass(frozen=True, kw_only=True)
class TrainingData(LoadedSessions):
    """Training, validation and test part of a run, with their features."""

    stats: NormalizationStats
    """Statistics of the training part alone."""
    train: HeimdallDataset
    validation: HeimdallDataset
    test: HeimdallDataset
    split: Split

    @property
    def sides(self) -> Mapping[str, Sequence[Session]]:
        """The sessions of each part."""
        return {side: getattr(self.split, side) for side in ("train", "validation", "test")}

    @property
    def described(self) -> Mapping[str, Any]:
        """How the sessions were divided, for a report."""
        return asdict(self.split.report)


@dataclass(frozen=True, kw_only=True)
class NewSessions(LoadedSessions):
    """Sessions approved since some time that a model's training has not used."""

    since: datetime
    dataset: HeimdallDataset
    n_known: int
    """Number of sessions approved since then that are left out, as the training used them."""

    @property
    def sides(self) -> Mapping[str, Sequence[Session]]:
        """The sessions, under one name."""
        return {"new": self.dataset.sessions}

    @property
    def described(self) -> Mapping[str, Any]:
        """How the sessions were chosen, for a report."""
        return {"approved_since": self.since.isoformat(), "left_out_as_known": self.n_known}


def cache_directory(connections: Connections) -> Path:
    """Directory of the computed features."""
    return connections.state_folder("features")


def choose_sessions(
    config: TrainingConfig, connections: Connections, *, shares: bool = False
) -> ChosenSessions:
    """Read the catalogue, and choose receivers and sample rate where the configuration does not.

    Args:
        config: Filter, receivers, rate, kind of features, seed and size of the cache are used.
        connections: Addresses of all servers.
        shares: Whether computed features are written to the shared cache too, if there is one.

    Raises:
        TrainerError: There is no such session or station, no sample rate, or too few receivers
            for timing.
        DataError: The catalogue cannot be read, or has no such receivers.
    """
    s3, only = connections.need_s3(), config.only
    with Catalogue(connections.need_database()) as catalogue:
        known = [station.name for station in catalogue.stations()]
        for name in [name for name in only.stations or () if known and name not in known]:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"--stations: the catalogue has no station {name!r}; {hint}")
        sessions = catalogue.sessions(only)
        not_used = catalogue.rejected_counts()
        if not sessions:
            asked = {name: value for name, value in only.parameters().items() if value is not None}
            such = f" with {asked}" if asked else ""
            raise TrainerError(
                f"the catalogue has no approved and completed session{such} (it has "
                f"{dict(not_used)}): approve some with `heimdall sessions approve`, store "
                "recordings with `heimdall ingest`, or try `heimdall demo`"
            )
        rate_hz = config.sample_rate_hz or next(iter(catalogue.sample_rates_hz(only)), None)
    if rate_hz is None:
        raise TrainerError("no measurement states its sample rate; give --sample_rate_hz")
    n_receivers = len(config.receivers) or config.n_receivers
    receivers = choose_receivers(sessions, n_receivers, config.receivers or None)
    features = FeatureConfig(
        receivers=tuple(station.name for station in receivers), sample_rate_hz=rate_hz
    )
    timing = config.features == "mel+timing"
    dataset = HeimdallDataset(
        sessions,
        features,
        s3,
        cache_dir=cache_directory(connections),
        seed=config.seed,
        cache_limit_bytes=int(config.cache_gb * 1e9),
        shared_cache=connections.shared_cache(writes=shares),
        arrivals=arrival_config(receivers, rate_hz) if timing else None,
    )
    return ChosenSessions(
        sessions=sessions, dataset=dataset, receivers=receivers, not_used=not_used
    )


def prepared(
    dataset: HeimdallDataset, config: TrainingConfig
) -> tuple[HeimdallDataset, tuple[Exclusion, ...]]:
    """Compute features; return the usable sessions, and the others with their reasons.

    Raises:
        TrainerError: Too many sessions cannot be used.
        DataError: The object store cannot be read.
    """
    usable, exclusions = dataset.prepare(workers=os.cpu_count() or 1, progress=sys.stderr.isatty())
    if len(exclusions) > config.max_excluded * len(dataset):
        first = exclusions[0]
        raise TrainerError(
            f"{len(exclusions)} of {len(dataset)} sessions cannot be used, more than "
            f"--max_excluded {config.max_excluded:g} allows; the first is {first.session_id}: "
            f"{first.reason}"
        )
    return usable, tuple(exclusions)


def load_training_data(config: TrainingConfig, connections: Connections) -> TrainingData:
    """Read the catalogue, prepare every session's features, and divide the sessions.

    Raises:
        TrainerError: There is no session to train on, or too many cannot be used.
        DataError: The catalogue or the object store cannot be read, or the split fails.
    """
    chosen = choose_sessions(config, connections)
    every = chosen.dataset
    usable, exclusions = prepared(every, config)
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
        exclusions=exclusions,
        unusable=usable.unusable_recordings,
        not_used=chosen.not_used,
    )


def load_new_sessions(
    config: TrainingConfig,
    connections: Connections,
    *,
    since: datetime,
    known: Collection[str],
    region: Region,
) -> NewSessions:
    """Read the catalogue, and prepare the features of sessions approved since some time.

    Args:
        config: As in `choose_sessions`.
        connections: Addresses of all servers.
        since: Time of the approval, or of the start where no approval is on record.
        known: Ids of sessions that are left out.
        region: Of the model that is to be evaluated.

    Raises:
        TrainerError, DataError: As for `choose_sessions` and `prepared`.
    """
    chosen = choose_sessions(config, connections)
    with Catalogue(connections.need_database()) as catalogue:
        approved = chosen.sessions.only(approved_since(catalogue, since))
    new = approved.without(known)
    usable, exclusions = prepared(chosen.dataset.subset(new), config)
    return NewSessions(
        since=since,
        receivers=chosen.receivers,
        features=chosen.dataset.config,
        region=region,
        dataset=usable,
        exclusions=exclusions,
        unusable=usable.unusable_recordings,
        not_used=chosen.not_used,
        n_known=len(approved) - len(new),
    )


def provenance_of(data: TrainingData | NewSessions) -> dict[str, str]:
    """Commit of the source, and fingerprints of the features and of the split."""
    return {
        **provenance_of_source(),
        "features.fingerprint": data.features.fingerprint,
        "dataset.fingerprint": dataset_fingerprint(data.sides),
    }
