"""Recordings, and GPS time compared with published dates."""

import dataclasses
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.recording import (
    WEEK_NS,
    Recording,
    gps_ns_from_text,
    gps_ns_from_utc,
    gps_ns_near,
    utc_text,
)
from hypothesis import assume, given
from hypothesis import strategies as st

ns_of_second = st.integers(0, 10**9 - 1)
dates = st.datetimes(datetime(2017, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(st.integers(-5, 105), st.integers(-5, 105), st.floats(1e3, 1e6))
def test_a_cut_keeps_every_sample_at_its_time(first, n, rate):
    """Time differences of arrival depend on the times of samples."""
    assume(first >= 0 and n > 0 and first + n <= 100)
    whole = Recording(iq=np.arange(100, dtype=np.complex64), sample_rate_hz=rate, start_gps_ns=10)
    part = whole.cut(first, n)
    np.testing.assert_array_equal(part.iq, whole.iq[first : first + n])
    assert part.start_gps_ns - 10 == pytest.approx(first / rate * 1e9, abs=0.5)


@given(st.integers(-5, 105), st.integers(-5, 105))
def test_a_cut_outside_is_refused(first, n):
    """NumPy would silently return fewer samples."""
    assume(first < 0 or n < 1 or first + n > 100)
    whole = Recording(iq=np.ones(100, np.complex64), sample_rate_hz=1.0)
    with pytest.raises(RecordingError, match=f"samples {first} to {first + n} .* 100"):
        whole.cut(first, n)


@pytest.mark.parametrize("iq", [np.ones(3), np.ones(0, np.complex64), np.ones((2, 2), "c8")])
def test_an_array_of_another_kind_is_refused(iq):
    """Every later step relies on type and shape without checking them again."""
    with pytest.raises(RecordingError, match=rf"{iq.dtype} of shape \({iq.shape[0]},"):
        Recording(iq=iq, sample_rate_hz=1.0)


@given(st.floats(max_value=0.99) | st.sampled_from([float("nan"), float("inf"), 5e-324, 1e300]))
def test_an_impossible_rate_is_refused(rate):
    """Wrong frequencies and times would follow from it without an error."""
    with pytest.raises(RecordingError, match=re.escape(f"{rate!r} Hz")):
        Recording(iq=np.ones(3, np.complex64), sample_rate_hz=rate)


@given(dates)
def test_a_start_in_gps_time_is_the_same_instant_in_utc(instant):
    """A start that changed on its way through the package would be a timing error."""
    started = Recording(
        iq=np.ones(1, np.complex64), sample_rate_hz=1.0, start_gps_ns=gps_ns_from_utc(instant)
    )
    assert started.start_utc == instant


@given(dates, st.floats(-3.4, 3.4))
def test_the_week_is_the_nearest_one(instant, days_off):
    """A file's name may be days off and still give the week of its stamps."""
    true_ns = gps_ns_from_utc(instant)
    assert gps_ns_near(true_ns % WEEK_NS, instant + timedelta(days=days_off)) == true_ns


@pytest.mark.parametrize(
    ("instant", "week", "second"),
    [
        # The roll-over of the broadcast week number, announced for 2019-04-06 23:59:42 UTC.
        (datetime(2019, 4, 6, 23, 59, 42, tzinfo=UTC), 2048, 0),
        # The README of the DCF77 recordings: Monday 10:41:56 UTC is second 124,934.
        (datetime(2017, 11, 27, 10, 41, 56, tzinfo=UTC), 1977, 124_934),
    ],
)
def test_known_instants_have_their_week_and_second(instant, week, second):
    """Two points fix both the epoch and the leap seconds."""
    assert divmod(gps_ns_from_utc(instant), WEEK_NS) == (week, second * 10**9)


@given(st.integers(10**17, 4 * 10**18))
def test_a_written_instant_is_read_back_to_the_nanosecond(gps_ns):
    """Python's own times end at microseconds, 300 m of path."""
    assert gps_ns_from_text(utc_text(gps_ns)) == gps_ns
    second, ns = divmod(gps_ns, 10**9)
    assert gps_ns_from_text(f"{second}.{ns:09d}") == gps_ns


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-03-01T12:00:00.25", "2026-03-01T12:00:00.250000000Z"),
        ("2026-03-01T13:00:00,25+01:00", "2026-03-01T12:00:00.25Z"),
        ("2026-03-01 12:00", "2026-03-01T12:00:00Z"),
        ("2026-03-01t12:00:00.5z", "2026-03-01T12:00:00.5Z"),
        ("1456401618.5", "2026-03-01T12:00:00.5Z"),
        ("2026-03-01T12:00:00.1234567899Z", "2026-03-01T12:00:00.123456789Z"),
        ("20260301T120000.1234567899Z", "2026-03-01T12:00:00.123456789Z"),
    ],
)
def test_instants_are_written_in_several_ways(text, same):
    """Spreadsheets, recorders and GNSS receivers have their own."""
    assert gps_ns_from_text(text) == gps_ns_from_text(same)


