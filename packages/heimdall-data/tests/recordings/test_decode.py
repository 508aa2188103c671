"""The dispatch on `iq_data_format`."""

import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.decode import FORMATS, decode
from hypothesis import assume, given
from hypothesis import strategies as st


@given(st.text(min_size=1, max_size=10), st.binary(min_size=1))
def test_an_unknown_format_is_refused(form, data):
    """Reading it as something else would train on noise."""
    assume(form not in FORMATS)
    with pytest.raises(RecordingError) as caught:
        decode(data, form, name="a")
    assert repr(form) in str(caught.value)


@given(st.binary(min_size=1, max_size=200), st.sampled_from(FORMATS))
def test_any_bytes_are_a_recording_or_an_error_with_the_name(data, form):
    """The run continues and names the object."""
    try:
        outcome = decode(data, form, name="sessions/1/a", sample_rate_hz=1.0).iq.size > 0
    except RecordingError as error:
        outcome = "sessions/1/a" in str(error)
    assert outcome


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_object_is_refused_in_every_format(form):
    """A failed upload leaves an empty object; its name is what the operator needs."""
    with pytest.raises(RecordingError, match="sessions/1/a: empty, 0 bytes"):
        decode(b"", form, name="sessions/1/a", sample_rate_hz=1.0)
