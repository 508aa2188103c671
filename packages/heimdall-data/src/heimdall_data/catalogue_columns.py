"""What we need of the catalogue's tables, and what is said when a database lacks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heimdall_data.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import Connection

__all__ = ["COLUMNS_READ", "check_columns", "columns_present"]

COLUMNS_READ: Mapping[str, frozenset[str]] = {
    "websdr_stations": frozenset({"id", "name", "latitude", "longitude", "altitude_asl"}),
    "known_sources": frozenset(
        {
            "id",
            "name",
            "frequency_hz",
            "latitude",
            "longitude",
            "source_type",
            "error_margin_meters",
        }
    ),
    "recording_sessions": frozenset(
        {
            "id",
            "known_source_id",
            "session_name",
            "session_start",
            "celery_task_id",
            "status",
            "approval_status",
        }
    ),
    # recording_session_id is read where it is there, and may be missing.
    "measurements": frozenset(
        {
            "timestamp",
            "websdr_station_id",
            "frequency_hz",
            "signal_strength_db",
            "snr_db",
            "iq_data_location",
            "iq_data_format",
            "iq_sample_rate",
        }
    ),
}

# pg_catalog, since information_schema hides what the role may not read.
_PRESENT = """
SELECT c.relname, a.attname
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname = 'heimdall' AND c.relname = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


def columns_present(connection: Connection) -> dict[str, set[str]]:
    """The columns of each of our tables that the database has."""
    present: dict[str, set[str]] = {table: set() for table in COLUMNS_READ}
    for table, column in connection.execute(_PRESENT, (list(COLUMNS_READ),)):
        present[table].add(column)
    return present


def check_columns(present: Mapping[str, set[str]], where: str) -> None:
    """Refuse a database that lacks a table or a column that we read.

    Args:
        present: what the database has.
        where: the database in words, for the message.

    Raises:
        CatalogueError: it names the schema, the tables or the columns that are missing.
    """
    tables = [f"heimdall.{table}" for table in COLUMNS_READ if not present[table]]
    if len(tables) == len(COLUMNS_READ):
        raise CatalogueError(
            f"{where} has no catalogue (schema heimdall with its tables); point "
            "HEIMDALL_DATABASE_URL at the backend's database, or store the first session with "
            "`heimdall ingest`, which makes the tables"
        )
    if tables:
        raise CatalogueError(f"{where} lacks the table {' and the table '.join(tables)}")
    columns = [
        f"heimdall.{table}.{column}"
        for table, needed in COLUMNS_READ.items()
        for column in sorted(needed - present[table])
    ]
    if columns:
        raise CatalogueError(
            f"{where} lacks the column {' and the column '.join(columns)}; its schema is not "
            "the one this version reads"
        )
