"""Positions, frequencies and times of a session that are impossible or unlikely.

Exchanged coordinates, or kilohertz for hertz, give ordinary-looking values and wrong labels. The
recordings show such mistakes: impossible values are refused, unlikely ones become warnings.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError
from heimdall_data.ingest.new_session import SAME_PLACE_DEG, is_same_place
from heimdall_data.recordings.sigmf_emitter import known_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from heimdall_data.ingest.new_session import NewRecording, NewSession, NewSource
    from heimdall_data.ingest.recording_file import RecordingFile

    _Position = tuple[float, float]

_FARTHEST_M = 3_000_000
"""Ground waves end far below. The ionosphere carries farther, but that is rarely wanted."""
_LOWEST_HZ = 3_000
"""Lower end of the very low frequencies. A smaller number is probably in kHz or MHz."""
_UNITS = {1e3: "kHz", 1e6: "MHz"}
_UNIT_TOLERANCE = 0.01
_MOST_LATE_S = 900
"""Clocks are wrong by less, and time zones differ by more."""
_NAMED_WITHIN_S = 1
"""Names of files have whole seconds."""
_LARGEST_DB = 6
"""Twice the power of a recording whose I and Q are always at full scale."""
_SMALLEST_DB = -100
"""The rounding noise of a 16-bit converter."""


def copies(sessions: Iterable[NewSession]) -> Iterator[str]:
    """Describe recordings of sessions that have the same content as an earlier one."""
    seen: dict[bytes, tuple[NewRecording, RecordingFile]] = {}
    for item in (item for session in sessions for item in session.measurements):
        # All silent recordings of a length are the same.
        if item.file is not None and item.file.level_db is not None:
            first, first_file = seen.setdefault(item.file.samples_digest, (item, item.file))
            if first is not item:
                same = "bytes" if item.file.digest == first_file.digest else "samples"
                yield (
                    f"{item.where}: {item.file.path.name} has the same {same} as "
                    f"{first_file.path.name} in {first.where}; a recording is of one station and "
                    f"one session: remove one"
                )


def check_plausible(session: NewSession, *, allow_far: bool = False) -> None:
    """Refuse a session whose source has an impossible position or frequency.

    Raises:
        IngestError: The source is over 3,000 km from all stations and not `allow_far`, or its
            frequency is in another unit than a recording's.
    """
    source, at = session.source, _position(session.source)
    stations = [measurement.station for measurement in session.measurements]
    if at is not None and stations and not allow_far:
        nearest = min(stations, key=lambda station: great_circle_m(at, station.position_deg))
        apart_m = great_circle_m(at, nearest.position_deg)
        if apart_m > _FARTHEST_M:
            mistake = _mistake(at, [station.position_deg for station in stations])
            raise IngestError(
                f"source {source.name!r} at {at[0]}, {at[1]} is {apart_m / 1e3:.0f} km from the "
                f"nearest station, {nearest.name!r} at {nearest.latitude_deg}, "
                f"{nearest.longitude_deg}: {mistake or 'correct the wrong position'}; if it is "
                f"right, give --allow-far"
            )
    for station, file in _files(session):
        stated, own = source.frequency_hz, file.center_frequency_hz
        if not stated or not own or _is_in_band(stated, file):
            continue
        smaller, larger = sorted((stated, own))
        for factor, unit in _UNITS.items():
            if abs(smaller * factor - larger) <= _UNIT_TOLERANCE * larger:
                raise IngestError(
                    f"the frequency of source {source.name!r} is {stated:.12g} Hz, but that of "
                    f"the recording of {station!r} is {own:.12g} Hz ({file.path.name}); one of "
                    f"them is in {unit}: give Hz"
                )


def plausibility_warnings(session: NewSession) -> Iterator[str]:
    """Describe the unlikely values of a session that `check_plausible` accepts."""
    where = f"{session.where}: " if session.where else ""
    for found in (
        _doubted_stations,
        _doubted_annotations,
        _unlikely_frequencies,
        _unlikely_times,
        _unlikely_levels,
    ):
        for warning in found(session):
            yield f"{where}session {session.name!r} of {session.source.name!r}: {warning}"


def _files(session: NewSession) -> list[tuple[str, RecordingFile]]:
    return [(m.station.name, m.file) for m in session.measurements if m.file is not None]


def _position(source: NewSource) -> _Position | None:
    if source.latitude_deg is None or source.longitude_deg is None:
        return None
    return source.latitude_deg, source.longitude_deg


def _mistake(place: _Position, others: Sequence[_Position]) -> str:
    """The common mistake that would explain why a place is far from all others, or nothing."""
    north, east = place
    likely = {
        "latitude and longitude look exchanged": (east, north),
        "the longitude's sign looks wrong": (north, -east),
        "the latitude's sign looks wrong": (-north, east),
    }
    for mistake, meant in likely.items():
        possible = abs(meant[0]) <= 90
        if possible and min(great_circle_m(meant, other) for other in others) <= _FARTHEST_M:
            return mistake
    return ""


def _is_in_band(frequency_hz: float, file: RecordingFile) -> bool:
    """Return True if the frequency is in the recorded band, or the file has no frequency."""
    own = file.center_frequency_hz
    return not own or abs(frequency_hz - own) <= file.sample_rate_hz / 2


def _doubted_stations(session: NewSession) -> Iterator[str]:
    """Stations at 0, 0 or far from everything, and those that only a mistake makes far."""
    source_at = _position(session.source)
    stations = {item.station.name: item.station for item in session.measurements}
    places = {name: station.position_deg for name, station in stations.items()}
    for name, station in stations.items():
        if doubt := station_doubt(name, places, [source_at] if source_at else []):
            yield doubt
        elif source_at is not None:
            apart_m = great_circle_m(source_at, station.position_deg)
            mistake = _mistake(station.position_deg, [source_at]) if apart_m > _FARTHEST_M else ""
            if mistake:
                yield (
                    f"station {name!r} at {station.latitude_deg}, {station.longitude_deg} is "
                    f"{apart_m / 1e3:.0f} km from the source: {mistake}"
                )


def station_doubt(
    name: str, stations_deg: Mapping[str, _Position], others_deg: Sequence[_Position] = ()
) -> str:
    """Return a sentence if a station is at 0, 0, or over 3,000 km from every other place.

    Args:
        name: Of the station.
        stations_deg: Places of all stations, by name.
        others_deg: Further places that it may be near, such as the source's.
    """
    at = stations_deg[name]
    where = f"station {name!r} is at {at[0]}, {at[1]}"
    if max(map(abs, at)) < SAME_PLACE_DEG:
        return f"{where}, as one whose position was never set; check it"
    others = [place for other, place in stations_deg.items() if other != name]
    if not others:
        return ""
    others += others_deg
    apart_m = min(great_circle_m(at, other) for other in others)
    if apart_m <= _FARTHEST_M:
        return ""
    return (
        f"{where}, {apart_m / 1e3:.0f} km from the nearest of the others: "
        f"{_mistake(at, others) or 'check its position'}"
    )


def _doubted_annotations(session: NewSession) -> Iterator[str]:
    """The first annotation, if all of them place the source elsewhere, or have other labels."""
    name, source_at = session.source.name, _position(session.source)
    known = known_places((one for _, file in _files(session) for one in file.emitters), name)
    if not source_at or not known:
        return
    first = known[0]
    if not any(is_same_place(source_at, one.position_deg) for one in known):
        north, east = first.position_deg
        yield (
            f"the source is given at {source_at[0]}, {source_at[1]}, and {first.where} places "
            f"it at {north}, {east}; the given position is used"
        )
    elif all(one.label and one.label.casefold() != name.casefold() for one in known):
        yield f"{first.where} is of {first.label!r}; check that it is this source"


def _unlikely_frequencies(session: NewSession) -> Iterator[str]:
    stated = session.source.frequency_hz
    for station, file in _files(session):
        if stated and not _is_in_band(stated, file):
            yield (
                f"the source's frequency is {stated:.12g} Hz, but the recording of {station!r} is "
                f"of {file.center_frequency_hz:.12g} Hz and {file.sample_rate_hz / 2:.6g} Hz "
                f"either side ({file.path.name})"
            )
    all_hz = {stated, *(file.center_frequency_hz for _, file in _files(session))}
    for frequency_hz in sorted(value for value in all_hz if value and value < _LOWEST_HZ):
        yield f"a frequency of {frequency_hz:.12g} Hz is below {_LOWEST_HZ} Hz; is it kHz or MHz?"


def _unlikely_times(session: NewSession) -> Iterator[str]:
    start = f"the session starts at {session.start:%Y-%m-%d %H:%M:%S %Z}"
    if session.start > datetime.now(UTC) + timedelta(days=1):
        yield f"{start}, which is in the future"
    began: dict[str, datetime] = {}
    ended: dict[str, datetime] = {}
    for station, file in _files(session):
        if file.start is None:
            continue
        began[station] = file.start
        ended[station] = file.start + timedelta(seconds=file.duration_s + _NAMED_WITHIN_S)
        if abs((file.start - session.start).total_seconds()) > _MOST_LATE_S:
            yield f"{start}, but the recording of {station!r} at {file.start:%Y-%m-%d %H:%M:%S %Z}"
    last = max(began, key=began.__getitem__, default="")
    first = min(ended, key=ended.__getitem__, default="")
    if began and began[last] > ended[first]:
        yield f"recordings of {first!r} and {last!r} have no time in common; are they one session?"


def _unlikely_levels(session: NewSession) -> Iterator[str]:
    for station, file in _files(session):
        if file.level_db is None:
            yield f"the recording of {station!r} is silent, all zero ({file.path.name})"
        elif file.level_db > _LARGEST_DB:
            yield (
                f"the recording of {station!r} is {file.level_db:.0f} dB above full scale "
                f"({file.path.name}); is full_scale the converter's largest value?"
            )
        elif file.converted and file.converted.full_scale and file.level_db < _SMALLEST_DB:
            yield (
                f"the recording of {station!r} is {-file.level_db:.0f} dB below full scale after "
                f"division by {file.converted.full_scale:g} ({file.path.name}); was it scaled?"
            )
