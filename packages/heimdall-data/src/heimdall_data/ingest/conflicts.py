"""Contradictions between sessions that are to be stored and the catalogue. Nothing here writes.

A name stands for one place, a session for the recordings that it was stored with, and a
recording for one session.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from heimdall_data.catalogue.queries import columns_present, object_address
from heimdall_data.ingest.new_session import (
    SAME_PLACE_DEG,
    ProblemsError,
    measurement_id,
    session_id,
    source_id,
    station_id,
)

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Iterator, Sequence

    from psycopg import Connection

    from heimdall_data.ingest.new_session import NewRecording, NewSession
    from heimdall_data.ingest.recording_file import RecordingFile
    from heimdall_data.ingest.session_files import SessionFiles

    _Place = Sequence[float | None]
    # By name: the id that ingestion gives, the place, and the line it comes from.
    _Named = dict[str, tuple[uuid.UUID, _Place, str]]

__all__ = [
    "ConflictError",
    "Twin",
    "check_places",
    "check_recordings",
    "find_twins",
    "known_sessions",
    "named_places",
    "refuse_twins",
]

_REPAIR = "docs/data.md, Correcting what is stored"
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


class ConflictError(ProblemsError):
    """Sessions that contradict the catalogue."""


def known_sessions(connection: Connection, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Return those of `ids` that the catalogue has."""
    query = "SELECT id FROM heimdall.recording_sessions WHERE id = ANY(%s)"
    return {row[0] for row in connection.execute(query, (list(ids),))}


def named_places(connection: Connection, table: str, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return name, id, latitude and longitude of those of `names` that the table has."""
    query = "SELECT name, id, latitude, longitude FROM {} WHERE name = ANY(%s) ORDER BY name, id"
    statement = sql.SQL(query).format(sql.Identifier("heimdall", table))
    return connection.execute(statement, (names,)).fetchall()


def check_places(connection: Connection, sessions: Sequence[NewSession]) -> None:
    """Refuse sessions whose source or station is in the catalogue at another place.

    Raises:
        ConflictError: Each problem has both places, and the line.
    """
    sources: _Named = {
        each.source.name: (
            source_id(each.source),
            (each.source.latitude_deg, each.source.longitude_deg),
            each.where,
        )
        for each in sessions
    }
    stations: _Named = {
        item.station.name: (station_id(item.station.name), item.station.position_deg, item.where)
        for each in sessions
        for item in each.measurements
    }
    _refuse(
        [
            *_misplaced(connection, "known_sources", "source", sources),
            *_misplaced(connection, "websdr_stations", "station", stations),
        ]
    )


def _misplaced(connection: Connection, table: str, kind: str, wanted: _Named) -> Iterator[str]:
    """Names that the catalogue has at another place, or has given up for others."""
    missing = {identity: name for name, (identity, _, _) in wanted.items()}
    for name, _, *stored in named_places(connection, table, list(wanted)):
        identity, place, where = wanted[name]
        missing.pop(identity, None)
        # A place that both do not know is the same.
        same = all(
            a is b is None or (a is not None and b is not None and abs(a - b) <= SAME_PLACE_DEG)
            for a, b in zip(stored, place, strict=True)
        )
        if not same:
            yield (
                f"{_at(where)}{kind} {name!r} is in the catalogue at {stored[0]}, {stored[1]} "
                f"and comes now at {place[0]}, {place[1]}; correct the position, or "
                f"give it another name (if the catalogue's is wrong: {_REPAIR})"
            )
    query = sql.SQL("SELECT id, name FROM {} WHERE id = ANY(%s)")
    statement = query.format(sql.Identifier("heimdall", table))
    for identity, name in connection.execute(statement, (list(missing),)).fetchall():
        former = missing[identity]
        yield (
            f"{_at(wanted[former][2])}{kind} {former!r} is called {name!r} in the catalogue now; "
            f"use that name"
        )


def check_recordings(connection: Connection, sessions: Sequence[NewSession]) -> None:
    """Refuse to put other recordings into a session that the catalogue has.

    The catalogue's rows would still describe the former ones.

    Raises:
        ConflictError: Each problem names a value that differs.
    """
    coming = {
        measurement_id(session_id(session), item.station.name): (session, item)
        for session in sessions
        for item in session.measurements
    }
    ids: list[Any] = [session_id(session) for session in sessions]
    membership = "m.recording_session_id"
    if "recording_session_id" not in columns_present(connection)["measurements"]:
        membership = "substring(m.iq_data_location FROM '(?:^|/)sessions/([^/]+)/')"
        ids = [str(identity) for identity in ids]
    statement = sql.SQL(_STORED).format(membership=sql.SQL(membership))
    problems: list[str] = []
    for identity, *stored in connection.execute(statement, (ids,)).fetchall():
        if identity in coming:
            problems += _differences(*coming[identity], stored)
    _refuse(problems)


def _differences(session: NewSession, item: NewRecording, stored: Sequence[Any]) -> Iterator[str]:
    coming = {
        "format": item.format,
        "sample rate (Hz)": round(item.sample_rate_hz),
        "number of samples": item.n_samples,
        "frequency (Hz)": round(item.frequency_hz),
        "start": item.start or session.start,
    }
    for (name, new), old in zip(coming.items(), stored, strict=True):
        if old != new:
            yield (
                f"{_at(item.where)}station {item.station.name!r} of session {session.name!r} of "
                f"{session.source.name!r} is in the catalogue with {name} {old} and comes now "
                f"with {new}; give the session another name (if the catalogue's is wrong: "
                f"{_REPAIR})"
            )


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
            IngestError: The file changed since it was checked.
        """
        content = self.file.content()[0]
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        # The tag of an object that was sent in pieces is not a sum of its content.
        return size == len(content) and ("-" in etag or etag == md5)


def find_twins(connection: Connection, sessions: Iterable[SessionFiles]) -> list[Twin]:
    """Return recordings that seem to be in another session already, which was not rejected.

    The catalogue compares station, number of samples and level; the store can tell for sure.
    """
    pairs = [
        (session_id(each.outline), item, file)
        for each in sessions
        for item, file in zip(each.outline.measurements, each.files, strict=True)
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
        ConflictError: Each problem names file and session.
    """
    _refuse(
        [
            # Without a manifest, the file itself is where it comes from.
            f"{_at(twin.where if twin.where != str(twin.file.path) else '')}"
            f"{twin.file.path.name} is stored already, in session {twin.session_name!r} of "
            f"{twin.source_name!r} (s3://{twin.bucket}/{twin.key}); one transmission is one "
            f"session: use that name, or reject that session first"
            for twin in found
        ]
    )


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise ConflictError(problems, f"{len(problems)} conflicts with the catalogue; correct them")
