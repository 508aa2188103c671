"""What the catalogue holds against sessions that are to be stored. Nothing here writes.

A name stands for one place, a session for the recordings that it was stored with, and a
recording for one session. What contradicts that is told with the line it comes from, as many
as are worth reading at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from heimdall_data.catalogue.queries import columns_present, object_address
from heimdall_data.errors import IngestError
from heimdall_data.ingest.checks import MAX_TOLD
from heimdall_data.ingest.new_session import measurement_id, session_id, source_id, station_id

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from psycopg import Connection

    from heimdall_data.ingest.new_session import NewRecording, NewSession
    from heimdall_data.ingest.recording_file import RecordingFile
    from heimdall_data.ingest.session_files import SessionFiles

    Place = Sequence[float | None]

__all__ = [
    "ConflictError",
    "Twin",
    "check_places",
    "check_recordings",
    "known_sessions",
    "named_places",
    "refuse_twins",
    "twins",
]

# Positions further apart than this are two places: about 100 m of latitude.
_SAME_PLACE_DEG = 0.001
REPAIR = "docs/data.md, Correcting what is stored"
_TASK = "substring({} FROM '(?:^|/)sessions/([^/]+)/')"
_STORED = """
SELECT m.id, m.iq_data_format, m.iq_sample_rate, m.iq_samples_count, m.frequency_hz, m.timestamp
FROM heimdall.measurements m WHERE {membership} = ANY(%s)
"""
# Hardly two recordings of a station agree in their mean level so well; the store knows for sure.
_TWINS = """
SELECT wanted.number, m.iq_data_location, s.session_name, src.name
FROM unnest(%(numbers)s::int[], %(ids)s::uuid[], %(stations)s::text[], %(samples)s::int[],
            %(levels)s::float8[]) AS wanted (number, id, station, samples, level)
JOIN heimdall.websdr_stations st ON st.name = wanted.station
JOIN heimdall.measurements m ON m.websdr_station_id = st.id AND m.id <> wanted.id
 AND m.iq_samples_count = wanted.samples
 AND m.signal_strength_db BETWEEN wanted.level - 1e-6 AND wanted.level + 1e-6
LEFT JOIN heimdall.recording_sessions s
  ON s.celery_task_id = substring(m.iq_data_location FROM '(?:^|/)sessions/([^/]+)/')
LEFT JOIN heimdall.known_sources src ON src.id = s.known_source_id
WHERE m.iq_data_location IS NOT NULL AND s.approval_status IS DISTINCT FROM 'rejected'
ORDER BY wanted.number, m.timestamp
"""


@dataclass(frozen=True, slots=True)
class _Named:
    """What comes under a name."""

    id: uuid.UUID
    """That ingestion gives to it, where the catalogue does not know the name."""
    place: Place
    where: str


class ConflictError(IngestError):
    """Sessions that contradict the catalogue: as many as are worth reading at once."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems[:MAX_TOLD])
        """Each with its line, if it has one."""
        n_more = len(problems) - len(self.problems)
        more = f"\n... and {n_more} more" if n_more else ""
        super().__init__("\n".join(self.problems) + more)
        self.summary = f"{len(problems)} conflicts with the catalogue; correct them"


@dataclass(frozen=True, slots=True)
class Twin:
    """A recording that another session seems to have already."""

    file: RecordingFile
    where: str
    bucket: str
    key: str
    session_name: str | None
    source_name: str | None

    def is_of(self, etag: str, size: int) -> bool:
        """Whether a stored object of that entity tag and size has the file's very content.

        Raises:
            IngestError: The file is no longer what was checked.
        """
        content = self.file.content()[0]
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        # Of an object that was sent in pieces the tag is no sum of its content.
        return size == len(content) and ("-" in etag or etag == md5)


