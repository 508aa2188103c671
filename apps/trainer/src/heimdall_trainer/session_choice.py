"""Which sessions a run works on, and how their features are made.

`heimdall train` and `heimdall cache build` both ask here, so that the one finds what the other
has computed. Loads no torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from heimdall_data import Catalogue, HeimdallDataset, choose_receivers
from heimdall_features import FeatureConfig

from heimdall_trainer.arrival_choice import arrival_config
from heimdall_trainer.errors import TrainerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from heimdall_data import SessionFilter, Station

    from heimdall_trainer.connections import Connections

__all__ = ["ChosenSessions", "SessionChoice", "cache_directory", "choose_sessions"]


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
        not_used = catalogue.not_used()
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
