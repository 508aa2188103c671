"""Which of the usable sessions are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from heimdall_data.errors import DataError

__all__ = ["FilterError", "SessionFilter"]


class FilterError(DataError):
    """Conditions that no session can meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Conditions that must all hold; None asks nothing.

    Those on measurements choose measurements, and a session that keeps none is left out.
    """

    since: datetime | None = None
    """Only sessions that started then or later; UTC unless it says otherwise."""
    until: datetime | None = None
    """Only sessions that started before then."""
    lowest_hz: float | None = None
    """Only measurements at this carrier frequency or higher."""
    highest_hz: float | None = None
    """Only measurements at this carrier frequency or lower."""
    stations: tuple[str, ...] | None = None
    """Only measurements of these stations."""
    sources: tuple[str, ...] | None = None
    """Only sessions of these sources."""
    source_types: tuple[str, ...] | None = None
    """Only sessions of sources of these types."""
    min_snr_db: float | None = None
    """Only measurements with a stated SNR of at least this."""
    max_error_margin_m: float | None = None
    """Only sources whose position is stated to be known at least this well."""

    def __post_init__(self) -> None:
        """Take times without a zone as UTC, and refuse what no session can meet.

        Raises:
            FilterError: names the conditions.
        """
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                object.__setattr__(self, name, moment.replace(tzinfo=UTC))
        for low, high in (("since", "until"), ("lowest_hz", "highest_hz")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise FilterError(f"{low}={least} is above {high}={most}; nothing is between")
        for name in ("lowest_hz", "highest_hz", "min_snr_db", "max_error_margin_m"):
            if not math.isfinite(getattr(self, name) or 0.0):
                raise FilterError(f"{name}={getattr(self, name)} is no finite number")

    def parameters(self) -> dict[str, object]:
        """The conditions by name, as a query takes them; sequences become lists."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def sql(self) -> str:
        """The conditions that are set, each after an AND, over the names of `session_query`."""
        conditions = (sql for name, sql in _SQL.items() if getattr(self, name) is not None)
        return "".join(f"  AND {condition}\n" for condition in conditions)


_SQL = {
    "since": "s.session_start >= %(since)s",
    "until": "s.session_start < %(until)s",
    "lowest_hz": "m.frequency_hz >= %(lowest_hz)s",
    "highest_hz": "m.frequency_hz <= %(highest_hz)s",
    "stations": "st.name = ANY(%(stations)s)",
    "sources": "src.name = ANY(%(sources)s)",
    "source_types": "src.source_type = ANY(%(source_types)s)",
    "min_snr_db": "m.snr_db >= %(min_snr_db)s",
    "max_error_margin_m": "src.error_margin_meters <= %(max_error_margin_m)s",
}
