"""GPS time and UTC.

GPS counts seconds from 1980-01-06 without leap seconds, in weeks of 604,800 s. It has run
18 s ahead of UTC since 2017-01-01; no leap second has been announced since. Instants are
kept as whole nanoseconds, since a 64-bit float of today's GPS seconds steps by 240 ns.

Source: IS-GPS-200, section 20.3.3.5.2.4; IERS Bulletin C 52 (2016).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["GPS_AHEAD_OF_UTC_S", "WEEK_NS", "gps_ns_from_utc", "gps_ns_near", "utc_from_gps_ns"]

GPS_EPOCH = datetime(1980, 1, 6, tzinfo=UTC)
GPS_AHEAD_OF_UTC_S = 18
WEEK_NS = 604_800 * 10**9


def gps_ns_from_utc(instant: datetime) -> int:
    """GPS nanoseconds of an aware instant (to the microsecond that a datetime holds)."""
    return (instant - GPS_EPOCH) // timedelta(microseconds=1) * 1000 + GPS_AHEAD_OF_UTC_S * 10**9


def utc_from_gps_ns(gps_ns: int) -> datetime:
    """The UTC time of an instant, cut to whole microseconds."""
    return GPS_EPOCH + timedelta(microseconds=gps_ns // 1000, seconds=-GPS_AHEAD_OF_UTC_S)


def gps_ns_near(ns_of_week: int, instant: datetime) -> int:
    """The instant with these nanoseconds of the week that is nearest to a known one."""
    near_ns = gps_ns_from_utc(instant)
    return near_ns + (ns_of_week - near_ns + WEEK_NS // 2) % WEEK_NS - WEEK_NS // 2
