"""Which of the usable sessions are asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["SessionFilter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Conditions that must all hold; None asks nothing.

    Those on measurements choose measurements, and a session that keeps none is left out.
    """

    since: datetime | None = None
    until: datetime | None = None
    """Sessions that started from `since` (included) to `until` (excluded)."""
    lowest_hz: float | None = None
    highest_hz: float | None = None
    """Measurements in this band of carrier frequencies, both ends included."""
    stations: tuple[str, ...] | None = None
    sources: tuple[str, ...] | None = None
    source_types: tuple[str, ...] | None = None
    min_snr_db: float | None = None
    """Measurements with a stated SNR of at least this."""
    max_error_margin_m: float | None = None
    """Sources whose position is stated to be known at least this well."""

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
