"""The dispatch on `iq_data_format`."""

import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.decode import FORMATS, decode


def test_a_format_nobody_knows_is_refused():
    """Reading it as something else would train on noise."""
    with pytest.raises(RecordingError, match="unknown iq_data_format 'hdf5'; known are npy, sigmf"):
        decode(b"1234", "hdf5", name="a")


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_object_is_refused_in_every_format(form):
    """A failed upload leaves an empty object; its name is what the operator needs."""
    with pytest.raises(RecordingError, match="sessions/1/a: empty, 0 bytes; store"):
        decode(b"", form, name="sessions/1/a", sample_rate_hz=1.0)
