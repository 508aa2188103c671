"""Contradictions between sessions to be stored and the catalogue; nothing is written here.

A name stands for one place, a session for the recordings that it was stored with, and a
recording for one session.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from heimdall_features.names import composed, spellings
from psycopg import sql

from heimdall_data.catalogue.queries import columns_present, object_address
from heimdall_data.errors import (
    BucketUnusable,
    ObjectMissing,
    ObjectUnreadable,
    RecordingError,
)
from heimdall_data.ingest.new_session import (
    ProblemsError,
    is_same_place,
    measurement_id,
    name_id,
    session_id,
)
from heimdall_data.ingest.recording_file import samples_digest
from heimdall_data.object_store.store import ObjectStore
from heimdall_data.recordings.decode import decode

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from psycopg import Connection

    from heimdall_data.catalogue.catalogue import Catalogue
    from heimdall_data.ingest.new_session import NewSession

    # Latitude, longitude and line, by name.
    _Placed = dict[str, tuple[float | None, float | None, str]]

_REPAIR = "docs/data.md, Correcting what is stored"
_STORED = """
SELECT m.id, m.iq_data_format, m.iq_sample_rate, m.iq_samples_count, m.frequency_hz, m.timestamp
FROM heimdall.measurements m WHERE {membership} = ANY(%s)
"""
# Two recordings of a station hardly ever have the same mean level; the object store decides.
_TWINS = """
SELECT wanted.number, s.session_name, src.name, m.iq_data_location, m.iq_data_format,
 m.iq_sample_rate, m.timestamp
FROM unnest(%s::int[], %s::uuid[], %s::text[], %s::text[], %s::int[], %s::float8[])
     AS wanted (number, id, station, decomposed, samples, level)
JOIN heimdall.websdr_stations st ON st.name IN (wanted.station, wanted.decomposed)
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


def known_sessions(connection: Connection, sessions: Iterable[NewSession]) -> set[uuid.UUID]:
    """Return the ids of those sessions that are in the catalogue."""
    query = "SELECT id FROM heimdall.recording_sessions WHERE id = ANY(%s)"
    return {row[0] for row in connection.execute(query, ([*map(session_id, sessions)],))}


def named_places(
    connection: Connection, table: str, names: Sequence[str], ids: Sequence[uuid.UUID] = ()
) -> list[tuple[Any, ...]]:
    """Return name, id, latitude and longitude of rows with one of the names or ids.

    Names are composed (see `heimdall_features.names`), however they are stored.
    """
    spelt = [each for name in names for each in spellings(name)]
    query = "SELECT name, id, latitude, longitude FROM {} WHERE name = ANY(%s) OR id = ANY(%s)"
    statement = sql.SQL(query + " ORDER BY name, id").format(sql.Identifier("heimdall", table))
    rows = connection.execute(statement, (spelt, list(ids))).fetchall()
    return [(name and composed(name), *rest) for name, *rest in rows]


def check_places(connection: Connection, sessions: Sequence[NewSession]) -> None:
    """Refuse sessions whose source or station is elsewhere in the catalogue (`ConflictError`)."""
    sources: _Placed = {
        each.source.name: (each.source.latitude_deg, each.source.longitude_deg, each.where)
        for each in sessions
    }
    stations: _Placed = {
        item.station.name: (*item.station.position_deg, item.where)
        for each in sessions
        for item in each.measurements
    }
    problems = [*_misplaced(connection, "known_sources", "source", sources)]
    problems += _misplaced(connection, "websdr_stations", "station", stations)
    _refuse(problems)


