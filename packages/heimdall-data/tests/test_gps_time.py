"""GPS time against dates that others have published."""

from datetime import UTC, datetime, timedelta

import pytest
from heimdall_data.recordings.recording import (
    WEEK_NS,
    gps_ns_from_utc,
    gps_ns_near,
    utc_from_gps_ns,
)
from hypothesis import given
from hypothesis import strategies as st

dates = st.datetimes(datetime(2017, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(dates)
def test_there_and_back_is_the_same_instant(instant):
    """A start that changes on its way through the package would be a timing error."""
    assert utc_from_gps_ns(gps_ns_from_utc(instant)) == instant


@given(dates, st.floats(-3.4, 3.4))
def test_the_week_is_the_nearest_one(instant, days_off):
    """A file's name may be days off and still tell which week its stamps are of."""
    told = instant + timedelta(days=days_off)
    true_ns = gps_ns_from_utc(instant)
    assert gps_ns_near(true_ns % WEEK_NS, told) == true_ns


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
