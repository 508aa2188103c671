"""Approval of sessions by operators: which sessions there are, and who decided what, and why.

Decisions are kept in a table of ours beside the backend's, `heimdall.session_decisions`. The first
decision creates it; reading does without it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from heimdall_data.catalogue.queries import (
    REASON,
    belonging,
    measurement_from_row,
    measurements_query,
    sessions_listed,
)
from heimdall_data.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from datetime import datetime

    from psycopg import Connection

    from heimdall_data.catalogue.catalogue import Catalogue
    from heimdall_data.catalogue.session import Measurement, SessionFilter

Approval = Literal["pending", "approved", "rejected"]
Status = Literal["pending", "in_progress", "completed", "failed"]

_TABLE = """
CREATE TABLE heimdall.session_decisions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id uuid NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    decided_by text NOT NULL,
    approval_status text NOT NULL,
    reason text NOT NULL
);
CREATE INDEX session_decisions_session ON heimdall.session_decisions (session_id)
"""
# Not to_regclass, which may not see what was committed after the transaction began.
_HAS_TABLE = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_tables
               WHERE schemaname = 'heimdall' AND tablename = 'session_decisions')
"""
_UNDECIDED = "(SELECT NULL::uuid AS session_id, NULL::timestamptz AS at)"
_APPROVED_AT = """(
    SELECT session_id, max(decided_at) AS at FROM heimdall.session_decisions
    WHERE approval_status = 'approved' GROUP BY session_id
)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEntry:
    """A session of the catalogue, usable for training or not."""

    id: str
    session_name: str
    start: datetime | None
    """None where the catalogue has an impossible time."""
    source_name: str | None
    position_deg: tuple[float, float] | None
    """Latitude and longitude of the source, in degrees; None if they are not numbers."""
    status: str
    approval_status: str
    stations: tuple[str, ...]
    """Names of the stations with a recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an operator decided about a session."""

    at: datetime
    by: str
    approval_status: str
    reason: str


def list_sessions(
    catalogue: Catalogue,
    only: SessionFilter,
    *,
    ids: Sequence[str] | None = None,
    approval: Approval | None = None,
    status: Status | None = None,
    limit: int | None = None,
) -> tuple[tuple[SessionEntry, ...], int]:
    """Return the sessions that meet all conditions, the newest first, and how many there are.

    Args:
        catalogue: Where they are.
        only: Conditions on sessions and measurements.
        ids: Only those with these ids, UUIDs.
        approval: Only those with this approval.
        status: Only those with this status.
        limit: Most sessions that are returned; all are counted.

    Raises:
        CatalogueError: See `Catalogue`.
    """
    values = only.parameters() | {
        "ids": None if ids is None else list(ids),
        "approval": approval,
        "status": status,
        "limit": limit,
    }

    def found(connection: Connection) -> tuple[tuple[SessionEntry, ...], int]:
        members = belonging(connection, catalogue.where)
        rows = connection.execute(sessions_listed(only, members), values).fetchall()
        return tuple(_entry(*row[:-1]) for row in rows), rows[0][-1] if rows else 0

    return catalogue.read(found)


def why_unusable(catalogue: Catalogue, ids: Sequence[str]) -> dict[str, str | None]:
    """Return the first reason why each of some sessions is not trained on; None if it is.

    Raises:
        CatalogueError: There is no such session, or see `Catalogue`.
    """

    def found(connection: Connection) -> dict[str, str | None]:
        query = f"{belonging(connection, catalogue.where)}{REASON}"
        reasons: dict[str, str | None] = dict(connection.execute(query, (list(ids),)).fetchall())
        _require_known(catalogue, ids, reasons)
        return {each: reasons[str(UUID(each))] for each in ids}

    return catalogue.read(found)


def measurements(catalogue: Catalogue, session_id: str) -> tuple[Measurement, ...]:
    """Return a session's measurements with recordings, by station, usable or not.

    Raises:
        CatalogueError: See `Catalogue`.
    """

    def found(connection: Connection) -> tuple[Measurement, ...]:
        query = measurements_query(belonging(connection, catalogue.where))
        rows = connection.execute(query, (session_id,))
        return tuple(measurement_from_row(row, catalogue.default_bucket) for row in rows)

    return catalogue.read(found)


def decisions(catalogue: Catalogue, session_id: str) -> tuple[Decision, ...]:
    """Return what was decided about a session, the oldest first.

    Raises:
        CatalogueError: See `Catalogue`.
    """

    def found(connection: Connection) -> tuple[Decision, ...]:
        if connection.execute(_HAS_TABLE).fetchone() != (True,):
            return ()
        rows = connection.execute(
            "SELECT decided_at, decided_by, approval_status, reason "
            "FROM heimdall.session_decisions WHERE session_id = %s::uuid ORDER BY id",
            (session_id,),
        )
        return tuple(
            Decision(at=at, by=by, approval_status=approval, reason=reason)
            for at, by, approval, reason in rows
        )

    return catalogue.read(found)


def approved_since(catalogue: Catalogue, since: datetime) -> frozenset[str]:
    """Return the ids of approved sessions whose last approval was then or later.

    Where no approval is on record, as the backend's own are not, the session's start counts.

    Raises:
        CatalogueError: See `Catalogue`.
    """

    def found(connection: Connection) -> frozenset[str]:
        belonging(connection, catalogue.where)
        has_table = connection.execute(_HAS_TABLE).fetchone() == (True,)
        decided = _APPROVED_AT if has_table else _UNDECIDED
        rows = connection.execute(
            "SELECT s.id::text FROM heimdall.recording_sessions s "  # noqa: S608 - ours
            f"LEFT JOIN {decided} d ON d.session_id = s.id "
            "WHERE s.approval_status = 'approved' AND coalesce(d.at, s.session_start) >= %s",
            (since,),
        )
        return frozenset(identity for (identity,) in rows)

    return catalogue.read(found)


def decide(
    catalogue: Catalogue, ids: Sequence[str], approval: Approval, *, by: str, reason: str
) -> None:
    """Approve or reject sessions, all of them or none, and record who did it, when and why.

    Args:
        catalogue: Where they are.
        ids: Their ids, UUIDs.
        approval: What they are to be.
        by: Who decides; not blank.
        reason: Why; may be empty.

    Raises:
        CatalogueError: There is no such session, a text cannot be stored, or see `Catalogue`.
    """
    for name, text in (("by", by), ("reason", reason)):
        if re.search("[\0\ud800-\udfff]", text):
            raise CatalogueError(f"{name} {text!r:.100} is not text that a database can hold")
    if not by.strip():
        raise CatalogueError("by is blank; say who decides")
    with catalogue.transaction() as connection:
        belonging(connection, catalogue.where)
        if connection.execute(_HAS_TABLE).fetchone() != (True,):
            # Two at once would both find nothing, and the second would fail.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('heimdall schema'))")
            if connection.execute(_HAS_TABLE).fetchone() != (True,):
                connection.execute(_TABLE)
        # In order, so that two who decide about the same sessions wait instead of deadlocking.
        rows = connection.execute(
            "SELECT id::text FROM heimdall.recording_sessions "
            "WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE",
            (list(ids),),
        )
        known = [identity for (identity,) in rows]
        _require_known(catalogue, ids, known, "; nothing was changed")
        connection.execute(
            "UPDATE heimdall.recording_sessions SET approval_status = %s "
            "WHERE id = ANY(%s::uuid[])",
            (approval, known),
        )
        connection.execute(
            "INSERT INTO heimdall.session_decisions "
            "(session_id, decided_at, decided_by, approval_status, reason) "
            "SELECT id, statement_timestamp(), %s, %s, %s FROM unnest(%s::uuid[]) AS id",
            (by, approval, reason, known),
        )


def _require_known(
    catalogue: Catalogue, ids: Sequence[str], known: Container[str], note: str = ""
) -> None:
    for each in ids:
        if str(UUID(each)) not in known:
            raise CatalogueError(
                f"{catalogue.where} has no session {each}; see `heimdall sessions list`{note}"
            )


def _entry(
    identity: str,
    name: str,
    start: datetime | None,
    source: str | None,
    latitude_deg: float | None,
    longitude_deg: float | None,
    status: str,
    approval: str,
    stations: list[str] | None,
) -> SessionEntry:
    place = None
    if latitude_deg is not None and longitude_deg is not None:
        place = latitude_deg, longitude_deg
        if not all(map(math.isfinite, place)):
            place = None
    return SessionEntry(
        id=identity,
        session_name=name,
        start=start,
        source_name=source,
        position_deg=place,
        status=status,
        approval_status=approval,
        stations=tuple(stations or ()),
    )
