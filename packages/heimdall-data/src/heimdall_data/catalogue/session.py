"""Recording sessions, their measurements, the stations, and filters on them.

Values read from Postgres, with the contract's names where it has any. Positions are degrees on
WGS84, latitude first; times are aware and in UTC. Names of stations are composed (see
`heimdall_features.names`), however they are stored.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from heimdall_data.errors import DataError


def _composed(name: str) -> str:
    from heimdall_features.names import composed  # loads NumPy, needless for --help

    return composed(name)


class FilterError(DataError):
    """Conditions that no session can meet, or that are not finite numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Conditions that must all hold; None is no condition.

    Those on measurements select measurements, and a session that keeps none is left out.

    Raises:
        FilterError: No session can meet them.
    """

    since: datetime | None = None
    """Only sessions that started then or later; UTC unless it says otherwise."""
    until: datetime | None = None
    """Only sessions that started before then."""
    lowest_hz: float | None = None
    """Only measurements at this carrier frequency or higher."""
    highest_hz: float | None = None
    """Only measurements at this carrier frequency or lower."""
    stations: tuple[str, ...] | None = None
    """Only measurements of these stations."""
    sources: tuple[str, ...] | None = None
    """Only sessions of these sources."""
    source_types: tuple[str, ...] | None = None
    """Only sessions of sources of these types."""
    min_snr_db: float | None = None
    """Only measurements with a stated SNR of at least this."""
    max_error_margin_m: float | None = None
    """Only sources whose position has a stated uncertainty of at most this."""

    def __post_init__(self) -> None:
        """Take times without a zone as UTC, and check the conditions."""
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                object.__setattr__(self, name, moment.replace(tzinfo=UTC))
        for low, high in (("since", "until"), ("lowest_hz", "highest_hz")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise FilterError(f"{low}={least} is above {high}={most}; nothing is between")
        for name in ("lowest_hz", "highest_hz", "min_snr_db", "max_error_margin_m"):
            if not math.isfinite(getattr(self, name) or 0.0):
                raise FilterError(f"{name}={getattr(self, name)} is not a finite number")
        for name in ("stations", "sources", "source_types"):
            for value in getattr(self, name) or ():
                if re.search("[\0\ud800-\udfff]", value):
                    raise FilterError(f"{name}: {value!r} is not text that a database can hold")

    def parameters(self) -> dict[str, object]:
        """Parameters of the query: the conditions by name, with lists for tuples."""
        from heimdall_features.names import spellings  # loads NumPy, needless for --help

        values = {name: getattr(self, name) for name in _SQL}
        return {
            name: [each for one in v for each in spellings(one)] if isinstance(v, tuple) else v
            for name, v in values.items()
        }

    def sql(self, *tables: str) -> str:
        """SQL of the conditions that are set, each after an AND, for `sessions_query`.

        Args:
            tables: Aliases of tables (`s`, `src`, `m`, `st`) whose conditions are wanted; none
                for all.
        """
        conditions = (sql for name, sql in _SQL.items() if getattr(self, name) is not None)
        return "".join(
            f"  AND {condition}\n"
            for condition in conditions
            if not tables or condition.partition(".")[0] in tables
        )


_SQL = {
    "since": "s.session_start >= %(since)s",
    "until": "s.session_start < %(until)s",
    "lowest_hz": "m.frequency_hz >= %(lowest_hz)s",
    "highest_hz": "m.frequency_hz <= %(highest_hz)s",
    "stations": "st.name = ANY(%(stations)s)",
    "sources": "src.name = ANY(%(sources)s)",
    "source_types": "src.source_type = ANY(%(source_types)s)",
    "min_snr_db": "m.snr_db >= %(min_snr_db)s",
    "max_error_margin_m": "src.error_margin_meters <= %(max_error_margin_m)s",
}


@dataclass(frozen=True, slots=True)
class Station:
    """A receiving station at a known place."""

    name: str
    """Name, unique in the catalogue."""
    latitude_deg: float
    """Degrees north, WGS84."""
    longitude_deg: float
    """Degrees east, WGS84."""
    altitude_m: float | None = None
    """Metres above sea level; None where the catalogue does not say."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _composed(self.name))

    @property
    def position_deg(self) -> tuple[float, float]:
        """Latitude and longitude, in degrees."""
        return (self.latitude_deg, self.longitude_deg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Recording of one station in one session, and where its samples are stored."""

    station: str
    """Name of the station."""
    station_deg: tuple[float, float]
    """Latitude and longitude of the station, in degrees."""
    bucket: str
    """Bucket of the object store."""
    key: str
    """Key of the object in the bucket."""
    format: str | None
    """`npy`, `sigmf`, `kiwi_wav`; None means `npy`."""
    sample_rate_hz: float | None
    """Rounded, as in the catalogue; the recording may state it exactly."""
    snr_db: float | None = None
    """Signal to noise as the backend measured it."""
    signal_strength_db: float | None = None
    """Level as the backend measured it."""
    frequency_hz: float | None = None
    """Frequency to which the receiver was tuned."""
    start: datetime | None = None
    """Aware time of the first sample, as the catalogue has it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "station", _composed(self.station))


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One transmission of a known source, recorded by several stations."""

    id: str
    """Identifier in the catalogue, a UUID."""
    session_name: str
    """Name that the backend or the operator gave."""
    source_id: str
    """Identifier of the transmitter in the catalogue."""
    source_name: str
    """Name of the transmitter."""
    position_deg: tuple[float, float]
    """Latitude and longitude of the transmitter, in degrees: the label. NaN if it is unknown, as
    in `Catalogue.unlocated_sessions` alone."""
    start: datetime
    """Aware time at which the recordings begin."""
    measurements: tuple[Measurement, ...]
    """Recordings of the session, one for each station."""
    source_type: str | None = None
    """Kind of transmitter, such as `beacon`; the catalogue's own word."""
    frequency_hz: float | None = None
    """Nominal carrier of the source."""
    error_margin_m: float | None = None
    """Uncertainty of the source's position, in metres."""
