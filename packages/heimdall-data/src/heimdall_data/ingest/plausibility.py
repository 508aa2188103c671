"""Whether places, frequencies and times of a session can all be true.

Latitude and longitude exchanged, or kilohertz for hertz, make values that are as good as any,
and labels that are wrong for good. What the recordings themselves tell gives such mistakes
away: what cannot be is refused, and what may be right all the same is a doubt, to be told.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from heimdall_data.distance import great_circle_m
from heimdall_data.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from heimdall_data.catalogue.session import Station
    from heimdall_data.ingest.new_session import NewSession, NewSource
    from heimdall_data.ingest.recording_file import RecordingFile

__all__ = ["check_plausible", "doubts"]

FARTHEST_M = 3_000_000
"""Ground waves end far below; the ionosphere carries farther, mostly for nobody's good."""
LOWEST_HZ = 3_000
"""Where the very low frequencies begin: below, somebody has written kHz or MHz."""
UNITS = {1e3: "kHz", 1e6: "MHz"}
UNIT_TOLERANCE = 0.01
MOST_LATE_S = 900
"""Clocks are wrong by less, and time zones differ by more."""

NAMED_WITHIN_S = 1
"""Names of files tell whole seconds."""

Place = tuple[float, float]


def check_plausible(
    session: NewSession, files: Sequence[RecordingFile], *, allow_far: bool = False
) -> None:
    """Refuse a session of which something must be wrong.

    Args:
        session: What is said of it.
        files: What its recordings themselves tell, in the order of its measurements.
        allow_far: The source may be over 3,000 km from every station.

    Raises:
        IngestError: The source is implausibly far from all stations, its frequency is in
            another unit than a recording's own, or two recordings are one.
    """
    _check_different(files)
    if not allow_far:
        _check_near(session)
    for measurement, file in zip(session.measurements, files, strict=True):
        _check_unit(session.source, measurement.station.name, file)


def doubts(session: NewSession, files: Sequence[RecordingFile]) -> tuple[str, ...]:
    """What of the session is unlikely, each in a sentence that names the values.

    Args:
        session: One that `check_plausible` lets pass.
        files: As there.
    """
    named = [(m.station.name, f) for m, f in zip(session.measurements, files, strict=True)]
    return (
        *_stations_exchanged(session),
        *_frequency_doubts(session.source, named),
        *_time_doubts(session, named),
    )


def _check_different(files: Iterable[RecordingFile]) -> None:
    """Refuse a copy of one receiver's recording as another's; silence is alike everywhere."""
    seen: dict[bytes, RecordingFile] = {}
    for file in files:
        first = seen.setdefault(file.digest, file)
        if first.path.resolve() != file.path.resolve() and file.level_db is not None:
            raise IngestError(
                f"{file.path} holds the same bytes as {first.path}; two stations never record "
                f"alike: remove the copy"
            )


def _stations(session: NewSession) -> list[Station]:
    return [measurement.station for measurement in session.measurements]


def _place(source: NewSource) -> Place | None:
    if source.latitude_deg is None or source.longitude_deg is None:
        return None
    return source.latitude_deg, source.longitude_deg


def _check_near(session: NewSession) -> None:
    place, stations = _place(session.source), _stations(session)
    if place is None or not stations:
        return
    nearest = min(stations, key=lambda station: great_circle_m(place, station.position_deg))
    apart_m = great_circle_m(place, nearest.position_deg)
    if apart_m <= FARTHEST_M:
        return
    mistake = _mistake(place, [station.position_deg for station in stations])
    raise IngestError(
        f"source {session.source.name!r} at {place[0]}, {place[1]} is {apart_m / 1e3:.0f} km from "
        f"the nearest station, {nearest.name!r} at {nearest.latitude_deg}, "
        f"{nearest.longitude_deg}: {mistake or 'correct the wrong position'}; if it is right, "
        f"give --allow-far"
    )


