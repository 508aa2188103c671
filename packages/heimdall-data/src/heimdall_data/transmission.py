"""Recordings of one transmission by several receivers, with the receivers' positions.

A position comes from a list that somebody wrote, from the recording itself (SigMF's
`core:geolocation`), from the file that kiwirecorder writes for each receiver, or from the
catalogue, in this order.

Source: github.com/jks-prv/kiwiclient, `kiwirecorder.py`, version 1.11: it writes `NAME.txt` into
the folder of its option `-d`, and without one into a folder `gnss_pos` if there is any.
"""

from __future__ import annotations

import difflib
import itertools
import math
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType
from typing import TYPE_CHECKING

from heimdall_features.clock import CLOCK_LIMIT_S

from heimdall_data.catalogue.session import Station
from heimdall_data.distance import great_circle_m
from heimdall_data.errors import DataError, IngestError, RecordingError
from heimdall_data.ingest.new_session import ProblemsError
from heimdall_data.ingest.plausibility import station_doubt
from heimdall_data.ingest.recording_file import (
    Details,
    read_recording,
    recording_paths,
    station_in_name,
)
from heimdall_data.recordings.gnss_pos import positions_from_gnss_pos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from heimdall_data.catalogue.session import Session
    from heimdall_data.recordings.recording import ReceiverPosition, Recording
    from heimdall_data.session_reader import SessionReader

