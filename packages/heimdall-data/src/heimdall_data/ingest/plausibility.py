"""Places, frequencies and times of a session that cannot be true, or hardly.

Latitude and longitude exchanged, or kilohertz for hertz, make values that look as good as any,
and labels that are wrong. The recordings themselves give such mistakes away: impossible values
are refused, and unlikely ones become warnings.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from heimdall_data.ingest.new_session import NewSession, NewSource
    from heimdall_data.ingest.recording_file import RecordingFile

    _Place = tuple[float, float]

__all__ = ["check_plausible", "plausibility_warnings"]

_FARTHEST_M = 3_000_000
"""Ground waves end far below; the ionosphere carries farther, but such fixes are rarely wanted."""
_LOWEST_HZ = 3_000
"""Where the very low frequencies begin: a smaller number is probably in kHz or MHz."""
_UNITS = {1e3: "kHz", 1e6: "MHz"}
_UNIT_TOLERANCE = 0.01
_MOST_LATE_S = 900
"""Clocks are wrong by less, and time zones differ by more."""
_NAMED_WITHIN_S = 1
"""Names of files have whole seconds."""


def check_plausible(
    session: NewSession, files: Sequence[RecordingFile], *, allow_far: bool = False
) -> None:
    """Refuse a session with values that cannot be true.

    Args:
        session: The session.
        files: Its recordings, in the order of its measurements.
        allow_far: The source may be over 3,000 km from every station.

    Raises:
        IngestError: The source is implausibly far from all stations, its frequency is in
            another unit than a recording's own, or two recordings are one.
    """
    seen: dict[bytes, RecordingFile] = {}
    for file in files:
        first = seen.setdefault(file.digest, file)
        # Silence is alike everywhere.
        if first.path.resolve() != file.path.resolve() and file.level_db is not None:
            raise IngestError(
                f"{file.path} holds the same bytes as {first.path}; two stations never record "
                f"alike: remove the copy"
            )
    if not allow_far:
        _check_near(session)
    for measurement, file in zip(session.measurements, files, strict=True):
        _check_unit(session.source, measurement.station.name, file)


def plausibility_warnings(session: NewSession, files: Sequence[RecordingFile]) -> tuple[str, ...]:
    """Return the unlikely values of a session, each in a sentence.

    Args:
        session: One that `check_plausible` lets pass.
        files: Its recordings, in the order of its measurements.
    """
    named = [(m.station.name, f) for m, f in zip(session.measurements, files, strict=True)]
    return (
        *_exchanged_stations(session),
        *_unlikely_frequencies(session.source, named),
        *_unlikely_times(session, named),
    )


def _place(source: NewSource) -> _Place | None:
    if source.latitude_deg is None or source.longitude_deg is None:
        return None
    return source.latitude_deg, source.longitude_deg


def _check_near(session: NewSession) -> None:
    place = _place(session.source)
    stations = [measurement.station for measurement in session.measurements]
    if place is None or not stations:
        return
    nearest = min(stations, key=lambda station: great_circle_m(place, station.position_deg))
    apart_m = great_circle_m(place, nearest.position_deg)
    if apart_m > _FARTHEST_M:
        mistake = _mistake(place, [station.position_deg for station in stations])
        raise IngestError(
            f"source {session.source.name!r} at {place[0]}, {place[1]} is {apart_m / 1e3:.0f} km "
            f"from the nearest station, {nearest.name!r} at {nearest.latitude_deg}, "
            f"{nearest.longitude_deg}: {mistake or 'correct the wrong position'}; if it is right, "
            f"give --allow-far"
        )


def _mistake(place: _Place, others: Sequence[_Place]) -> str:
    """The common mistake that would explain why the place is far from all others, or nothing."""
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


def _exchanged_stations(session: NewSession) -> Iterator[str]:
    """Stations that are far from the source, and would be near but for a common mistake."""
    place = _place(session.source)
    if place is None:
        return
    for measurement in session.measurements:
        station = measurement.station
        apart_m = great_circle_m(place, station.position_deg)
        mistake = _mistake(station.position_deg, [place]) if apart_m > _FARTHEST_M else ""
        if mistake:
            yield (
                f"station {station.name!r} at {station.latitude_deg}, {station.longitude_deg} is "
                f"{apart_m / 1e3:.0f} km from the source: {mistake}"
            )


def _check_unit(source: NewSource, station: str, file: RecordingFile) -> None:
    """Refuse kHz or MHz beside Hz, which a factor of a thousand or a million gives away."""
    stated, own = source.frequency_hz, file.center_frequency_hz
    if not stated or not own or _is_in_band(stated, file):
        return
    smaller, larger = sorted((stated, own))
    for factor, unit in _UNITS.items():
        if abs(smaller * factor - larger) <= _UNIT_TOLERANCE * larger:
            raise IngestError(
                f"the frequency of source {source.name!r} is {stated:.12g} Hz, and the recording "
                f"of {station!r} says that it was made at {own:.12g} Hz ({file.path.name}): one "
                f"of them is in {unit}; give Hz"
            )


def _is_in_band(frequency_hz: float, file: RecordingFile) -> bool:
    """Whether the frequency is in the recorded band, if the file has its own."""
    own = file.center_frequency_hz
    return not own or abs(frequency_hz - own) <= file.sample_rate_hz / 2


def _unlikely_frequencies(
    source: NewSource, files: Sequence[tuple[str, RecordingFile]]
) -> Iterator[str]:
    stated = source.frequency_hz
    for station, file in files:
        if stated and not _is_in_band(stated, file):
            yield (
                f"the frequency of source {source.name!r} is {stated:.12g} Hz, and the recording "
                f"of {station!r} is of {file.center_frequency_hz:.12g} Hz and "
                f"{file.sample_rate_hz / 2:.6g} Hz either side ({file.path.name})"
            )
    all_hz: Iterable[float | None] = (stated, *(file.center_frequency_hz for _, file in files))
    for frequency_hz in sorted({value for value in all_hz if value and value < _LOWEST_HZ}):
        yield f"a frequency of {frequency_hz:.12g} Hz is below {_LOWEST_HZ} Hz; is it kHz or MHz?"


def _unlikely_times(
    session: NewSession, files: Sequence[tuple[str, RecordingFile]]
) -> Iterator[str]:
    if session.start > datetime.now(UTC) + timedelta(days=1):
        yield f"the session starts at {session.start:%Y-%m-%d %H:%M:%S %Z}, which is in the future"
    began = {station: file.start for station, file in files if file.start is not None}
    for station, start in began.items():
        if abs((start - session.start).total_seconds()) > _MOST_LATE_S:
            yield (
                f"the session starts at {session.start:%Y-%m-%d %H:%M:%S %Z}, and the recording of "
                f"{station!r} says {start:%Y-%m-%d %H:%M:%S %Z}"
            )
    if not began:
        return
    ended = {
        station: began[station] + timedelta(seconds=file.duration_s + _NAMED_WITHIN_S)
        for station, file in files
        if station in began
    }
    last, first = max(began, key=began.__getitem__), min(ended, key=ended.__getitem__)
    if began[last] > ended[first]:
        yield (
            f"the recordings of {first!r} and {last!r} have no time in common; are they of one "
            f"session?"
        )
