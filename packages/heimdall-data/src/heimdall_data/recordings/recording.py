"""A decoded recording: complex samples, their true rate, and the accuracy of their time.

Samples are relative to full scale: a magnitude of 1 is the largest level that the receiver's
converter can express (floating-point formats are taken as they are).

Instants are in GPS time, which counts every second from 1980-01-06, in weeks of 604,800 s. It gets
ahead of UTC with each leap second, and has been so by 18 s since 2017-01-01; no leap second has
been announced since. They are whole nanoseconds, since a 64-bit float of GPS seconds has steps of
240 ns.

Source: IS-GPS-200, section 20.3.3.5.2.4; IERS Bulletin C 52 (2016), with the list of its
leap-seconds.list.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from heimdall_features.clock import CLOCK_LIMIT_S

from heimdall_data.errors import RecordingError

ComplexSamples = npt.NDArray[np.complex64]

MAX_SAMPLES = 2**27
"""The longest recording that is decoded: 1 GiB in memory, eleven minutes at 200 kHz."""
MAX_BYTES = 16 * MAX_SAMPLES + 2**20
"""The largest file with samples that is read: that many of the widest type."""
SAMPLE_RATES_HZ = (1.0, 1e12)
INT16_FULL_SCALE = np.float32(32768)
WEEK_NS = 604_800 * 10**9
_GPS_EPOCH = datetime(1980, 1, 6, tzinfo=UTC)
_AFTER_LEAPS = tuple(
    datetime.fromisoformat(f"{day}T00:00Z")
    for day in (
        "1981-07-01", "1982-07-01", "1983-07-01", "1985-07-01", "1988-01-01", "1990-01-01",
        "1991-01-01", "1992-07-01", "1993-07-01", "1994-07-01", "1996-01-01", "1997-07-01",
        "1999-01-01", "2006-01-01", "2009-01-01", "2012-07-01", "2015-07-01", "2017-01-01",
    )
)  # fmt: skip
"""The instants that follow a leap second."""
_AFTER_LEAPS_S = tuple(
    int((instant - _GPS_EPOCH).total_seconds()) + n for n, instant in enumerate(_AFTER_LEAPS, 1)
)
"""The same in GPS seconds."""
_LONGEST_INSTANT = 100
_GPS_SECONDS = re.compile(r"\d{9,10}(\.\d+)?", re.ASCII)
_FRACTION = re.compile(r"(.{9,}\d\d:?\d\d:?\d\d)[.,](\d+)(.*)", re.ASCII)
_LEAP_SECOND = re.compile(r"(.{9,}\d\d:?\d\d:?)60(\D.*)?", re.ASCII)


def gps_ns_from_utc(instant: datetime) -> int:
    """Return the GPS nanoseconds of an aware instant."""
    passed = (instant - _GPS_EPOCH) // timedelta(microseconds=1) * 1000
    return passed + bisect_right(_AFTER_LEAPS, instant) * 10**9


def utc_from_gps_ns(gps_ns: int) -> datetime:
    """Return an instant as an aware UTC time, cut to whole microseconds.

    A time has no leap second: it is the first second of the next day, as in Postgres.
    """
    n_leaps = bisect_right(_AFTER_LEAPS_S, gps_ns // 10**9)
    return _GPS_EPOCH + timedelta(seconds=-n_leaps, microseconds=gps_ns // 1000)


def gps_ns_from_text(text: str) -> int:
    """Return the GPS nanoseconds of a written instant; nine decimals of the second count.

    `2026-03-01T12:00:00.123456789Z` is ISO 8601, in UTC unless it has a zone, and may be a leap
    second, `2016-12-31T23:59:60.5Z`. A number of nine or ten digits, `1456401618.25`, is GPS
    seconds since 1980-01-06.

    Raises:
        ValueError: It is neither, or there was no leap second then.
        OverflowError: In UTC it is not in the years 1 to 9999.
    """
    if _GPS_SECONDS.fullmatch(text[:_LONGEST_INSTANT]):
        return int(Decimal(text) * 10**9)
    return gps_ns_from_iso(text)


def utc_from_text(text: str) -> datetime:
    """Return an instant in ISO 8601 as an aware UTC time; raises as `gps_ns_from_text` does."""
    return utc_from_gps_ns(gps_ns_from_iso(text))


def gps_ns_from_iso(text: str) -> int:
    """Return the GPS nanoseconds of an instant in ISO 8601; raises as `gps_ns_from_text` does."""
    if len(text) > _LONGEST_INSTANT:  # the patterns take the square of a text's length
        raise ValueError(f"{text[:80]!r}... of {len(text)} characters is no instant")
    written, leap_ns, fraction_ns = text, 0, 0
    text = text.removesuffix("z")  # RFC 3339 allows it, and Python does not
    # Python reads microseconds: 300 m of path.
    if match := _FRACTION.fullmatch(text):
        text, fraction_ns = match[1] + match[3], int(match[2][:9].ljust(9, "0"))
    if match := _LEAP_SECOND.fullmatch(text):
        text, leap_ns = f"{match[1]}59{match[2] or ''}", 10**9
    instant = datetime.fromisoformat(text)
    utc = instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    gps_ns = gps_ns_from_utc(utc) + leap_ns
    if leap_ns and gps_ns // 10**9 + 1 not in _AFTER_LEAPS_S:
        raise ValueError(
            f"there was no leap second at {written!r}; the last one was 2016-12-31T23:59:60Z"
        )
    return gps_ns + fraction_ns


def utc_text(gps_ns: int) -> str:
    """Return an instant in UTC with nine decimals, which `gps_ns_from_text` reads."""
    second, fraction_ns = divmod(gps_ns, 10**9)
    is_leap = second + 1 in _AFTER_LEAPS_S
    utc = utc_from_gps_ns((second - is_leap) * 10**9)
    text = f"{utc:%Y-%m-%dT%H:%M:%S}"
    return f"{text[:-2] + '60' if is_leap else text}.{fraction_ns:09d}Z"


def gps_ns_near(ns_of_week: int, instant: datetime) -> int:
    """Return the instant with these nanoseconds of the week that is nearest to a known one."""
    near_ns = gps_ns_from_utc(instant)
    return near_ns + (ns_of_week - near_ns + WEEK_NS // 2) % WEEK_NS - WEEK_NS // 2


def require_on_globe(latitude_deg: float, longitude_deg: float) -> None:
    """Refuse a position that is not on the globe, by a ValueError."""
    if -90 <= latitude_deg <= 90 and -180 <= longitude_deg <= 180:
        return
    is_swapped = -90 <= longitude_deg <= 90 and -180 <= latitude_deg <= 180
    raise ValueError(
        f"latitude {latitude_deg}, longitude {longitude_deg}; "
        + ("swapped?" if is_swapped else "give degrees (WGS84), longitude from -180 to 180")
    )


class ReceiverPosition(NamedTuple):
    """A receiver's place."""

    latitude_deg: float
    """Degrees north, WGS84."""
    longitude_deg: float
    """Degrees east, WGS84."""
    altitude_m: float | None = None
    """Above the WGS84 ellipsoid; above the sea, at most 100 m apart, if the format says so."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """The samples of one receiver. Another type or rate, or none, is a `RecordingError`."""

    iq: ComplexSamples
    """Complex baseband, shape `(n_samples,)`."""
    sample_rate_hz: float
    """The true rate if time stamps give it, else that of the file or the catalogue."""
    start_gps_ns: int | None = None
    """Instant of the first sample, in whole nanoseconds since 1980-01-06; None: unknown."""
    clock_sigma_s: float = math.inf
    """Standard deviation of the start; infinite if it is not fit for time differences."""
    start_from_name: bool = False
    """True if a file's name alone has the start, in whole seconds: no clock, whoever vouches."""
    center_frequency_hz: float | None = None
    """Frequency at 0 Hz of the baseband, if the file has it."""
    station: str | None = None
    """Name of the receiver, if the file or its name has it."""
    position: ReceiverPosition | None = None
    """Place of the receiver, if the file has it."""
    n_dropped_samples: int = 0
    """Samples left out by decoding: those with stale stamps, or beyond a gap."""
    metadata: bytes | None = field(default=None, repr=False)
    """The `.sigmf-meta` of a SigMF recording."""
    others: tuple[Recording, ...] = ()
    """Shorter stretches of the same file, with gaps between them and this one."""

    def __post_init__(self) -> None:
        if self.iq.dtype != np.complex64 or self.iq.ndim != 1 or not self.iq.size:
            raise RecordingError(
                f"a recording needs complex64 samples of shape (n,) with n > 0, "
                f"not {self.iq.dtype} of shape {self.iq.shape}"
            )
        least_hz, most_hz = SAMPLE_RATES_HZ
        if not least_hz <= self.sample_rate_hz <= most_hz:
            raise RecordingError(
                f"the sample rate is {self.sample_rate_hz!r} Hz; it must be {least_hz:g} to "
                f"{most_hz:g} Hz"
            )
        if not self.clock_sigma_s >= 0:
            raise RecordingError(
                f"a clock's uncertainty must be 0 or more, not {self.clock_sigma_s!r} s"
            )
        try:
            _ = self.start_utc
        except OverflowError as error:
            raise RecordingError(
                f"a start {self.start_gps_ns} ns after 1980 is not in the years 1 to 9999"
            ) from error

    @property
    def clock_locked(self) -> bool:
        """True if the start is certain enough for time differences between receivers."""
        return self.start_gps_ns is not None and self.clock_sigma_s <= CLOCK_LIMIT_S

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return len(self.iq) / self.sample_rate_hz

    @property
    def start_utc(self) -> datetime | None:
        """Start as an aware UTC time, cut to whole microseconds."""
        if self.start_gps_ns is None:
            return None
        return utc_from_gps_ns(self.start_gps_ns)

    def cut(self, first: int, n_samples: int) -> Recording:
        """Return `n_samples` from sample `first` on, with its start time and without `others`.

        Raises:
            RecordingError: Some of them are outside of the recording.
        """
        if first < 0 or n_samples < 1 or first + n_samples > len(self.iq):
            raise RecordingError(
                f"samples {first} to {first + n_samples} are not all inside a recording "
                f"of {len(self.iq)}"
            )
        start_ns = self.start_gps_ns
        if start_ns is not None:
            start_ns += round(first / self.sample_rate_hz * 1e9)
        iq = self.iq[first : first + n_samples]
        return replace(self, iq=iq, start_gps_ns=start_ns, others=())
