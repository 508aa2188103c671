"""The dispatch on `iq_data_format`, and the limits of what is decoded."""

import io
import tarfile

import numpy as np
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


@pytest.mark.parametrize("headers", [{"size": "9" * 30}, {"GNU.sparse.map": "x"}])
def test_any_exception_of_a_parser_is_an_error_with_the_name(headers):
    """Python's own parsers raise more than they document; one object must not end a run."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.sigmf-data")
        member.pax_headers = headers
        archive.addfile(member)
    with pytest.raises(RecordingError, match="sessions/1/a: "):
        decode(stream.getvalue(), "sigmf", name="sessions/1/a")


COUNTS = np.array([30_000, -15_000] * 8, "<f4")
CF32 = b'{"global": {"core:datatype": "cf32_le", "core:sample_rate": 1e4}, "captures": []}'


@pytest.mark.parametrize("form", ["npy", "sigmf"])
def test_counts_of_a_converter_are_refused_unless_their_full_scale_is_given(form):
    """They would be 90 dB too strong, and everything else in the same session silent."""
    data, how = COUNTS.tobytes(), {"name": "sessions/1/a", "sample_rate_hz": 1e4}
    if form == "sigmf":
        how["metadata"] = CF32
    else:
        stream = io.BytesIO()
        np.save(stream, COUNTS.view("<c8"))
        data = stream.getvalue()
    with pytest.raises(RecordingError, match=r"sessions/1/a: samples reach 30000, .*--full_scale"):
        decode(data, form, **how)
    assert decode(data, form, **how, full_scale=30_000).iq[0] == 1 - 0.5j
    with pytest.raises(RecordingError, match="samples reach 15000"):
        decode(data, form, **how, full_scale=2)


def test_a_value_of_megabytes_is_not_in_the_message():
    """It goes to the log, the report and the database of every run."""
    meta = b'{"global": {"core:datatype": "' + b"x" * 10**6 + b'"}, "captures": []}'
    with pytest.raises(
        RecordingError, match=r"sessions/1/a: .*xxx \[\.\.\.\] x.*ci16_le"
    ) as caught:
        decode(bytes(8), "sigmf", name="sessions/1/a", metadata=meta)
    assert len(str(caught.value)) < 1_000
