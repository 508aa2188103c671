"""Memory maps and streams give the same as arrays."""

import tracemalloc

import numpy as np
import pytest
from heimdall_features import Blocks, FeatureConfig, FeatureError, FeatureExtractor
from heimdall_features.signal import open_source, require_rate
from heimdall_features.testing import noise
from hypothesis import given
from hypothesis import strategies as st

CONFIG = FeatureConfig(receivers=("A",), n_fft=256, hop_length=64, n_mels=16, n_frames=8)
EXTRACT = FeatureExtractor(CONFIG)
IQ = noise(np.random.default_rng(0), 200_000).astype(np.complex64)


def pieces(iq, sizes):
    """Cut the array into blocks of these sizes, over and over."""
    at = 0
    while at < iq.size:
        for size in sizes:
            yield iq[at : at + size]
            at += size


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=5).filter(any),
    st.integers(256, 60_000),
    st.sampled_from([48_000.0, 12_000.0, 200_000.0]),
)
def test_a_stream_of_any_blocks_gives_the_same_as_the_array(sizes, n_samples, rate_hz):
    """The features must not depend on how a recording arrives."""
    iq = IQ[: n_samples * 5]
    streamed = EXTRACT({"A": (Blocks(pieces(iq, sizes), iq.size), rate_hz)})
    np.testing.assert_allclose(streamed, EXTRACT({"A": (iq, rate_hz)}), atol=1e-4)


def test_a_memory_map_gives_the_same_as_the_array(tmp_path):
    """A recording larger than memory is read in place."""
    np.save(tmp_path / "iq.npy", IQ)
    mapped = np.load(tmp_path / "iq.npy", mmap_mode="r")
    np.testing.assert_array_equal(EXTRACT({"A": (mapped, 48e3)}), EXTRACT({"A": (IQ, 48e3)}))


def test_a_stream_is_dropped_as_it_is_read():
    """Memory is limited: no more than one read and one block are kept."""
    n_samples = 10**6
    blocks = (np.ones(1000, np.complex64) for _ in range(n_samples // 1000))
    source = open_source(Blocks(blocks, n_samples), "two-sided")
    tracemalloc.start()
    for start in range(0, n_samples - 256, 64):
        source.read(start, start + 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.dtype(">c8")])
def test_precision_and_byte_order_do_not_matter(dtype):
    """Many kinds of machines write recordings."""
    np.testing.assert_allclose(
        EXTRACT({"A": (IQ.astype(dtype), 48e3)}), EXTRACT({"A": (IQ, 48e3)}), atol=1e-4
    )


@pytest.mark.parametrize("view", [np.stack([IQ, IQ], axis=1)[:, 1], IQ[::-1].copy()[::-1]])
def test_strides_do_not_matter(view):
    """A channel of an interleaved array is a recording too."""
    np.testing.assert_array_equal(EXTRACT({"A": (view, 48e3)}), EXTRACT({"A": (IQ, 48e3)}))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (200_001, "end after 200000 samples, not n_samples=200001"),
        (199_999, "hold 200000 samples, not n_samples=199999"),
        (0, "0 samples are less than one frame of n_fft=256"),
        (2.5, "n_samples is 2.5"),
    ],
)
def test_a_stream_of_another_length_than_declared_is_rejected(declared, message):
    """Columns computed from another length would be wrong unnoticed."""
    with pytest.raises(FeatureError, match=message):
        EXTRACT({"A": (Blocks(pieces(IQ, [777]), declared), 48e3)})


def test_a_block_of_another_type_is_rejected():
    """A stream that changes to integers has changed its scale."""
    blocks = Blocks([IQ[:500], np.zeros(500, np.int16)], 1000)
    with pytest.raises(FeatureError, match="'A': samples are int16; scale integers"):
        EXTRACT({"A": (blocks, 48e3)})


@pytest.mark.parametrize(
    ("dtype", "spectrum", "message"),
    [
        (np.complex64, "two-sided", None),
        (np.float64, "one-sided", None),
        (np.complex64, "one-sided", "a one-sided spectrum takes real floats, not complex64"),
        (np.float32, "two-sided", "a two-sided spectrum takes complex IQ, not float32"),
        (np.int16, "two-sided", "samples are int16; scale integers to full scale 1"),
        (np.uint8, "one-sided", "samples are uint8; scale integers to full scale 1"),
    ],
)
def test_samples_must_be_of_the_kind_that_the_spectrum_takes(dtype, spectrum, message):
    """Real samples taken for IQ would fold the band, whole or in blocks."""
    samples = np.ones(4, dtype)
    for given_as in (samples, Blocks(iter([samples]), 4)):
        if message is None:
            assert open_source(given_as, spectrum).read(0, 4).tolist() == [1, 1, 1, 1]
        else:
            with pytest.raises(FeatureError, match=f"^{message}"):
                open_source(given_as, spectrum).read(0, 4)


@pytest.mark.parametrize("largest", [8.01, -8.01, 8.01j, -8.01j])
def test_a_sample_beyond_full_scale_is_refused_in_every_direction(largest):
    """Counts of a converter would pass for a signal of +90 dB."""
    spectrum = "one-sided" if isinstance(largest, float) else "two-sided"
    with pytest.raises(FeatureError, match=r"samples reach 8\.01, and full scale is 1"):
        open_source(np.array([0, largest]), spectrum).read(0, 2)
    at_the_limit = np.array([0, largest / 8.01 * 8])
    assert open_source(at_the_limit, spectrum).read(0, 2).tolist() == at_the_limit.tolist()


@pytest.mark.parametrize("rate_hz", [0.5, 1, np.int64(12_000), 9.9e14])
def test_any_positive_number_is_a_rate(rate_hz):
    """It comes from files, and NumPy's numbers are as good as Python's."""
    assert require_rate(rate_hz) == rate_hz


@pytest.mark.parametrize("rate_hz", [0, -1.0, np.nan, np.inf, 1e15, True, "12000", None])
def test_what_is_no_rate_is_refused(rate_hz):
    """A rate of 1e15 Hz is a typing error, and would take all memory."""
    with pytest.raises(FeatureError, match="must be a positive number of Hz"):
        require_rate(rate_hz)
