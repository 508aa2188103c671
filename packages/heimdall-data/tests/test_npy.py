"""NumPy files: the three layouts, and everything that is none."""

import io
import os
import tracemalloc

import numpy as np
import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.decode import decode
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NAME = "sessions/7/websdr_Torino.npy"


def saved(array, **options):
    """The bytes of a NumPy file."""
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def decoded(data, rate=48_000.0):
    """As the dataset reads it."""
    return decode(data, None, name=NAME, sample_rate_hz=rate)


finite = st.floats(-1, 1, width=32)
pairs = hnp.arrays(np.float32, st.tuples(st.just(2), st.integers(1, 40)), elements=finite)


@given(pairs, st.sampled_from(["complex", "rows", "columns", "big", "fortran"]))
def test_every_layout_gives_the_same_samples(pairs, layout):
    """Stations write I and Q in whatever order their software likes."""
    expected = pairs[0] + 1j * pairs[1]
    written = {
        "complex": expected.astype(np.complex64),
        "rows": pairs,
        "columns": pairs.T if pairs.shape[1] != 2 else pairs,
        "big": pairs.astype(">f4"),
        "fortran": np.asfortranarray(pairs),
    }[layout]
    np.testing.assert_array_equal(decoded(saved(written)).iq, expected.astype(np.complex64))


@given(hnp.arrays(np.int16, st.tuples(st.just(2), st.integers(1, 40))))
def test_sixteen_bit_samples_are_relative_to_full_scale(pairs):
    """Levels in dB are only comparable if 1 means the converter's limit everywhere."""
    iq = decoded(saved(pairs)).iq
    np.testing.assert_array_equal(iq.real * 32768, pairs[0])
    np.testing.assert_array_equal(iq.imag * 32768, pairs[1])


def test_two_by_two_is_read_as_rows():
    """The one ambiguous shape has one documented reading."""
    iq = decoded(saved(np.float32([[0.1, 0.2], [0.3, 0.4]]))).iq
    np.testing.assert_array_equal(iq, np.complex64([0.1 + 0.3j, 0.2 + 0.4j]))


@given(st.data())
def test_a_damaged_file_is_refused_by_name_or_read(data):
    """Whatever a bad disk makes of a file, the run goes on and says which object it was."""
    intact = saved(np.ones(8, np.complex64))
    place = data.draw(st.integers(0, len(intact) - 1))
    broken = bytearray(intact[: data.draw(st.integers(1, len(intact)))])
    if place < len(broken):
        broken[place] ^= data.draw(st.integers(1, 255))
    try:
        outcome = NAME if len(decoded(bytes(broken)).iq) <= 16 else "too many samples"
    except RecordingError as error:
        outcome = str(error)
    assert NAME in outcome


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_three_versions_are_read(version):
    """The contract says versions 1 to 3; NumPy writes 1 unless it must not."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ones(5, np.complex64), version=version)
    assert len(decoded(stream.getvalue()).iq) == 5


def test_a_pickle_is_refused_and_never_run(tmp_path):
    """An object array is a program; whoever can write the bucket would run it here."""

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    with pytest.raises(RecordingError, match="holds pickled objects, which are never loaded"):
        decoded(saved(np.array([Trap()], object), allow_pickle=True))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("promised", "message"),
    [
        ((10**7,), "truncated: the header promises complex64 of shape"),
        ((10**15,), "a recording holds 1 to 134217728"),
        ((10**30,), "a recording holds 1 to 134217728"),
        ((-5,), "a recording holds 1 to"),
    ],
)
def test_a_header_that_promises_more_takes_no_memory(promised, message):
    """A hundred bytes must not be able to fill a server's memory."""
    stream = io.BytesIO()
    header = {"descr": "<c8", "fortran_order": False, "shape": promised}
    np.lib.format.write_array_header_1_0(stream, header)
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError, match=message):
            decoded(stream.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(4), r"holds float64, not complex64, float32 or int16; save iq.astype"),
        (np.ones(4, np.complex128), "holds complex128, not complex64"),
        (np.ones(4, [("i", "f4"), ("q", "f4")]), "not complex64, float32 or int16"),
        (np.ones((3, 4), np.float32), r"float32 of shape \(3, 4\); a recording is \(2, n\)"),
        (np.ones((2, 4), np.complex64), r"complex64 of shape \(2, 4\); a recording is \(n,\)"),
        (np.ones(0, np.complex64), "0 samples; a recording holds 1 to"),
        (np.float32([[1, np.nan], [np.inf, 1]]), "2 of 4 values are NaN or infinite"),
    ],
)
def test_a_file_that_is_no_recording_says_what_it_is(array, message):
    """Whoever stored it must learn from one line what to store instead."""
    with pytest.raises(RecordingError, match=f"{NAME}: .*{message}"):
        decoded(saved(array))


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "empty, 0 bytes"), (b"RIFF....WAVE", "not a NumPy file of version 1 to 3")],
)
def test_bytes_that_are_no_numpy_file_say_so(data, message):
    """An interrupted upload and a wrong iq_data_format are the commonest mistakes."""
    with pytest.raises(RecordingError, match=message):
        decoded(data)


@pytest.mark.parametrize("rate", [None, 0, -1.0, float("nan"), float("inf")])
def test_a_numpy_file_needs_the_catalogues_rate(rate):
    """The file does not hold it, and a guessed rate would move every frequency."""
    with pytest.raises(RecordingError, match=r"set measurements\.iq_sample_rate"):
        decoded(saved(np.ones(4, np.complex64)), rate)