def _misplaced(connection: Connection, table: str, kind: str, wanted: _Placed) -> Iterator[str]:
    """Names that are in the catalogue at another place, or were changed there."""
    ids = {name: name_id(kind, name) for name in wanted}
    rows = named_places(connection, table, [*ids], [*ids.values()])
    for name, _, *stored in rows:
        *place, where = wanted.get(name, (*stored, ""))
        if not is_same_place(stored, place):
            yield (
                f"{_at(where)}{kind} {name!r} is in the catalogue at {stored[0]}, {stored[1]}, "
                f"not at {place[0]}, {place[1]}; correct the position, or give it another name "
                f"(if the catalogue is wrong: {_REPAIR})"
            )
    names = {identity: name for name, identity, *_ in rows}
    for name in sorted(wanted.keys() - names.values()):
        if ids[name] in names:
            yield (
                f"{_at(wanted[name][2])}{kind} {name!r} was renamed to {names[ids[name]]!r} in the "
                f"catalogue; use that name"
            )


def check_recordings(connection: Connection, sessions: Sequence[NewSession]) -> None:
    """Refuse other recordings for a session in the catalogue, whose rows describe the old ones.

    Raises:
        ConflictError: Each problem has a value that differs.
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
    problems = []
    for identity, *stored in connection.execute(statement, (ids,)).fetchall():
        if identity not in coming:
            continue
        session, item = coming[identity]
        described = {
            "format": item.format,
            "sample rate (Hz)": round(item.sample_rate_hz),
            "number of samples": item.n_samples,
            "frequency (Hz)": round(item.frequency_hz),
            "start": item.start or session.start,
        }
        problems += [
            f"{_at(item.where)}station {item.station.name!r} of session {session.name!r} of "
            f"{session.source.name!r} is in the catalogue with {name} {old}, not {new}; give the "
            f"session another name (if the catalogue is wrong: {_REPAIR})"
            for (name, new), old in zip(described.items(), stored, strict=True)
            if old != new
        ]
    _refuse(problems)


def check_twins(catalogue: Catalogue, store: ObjectStore, sessions: Iterable[NewSession]) -> None:
    """Refuse recordings in files that are stored in another session, unless it was rejected.

    The catalogue compares station, number of samples and level; only the objects' samples can
    prove it, whatever container they are in.

    Raises:
        ConflictError: Each problem has the file or its line, and the session.
        StoreError: The object store cannot be reached.
    """
    pairs = [
        (measurement_id(session_id(session), item.station.name), item)
        for session in sessions
        for item in session.measurements
        if item.file is not None and item.signal_strength_db is not None
    ]
    parameters = (
        list(range(len(pairs))),
        [identity for identity, _ in pairs],
        [item.station.name for _, item in pairs],
        [unicodedata.normalize("NFD", item.station.name) for _, item in pairs],
        [item.n_samples for _, item in pairs],
        [item.signal_strength_db for _, item in pairs],
    )
    suspected = catalogue.read(lambda reading: reading.execute(_TWINS, parameters).fetchall())
    problems = []
    for number, session_name, source_name, location, *described in suspected:
        item = pairs[number][1]
        bucket, key = object_address(location, store.bucket)
        there = ObjectStore(store.settings, bucket or store.bucket)
        if item.file and _stored_digest(there, key, *described) == item.file.samples_digest:
            problems.append(
                f"{item.where}: the recording of {item.station.name!r} is stored already, in "
                f"session {session_name!r} of {source_name!r} (s3://{bucket}/{key}); use that "
                f"name, or reject that session first"
            )
    _refuse(problems)


def _stored_digest(
    store: ObjectStore, key: str, form: str | None, sample_rate_hz: float, start: datetime
) -> bytes | None:
    """Digest of an object's samples, or None if it cannot be read and so is not trained on."""
    try:
        beside = store.get(f"{key[:-5]}-meta") if key.endswith(".sigmf-data") else None
        return samples_digest(
            decode(
                store.get(key),
                form,
                name=key,
                sample_rate_hz=sample_rate_hz,
                start=start,
                metadata=beside,
            )
        )
    except (ObjectMissing, BucketUnusable, ObjectUnreadable, RecordingError):
        return None


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise ConflictError(problems, f"{len(problems)} conflicts with the catalogue; correct them")
