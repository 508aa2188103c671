"""NumPy files: the three layouts, and what is refused."""

import io
import os
import tracemalloc

import numpy as np
import pytest
from heimdall_data.errors import RecordingError
from heimdall_data.recordings.decode import decode
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NAME = "sessions/7/websdr_Torino.npy"


def saved(array, version=None):
    """The bytes of a NumPy file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), version=version)
    return stream.getvalue()


def decoded(data, rate=48_000.0):
    """As the dataset reads it."""
    return decode(data, None, name=NAME, sample_rate_hz=rate)


finite = st.floats(-1, 1, width=32)
pairs = hnp.arrays(np.float32, st.tuples(st.just(2), st.integers(1, 40)), elements=finite)
versions = st.sampled_from([(1, 0), (2, 0), (3, 0)])


@given(pairs, st.sampled_from(["complex", "rows", "columns", "big", "fortran"]), versions)
def test_every_layout_and_version_gives_the_same_samples(pairs, layout, version):
    """Stations write I and Q in whatever order their software likes."""
    expected = pairs[0] + 1j * pairs[1]
    written = {
        "complex": expected.astype(np.complex64),
        "rows": pairs,
        "columns": pairs.T if pairs.shape[1] != 2 else pairs,
        "big": pairs.astype(">f4"),
        "fortran": np.asfortranarray(pairs),
    }[layout]
    iq = decoded(saved(written, version)).iq
    np.testing.assert_array_equal(iq, expected.astype(np.complex64))


@given(hnp.arrays(np.int16, st.tuples(st.just(2), st.integers(1, 40))))
def test_sixteen_bit_samples_are_relative_to_full_scale(pairs):
    """Levels in dB are comparable only if 1 is the converter's limit everywhere."""
    iq = decoded(saved(pairs)).iq
    np.testing.assert_array_equal(iq.real * 32768, pairs[0])
    np.testing.assert_array_equal(iq.imag * 32768, pairs[1])


@given(pairs, st.one_of(st.binary(min_size=1, max_size=20), pairs.map(saved)))
def test_bytes_after_the_array_are_refused(pairs, more):
    """A recorder that saves block after block into one file loses all but the first."""
    with pytest.raises(RecordingError, match=f"{NAME}: {len(more)} bytes after the array"):
        decoded(saved(pairs) + more)


@given(pairs, st.sampled_from([2.0, 128.0, 32768.0, 30_000.0]), st.booleans())
def test_floats_are_relative_to_a_full_scale_that_is_given(pairs, full_scale, is_complex):
    """Integers have that of their type, whatever else is given."""
    array = (pairs[0] + 1j * pairs[1]).astype(np.complex64) if is_complex else pairs
    iq = decode(saved(array), None, name=NAME, sample_rate_hz=1e4, full_scale=full_scale).iq
    expected = pairs / np.float32(full_scale)
    np.testing.assert_allclose([iq.real, iq.imag], expected, rtol=1e-6, atol=1e-40)
    counts = (pairs * 1000).astype(np.int16)
    given_too = decode(saved(counts), None, name=NAME, sample_rate_hz=1e4, full_scale=full_scale)
    np.testing.assert_array_equal(given_too.iq, decoded(saved(counts)).iq)


@given(st.data())
def test_a_damaged_file_is_refused_by_name_or_read(data):
    """Whatever a bad disk does to a file, the run continues and names the object."""
    intact = saved(np.ones(8, np.complex64))
    broken = bytearray(intact[: data.draw(st.integers(1, len(intact)))])
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        outcome = NAME if len(decoded(bytes(broken)).iq) <= 16 else "too many samples"
    except RecordingError as error:
        outcome = str(error)
    assert NAME in outcome


def test_a_pickle_is_refused_and_never_run(tmp_path):
    """Loading an object array runs code of whoever can write to the bucket."""

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    with pytest.raises(RecordingError, match="pickled objects"):
        decoded(saved(np.array([Trap()], object)))
    assert not (tmp_path / "sprung").exists()


@given(st.integers(9, 10**30) | st.integers(-(10**30), -1))
def test_a_header_with_a_huge_shape_takes_no_memory(promised):
    """A file of a hundred bytes must not fill a server's memory."""
    stream = io.BytesIO()
    header = {"descr": "<c8", "fortran_order": False, "shape": (promised,)}
    np.lib.format.write_array_header_1_0(stream, header)
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError, match=str(promised)):
            decoded(stream.getvalue() + bytes(64))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


odd_lengths = st.sampled_from(["True", "False", "2.0", "None", "-8", "'8'", "(8,)", "8j", "[]"])


@given(st.lists(odd_lengths | st.just("8"), max_size=3), st.sampled_from(["c8", "f4", "i2"]))
def test_a_shape_that_is_no_row_of_whole_numbers_is_refused(lengths, dtype):
    """NumPy takes True for 1, and raised a TypeError far from the file's name."""
    assume(set(lengths) != {"8"})
    shape = "".join(f"{length}, " for length in lengths)
    text = f"{{'descr': '<{dtype}', 'fortran_order': False, 'shape': ({shape})}}\n".encode()
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)
    with pytest.raises(RecordingError, match=NAME):
        decoded(data)


@given(hnp.scalar_dtypes() | st.just(np.dtype([("i", "f4"), ("q", "f4")])))
def test_every_other_type_is_refused_by_its_name(dtype):
    """The message must say what to store instead."""
    assume(dtype.newbyteorder("=") not in (np.complex64, np.float32, np.int16))
    with pytest.raises(RecordingError) as caught:
        decoded(saved(np.zeros(4, dtype)))
    assert str(caught.value).startswith(NAME)
    assert str(dtype) in str(caught.value)


@given(hnp.array_shapes(min_dims=0, max_dims=4, max_side=5), st.sampled_from(["c8", "f4", "i2"]))
def test_every_other_shape_is_refused_by_its_name(shape, dtype):
    """Several recordings read as one would be noise."""
    assume(len(shape) != 1 if dtype == "c8" else len(shape) != 2 or 2 not in shape)
    with pytest.raises(RecordingError) as caught:
        decoded(saved(np.zeros(shape, dtype)))
    assert str(shape) in str(caught.value)


@given(pairs, st.integers(0, 79), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_values_that_are_not_finite_are_counted(pairs, place, value):
    """One such value would spread over a whole spectrum."""
    assume(place < pairs.size)
    pairs.flat[place] = value
    with pytest.raises(RecordingError, match=f"{NAME}: 1 of {pairs.size} values"):
        decoded(saved(pairs))


@given(st.none() | st.floats(max_value=0) | st.sampled_from([float("nan"), float("inf")]))
def test_a_numpy_file_needs_the_catalogues_rate(rate):
    """The file does not contain it, and a guessed rate would shift every frequency."""
    with pytest.raises(RecordingError, match=r"measurements\.iq_sample_rate"):
        decoded(saved(np.ones(4, np.complex64)), rate)
