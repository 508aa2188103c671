"""The tables that we read, and the queries that select training samples.

A sample is an approved and completed session of a source with a position, with the
measurements that belong to it: by `recording_session_id`, or, where that column is missing or
null, by the task id in the object's key.
"""

from __future__ import annotations

import itertools
import math
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from heimdall_data.catalogue.session import Measurement, Session
from heimdall_data.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from psycopg import Connection

    from heimdall_data.catalogue.session import SessionFilter

COLUMNS_READ = {
    "websdr_stations": "id name latitude longitude altitude_asl",
    "known_sources": "id name frequency_hz latitude longitude source_type error_margin_meters",
    "recording_sessions": "id known_source_id session_name session_start celery_task_id "
    "status approval_status",
    # Without recording_session_id, which may be missing.
    "measurements": "timestamp websdr_station_id frequency_hz signal_strength_db snr_db "
    "iq_data_location iq_data_format iq_sample_rate",
}

# pg_catalog, since information_schema hides columns that the role may not read.
_PRESENT = """
SELECT c.relname, a.attname
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname = 'heimdall' AND c.relname = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


def columns_present(connection: Connection) -> dict[str, set[str]]:
    """Columns that the database has, by table, of the tables that we read."""
    present: dict[str, set[str]] = {table: set() for table in COLUMNS_READ}
    for table, column in connection.execute(_PRESENT, (list(COLUMNS_READ),)):
        present[table].add(column)
    return present


def check_columns(present: Mapping[str, set[str]], where: str) -> None:
    """Refuse a database, described by `where`, that lacks a table or a column that we read.

    Raises:
        CatalogueError: It names the schema, the tables or the columns that are missing.
    """
    if not any(present.values()):
        raise CatalogueError(
            f"{where} has no catalogue (schema heimdall with its tables); point "
            "HEIMDALL_DATABASE_URL at the backend's database, or store the first session with "
            "`heimdall ingest`, which makes the tables"
        )
    missing = [f"table heimdall.{table}" for table in COLUMNS_READ if not present[table]] or [
        f"column heimdall.{table}.{column}"
        for table, columns in COLUMNS_READ.items()
        for column in sorted({*columns.split()} - present[table])
    ]
    if missing:
        raise CatalogueError(
            f"{where} lacks the {' and the '.join(missing)}; its schema is not the one this "
            "version reads"
        )


def on_earth(table: str) -> str:
    """SQL condition: a row has a position. Postgres sorts NaN above every number."""
    return f"({table}.latitude BETWEEN -90 AND 90 AND {table}.longitude BETWEEN -180 AND 180)"


def _possible(moment: str) -> str:
    """SQL condition: a time is neither infinite nor centuries away."""
    return f"({moment} BETWEEN '1900-01-01 00:00+00' AND '2200-01-01 00:00+00')"


STATION_PLACED = f"{on_earth('st')} AND st.name <> ''"
"""SQL condition: a station has a position and a name, so that it can be a receiver."""

STATIONS = f"""
SELECT id::text, name, latitude, longitude, altitude_asl::float8
FROM heimdall.websdr_stations st
WHERE {STATION_PLACED} ORDER BY name
"""  # noqa: S608 - constants of ours
UNPLACED = f"""
SELECT coalesce(name, id::text) FROM heimdall.websdr_stations st
WHERE ({STATION_PLACED}) IS NOT TRUE ORDER BY 1
"""  # noqa: S608 - constants of ours
"""Stations whose recordings are left out."""

_BY_TASK = """
SELECT t.id AS session_id, m.* FROM heimdall.measurements m
JOIN heimdall.recording_sessions t
  ON t.celery_task_id = substring(m.iq_data_location FROM '(?:^|/)sessions/([^/]+)/')
WHERE m.iq_data_location IS NOT NULL
"""
_BY_COLUMN = """
SELECT m.recording_session_id AS session_id, m.* FROM heimdall.measurements m
WHERE m.recording_session_id IS NOT NULL AND m.iq_data_location IS NOT NULL
"""

_LEVELS_ALONE = """
SELECT recording_session_id AS session_id, websdr_station_id FROM heimdall.measurements
WHERE recording_session_id IS NOT NULL AND iq_data_location IS NULL
  AND signal_strength_db IS NOT NULL
"""
_NO_LEVELS_ALONE = "SELECT NULL::uuid AS session_id, NULL::uuid AS websdr_station_id WHERE false"
_BOTH = f"{_BY_COLUMN} UNION ALL {_BY_TASK} AND m.recording_session_id IS NULL"
_UNCLAIMED = """
SELECT EXISTS (SELECT FROM heimdall.measurements
               WHERE recording_session_id IS NULL AND iq_data_location IS NOT NULL)