def known_sessions(connection: Connection, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of `ids` that the catalogue has."""
    query = "SELECT id FROM heimdall.recording_sessions WHERE id = ANY(%s)"
    return {row[0] for row in connection.execute(query, (list(ids),))}


def check_places(connection: Connection, sessions: Sequence[NewSession]) -> None:
    """Refuse sessions whose source or station is in the catalogue at another place.

    Raises:
        ConflictError: it names both places, and the lines.
    """
    sources = {
        each.source.name: _Named(
            source_id(each.source),
            (each.source.latitude_deg, each.source.longitude_deg),
            each.where,
        )
        for each in sessions
    }
    stations = {
        item.station.name: _Named(
            station_id(item.station.name), item.station.position_deg, item.where
        )
        for each in sessions
        for item in each.measurements
    }
    told = [
        *_contradicting(connection, "known_sources", "source", sources),
        *_contradicting(connection, "websdr_stations", "station", stations),
    ]
    _refuse(told)


def named_places(connection: Connection, table: str, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Name, id, latitude and longitude of those of `names` that the table has."""
    query = "SELECT name, id, latitude, longitude FROM {} WHERE name = ANY(%s) ORDER BY name, id"
    statement = sql.SQL(query).format(sql.Identifier("heimdall", table))
    return connection.execute(statement, (names,)).fetchall()


def _contradicting(
    connection: Connection, table: str, kind: str, wanted: Mapping[str, _Named]
) -> Iterator[str]:
    """Names that the catalogue has at another place, or has given up for others."""
    missing = {named.id: name for name, named in wanted.items()}
    for name, _, *place in named_places(connection, table, list(wanted)):
        named = wanted[name]
        missing.pop(named.id, None)
        if not _is_one_place(place, named.place):
            yield (
                f"{_at(named.where)}{kind} {name!r} is in the catalogue at {place[0]}, {place[1]} "
                f"and comes now at {named.place[0]}, {named.place[1]}; correct the position, or "
                f"give it another name (if the catalogue's is wrong: {REPAIR})"
            )
    query = sql.SQL("SELECT id, name FROM {} WHERE id = ANY(%s)").format(
        sql.Identifier("heimdall", table)
    )
    for identity, name in connection.execute(query, (list(missing),)).fetchall():
        yield (
            f"{_at(wanted[missing[identity]].where)}{kind} {missing[identity]!r} is called "
            f"{name!r} in the catalogue now; use that name"
        )


def _is_one_place(one: Place, other: Place) -> bool:
    """Whether both are there and near, or both are not known."""
    return all(
        a is b is None or (a is not None and b is not None and abs(a - b) <= _SAME_PLACE_DEG)
        for a, b in zip(one, other, strict=True)
    )


def check_recordings(connection: Connection, sessions: Sequence[NewSession]) -> None:
    """Refuse to put other recordings into a session that the catalogue has.

    Its rows would go on telling of the former ones.

    Raises:
        ConflictError: it names what differs.
    """
    coming = {
        measurement_id(session_id(session), item.station.name): (session, item)
        for session in sessions
        for item in session.measurements
    }
    told: list[str] = []
    for identity, *stored in _stored(connection, [session_id(each) for each in sessions]):
        if identity in coming:
            told += _differences(*coming[identity], stored)
    _refuse(told)


def _stored(connection: Connection, ids: Sequence[uuid.UUID]) -> list[tuple[Any, ...]]:
    has_column = "recording_session_id" in columns_present(connection)["measurements"]
    membership = "m.recording_session_id" if has_column else _TASK.format("m.iq_data_location")
    values = list(ids) if has_column else [str(identity) for identity in ids]
    statement = sql.SQL(_STORED).format(membership=sql.SQL(membership))
    return connection.execute(statement, (values,)).fetchall()


def _differences(session: NewSession, item: NewRecording, stored: Sequence[Any]) -> Iterator[str]:
    names = ("format", "sample rate (Hz)", "number of samples", "frequency (Hz)", "start")
    coming = (
        item.format,
        round(item.sample_rate_hz),
        item.n_samples,
        round(item.frequency_hz),
        item.start or session.start,
    )
    for name, old, new in zip(names, stored, coming, strict=True):
        if old != new:
            yield (
                f"{_at(item.where)}station {item.station.name!r} of session {session.name!r} of "
                f"{session.source.name!r} is in the catalogue with {name} {old} and comes now "
                f"with {new}; give the session another name (if the catalogue's is wrong: {REPAIR})"
            )


def twins(connection: Connection, sessions: Iterable[SessionFiles]) -> list[Twin]:
    """Recordings that seem to be in another session already, which was not rejected.

    The catalogue tells by station, number of samples and level; the store can tell for sure.
    """
    pairs = [
        (session_id(each.announced), item, file)
        for each in sessions
        for item, file in zip(each.announced.measurements, each.files, strict=True)
        if item.signal_strength_db is not None
    ]
    parameters = {
        "numbers": list(range(len(pairs))),
        "ids": [measurement_id(session, item.station.name) for session, item, _ in pairs],
        "stations": [item.station.name for _, item, _ in pairs],
        "samples": [item.n_samples for _, item, _ in pairs],
        "levels": [item.signal_strength_db for _, item, _ in pairs],
    }
    return [
        Twin(pairs[number][2], pairs[number][1].where, *object_address(location, ""), *names)
        for number, location, *names in connection.execute(_TWINS, parameters)
    ]


def refuse_twins(found: Iterable[Twin]) -> None:
    """Refuse recordings that are in another session.

    Raises:
        ConflictError: it names file and session.
    """
    _refuse(
        f"{_at(_line(twin))}{twin.file.path.name} is stored already, in session "
        f"{twin.session_name!r} of {twin.source_name!r} (s3://{twin.bucket}/{twin.key}); one "
        f"transmission is one session: use that name, or reject that session first"
        for twin in found
    )


def _line(twin: Twin) -> str:
    """The line that it comes from; none where it is known by its file alone."""
    return "" if twin.where == str(twin.file.path) else twin.where


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _refuse(told: Iterable[str]) -> None:
    """End here if anything was told."""
    if told := list(told):
        raise ConflictError(told)
