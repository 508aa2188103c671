"""What a recording is, and what is none."""

import numpy as np
import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.recording import Recording
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 90), st.integers(1, 10), st.floats(1e3, 1e6))
def test_a_cut_keeps_every_sample_at_its_time(first, n, rate):
    """Time differences of arrival are read off samples whose time must be right."""
    whole = Recording(iq=np.arange(100, dtype=np.complex64), sample_rate_hz=rate, start_gps_ns=10)
    part = whole.cut(first, n)
    np.testing.assert_array_equal(part.iq, whole.iq[first : first + n])
    assert part.start_gps_ns - 10 == pytest.approx(first / rate * 1e9, abs=0.5)


@pytest.mark.parametrize(("first", "n"), [(-1, 5), (0, 0), (0, 101), (100, 1)])
def test_a_cut_outside_is_refused(first, n):
    """NumPy would quietly give fewer samples."""
    whole = Recording(iq=np.ones(100, np.complex64), sample_rate_hz=1.0)
    with pytest.raises(RecordingError, match="not all inside a recording of 100"):
        whole.cut(first, n)


@pytest.mark.parametrize(
    ("iq", "rate", "message"),
    [
        (np.ones(3), 1.0, r"not float64 of shape \(3,\)"),
        (np.ones(0, np.complex64), 1.0, r"not complex64 of shape \(0,\)"),
        (np.ones(3, np.complex64), 0.0, "must be positive, not 0.0 Hz"),
        (np.ones(3, np.complex64), float("nan"), "must be positive, not nan Hz"),
    ],
)
def test_what_is_no_recording_is_refused(iq, rate, message):
    """Every later step relies on these and checks nothing again."""
    with pytest.raises(RecordingError, match=message):
        Recording(iq=iq, sample_rate_hz=rate)