"""


def belonging(connection: Connection, where: str) -> str:
    """SQL of two subqueries: measurements with recordings, and with levels alone.

    Each row of `belonging` and of `levels_alone` has its session.

    Raises:
        CatalogueError: The database, described by `where`, lacks a column that we read.
    """
    present = columns_present(connection)
    check_columns(present, where)
    if "recording_session_id" not in present["measurements"]:
        members, alone = _BY_TASK, _NO_LEVELS_ALONE
    else:
        unclaimed = connection.execute(_UNCLAIMED).fetchone() == (True,)
        members, alone = _BOTH if unclaimed else _BY_COLUMN, _LEVELS_ALONE
    return (
        f"WITH belonging AS NOT MATERIALIZED ({members}), "
        f"levels_alone AS NOT MATERIALIZED ({alone})"
    )


LEVELS_ALONE = """
SELECT st.name, count(*) FROM levels_alone m
JOIN heimdall.websdr_stations st ON st.id = m.websdr_station_id GROUP BY 1 ORDER BY 1
"""
"""Number of measurements of each station that have a level and no recording."""


REASONS = f"""
SELECT s.id, CASE
    WHEN s.approval_status = 'rejected' THEN 'rejected'
    WHEN s.approval_status IS DISTINCT FROM 'approved' THEN 'not approved yet'
    WHEN s.status IS DISTINCT FROM 'completed' THEN 'not completed'
    WHEN src.latitude IS NULL OR src.longitude IS NULL THEN 'source without a position'
    WHEN NOT {on_earth("src")} THEN 'source at an impossible position'
    WHEN {_possible("s.session_start")} IS NOT TRUE THEN 'start at an impossible time'
    WHEN recorded.session_id IS NULL AND s.id IN (SELECT session_id FROM levels_alone)
        THEN 'levels without recordings'
    WHEN recorded.session_id IS NULL THEN 'no recordings'
    WHEN NOT recorded.placed THEN 'stations without a position'
END AS reason
FROM heimdall.recording_sessions s
LEFT JOIN heimdall.known_sources src ON src.id = s.known_source_id
LEFT JOIN (
    SELECT m.session_id, bool_or(st.id IS NOT NULL) AS placed FROM belonging m
    LEFT JOIN heimdall.websdr_stations st ON st.id = m.websdr_station_id AND {STATION_PLACED}
    GROUP BY m.session_id
) recorded ON recorded.session_id = s.id
"""  # noqa: S608 - constants of ours
"""The first reason why each session is not usable; null for those that are."""
REJECTED = f"""
SELECT reason, count(*) FROM ({REASONS}) AS reasons
WHERE reason IS NOT NULL GROUP BY reason ORDER BY count(*) DESC, reason
"""  # noqa: S608 - constants of ours
"""Number of sessions that are not usable, by the first reason that applies."""
REASON = f"""
SELECT id::text, reason FROM ({REASONS}) AS reasons WHERE id = ANY(%s::uuid[])
"""  # noqa: S608 - as above

_MEASURED = f"""
       st.name, st.latitude, st.longitude, m.iq_data_location, m.iq_data_format,
       m.iq_sample_rate::float8, m.snr_db, m.signal_strength_db, m.frequency_hz::float8,
       CASE WHEN {_possible("m.timestamp")} THEN m.timestamp END
"""
_SELECTED = f"""
SELECT s.id::text, s.session_name, s.session_start, src.id::text, src.name, src.latitude,
       src.longitude, src.source_type, src.frequency_hz::float8, src.error_margin_meters,
       {_MEASURED}
"""
_RECORDED = """
JOIN belonging m ON m.session_id = s.id
JOIN heimdall.websdr_stations st ON st.id = m.websdr_station_id
"""
LOCATED = """
FROM heimdall.recording_sessions s
JOIN heimdall.known_sources src ON src.id = s.known_source_id
"""
APPROVED = f"""
WHERE s.approval_status = 'approved' AND s.status = 'completed'
  AND {on_earth("src")} AND {_possible("s.session_start")}
"""
_USABLE = f"{LOCATED}{_RECORDED}{APPROVED}  AND {STATION_PLACED}\n"
_UNLOCATED = f"""
FROM heimdall.recording_sessions s
LEFT JOIN heimdall.known_sources src ON src.id = s.known_source_id
{_RECORDED}
WHERE s.status = 'completed' AND s.approval_status IS DISTINCT FROM 'rejected'
  AND {_possible("s.session_start")} AND {STATION_PLACED}