def _mistake(place: Place, others: Iterable[Place]) -> str:
    """Which common mistake would explain that the place is far from all others."""
    north, east = place
    likely = {
        "latitude and longitude look exchanged": (east, north),
        "the longitude's sign looks wrong": (north, -east),
        "the latitude's sign looks wrong": (-north, east),
    }
    others = list(others)
    for mistake, meant in likely.items():
        possible = abs(meant[0]) <= 90
        if possible and min(great_circle_m(meant, other) for other in others) <= FARTHEST_M:
            return mistake
    return ""


def _stations_exchanged(session: NewSession) -> Iterator[str]:
    """Stations that are far from the source, and would be near but for a common mistake."""
    place = _place(session.source)
    if place is None:
        return
    for station in _stations(session):
        apart_m = great_circle_m(place, station.position_deg)
        mistake = _mistake(station.position_deg, [place]) if apart_m > FARTHEST_M else ""
        if mistake:
            yield (
                f"station {station.name!r} at {station.latitude_deg}, {station.longitude_deg} is "
                f"{apart_m / 1e3:.0f} km from the source: {mistake}"
            )


def _check_unit(source: NewSource, station: str, file: RecordingFile) -> None:
    """Refuse kHz or MHz beside Hz, which a factor of a thousand or a million gives away."""
    said, own = source.frequency_hz, file.center_frequency_hz
    if not said or not own or _holds(file, said):
        return
    smaller, larger = sorted((said, own))
    for factor, unit in UNITS.items():
        if abs(smaller * factor - larger) <= UNIT_TOLERANCE * larger:
            raise IngestError(
                f"the frequency of source {source.name!r} is {said:.12g} Hz, and the recording of "
                f"{station!r} says that it was made at {own:.12g} Hz ({file.path.name}): one of "
                f"them is in {unit}; give Hz"
            )


def _holds(file: RecordingFile, frequency_hz: float) -> bool:
    """Whether the frequency is in the band that was recorded, as far as the file tells."""
    own = file.center_frequency_hz
    return not own or abs(frequency_hz - own) <= file.sample_rate_hz / 2


def _frequency_doubts(
    source: NewSource, files: Sequence[tuple[str, RecordingFile]]
) -> Iterator[str]:
    said = source.frequency_hz
    for station, file in files:
        if said and not _holds(file, said):
            yield (
                f"the frequency of source {source.name!r} is {said:.12g} Hz, and the recording of "
                f"{station!r} is of {file.center_frequency_hz:.12g} Hz and "
                f"{file.sample_rate_hz / 2:.6g} Hz either side ({file.path.name})"
            )
    stated = [said, *(file.center_frequency_hz for _, file in files)]
    low = {frequency_hz for frequency_hz in stated if frequency_hz and frequency_hz < LOWEST_HZ}
    for frequency_hz in sorted(low):
        yield (
            f"a frequency of {frequency_hz:.12g} Hz is below {LOWEST_HZ} Hz; is it in kHz or MHz?"
        )


def _time_doubts(session: NewSession, files: Sequence[tuple[str, RecordingFile]]) -> Iterator[str]:
    if session.start > datetime.now(UTC) + timedelta(days=1):
        yield f"the session starts at {session.start:%Y-%m-%d %H:%M:%S %Z}, which is yet to come"
    began = {station: file.start for station, file in files if file.start is not None}
    for station, start in began.items():
        if abs((start - session.start).total_seconds()) > MOST_LATE_S:
            yield (
                f"the session starts at {session.start:%Y-%m-%d %H:%M:%S %Z}, and the recording of "
                f"{station!r} says {start:%Y-%m-%d %H:%M:%S %Z}"
            )
    ended = {
        station: began[station] + timedelta(seconds=file.duration_s + NAMED_WITHIN_S)
        for station, file in files
        if station in began
    }
    if not began:
        return
    last, first = max(began, key=began.__getitem__), min(ended, key=ended.__getitem__)
    if began[last] > ended[first]:
        yield (
            f"the recordings of {first!r} and {last!r} have no time in common; are they of one "
            f"session?"
        )