@pytest.mark.parametrize("text", ["", "noon", "20260301.5", "1456401618.", "2026-03-01T12:00:61Z"])
def test_text_that_is_no_instant_is_refused(text):
    """A wrong start would place the transmitter elsewhere."""
    with pytest.raises(ValueError, match=r"isoformat|second"):
        gps_ns_from_text(text)


@pytest.mark.parametrize(
    ("text", "gps_s"),
    [
        # GPS time on either side of the last leap second, by the IERS's list.
        ("2016-12-31T23:59:59.5Z", 1_167_264_016.5),
        ("2016-12-31T23:59:60.5Z", 1_167_264_017.5),
        ("2017-01-01T00:59:60,5+01:00", 1_167_264_017.5),
        ("20161231T235960Z", 1_167_264_017),
        ("2017-01-01T00:00:00Z", 1_167_264_018),
        ("2012-06-30T23:59:60Z", 1_025_136_015),
        ("1981-06-30 23:59:60", 46_828_800),
    ],
)
def test_a_leap_second_is_a_second(text, gps_s):
    """Receivers write it, and Python knows none."""
    assert gps_ns_from_text(text) == gps_s * 10**9


@given(
    st.sampled_from([1_167_264_017, 1_025_136_015, 46_828_800]), st.integers(-2, 2), ns_of_second
)
def test_seconds_around_a_leap_second_are_written_and_read(leap_s, late_s, ns):
    """A recording may begin before it and end after it."""
    gps_ns = (leap_s + late_s) * 10**9 + ns
    assert gps_ns_from_text(utc_text(gps_ns)) == gps_ns
    assert (":60." in utc_text(gps_ns)) == (late_s == 0)


@pytest.mark.parametrize(
    "text", ["2026-03-01T12:00:60Z", "2016-12-31T23:59:60+01:00", "2016-06-30T23:59:60Z"]
)
def test_a_leap_second_that_never_was_is_refused(text):
    """It is a mistake for another time."""
    with pytest.raises(ValueError, match=r"no leap second at '20"):
        gps_ns_from_text(text)


def test_an_instant_of_thousands_of_characters_is_not_taken_apart():
    """The time for it grows with the square of its length: 100 kB took a minute."""
    with pytest.raises(ValueError, match="of 2021 characters is no instant"):
        gps_ns_from_text("2026-03-01T12:00:00." + 2000 * "0" + "\n")


@pytest.mark.parametrize("sigma_s", [-1e-9, np.nan])
def test_an_impossible_uncertainty_is_refused(sigma_s):
    """It would weigh the receiver's time without bound."""
    with pytest.raises(RecordingError, match=str(sigma_s)):
        Recording(iq=np.ones(1, np.complex64), sample_rate_hz=1.0, clock_sigma_s=sigma_s)


@given(st.floats(0))
def test_only_a_start_with_a_small_uncertainty_is_a_clock(sigma_s):
    """A clock of NTP is off by a thousand kilometres."""
    known = Recording(
        iq=np.ones(1, np.complex64), sample_rate_hz=1.0, start_gps_ns=0, clock_sigma_s=sigma_s
    )
    assert known.clock_locked == (sigma_s <= 1e-4)
    assert not dataclasses.replace(known, start_gps_ns=None).clock_locked