"""
_SESSION_WIDTH = 10
"""Columns of `_SELECTED` before those of the measurement."""


def sessions_query(only: SessionFilter, members: str, *, by_id: bool = False) -> str:
    """SQL for the usable sessions with their measurements, one row a measurement.

    The values of `only` are its parameters; `by_id`, it reads the sessions of the parameter `ids`.
    """
    chosen = "  AND s.id = ANY(%(ids)s::uuid[])\n" if by_id else ""
    order = "ORDER BY s.session_start, s.id, st.name, m.timestamp"
    return f"{members}{_SELECTED}{_USABLE}{chosen}{only.sql()}{order}"


def unlocated_query(only: SessionFilter, members: str, *, by_id: bool = False) -> str:
    """SQL for the sessions whose source has no position, rows as of `sessions_query`.

    By id, a session is read whether its source has a position or not.
    """
    chosen = "s.id = ANY(%(ids)s::uuid[])" if by_id else f"{on_earth('src')} IS NOT TRUE"
    order = "ORDER BY s.session_start, s.id, st.name, m.timestamp"
    return f"{members}{_SELECTED}{_UNLOCATED}  AND {chosen}\n{only.sql()}{order}"


def sessions_listed(only: SessionFilter, members: str) -> str:
    """SQL for all sessions, usable or not, the newest first, one row a session.

    The last column is their number. The values of `only`, `ids`, `approval`, `status` and `limit`
    are its parameters; null is no condition.
    """
    return f"""{members}
SELECT s.id::text, s.session_name,
       CASE WHEN {_possible("s.session_start")} THEN s.session_start END,
       src.name, src.latitude, src.longitude, s.status, coalesce(s.approval_status, 'pending'),
       array_agg(DISTINCT st.name) FILTER (WHERE st.name IS NOT NULL), count(*) OVER ()
FROM heimdall.recording_sessions s
LEFT JOIN heimdall.known_sources src ON src.id = s.known_source_id
LEFT JOIN belonging m ON m.session_id = s.id
LEFT JOIN heimdall.websdr_stations st ON st.id = m.websdr_station_id
WHERE s.id = ANY(coalesce(%(ids)s::uuid[], ARRAY[s.id]))
  AND coalesce(s.approval_status, 'pending') = coalesce(%(approval)s, s.approval_status, 'pending')
  AND s.status IS NOT DISTINCT FROM coalesce(%(status)s, s.status)
{only.sql()}GROUP BY s.id, src.id ORDER BY s.session_start DESC, s.id LIMIT %(limit)s
"""  # noqa: S608 - constants of ours


def rates_query(only: SessionFilter, members: str) -> str:
    """SQL for the number of measurements of usable sessions at each stated sample rate."""
    select = "SELECT m.iq_sample_rate::float8, count(*)"
    rest = "AND m.iq_sample_rate > 0 GROUP BY 1 ORDER BY 2 DESC, 1"
    return f"{members}{select}{_USABLE}{only.sql()}{rest}"


def measurements_query(members: str) -> str:
    """SQL for the measurements with recordings of the session %s, usable or not, by station."""
    tables = f"FROM heimdall.recording_sessions s {_RECORDED}"
    return f"{members} SELECT {_MEASURED}{tables} WHERE s.id = %s::uuid ORDER BY 1, m.timestamp"


def object_address(location: str, default_bucket: str) -> tuple[str, str]:
    """Bucket and key of a location, `s3://bucket/key` or a bare key in `default_bucket`."""
    if not location.startswith("s3://"):
        return default_bucket, location.lstrip("/")
    bucket, _, key = location.removeprefix("s3://").partition("/")
    return bucket, key.lstrip("/")


def sessions_from_rows(rows: Iterable[tuple[Any, ...]], default_bucket: str) -> Iterator[Session]:
    """Build the sessions that rows of `sessions_query` describe, in their order."""
    for _, group in itertools.groupby(rows, key=itemgetter(0)):
        members = list(group)
        identity, name, start, source_id, source_name, latitude, longitude, *rest = members[0]
        yield Session(
            id=identity,
            session_name=name,
            source_id=source_id or "",
            source_name=source_name or "",
            position_deg=(
                math.nan if latitude is None else latitude,
                math.nan if longitude is None else longitude,
            ),
            start=start,
            measurements=tuple(
                measurement_from_row(row[_SESSION_WIDTH:], default_bucket) for row in members
            ),
            source_type=rest[0],
            frequency_hz=rest[1],
            error_margin_m=rest[2],
        )


def measurement_from_row(row: tuple[Any, ...], default_bucket: str) -> Measurement:
    """Build the measurement that a row of `measurements_query` describes."""
    station, latitude, longitude, location, form, rate_hz, snr_db, level_db, carrier_hz, start = row
    bucket, key = object_address(location, default_bucket)
    return Measurement(
        station=station,
        station_deg=(latitude, longitude),
        bucket=bucket,
        key=key,
        format=form,
        sample_rate_hz=rate_hz,
        snr_db=snr_db,
        signal_strength_db=level_db,
        frequency_hz=carrier_hz,
        start=start,
    )