FARTHEST_M = 5_000
"""A receiver's own position may be that of its town hall; beyond this, one of the two is wrong."""
SWAP_FACTOR = 5
"""A receiver that swapping its latitude and longitude brings this much nearer to the others is
doubtful: they stand within a region, and chance seldom puts a swapped place there."""
SWAP_LEAST_M = 100_000
"""Below this, receivers where latitude and longitude are nearly equal would be doubted."""
NOTHING_MORE = Details()
MOST_APART_HZ = 1_000
"""Carriers further apart are not compared: receivers of one transmission are tuned alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transmission:
    """Recordings of one transmission. Too different frequencies are an `IngestError`."""

    recordings: Mapping[str, Recording]
    """By station; levels may be compared even without a clock or a position."""
    stations: tuple[Station, ...]
    """Every station whose position is known."""
    unusable: Mapping[str, str]
    """Reason by station whose recording gives no time difference: no clock, or no position."""
    doubts: tuple[str, ...] = ()
    """Sentences on positions that are unlikely."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """By station, the file of its recording, if it is local."""

    def __post_init__(self) -> None:
        tuned = self._tuned_hz
        if tuned and max(tuned.values()) - min(tuned.values()) > MOST_APART_HZ:
            each = ", ".join(f"{name} to {hz:,.0f} Hz" for name, hz in tuned.items())
            raise IngestError(
                f"the recordings are not of one transmission: {each}; give those of one frequency"
            )

    @property
    def frequency_hz(self) -> float | None:
        """Frequency that the usable receivers are tuned to; None if no recording has it."""
        return median(self._tuned_hz.values()) if self._tuned_hz else None

    @property
    def _tuned_hz(self) -> dict[str, float]:
        return {
            name: one.center_frequency_hz
            for name, one in self.recordings.items()
            if one.center_frequency_hz is not None and name not in self.unusable
        }


def read_transmission(
    paths: Iterable[Path],
    listed: Sequence[Station] = (),
    *,
    catalogued: Callable[[], Iterable[Station]] = tuple,
    details: Details = NOTHING_MORE,
    warn: Callable[[str], object] = lambda _: None,
) -> Transmission:
    """Read one recording of each receiver.

    Names of stations are matched exactly, or else ignoring case. A file that cannot be read is
    left out, and its station, by the file's name, is unusable.

    Args:
        paths: Files, folders of files, and SigMF collections.
        listed: Stations of a list that somebody wrote, whose positions come first.
        catalogued: Gives the catalogue's stations; called if nothing else has a position, and
            `warn` is told.
        details: What the files do not state.
        warn: Called with a sentence if the list contradicts what a recording or the catalogue
            says, if the catalogue has a position that is used, or if a position is unlikely.

    Raises:
        IngestError: A path is missing, or the list has latitude and longitude swapped, or the
            names of two receivers.
        ProblemsError: Two files are of one receiver, or no file can be read.
    """
    files: dict[str, Path] = {}
    recordings: dict[str, Recording] = {}
    unreadable: dict[Path, str] = {}
    problems = []
    for path in recording_paths(paths):
        try:
            recording = read_recording(path, details)
        except DataError as error:
            unreadable[path] = str(error)
            continue
        name = recording.station or path.stem
        first = files.setdefault(name, path)
        if first != path:
            problems.append(f"{path} and {first} are both of {name!r}; give one of each receiver")
        recordings[name] = recording
    problems = [*unreadable.values(), *problems]
    if len(problems) > len(unreadable) or (problems and not recordings):
        raise ProblemsError(problems, f"{len(problems)} of the recordings cannot be used")
    stations: dict[str, Station] = {}
    own: dict[str, Station] = {}
    from_catalogue: list[str] = []
    unusable = {}
    for path, problem in unreadable.items():
        if (name := station_in_name(path)) in recordings:
            warn(f"left out: {problem}")
        else:
            unusable[name] = problem
    for name, recording in recordings.items():
        stated = find_station(name, listed)
        try:
            said = _own_station(name, files[name], recording)
        except RecordingError as error:
            if stated is None:
                unusable[name] = str(error)
                continue
            warn(f"{error}; the list is used")
            said = None
        if said is not None:
            own[name] = said
        station = stated or said
        if station is None and (station := find_station(name, catalogued())) is not None:
            from_catalogue.append(name)
        if station is not None:
            stations[name] = Station(name, *station.position_deg, station.altitude_m)
        else:
            near = difflib.get_close_matches(name, [each.name for each in listed], 1)
            line = f"add {name},latitude,longitude to the table of --stations"
            hint = f"the list has {near[0]!r}" if near else line
            unusable[name] = f"its position is unknown ({hint})"
        if problem := clock_problem(recording):
            unusable[name] = problem
    if from_catalogue:
        names = ", ".join(map(repr, from_catalogue))
        warn(f"the catalogue's positions are used where nothing else has one: {names}")
        for name in stations.keys() - from_catalogue:
            there = find_station(name, catalogued())
            if there is not None and _apart_m(stations[name], there) > FARTHEST_M:
                warn(
                    f"station {name!r} is at {_place_text(stations[name])} here and at "
                    f"{_place_text(there)} in the catalogue; the first is used"
                )
    for sentence in _disagreements(stations, own):
        warn(sentence)
    doubts = _doubts(stations, own)
    for doubt in doubts:
        warn(doubt)
    return Transmission(
        recordings=recordings,
        stations=tuple(stations.values()),
        unusable=unusable,
        doubts=doubts,
        files=files,
    )


def recorded_together(
    paths: Iterable[Path],
    details: Details = NOTHING_MORE,
    *,
    warn: Callable[[str], object] = lambda _: None,
) -> list[list[Path]]:
    """Divide recordings of several sessions into those that were made at the same time.

    Two belong together if they share half of the shorter one; of each receiver, there is one in a
    group. Recordings without a time are a group of their own. Files that cannot be read are left
    out, and `warn` is called with the reason.

    Raises:
        IngestError: A path is missing.
    """
    groups: list[tuple[int, int, dict[str, Path]]] = []
    undated: list[Path] = []
    spans = []
    for path in recording_paths(paths):
        try:
            recording = read_recording(path, details)
        except DataError as error:
            warn(f"left out: {error}")
            continue
        if recording.start_gps_ns is None:
            undated.append(path)
            continue
        end_ns = recording.start_gps_ns + round(1e9 * recording.duration_s)
        spans.append((recording.start_gps_ns, end_ns, recording.station or path.stem, path))
    for start_ns, end_ns, station, path in sorted(spans):
        for first_ns, last_ns, members in reversed(groups):
            shared_ns = min(end_ns, last_ns) - max(start_ns, first_ns)
            shorter_ns = min(end_ns - start_ns, last_ns - first_ns)
            if station not in members and 2 * shared_ns >= shorter_ns:
                members[station] = path
                break
        else:
            groups.append((start_ns, end_ns, {station: path}))
    together = [[*members.values()] for _, _, members in groups]
    return [*together, *([path] for path in undated)]


def transmission_of(session: Session, reader: SessionReader) -> Transmission:
    """Fetch the recordings of a session of the catalogue.

    Raises:
        StoreError: The store does not answer.
    """
    names = tuple(dict.fromkeys(measurement.station for measurement in session.measurements))
    places = {each.station: each.station_deg for each in session.measurements}
    read = reader.read(session, names)
    unusable = dict(read.unusable) | {
        name: problem
        for name, recording in read.usable.items()
        if (problem := clock_problem(recording))
    }
    stations = {name: Station(name, *places[name]) for name in names}
    return Transmission(
        recordings=read.usable,
        stations=tuple(stations.values()),
        unusable=unusable,
        doubts=_doubts(stations),
    )


def clock_problem(recording: Recording) -> str:
    """Reason why a recording is not fit for time differences; empty if it is."""
    if recording.clock_locked:
        return ""
    if recording.start_gps_ns is None:
        return "no GNSS lock, or no start in the file: the recording's time is unknown"
    if recording.start_from_name:
        return (
            "its time is from its name alone, in whole seconds; record again with --kiwi-wav, or "
            "with another clock"
        )
    if math.isinf(recording.clock_sigma_s):
        return "its time has no stated uncertainty; give it with --clock_uncertainty_s"
    return (
        f"its clock is uncertain by {recording.clock_sigma_s:g} s; time differences take "
        f"{CLOCK_LIMIT_S:g} s or less"
    )


def find_station(name: str, stations: Iterable[Station]) -> Station | None:
    """Return the station of this name, or else the only one that differs from it by case alone."""
    stations = tuple(stations)
    exact = [station for station in stations if station.name == name]
    near = [station for station in stations if station.name.casefold() == name.casefold()]
    found = exact or (near if len(near) == 1 else [])
    return found[0] if found else None


def _own_station(name: str, path: Path, recording: Recording) -> Station | None:
    """The receiver where its recording or kiwirecorder says that it is."""
    own = recording.position and Station(name, *recording.position)
    return own or find_station(name, _kiwirecorder_stations(path.parent, name))


def _disagreements(stations: Mapping[str, Station], own: Mapping[str, Station]) -> list[str]:
    """Sentences on stations that are far from where their recorders say that they are.

    Raises:
        IngestError: Two names are swapped, or a latitude and a longitude.
    """
    far = [name for name in own if _apart_m(stations[name], own[name]) > FARTHEST_M]
    for one, other in itertools.combinations(far, 2):
        pairs = ((stations[one], own[other]), (stations[other], own[one]))
        if all(_apart_m(*pair) <= FARTHEST_M for pair in pairs):
            raise IngestError(
                f"the names {one!r} and {other!r} are swapped in stations.csv: each is listed "
                f"where the recorder of the other says that it is"
            )
    return [_disagreement(stations[name], own[name]) for name in far]


def _apart_m(one: Station, other: Station) -> float:
    return great_circle_m(one.position_deg, other.position_deg)


def _doubts(
    stations: Mapping[str, Station], own: Mapping[str, Station] = MappingProxyType({})
) -> tuple[str, ...]:
    """Sentences on unlikely positions; one that its recorder confirms is not swapped."""
    places = {name: station.position_deg for name, station in stations.items()}
    found = (
        (name not in own and _swap_doubt(stations, name)) or station_doubt(name, places)
        for name in stations
    )
    return tuple(doubt for doubt in found if doubt)


def _swap_doubt(stations: Mapping[str, Station], name: str) -> str:
    """A sentence if swapping latitude and longitude brings a station to the others, or nothing."""
    here = stations[name].position_deg
    others = [each.position_deg for other, each in stations.items() if other != name]
    if len(others) < 2 or abs(here[1]) > 90:
        return ""
    first_deg = others[0][1]
    east_deg = median(math.remainder(at[1] - first_deg, 360) for at in others)
    middle = median(at[0] for at in others), first_deg + east_deg
    far_m, near_m = great_circle_m(here, middle), great_circle_m(here[::-1], middle)
    if far_m < SWAP_LEAST_M or SWAP_FACTOR * near_m > far_m:
        return ""
    return (
        f"station {name!r} is {far_m / 1000:,.0f} km from the middle of the others, and would be "
        f"{near_m / 1000:,.0f} km from it with latitude and longitude swapped; check its position"
    )


def _place_text(station: Station) -> str:
    return f"{station.latitude_deg:.4f}, {station.longitude_deg:.4f}"


def _kiwirecorder_stations(folder: Path, name: str) -> tuple[Station, ...]:
    """Stations of this name whose positions kiwirecorder stored; 0, 0 is an unset one."""
    found: dict[str, ReceiverPosition] = {}
    for place in (folder, folder / "gnss_pos"):
        if place.is_dir():
            found |= positions_from_gnss_pos(place, name)
    return tuple(Station(name, *at) for name, at in found.items() if at[:2] != (0.0, 0.0))


def _disagreement(listed: Station, own: Station) -> str:
    """A sentence on two positions of a station that are far apart."""
    apart_m = _apart_m(listed, own)
    here, there = map(_place_text, (listed, own))
    swapped = listed.position_deg[::-1]
    if great_circle_m(swapped, own.position_deg) <= FARTHEST_M:
        raise IngestError(
            f"station {listed.name!r} is listed at {here} and its recorder says {there}: latitude "
            "and longitude are swapped in the list"
        )
    return (
        f"station {listed.name!r} is listed at {here} and its recorder says {there}, "
        f"{apart_m / 1000:.0f} km away; the list is used"
    )
