"""A decoded recording: complex samples, their true rate, and how well their time is known.

Samples are relative to full scale: a magnitude of 1 is the largest level that the receiver's
converter could express (floating-point formats are taken as they are).

Instants are in GPS time, which counts seconds from 1980-01-06 without leap seconds, in weeks
of 604,800 s. It has run 18 s ahead of UTC since 2017-01-01; no leap second has been announced
since. They are whole nanoseconds, since a 64-bit float of today's GPS seconds steps by 240 ns.

Source: IS-GPS-200, section 20.3.3.5.2.4; IERS Bulletin C 52 (2016).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from heimdall_data.errors import RecordingError

__all__ = [
    "INT16_FULL_SCALE",
    "MAX_SAMPLES",
    "WEEK_NS",
    "ComplexSamples",
    "Recording",
    "gps_ns_from_utc",
    "gps_ns_near",
    "utc_from_gps_ns",
]

ComplexSamples = npt.NDArray[np.complex64]

MAX_SAMPLES = 2**27
"""The longest recording that is decoded: 1 GiB in memory, eleven minutes at 200 kHz."""
INT16_FULL_SCALE = np.float32(32768)
WEEK_NS = 604_800 * 10**9
_GPS_EPOCH = datetime(1980, 1, 6, tzinfo=UTC)
_GPS_AHEAD_OF_UTC_S = 18


def gps_ns_from_utc(instant: datetime) -> int:
    """Return the GPS nanoseconds of an aware instant (to the microsecond that it holds)."""
    return (instant - _GPS_EPOCH) // timedelta(microseconds=1) * 1000 + _GPS_AHEAD_OF_UTC_S * 10**9


def utc_from_gps_ns(gps_ns: int) -> datetime:
    """Return the UTC time of an instant, cut to whole microseconds."""
    return _GPS_EPOCH + timedelta(microseconds=gps_ns // 1000, seconds=-_GPS_AHEAD_OF_UTC_S)


def gps_ns_near(ns_of_week: int, instant: datetime) -> int:
    """Return the instant with these nanoseconds of the week that is nearest to a known one."""
    near_ns = gps_ns_from_utc(instant)
    return near_ns + (ns_of_week - near_ns + WEEK_NS // 2) % WEEK_NS - WEEK_NS // 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """The samples of one receiver, ready for signal processing.

    Raises:
        RecordingError: For no samples, samples of another type, or an impossible rate.
    """

    iq: ComplexSamples
    """Complex baseband, shape `(n_samples,)`."""
    sample_rate_hz: float
    """The true rate where time stamps gave one, else that of the file or the catalogue."""
    start_gps_ns: int | None = None
    """Instant of the first sample, in whole nanoseconds since 1980-01-06; None: unknown."""
    clock_locked: bool = False
    """Start and rate come from GNSS stamps: fit for time differences between receivers."""
    center_frequency_hz: float | None = None
    receiver_deg: tuple[float, float] | None = None
    """Latitude and longitude of the receiver, where the file has them."""
    n_dropped_samples: int = 0
    """Samples of the object that decoding left out: stale stamps, beyond a gap."""

    def __post_init__(self) -> None:
        if self.iq.dtype != np.complex64 or self.iq.ndim != 1 or not self.iq.size:
            raise RecordingError(
                f"a recording needs complex64 samples of shape (n,) with n > 0, "
                f"not {self.iq.dtype} of shape {self.iq.shape}"
            )
        if not 0 < self.sample_rate_hz < float("inf"):
            raise RecordingError(f"a sample rate must be positive, not {self.sample_rate_hz!r} Hz")

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return len(self.iq) / self.sample_rate_hz

    @property
    def start_utc(self) -> datetime | None:
        """Start as an aware UTC time, cut to whole microseconds."""
        return None if self.start_gps_ns is None else utc_from_gps_ns(self.start_gps_ns)

    def cut(self, first: int, n_samples: int) -> Recording:
        """Return the `n_samples` from sample `first` on, with the start moved along.

        Raises:
            RecordingError: The recording does not hold all of them.
        """
        if first < 0 or n_samples < 1 or first + n_samples > len(self.iq):
            raise RecordingError(
                f"samples {first} to {first + n_samples} are not all inside a recording "
                f"of {len(self.iq)}"
            )
        start_ns = self.start_gps_ns
        if start_ns is not None:
            start_ns += round(first / self.sample_rate_hz * 1e9)
        return replace(self, iq=self.iq[first : first + n_samples], start_gps_ns=start_ns)
